"""The generated reference of the site: everything that it is made from is on it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from documentation import (
    command_line,
    detector_pages,
    generated_pages,
    python_api,
    record_fields,
    yaml_files,
)
from json_schemas import KINDS, schema_of

import oodbench
from oodbench.cli.main import app
from oodbench.plugins.importing import load_class
from oodbench.storage import records

ROOT = Path(__file__).parents[2]
DETECTORS = detector_pages.built_in()


def rows(text: str) -> dict[str, list[str]]:
    """First cell without marks -> the cells, of all tables."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
            found[re.sub(r"[`*]|</?code>", "", cells[0])] = cells
    return found


def commands(group: Any, prefix: str = "oodbench") -> dict[str, Any]:
    found = {}
    for name, each in group.commands.items():
        found |= (
            commands(each, f"{prefix} {name}")
            if hasattr(each, "commands")
            else {f"{prefix} {name}": each}
        )
    return found


def test_every_command_and_option_is_on_the_page() -> None:
    page = command_line.reference()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    every = commands(typer.main.get_command(app))
    assert len(every) > 15
    assert every.keys() == sections.keys()
    for name, command in every.items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in sections[name], f"{name} {parameter.opts}"
    seeds = rows(sections["oodbench run"])["--seeds N"]
    assert "0 .. N-1" in seeds[1]
    device = rows(sections["oodbench run"])["--device DEVICE"]
    assert device[1:] == ["auto, cpu, cuda or cuda:i.", "`auto`"]


@pytest.fixture(scope="module")
def yaml_page() -> str:
    """The page of the YAML files."""
    return yaml_files.reference()


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_a_file_is_on_the_page(yaml_page: str, kind: str) -> None:
    title = yaml_files._TITLES[kind]
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", yaml_page, re.MULTILINE | re.DOTALL)
    schema = schema_of(kind)
    for part in (schema, *schema.get("$defs", {}).values()):
        for key in part.get("properties", {}):
            assert f"| `{key}` |" in section
    links = set(re.findall(r"\]\(#([\w-]+)\)", section))
    assert links <= set(re.findall(r"\{: #([\w-]+) \}", section))


def test_keys_have_types_limits_and_defaults(yaml_page: str) -> None:
    table = rows(yaml_page)
    assert table["resamples"][1:3] == ["whole number, at least 100, at most 20000", "`1000`"]
    assert table["protocol"][2] == "`fgsm`"
    assert table["crop_padding"][2] == "`0`"


@pytest.mark.parametrize(("file", "kind"), [(f, k) for f, _, k in record_fields._KINDS])
def test_every_field_of_a_record_is_explained(file: str, kind: type[Any]) -> None:
    page = record_fields.reference()
    (section,) = re.findall(rf"^## \w+: `{file}`\n(.*?)(?=^## |\Z)", page, re.M | re.DOTALL)
    table = rows(section)
    for field in dataclasses.fields(kind):
        assert len(table[field.name]) == 3
        assert table[field.name][2], f"{kind.__name__}.{field.name} has no text"


def test_record_types_are_in_words() -> None:
    table = rows(record_fields.reference().partition("## Costs")[0])
    assert table["ood_group"][1] == "text or `null`"
    assert table["status"][1] == "`ok`, `skipped`, `failed`"
    assert table["accepted_counts"][1] == "object or `null`"
    assert "schema_version" in table
    assert records.SCHEMA_VERSION == 1


def test_every_public_name_is_on_a_page() -> None:
    shown = {name for _, names in python_api.PAGES.values() for name in names}
    assert shown == {*oodbench.__all__} - {"__version__"}
    pages = dict(python_api.pages())
    assert "::: oodbench.metrics.auroc\n" in pages["reference/python-api/metrics.md"]
    assert "::: oodbench.losses.DisMaxLoss\n" in pages["reference/python-api/losses.md"]
    index = python_api.reference()
    assert all(f"`oodbench.{name}`" in index for name in shown)
    assert "|  |" not in index, "a name has no docstring"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Detector -> its page."""
    return {
        uri.removeprefix("reference/detectors/").removesuffix(".md"): text
        for uri, text in detector_pages.pages()
    }


def test_every_detector_has_a_page(pages: dict[str, str]) -> None:
    assert pages.keys() == DETECTORS.keys()
    in_navigation = {
        page
        for family in detector_pages.navigation()
        for members in family.values()
        for member in members
        for page in member.values()
    }
    assert in_navigation == {f"reference/detectors/{name}.md" for name in DETECTORS}


@pytest.mark.parametrize("name", DETECTORS)
def test_the_page_of_a_detector_explains_its_parameters(pages: dict[str, str], name: str) -> None:
    table = rows(pages[name].partition("## Parameters")[2].partition("## Use")[0])
    cls = load_class(ROOT / "detectors" / f"{name}.py")
    parameters = cls.parameter_names()
    assert table.keys() - {"Parameter", "---", ""} == {*parameters}
    for parameter in parameters:
        assert table[parameter][-1], f"{name}: '{parameter}' is not explained in its docstring"
    assert inspect.getsource(cls).strip() in pages[name]


def test_the_page_of_a_detector_has_its_rows_of_the_comparisons(pages: dict[str, str]) -> None:
    knn, ash = pages["knn"], pages["ash"]
    assert "| `KNN` | `-s` | - | 1e-6 |" in knn
    assert "| `k` | 50 | 50 | 50 |" in knn
    assert "## Deviations" in knn
    assert "| `percentile` 0.9 | `percentile` 0.65 |" in ash
    assert "## Agreement with pytorch-ood" not in pages["mmles"]


def test_the_page_of_a_detector_has_its_results(pages: dict[str, str]) -> None:
    """Those of docs/leaderboards/digits/leaderboard.md."""
    table = rows(pages["gram"].partition("## Results")[2])
    assert table["1"][1:3] == ["SoftMax+Gram", "-"]
    assert table["1"][3:6] == ["99.2", "2.9", "98.6-99.7"]
    assert "It is on none of them" in pages["mcm"]


def test_made_parts_are_put_into_pages() -> None:
    marked = [
        (page, name)
        for page in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"^<!-- generated: (.*) -->$", page.read_text("utf-8"), re.MULTILINE)
    ]
    assert {name for _, name in marked} == generated_pages.PARTS.keys()
    text = generated_pages.with_parts("# A\n\n<!-- generated: commands -->\n\n## B\n")
    assert text.startswith("# A\n\n| Command |")
    assert text.endswith("\n\n## B\n")


def test_names_in_tables_of_detectors_lead_to_their_pages() -> None:
    text = "| `knn` | x |\n| `baseline`, `msp` | `knn` |\n| `k` | - |\n"
    linked = generated_pages.with_detector_links("reference/detectors/index.md", text)
    assert linked == (
        "| [`knn`](knn.md) | x |\n| [`baseline`](baseline.md), `msp` | `knn` |\n| `k` | - |\n"
    )
    assert generated_pages.with_detector_links("reference/metrics.md", text) == text
