"""Reading YAML files: safe, strict, with errors that name file, line and key."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from oodbench.errors import UserError, did_you_mean, shown
from oodbench.specs.names import shortened
from oodbench.specs.spec_base import Spec

S = TypeVar("S", bound=Spec)

# The C parser is ten times faster where PyYAML was built with it.
_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_LARGEST = 1 << 22
"""Bytes of the largest file that is read; its values take hundreds of times the memory."""

_MOST_VALUES = 1_000_000
"""Maximum number of values of a file with all aliases written out."""


class _StrictLoader(_BaseLoader):  # type: ignore[misc]
    """The safe loader, without the surprising rules of YAML 1.1.

    It refuses duplicate keys and numbers in another base (YAML 1.1 reads 010 as 8 and 1:30 as 90),
    and reads 1e-3 as a number (YAML 1.1 requires a dot). It refuses aliases that repeat each other:
    a file of a kilobyte can mean billions of values.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        if _values(node, {}) > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"with all aliases (*) written out, it has more than {_MOST_VALUES:,} values",
                node.start_mark,
            )
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *alias`, which may be repeated
                if _contains(value_node, node, set()):
                    raise yaml.constructor.ConstructorError(
                        None, None, "'<<' merges a mapping into itself", key_node.start_mark
                    )
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be plain text", key_node.start_mark
                )
            if isinstance(key, bool):
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key_node.value} is read as {str(key).lower()}; write it in quotes",
                    key_node.start_mark,
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is written twice", key_node.start_mark
                )
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_THOUSANDS = re.compile(r"[0-9]{1,3}(_[0-9]{3})+(\.[0-9]*)?", re.ASCII)
"""A number with underscores between thousands, as in 1_000."""


def _number(loader: Any, node: yaml.ScalarNode) -> int | float:
    """Read a number; refuse notations that YAML 1.1 reads in a surprising way."""
    text = node.value.lstrip("+-")
    if "_" in text and not _THOUSANDS.fullmatch(text):
        raise yaml.constructor.ConstructorError(
            None,
            None,
            f"{node.value} is read as {text.replace('_', '')}; write numbers without underscores, "
            "and text in quotes",
            node.start_mark,
        )
    if ":" in text or (text.startswith("0") and text.isdigit() and len(text) > 1):
        base = "60" if ":" in text else "8"
        raise yaml.constructor.ConstructorError(
            None,
            None,
            f"{node.value} is read as a number of base {base}; write numbers without "
            f"{'colons' if ':' in text else 'zeros before them'}, and text in quotes",
            node.start_mark,
        )
    whole = node.tag == "tag:yaml.org,2002:int"
    number: int | float = (loader.construct_yaml_int if whole else loader.construct_yaml_float)(
        node
    )
    return number


RENAMED = {
    "sweep": "matrix",
    "hold_out": "split_from",
    "licence": "license",
    "normalisation": "normalization",
    "labelled": "labeled",
}
"""Old name of a key or an option -> its name. Errors about the old name tell the new one."""


_KEYS = "docs/reference/yaml.md describes all keys."


def unknown_key_hint(key: str, known: Sequence[str]) -> str:
    """What to write instead of an unknown key: its new name, or the most similar known keys."""
    renamed = RENAMED.get(key)
    return f"It is called '{renamed}' now." if renamed in known else did_you_mean(key, known, _KEYS)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _number)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _number)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$", re.ASCII),
    list("-+.0123456789"),
)


def read_value(text: str) -> Any:
    """The value that a text is in YAML, read as in a file.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is not valid, or a surprising notation.
    """
    return yaml.load(text, Loader=_StrictLoader)  # a subclass of the safe loader


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        UserError: the file cannot be read, is not valid YAML, repeats a key, does not contain a
            mapping, or has an alias that contains itself.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} has more than {_LARGEST:,} bytes: it is no file of oodbench.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"Cannot read {path}: {reason}.") from error
    try:
        content = read_value(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UserError(f"{place}: not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: text in the form of a date or a number that is not valid, such as 2020-13-45.
        problem = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{path}: not valid YAML: {problem}.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected keys and values, found {_type_name(content)}.",
            "A file starts like this: 'schema_version: 1'.",
        )
    _refuse_cycles(content, path, [], set(), set())
    return content


_MAPPING = re.compile(r"a valid dictionary( or instance of \w+)?")
"""A mapping, in pydantic's words."""

_OPTIONS = ("seeds", "device", "limit", "epochs", "tune", "out", "plugins", "data-root", "resume")
"""Options of `oodbench run`, which are not keys of a benchmark or a suite."""


def validate(spec: type[S], content: dict[str, Any], path: Path) -> S:
    """Validate a mapping and return its spec.

    Raises:
        UserError: a key or a value is wrong; the message gives file, line, key and what was
            expected.
    """
    try:
        return spec.model_validate(content).read_from(path)
    except ValidationError as failure:
        errors = _renamed_first(spec, failure.errors())
        first = _place(errors[0])
        # A union type gives one error for each of its types; the user sees a single error.
        # "[key]": the key itself is wrong, so errors in its value are separate errors.
        inside = len(errors[0]["loc"]) > len(first) and errors[0]["loc"][-1] != "[key]"
        alike = [
            other
            for other in errors
            if _place(other) == first or (inside and _place(other)[: len(first)] == first)
        ]
        error = max(alike, key=lambda other: len(_place(other)))  # a list's item, not the list
        key = ".".join(map(shortened, _place(error)))
        message, hint = error["msg"], ""
        where = _place(error)
        if error["type"] == "extra_forbidden":
            message = "unknown key"
            unknown = str(error["loc"][-1])
            option = unknown.replace("_", "-")
            if "version" in spec.model_fields and len(where) == 1 and option in _OPTIONS:
                hint = f"That is an option of the command: `oodbench run NAME --{option} ...`."
            else:
                hint = unknown_key_hint(unknown, _keys_beside(spec, error["loc"]))
        elif error["type"] == "missing":
            message = "this key is required"
            where = where[:-1]
        elif error["type"] == "value_error":
            message = str(error["ctx"]["error"])
            # The message of a validator of the whole spec begins with the key.
            where = where or tuple(message.partition(":")[0].split("."))
        else:
            same = [other["msg"] for other in alike if _place(other) == _place(error)]
            wanted = " or ".join(f"{each[0].lower()}{each[1:]}" for each in dict.fromkeys(same))
            wanted = wanted.replace(" or input should be ", " or ").replace("valid tuple", "list")
            wanted = _MAPPING.sub("keys and values", wanted)
            message = f"{wanted}, not {shown(error['input'])}"
            if isinstance(error["input"], bool):
                hint = "YAML reads yes, no, on and off as true and false; write text in quotes."
        more = len(errors) - len(alike)
        if more:
            hint = f"{hint} ({more} more below it)".strip()
        end = "" if message.endswith((".", "?")) else "."
        text = f"{place_of(path, where)}: {key + ': ' if key else ''}{message}{end}"
        raise UserError(text, hint) from failure


def place_of(path: Path, keys: Sequence[str]) -> str:
    """The place of a key for messages: "FILE:LINE", or "FILE" if the key is not in the file.

    Args:
        path: a YAML file; files that it extends are not searched.
        keys: from the top down; indices of list items as text.
    """
    try:
        node: Any = yaml.compose(path.read_text(encoding="utf-8"), Loader=_BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return str(path)
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if getattr(pair[0], "value", None) == key]
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            found = [(node.value[int(key)], node.value[int(key)])]
        else:
            found = []
        if not found and key == "0" and line is not None:
            continue  # one item in place of a list
        if not found:
            return str(path)
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return str(path) if line is None else f"{path}:{line}"


def read_spec(spec: type[S], path: Path) -> S:
    """Read a spec from a file with the spec's name.

    Raises:
        UserError: as `read_mapping`, `validate` and `named_as_file`.
    """
    return named_as_file(validate(spec, read_mapping(path), path), path)


def named_as_file(spec: S, path: Path) -> S:
    """Return the spec if its name is the stem of its file.

    Raises:
        UserError: the names differ.
    """
    name = getattr(spec, "name", path.stem)
    if name != path.stem:
        raise UserError(
            f"{path}: name: '{name}' differs from the file's name.",
            f"Write 'name: {path.stem}' or call the file {name}{path.suffix}.",
        )
    return spec


def _type_name(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(
        type(value), type(value).__name__
    )


def _place(error: ErrorDetails) -> tuple[str, ...]:
    """The keys of an error, without pydantic's names for the types of a union and for keys."""
    parts = [str(part) for part in error["loc"]]
    return tuple(part for part in parts if not part.endswith("]"))


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of values of a node with all aliases written out; an alias to itself counts once."""
    if not isinstance(node.value, list):
        return 1
    if id(node) not in known:
        known[id(node)] = 1  # while its parts are counted
        parts = (part for each in node.value for part in (each if type(each) is tuple else (each,)))
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]


def _contains(node: yaml.Node, wanted: yaml.Node, seen: set[int]) -> bool:
    """Whether a node contains another one."""
    if node is wanted:
        return True
    if id(node) in seen or not isinstance(node.value, list):
        return False
    seen.add(id(node))
    below = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
    return any(_contains(part, wanted, seen) for part in below)


def _refuse_cycles(
    value: Any, path: Path, keys: list[str], above: set[int], harmless: set[int]
) -> None:
    if not isinstance(value, dict | list) or id(value) in harmless:
        return
    if id(value) in above:
        raise UserError(
            f"{path}: {'.'.join(keys)}: an alias (*) that contains itself: the file has no end.",
            "Remove the alias, or point it at something that does not contain it.",
        )
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        _refuse_cycles(item, path, [*keys, str(key)], above | {id(value)}, harmless)
    harmless.add(id(value))  # every alias is searched once, however often it is used


def _renamed_first(spec: type[Spec], errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Errors about old names of keys first, without errors about the new names being missing."""
    old, new = [], set()
    for error in errors:
        renamed = RENAMED.get(str(error["loc"][-1])) if error["loc"] else None
        if error["type"] == "extra_forbidden" and renamed in _keys_beside(spec, error["loc"]):
            old.append(error["loc"])
            new.add((*error["loc"][:-1], renamed))
    kept = [error for error in errors if error["loc"] not in new]
    return sorted(kept, key=lambda error: (error["loc"] not in old, error["type"] == "missing"))


def _keys_beside(spec: type[Spec], location: tuple[int | str, ...]) -> list[str]:
    """Keys that are allowed beside the key of a validation error."""
    annotation: Any = spec
    for part in location[:-1]:
        if _is_mapping(annotation):  # `part` is a name given by the user, such as a model's
            annotation = typing.get_args(annotation)[1]
            continue
        fields = _spec_in(annotation).model_fields
        annotation = fields[part].annotation if part in fields else annotation
    beside = _spec_in(annotation)
    return [*beside.model_fields, *getattr(beside, "other_keys", ())]


def _is_mapping(annotation: Any) -> bool:
    return typing.get_origin(annotation) is dict


def _spec_in(annotation: Any) -> type[BaseModel]:
    """The first spec class inside an annotation such as `dict[str, ModelSpec] | None`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else BaseModel
    found = [_spec_in(argument) for argument in typing.get_args(annotation)]
    return next((candidate for candidate in found if candidate is not BaseModel), BaseModel)
