"""A benchmark and a suite that are compared with published averages: run, reported, verified."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import process as command
from helpers.tiny_benchmark import tiny_benchmark

import oodbench
from oodbench.results import Run
from oodbench.storage.description import sealed

TINY = tiny_benchmark(
    {"SoftMax+MSP": "baseline", "SoftMax+Energy": "energy"},
    ood="{near: [letters], far: [uniform-noise]}",
    published="{file: paper, benchmark: small, models: {SoftMax: {training: Cross, network: Net}}}",
    tuning="{protocol: none}",
)
PAPER = """\
schema_version: 1
name: paper
title: A board
sources:
  board: {citation: A. Author. 2020.}
  again: {citation: B. Other. 2021.}
averages:
  tuning: GRID
  tuned: [EBO]
  detectors: {MSP: baseline, EBO: energy}
  measures:
    near_auroc: {metric: auroc, group: near, source: board}
    far_auroc: {metric: auroc, group: far, source: board}
    near_fpr95: {metric: fpr95_ood_positive, group: near, source: again, origin: a re-run}
    id_accuracy: {metric: id_accuracy, source: board}
  contested: [{postprocessors: [EBO], reason: A bug was fixed.}]
  benchmarks:
    small:
      title: Small
      entries:
        - {training: Cross, network: Net, postprocessor: MSP,
           values: {near_auroc: [77.70, 0.5], near_fpr95: [33.30], id_accuracy: [95.00]}}
        - {training: Cross, network: Net, postprocessor: EBO, values: {far_auroc: [66.60, 0.5]}}
        - {training: Cross, network: Net, postprocessor: New, values: {far_auroc: [55.50, 0.5]}}
"""
SUITE = """\
schema_version: 1
name: both
version: 1
title: Both
summary: Two benchmarks with published averages
members: [tiny, other]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of content; trained networks are kept."""
    found = tmp_path_factory.mktemp("content")
    texts = {
        "tiny": TINY,
        "other": "extends: tiny\nname: other\ntitle: Other\n",
        "both": SUITE,
        "published/paper": PAPER,
    }
    (found / "benchmarks" / "published").mkdir(parents=True)
    for name, text in texts.items():
        (found / "benchmarks" / f"{name}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OODBENCH_PLUGINS", str(found))
        yield found


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the benchmark with one checkpoint."""
    return oodbench.run("tiny", out=tmp_path_factory.mktemp("runs") / "run", seeds=1)


def test_the_run_writes_published_values_beside_its_own(run: Run) -> None:
    lines = list(csv.DictReader((run.folder / "published.csv").open()))
    cells = {(line["method"], line["measure"]): line for line in lines}
    msp = cells["SoftMax+MSP", "near_auroc"]
    record = next(
        each
        for each in run.records
        if (each.method, each.ood_dataset, each.metric) == ("SoftMax+MSP", "letters", "auroc")
    )
    assert record.value is not None
    assert float(msp["measured"]) == pytest.approx(record.value, abs=1e-6)
    assert float(msp["difference"]) == pytest.approx(record.value - 0.777, abs=1e-6)
    assert cells["SoftMax+Energy", "far_auroc"]["contested"] == "A bug was fixed."
    assert cells["", "far_auroc"]["postprocessor"] == "New"
    content = json.loads((run.folder / "published.json").read_text())
    assert content["title"] == "A board, Small"
    text = (run.folder / "published.md").read_text()
    assert "77.70" in text
    assert "published values: a re-run" in text
    for file in ("leaderboard.md", "leaderboard.json"):
        assert "Published beside measured" in text
        assert "Cross" in (run.folder / file).read_text()


def test_reports_do_not_depend_on_later_changes_of_the_published_file(
    run: Run, folder: Path
) -> None:
    path = folder / "benchmarks" / "published" / "paper.yaml"
    try:
        path.write_text(PAPER.replace("77.70", "11.10"))
        assert "77.70" in oodbench.open_run(run.folder).report().to_markdown()
    finally:
        path.write_text(PAPER)


