"""docs/schemas: they are what the specs say, and accept what oodbench accepts."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from json_schemas import FOLDER, KINDS, text_of
from jsonschema import Draft202012Validator

from oodbench.plugins.catalog import Catalog
from oodbench.specs.yaml_file import read_mapping

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path
    for folder in ("benchmarks", "benchmarks/published", "data_manifests", "examples/*/*")
    for path in ROOT.glob(f"{folder}/*.yaml")
    if not path.stem.startswith("_")
)


CATALOG = Catalog()


def kind_of(path: Path) -> str:
    if path.parent.name in ("published", "data_manifests"):
        return {"published": "published", "data_manifests": "dataset"}[path.parent.name]
    return "suite" if CATALOG.is_suite(str(path)) else "benchmark"


@cache
def validator(kind: str) -> Draft202012Validator:
    schema = json.loads((FOLDER / f"{kind}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def errors(kind: str, content: Any) -> list[str]:
    return [error.message for error in validator(kind).iter_errors(content)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_schemas_are_those_of_the_specs(kind: str) -> None:
    file = FOLDER / f"{kind}.schema.json"
    assert file.read_text(encoding="utf-8") == text_of(kind), "run `make schemas`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_files_are_accepted(path: Path) -> None:
    assert errors(kind_of(path), read_mapping(path)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"titel": "x"}, "'titel' was unexpected"),
        ({"version": "1"}, "'1' is not valid"),
        ({"ood": {"near": "letters"}}, "is not valid"),
        ({"tuning": {"protocol": "fsgm"}}, "is not valid"),
        ({"models": {"A": {"netwrok": "resnet8"}}}, "is not valid"),
    ],
)
def test_mistakes_are_found(change: dict[str, Any], said: str) -> None:
    content = {"extends": "digits", "name": "mine", **change}
    assert any(said in error for error in errors("benchmark", content))


def test_a_file_that_extends_nothing_needs_its_keys() -> None:
    assert errors("benchmark", {"name": "mine"})
    assert errors("benchmark", {"name": "mine", "extends": "digits", "published": None}) == []


def test_keys_are_described() -> None:
    schema = json.loads(text_of("benchmark"))
    assert schema["properties"]["id"]["description"].startswith("The in-distribution data set")
    assert schema["$defs"]["ModelSpec"]["properties"]["prompts"]["description"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_files_name_their_schema_for_editors(path: Path) -> None:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    schema = FOLDER / f"{kind_of(path)}.schema.json"
    place = os.path.relpath(schema, path.parent).replace(os.sep, "/")
    assert first == f"# yaml-language-server: $schema={place}"
