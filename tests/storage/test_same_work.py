"""One answer to whether a run directory holds the same work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oodbench.plugins.catalog import Catalog
from oodbench.storage.run_description import Checksums, DescribedMethod, RunDescription
from oodbench.storage.run_directory import RunDirectory
from oodbench.storage.same_work import IN_NO_FILE, Work, benchmark_difference, is_done

WORK = Work(Catalog().benchmark("digits"), {"digits": {"test": "1"}}, {"energy": "a"})


def description(work: Work = WORK, **changes: Any) -> RunDescription:
    known: dict[str, Any] = {
        "run_id": work.run_id,
        "status": "complete",
        "benchmark": work.benchmark.model_dump(mode="json"),
        "seeds": [0, 1],
        "methods": [DescribedMethod(name="SoftMax+Energy")],
        "versions": {"oodbench": "0"},
        "checksums": Checksums(detectors=dict(work.detectors)),
    }
    return RunDescription(**(known | changes))


def test_the_same_work() -> None:
    assert WORK.difference(description()) is None
    assert WORK.changed_detectors(description()) == set()
    words = WORK.benchmark.model_copy(update={"title": "Another title"})
    assert replace(WORK, benchmark=words).run_id == WORK.run_id
    assert replace(WORK, benchmark=words).difference(description()) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "other"}, "'digits' version 1, not of 'other' version 1"),
        ({"version": 9}, "'digits' version 1, not of 'digits' version 9"),
        ({"reference": None}, "another state of 'digits' (reference)"),
    ],
)
def test_another_benchmark(change: dict[str, Any], said: str) -> None:
    other = replace(WORK, benchmark=WORK.benchmark.model_copy(update=change))
    found = other.difference(description())
    assert found == benchmark_difference(other.benchmark, description())
    assert found is not None
    assert said in found


def test_other_data_or_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    held = description()
    other = replace(WORK, data={"digits": {"test": "2"}})
    assert other.difference(held) == "a run with other data, or of oodbench 0"
    monkeypatch.setattr("oodbench.storage.same_work.__version__", "99")
    assert WORK.difference(held) == "a run with other data, or of oodbench 0"


def test_changed_detectors() -> None:
    held = description(checksums=Checksums(detectors={"energy": "b", "knn": "c"}))
    assert WORK.changed_detectors(held) == {"energy"}
    assert replace(WORK, detectors={"knn": "c"}).changed_detectors(held) == set()
    assert replace(WORK, detectors={"new": "d"}).changed_detectors(held) == {"new"}
    unknown = replace(WORK, detectors={"mine": IN_NO_FILE})
    same = description(checksums=Checksums(detectors={"mine": IN_NO_FILE}))
    assert unknown.changed_detectors(same) == {"mine"}, "its source is not known"


@pytest.mark.parametrize(
    ("edit", "done"),
    [
        (lambda: description(), True),
        (lambda: description(seeds=[0]), False),
        (lambda: description(methods=[]), False),
        (lambda: description(status="incomplete"), False),
        (lambda: description(run_id="other"), False),
        (lambda: description(checksums=Checksums(detectors={"energy": "b"})), False),
    ],
)
def test_what_is_done(tmp_path: Path, edit: Callable[[], RunDescription], done: bool) -> None:
    directory = RunDirectory(tmp_path)
    assert not is_done(directory, WORK, ["SoftMax+Energy"], [0, 1])
    directory.write(edit(), {"records.jsonl": "1"})
    assert is_done(directory, WORK, ["SoftMax+Energy"], [0, 1]) == done
    (tmp_path / "records.jsonl").write_text("2")
    assert not is_done(directory, WORK, ["SoftMax+Energy"], [0, 1]), "a file was changed"
