"""Options of `oodbench evaluate` as a request, from the command line and from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.errors import UserError

if TYPE_CHECKING:
    from oodbench.specs import EvaluationRequest

Texts = list[str] | None
"""The values of an option that may be repeated."""


def by_name(option: str, values: Texts, example: str) -> dict[str, str] | None:
    """NAME=PATH, each name once."""
    if values is None:
        return None
    found: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or not name.strip() or not path.strip():
            raise UserError(f"{option}: expected {example}, not '{value}'.")
        if name in found:
            raise UserError(
                f"{option}: '{name}' is given twice, as {found[name]} and {path}.",
                "Give each data set a name of its own.",
            )
        found[name] = path
    return found


def names(text: str | None, *words: str) -> str | list[str] | None:
    """Names with commas between them, or "all", or one of some words."""
    if text is None:
        return None
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise UserError("--methods, --tune: expected names separated by commas.")
    return found[0] if found[0] in ("all", *words) and len(found) == 1 else found


def taps_by_model(texts: Texts) -> Any:
    """One list for all models, or lists by the names of models."""
    if texts is None:
        return None
    named = dict(text.split("=", 1) for text in texts if "=" in text)
    if named:
        return {name: taps.split(",") for name, taps in named.items()}
    return [tap for text in texts for tap in text.split(",")]


def read_request(file: Path | None, given: dict[str, Any]) -> tuple[EvaluationRequest, Path]:
    """What is asked for, and the folder that its paths are relative to.

    Raises:
        UserError: a file cannot be read, or a key or an option is missing or not valid.
    """
    from oodbench.specs import EvaluationRequest
    from oodbench.specs.yaml_file import read_mapping, validate

    folder, content, source = Path.cwd(), given, Path("command line")
    if file is not None:
        folder, source = file.parent.resolve(), file
        content = {"name": file.stem, **read_mapping(file), **_absolute(given)}
    unknown = content.keys() - {*EvaluationRequest.model_fields, *EvaluationRequest.other_keys}
    for key, option in (("model", "--model"), ("id", "--id"), ("ood", "--ood")):
        if key not in content and not unknown:  # a key that is there may be misspelled
            raise UserError(
                f"{option} is missing." if file is None else f"{file}: the key '{key}' is missing.",
                "An evaluation needs a model, ID test images and OOD images: --model "
                "torchvision:resnet18 --id DIR --ood near/NAME=DIR.",
            )
    named = content.get("transform")
    if isinstance(named, str) and named.endswith((".yaml", ".yml")):
        content = {**content, "transform": read_mapping(folder / named)}
    if file is not None:
        return validate(EvaluationRequest, content, source), folder
    try:
        return validate(EvaluationRequest, content, source), folder
    except UserError as error:
        key, _, problem = error.message.removeprefix(f"{source}: ").partition(": ")
        option, _, name = key.partition(".")
        if option == "model" and "." in name:  # a value of a model is an option of its own
            option, name = name.rpartition(".")[2], ""
        place = " ".join(filter(None, (f"--{option.replace('_', '-')}", name)))
        raise UserError(f"{place}: {problem}", error.hint) from error


def _absolute(given: dict[str, Any]) -> dict[str, Any]:
    """Options with paths that do not depend on the working directory."""
    here = Path.cwd()

    def path(text: str) -> str:
        name, equals, rest = text.rpartition("=")
        return f"{name}{equals}{here / rest}"

    found = dict(given)
    for key in ("id", "fit", "validation"):
        found |= {key: path(found[key])} if key in found else {}
    for key in ("ood", "csid"):
        found |= {key: {n: path(p) for n, p in found[key].items()}} if key in found else {}
    found |= {"checkpoint": list(map(path, given["checkpoint"]))} if "checkpoint" in given else {}
    if given.get("classes", "folders") != "folders":
        found["classes"] = path(given["classes"])
    return found
