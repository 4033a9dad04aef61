"""`oodbench list`: for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import Command
from helpers.tiny_content import TEN_LINES, content

from oodbench.cli.content.list_rows import LISTERS
from oodbench.cli.content.list_tables import table
from oodbench.detector import FAMILIES
from oodbench.errors import ExitCode
from oodbench.plugins.catalog import Catalog
from oodbench.report.writers.terminal import plain, table_renderables

pytestmark = pytest.mark.usefixtures("one_thread", "kept_networks", "empty_folder")


@pytest.mark.parametrize("kind", ["detectors", "benchmarks", "datasets", "models"])
def test_lists_for_machines(command: Command, plugins: Path, kind: str) -> None:
    done = command("list", kind, "--json", "--plugins", plugins)
    assert done.code == 0
    rows = json.loads(done.out)
    assert rows
    for row in rows:
        assert {"name", "status", "summary", "source"} <= row.keys(), row
        assert row["status"] == "ok", row
    found = {row["name"]: row["source"] for row in rows}
    expected = {
        "detectors": ("baseline", "built-in"),
        "benchmarks": ("tiny", str(plugins)),
        "datasets": ("letters", "built-in"),
        "models": ("resnet8", "built-in"),
    }[kind]
    assert found[expected[0]] == expected[1]


@pytest.mark.parametrize("kind", ["detectors", "benchmarks", "datasets", "models"])
def test_lists_for_people_show_every_name(command: Command, kind: str) -> None:
    rows = json.loads(command("list", kind, "--json").out)
    shown = command("list", kind).out
    for row in rows:
        assert row["name"] in shown


def test_the_variable_is_read(command: Command, plugins: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("OODBENCH_PLUGINS", str(plugins))
    rows = json.loads(command("list", "benchmarks", "--json").out)
    assert "tiny" in {row["name"] for row in rows}


def test_broken_content_is_listed_with_its_error(command: Command, plugins: Path) -> None:
    missing = "import nosuchpackage\n" + TEN_LINES.replace('"my_energy"', '"missing"')
    content(plugins, my_energy=TEN_LINES, torn="def f(:\n", missing=missing)
    (plugins / "benchmarks" / "torn.yaml").write_text("name: torn\nversion: [1\n")
    (plugins / "data_manifests").mkdir()
    (plugins / "data_manifests" / "torn.yaml").write_text("schema_version: 1\nnmae: torn\n")
    done = command("list", "detectors", "--json", "--plugins", plugins)
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert rows["my_energy"]["status"] == "ok"
    assert rows["torn"]["status"] == rows["missing"]["status"] == "broken"
    assert rows["torn"]["error"] == "line 1: invalid syntax"
    assert rows["missing"]["error"] == (
        "line 1: ModuleNotFoundError: No module named 'nosuchpackage'"
    )
    assert rows["torn"]["path"] == str(plugins / "detectors" / "torn.py")
    shown = command("list", "detectors", "--plugins", plugins).out
    assert shown.count("BROKEN: ") == 2, shown
    for kind in ("benchmarks", "datasets"):
        rows = {
            r["name"]: r
            for r in json.loads(command("list", kind, "--json", "--plugins", plugins).out)
        }
        assert rows["torn"]["status"] == "broken", kind
        assert "torn.yaml" in rows["torn"]["error"], kind
        assert "BROKEN" in command("list", kind, "--plugins", plugins).out


def test_suites_are_listed_among_the_benchmarks(command: Command) -> None:
    rows = {row["name"]: row for row in json.loads(command("list", "benchmarks", "--json").out)}
    assert rows["digits"]["kind"] == "benchmark"
    assert rows["dismax-paper"]["kind"] == "suite"
    assert len(rows["dismax-paper"]["members"]) == 6


@pytest.mark.parametrize("kind", ["detectors", "benchmarks", "datasets", "models"])
def test_piped_lists_have_one_line_for_each_row(command: Command, kind: str) -> None:
    rows = json.loads(command("list", kind, "--json").out)
    lines = command("list", kind).out.splitlines()
    assert len(lines) == len(rows) + 2
    for row, line in zip(rows, lines[2:], strict=True):
        assert line.startswith(row["name"])
        assert " ".join(row["summary"].split()) in line


def test_networks_have_their_size_and_the_source_of_their_weights(command: Command) -> None:
    rows = {row["name"]: row for row in json.loads(command("list", "models", "--json").out)}
    assert rows["resnet18_32x32"]["parameters"] == 11_173_962
    assert rows["resnet18_32x32"]["input"] == "3x32x32"
    assert "OpenOOD" in rows["resnet18_32x32"]["weights"]
    assert rows["torchvision:resnet50"]["input"] == "3x224x224"
    assert rows["torchvision:resnet50"]["weights"].startswith("IMAGENET1K_V1")
    for form, source in (("timm:NAME", "timm"), ("hf:PATH", "transformers")):
        assert rows[form]["source"] == source
        assert f"oodbench[{source}]" in rows[form]["summary"]
    shown = command("list", "models").out
    assert "25,557,032" in shown


def test_heads_are_named_below_the_networks() -> None:
    rows = LISTERS["models"](Catalog())
    assert {"softmax", "dismax", "logitnorm", "t2fnorm"} <= set(rows[0]["heads"])
    (note,) = table("models", rows).notes
    assert all(head in note for head in rows[0]["heads"])


def test_tables_on_a_terminal_are_grouped_by_family() -> None:
    rows = LISTERS["detectors"](Catalog())
    grouped = table("detectors", rows, grouped=True)
    present = {row["family"] for row in rows}
    titles = [title for family, title in FAMILIES.items() if family in present]
    assert [section.label for section in grouped.sections] == titles
    assert sum(len(section.rows) for section in grouped.sections) == len(rows)
    names = [heading.title for heading in grouped.headings]
    for width, least in ((80, {"name", "title", "published"}), (120, {"needs", "cost"})):
        text = plain(table_renderables(grouped, width), width)
        assert max(map(len, text.splitlines())) <= width
        head = text.splitlines()[0].split()
        assert least <= set(head) <= set(names)
    everything = plain(table_renderables(grouped, 400), 400)
    assert "andrijazz/ash" in everything
    assert "Extremely Simple Activation Shaping" in everything


def test_a_broken_detector_has_a_section_of_its_own(plugins: Path) -> None:
    content(plugins, torn="def f(:\n")
    grouped = table("detectors", LISTERS["detectors"](Catalog([plugins])), grouped=True)
    assert grouped.sections[-1].label == "Broken"
    assert "torn" in grouped.sections[-1].rows[0][0].text


def test_one_detector_is_shown_with_its_formula(command: Command) -> None:
    done = command("list", "detectors", "mds", "ash")
    assert done.code == 0, done.err
    shown = " ".join(done.out.split())
    assert shown.startswith("mahalanobis_single ")
    assert "A Simple Unified Framework" in shown
    assert "M(x) = max_c" in shown
    assert "percentile: 0.65, 0.7" in shown
    assert shown.count("assumes features >= 0 yes") == 1
    (row,) = json.loads(command("list", "detectors", "mds", "--json").out)
    assert row["name"] == "mahalanobis_single"
    entry = command("list", "detectors", "mds", "--bibtex").out
    assert entry.count("@inproceedings") == 1


def test_details_of_other_lists(command: Command) -> None:
    shown = " ".join(command("list", "datasets", "digits").out.split())
    assert "train 897" in shown
    assert "license" in shown


def test_an_unknown_name_and_two_formats_are_refused(command: Command) -> None:
    done = command("list", "detectors", "mahalanobs")
    assert done.code == ExitCode.USAGE
    assert "'mahalanobis'" in done.err
    for options in (("--json", "--markdown"), ("--bibtex", "--json")):
        assert "give one of them" in command("list", "detectors", *options).err
    assert "for `oodbench list detectors`" in command("list", "models", "--markdown").err


def test_tables_in_markdown_have_every_detector(command: Command, plugins: Path) -> None:
    content(plugins, my_energy=TEN_LINES)
    text = command("list", "detectors", "--markdown", "--plugins", plugins).out
    for name in (*Catalog().detectors, "my_energy"):
        assert text.count(f"\n| `{name}`, ") + text.count(f"\n| `{name}` | ") >= 1
    assert "| `features` >= 0, `feature_map`, `head` | forward |" in text
    assert "| `knn` | `k` | 50 | 1, 10, 20" in text