def test_a_joint_leaderboard_has_them_too(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "again")
    board = oodbench.leaderboard(run.folder, tmp_path / "again")
    assert board.published is not None
    assert {(each.method, each.run) for each in board.published.rows if each.method} == {
        (method, name) for method in ("SoftMax+MSP", "SoftMax+Energy") for name in ("run", "again")
    }
    text = board.to_text(120)
    assert "77.70" in text


def test_verify_finds_a_changed_comparison(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    found = oodbench.verify(copy)
    assert not found.discrepancies
    assert any("published.md, published.csv, published.json" in each for each in found.checked)
    for file, old, new in (
        ("published.csv", "0.777", "0.778"),
        ("published.md", "77.70", "77.80"),
        ("published.json", "0.777", "0.778"),
    ):
        path = copy / file
        text = path.read_text()
        path.write_text(text.replace(old, new, 1))
        assert text != path.read_text()
        assert [each.file for each in oodbench.verify(copy).discrepancies] == [file]
        path.write_text(text)


def test_verify_compares_the_published_numbers_with_their_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "published numbers" in oodbench.verify(run.folder).checked
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    path = copy / "run.json"
    description = json.loads(path.read_text())
    description["published"]["averages"]["benchmarks"]["small"]["entries"][0]["values"][
        "near_auroc"
    ] = [64.0, 0.5]
    path.write_text(json.dumps(sealed(description)))
    found = oodbench.verify(copy)
    assert "published numbers: paper.yaml has other ones today" in found.unchecked
    # The files of oodbench itself do not change within a version.
    monkeypatch.setattr("oodbench.verification.derived_files.BUILT_IN", run_content())
    reasons = [
        each.reason for each in oodbench.verify(copy).discrepancies if each.file == "run.json"
    ]
    assert reasons == ["its published numbers are not those of oodbench"]
    monkeypatch.delenv("OODBENCH_PLUGINS")
    unchecked = "published numbers: their file is not among the contents of oodbench"
    assert unchecked in oodbench.verify(copy).unchecked


def run_content() -> str:
    """The folder of content, which is among the plug-ins."""
    return os.environ["OODBENCH_PLUGINS"]


def test_a_resumed_run_takes_the_published_numbers_of_today(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    path = folder / "benchmarks" / "published" / "paper.yaml"
    try:
        path.write_text(PAPER.replace("77.70", "77.80"))
        again = oodbench.run("tiny", out=copy, seeds=1, resume=True)
    finally:
        path.write_text(PAPER)
    assert again.records == run.records
    assert "77.80" in (copy / "published.md").read_text()
    assert not oodbench.verify(copy).discrepancies


def test_a_suite_without_tables_shows_the_comparison_of_each_member(
    folder: Path, tmp_path: Path
) -> None:
    suite = oodbench.run_suite("both", out=tmp_path / "suite", seeds=1)
    assert suite.complete
    report = suite.report()
    assert [each.benchmark for each in report.averages] == ["tiny", "other"]
    text = report.to_text(100)
    assert max(map(len, text.splitlines())) <= 100
    for words in (
        "Agreement with the published values",
        "tiny: Published beside measured: AUROC",
        "other: Published beside measured: AUROC",
    ):
        assert words in text
    assert "a re-run" not in text  # the overview has one table for each benchmark
    assert "a re-run" in (suite.folder / "comparison.md").read_text()
    lines = list(csv.DictReader((suite.folder / "comparison.csv").open()))
    assert {(line["suite"], line["benchmark"]) for line in lines} == {
        ("both", "tiny"),
        ("both", "other"),
    }
    assert "table" not in lines[0]
    content = json.loads((suite.folder / "comparison.json").read_text())
    assert [each["benchmark"] for each in content["averages"]] == ["tiny", "other"]
    assert content["cells"] == []
    assert "Network" not in (suite.folder / "comparison.md").read_text().split("##")[1]


def test_the_commands_show_them(run: Run, folder: Path, tmp_path: Path) -> None:
    done = command("report", str(run.folder))
    assert done.code == 0
    assert "Published beside measured" in done.out
    assert command("verify", str(run.folder)).code in (0, 3)
    done = command("site", str(run.folder), "--out", str(tmp_path / "site"))
    assert done.code == 0, done.err
    page = (tmp_path / "site" / "tiny-v1" / "index.html").read_text()
    assert '<section id="published">' in page
    assert "AUROC, near-OOD" in page
