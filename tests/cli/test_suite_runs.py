"""Suites: run, compared, resumed, planned."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.commands import Command, Done
from helpers.tiny_content import check_refusal, with_suite

pytestmark = pytest.mark.usefixtures("one_thread", "kept_networks", "empty_folder")


def test_a_suite_is_run_and_compared(suite_run: tuple[Done, Path]) -> None:
    done, folder = suite_run
    assert done.code == 3, f"a benchmark is missing\n{done.err}"
    assert "Traceback" not in done.err
    for said in ("[1/2] tiny", "[2/2] lost", "failed: lost: ", "Incomplete"):
        assert said in done.err, f"'{said}' is not in:\n{done.err}"
    for said in ("Suite pair, version 1", "1 of 2 benchmarks are complete", "12.3", "45.6"):
        assert said in done.out, f"'{said}' is not in:\n{done.out}"
    assert f"Run directory: {folder}" in done.out
    rows = list(csv.DictReader(io.StringIO((folder / "comparison.csv").read_text())))
    assert {row["id"]: bool(row["measured"]) for row in rows} == {"Digits": True, "Lost": False}


@pytest.mark.parametrize("name", ["table", "md", "csv", "json", "html", "latex"])
def test_reports_of_a_suite(command: Command, suite_run: tuple[Done, Path], name: str) -> None:
    done = command("report", suite_run[1], "--format", name)
    assert done.code == 0, done.err
    assert "SoftMax+MSP" in done.out
    assert ("0.456" if name in ("csv", "json") else "45.6") in done.out
    assert "matplotlib" not in done.err


def test_a_benchmark_of_a_suite_has_reports_like_any_other(
    command: Command, suite_run: tuple[Done, Path]
) -> None:
    done = command("report", suite_run[1] / "tiny")
    assert done.code == 0, done.err
    assert "Benchmark tiny, version 1" in done.out


def test_a_suite_without_any_data_says_so_once(command: Command, tmp_path: Path) -> None:
    plugins = with_suite(tmp_path / "content")
    path = plugins / "benchmarks" / "pair.yaml"
    suite = json.loads(path.read_text())
    del suite["members"]["tiny"]
    path.write_text(json.dumps({**suite, "ood": {"lost": "Letters"}}))
    done = command("run", "pair", "--plugins", plugins, "--seeds", "1", "--out", "run")
    assert done.code == 2
    assert done.out == "", "no tables"
    assert done.err.count("data set 'lost' is missing: ") == 1
    assert (
        "error: No benchmark of suite 'pair' can be run: data sets are missing: lost." in done.err
    )
    assert not Path("run").exists()


@pytest.mark.parametrize("suite", ["dismax-paper-quick", "dismax-paper"])
def test_a_suite_without_network_says_what_to_fetch(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suite: str
) -> None:
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path / "data"))
    done = command("run", suite, "--seeds", "1", "--device", "cpu", "--out", "run")
    assert done.code == 2
    for name in ("cifar10", "svhn"):
        (line,) = re.findall(rf"^.*'{name}' is missing.*$", done.err, re.MULTILINE)
        assert line.startswith(f"data set '{name}' is missing: it needs ")
        assert line.count("data set") == 1
    assert f"`oodbench data fetch {suite} --data-root DIR` fetches them all" in done.out
    for name in ("cifar-10-python.tar.gz", "LSUN_resize.tar.gz"):
        assert re.search(rf"^{name}  \(.*\)\n  from  https://", done.out, re.MULTILINE)


@pytest.mark.parametrize("benchmark", ["tiny", "pair"])
def test_nothing_to_resume(command: Command, tmp_path: Path, benchmark: str) -> None:
    plugins = with_suite(tmp_path / "content")
    done = command(
        *("run", benchmark, "--plugins", plugins, "--seeds", "1", "--device", "cpu"),
        *("--methods", "SoftMax+MSP", "--out", "new", "--resume"),
    )
    assert done.err.count("There is nothing to resume in new: a new run begins there.") == 1
    assert done.code == {"tiny": 0, "pair": 3}[benchmark]
    done = command(
        *("run", "tiny", "--plugins", plugins, "--seeds", "1", "--device", "cpu"),
        *("--methods", "SoftMax+MSP", "--resume"),
        *("--out", {"tiny": "new", "pair": "new/tiny"}[benchmark]),
    )
    assert "nothing to resume" not in done.err
    assert "finished before" in done.err


def test_a_suite_goes_on(command: Command, suite_run: tuple[Done, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(suite_run[1], folder)
    options = ("--plugins", suite_run[1].parent / "content", "--seeds", "1", "--device", "cpu")
    check_refusal(command("run", "pair", *options, "--out", folder), "--resume")
    done = command("run", "pair", *options, "--out", folder, "--resume")
    assert done.code == 3, done.err
    assert "[1/2] tiny: finished before" in done.err


def test_the_plan_of_a_suite(command: Command, tmp_path: Path) -> None:
    plugins = with_suite(tmp_path / "content")
    done = command("run", "pair", "--plugins", plugins, "--dry-run", "--out", "run")
    assert done.code == 0, done.err
    for said in ("Plan of suite 'pair'", "tiny", "lost", "MSP", "FLOPs", "not read"):
        assert said in done.out
    assert not (tmp_path / "run").exists()
