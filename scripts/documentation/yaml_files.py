"""The keys of the YAML files, from their JSON Schemas, which are made from the specs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from json_schemas import KINDS, schema_of

from documentation.markdown_text import cell, code, table

_TITLES = {
    "benchmark": "Benchmark",
    "suite": "Suite of benchmarks",
    "dataset": "Data set",
    "published": "Published results",
    "evaluation": "Evaluation of your own models",
}


def reference() -> str:
    """Markdown with a section for each kind of file."""
    return "\n".join(section for kind in KINDS for section in _sections(kind))


def _sections(kind: str) -> Iterator[str]:
    schema = schema_of(kind)
    spec, files = KINDS[kind]
    plain = spec.model_json_schema()  # with the keys that a file needs which extends no other
    yield f"## {_TITLES[kind]}\n"
    yield f"{_capital(_where(files))}. {cell(schema.get('description', ''))}\n"
    yield _keys(kind, schema, plain)
    for name, part in schema.get("$defs", {}).items():
        if "properties" in part:
            yield f"### {_TITLES[kind]}: {_short(name)} {{: #{_anchor(kind, name)} }}\n"
            yield f"{cell(part.get('description', ''))}\n"
            yield _keys(kind, part, plain["$defs"][name])


def _where(files: str) -> str:
    return files if "`" in files else f"`{files.split()[0]}`{files.removeprefix(files.split()[0])}"


def _keys(kind: str, part: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    required = plain.get("required", ())
    rows = [
        (
            f"`{key}`",
            _type(kind, each),
            "required" if key in required else _default(each),
            cell(each.get("description", "")),
        )
        for key, each in part.get("properties", {}).items()
    ]
    return table(("Key", "Value", "Default", "Meaning"), rows)


def _default(part: Mapping[str, Any]) -> str:
    default = part.get("default")
    if default in (None, [], {}):
        return ""
    if isinstance(default, dict | list):
        return "see there"
    return code(str(default).lower() if isinstance(default, bool) else default)


def _type(kind: str, part: Mapping[str, Any]) -> str:
    """The form of a value, in words."""
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        return f"[{_short(name)}](#{_anchor(kind, name)})"
    if "enum" in part:
        return " or ".join(code(value) for value in part["enum"])
    if "const" in part:
        return code(part["const"])
    if options := part.get("anyOf") or part.get("oneOf"):
        kinds = [_type(kind, each) for each in options if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    words = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "`true` or `false`",
        "null": "null",
    }
    form = part.get("type")
    if form == "array":
        return _list(kind, part)
    if form == "object":
        inner = part.get("additionalProperties")
        values = _type(kind, inner) if isinstance(inner, Mapping) and inner else "any value"
        return f"mapping: name to {values}"
    return words.get(str(form), "any value") + _limits(part)


def _list(kind: str, part: Mapping[str, Any]) -> str:
    items = part.get("prefixItems")
    if items:
        return "list: " + ", ".join(_type(kind, each) for each in items)
    return f"list of {_type(kind, part['items'])}" if part.get("items") else "list"


def _limits(part: Mapping[str, Any]) -> str:
    low = part.get("minimum", part.get("exclusiveMinimum"))
    high = part.get("maximum", part.get("exclusiveMaximum"))
    high = None if isinstance(high, int | float) and high >= 2**31 else high
    words = []
    if low is not None:
        words.append(f"above {low:g}" if "exclusiveMinimum" in part else f"at least {low:g}")
    if high is not None:
        words.append(f"below {high:g}" if "exclusiveMaximum" in part else f"at most {high:g}")
    return f", {', '.join(words)}" if words else ""


def _short(name: str) -> str:
    words = name.removesuffix("Spec")
    return words or name


def _anchor(kind: str, name: str) -> str:
    return f"{kind}-{_short(name).lower()}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
