"""Write docs/schemas: JSON Schemas of the YAML files, for editors that complete and check them.

make schemas
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oodbench import specs
from oodbench.specs.evaluation_request import EvaluationRequest
from oodbench.specs.recipes import RECIPES
from oodbench.specs.spec_base import Spec

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"

KINDS: dict[str, tuple[type[Spec], str]] = {
    "benchmark": (specs.BenchmarkSpec, "benchmarks/NAME.yaml"),
    "suite": (specs.SuiteSpec, "benchmarks/NAME.yaml with members"),
    "dataset": (specs.DatasetSpec, "data_manifests/NAME.yaml"),
    "published": (specs.PublishedSpec, "benchmarks/published/NAME.yaml"),
    "evaluation": (EvaluationRequest, "the file of `oodbench evaluate FILE.yaml`"),
}
"""Name of a schema -> its spec, and the files that it is for."""

EXTENDING = ("benchmark", "suite")
"""Kinds with `extends`: a file then needs no key, and null removes a key of the other file."""

NULL = {"type": "null"}


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind of file."""
    spec, files = KINDS[kind]
    schema = spec.model_json_schema()
    described = {each.__name__: each for each in _all_specs()}
    for name, part in [(spec.__name__, schema), *schema.get("$defs", {}).items()]:
        if name in described:
            _describe(part, described[name])
        _allow_short_forms(name, part)
    if kind in EXTENDING:
        _allow_extends(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"For {files}. Made by `make schemas`: do not edit.",
        **schema,
    }


def text_of(kind: str) -> str:
    """The file of a schema."""
    return json.dumps(schema_of(kind), indent=2, ensure_ascii=False) + "\n"


def _all_specs() -> Iterator[type[Any]]:
    waiting: list[type[Any]] = [Spec, specs.PublishedReference]
    while waiting:
        each = waiting.pop()
        waiting += each.__subclasses__()
        yield each


def _describe(part: dict[str, Any], spec: type[Any]) -> None:
    """Give each key the text below its field, and drop titles that repeat the key."""
    for name, text in field_texts(spec).items():
        if name in part.get("properties", {}):
            part["properties"][name]["description"] = text
    for each in part.get("properties", {}).values():
        each.pop("title", None)


def field_texts(spec: type[Any]) -> dict[str, str]:
    """Field of a spec -> the text below it in its class."""
    (tree,) = ast.parse(inspect.getsource(spec)).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            texts[field.target.id] = inspect.cleandoc(below.value.value).replace("\n", " ")
    return texts


def _allow_short_forms(name: str, part: dict[str, Any]) -> None:
    """What a file may say shorter: one checkpoint, one metric, a recipe for a training."""
    properties = part.get("properties", {})
    if name == "ModelSpec":
        _allow(properties["checkpoint"], {"$ref": "#/$defs/CheckpointSpec"})
        part["required"] = ["network"]  # a vision-language model has a head of its own
    if name == "BenchmarkSpec":
        _allow(properties["metrics"], {"type": "string", "minLength": 1})
    if name == "SuiteSpec":
        names = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
        _allow(properties["members"], names)
    if name == "TrainingSpec":
        properties["recipe"]["examples"] = [*RECIPES]
        part["anyOf"] = [{"required": ["recipe"]}, {"required": part.pop("required")}]
    if name == "FileSpec":
        part["required"] = []  # a checkpoint's file is named by its address


def _allow(part: dict[str, Any], other: dict[str, Any]) -> None:
    """Allow another form of a key's value."""
    kept = {key: part.pop(key) for key in ("type", "items", "additionalProperties") if key in part}
    part["anyOf"] = [kept, other]


def _allow_extends(schema: dict[str, Any]) -> None:
    """With `extends`, keys may be missing, at any depth, and null removes one."""
    required = schema.pop("required")
    for part in schema.get("$defs", {}).values():
        part.pop("required", None)
        if "anyOf" in part and "properties" in part:
            del part["anyOf"]
    for part in (schema, *schema.get("$defs", {}).values()):
        for each in part.get("properties", {}).values():
            _allow_null(each)
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Name of another file of this kind, which this one starts from: mappings "
        "are merged, and null removes a key.",
    }
    schema["anyOf"] = [{"required": ["extends"]}, {"required": required}]


def _allow_null(part: dict[str, Any]) -> None:
    inner = part.get("additionalProperties")
    if isinstance(inner, dict) and inner:
        _allow_null(inner)
    if NULL not in part.get("anyOf", []) and {"type", "$ref", "anyOf"} & part.keys():
        if "anyOf" in part:
            part["anyOf"].append(NULL)
            return
        words = ("description", "default", "examples")
        kept = {key: part.pop(key) for key in [*part] if key not in words}
        part["anyOf"] = [kept, NULL]


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(exist_ok=True)
    for kind in KINDS:
        (FOLDER / f"{kind}.schema.json").write_text(text_of(kind), encoding="utf-8")


if __name__ == "__main__":
    main()
