"""Lines that are no records: what is said of each, in every form of report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import Command

import oodbench
from oodbench.errors import UserError
from oodbench.storage.record_lines import read_lines
from oodbench.storage.records import CostRecord, DifferenceRecord, QualityRecord, TrainingRecord

RESULTS = Path(__file__).parents[2] / "docs" / "results"
EARLIER = RESULTS / "cifar10-folders-resnet34"
FILES = {"records": QualityRecord, "costs": CostRecord, "training": TrainingRecord}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of an earlier version, with few records."""
    made = tmp_path / "run"
    made.mkdir()
    shutil.copy(EARLIER / "run.json", made)
    for name in FILES:
        lines = (EARLIER / f"{name}.jsonl").read_text().splitlines(True)
        (made / f"{name}.jsonl").write_text("".join(lines[:20]))
    return made


def change(path: Path, edit: Callable[[dict[str, Any]], object], number: int = 1) -> None:
    lines = path.read_text().splitlines()
    record = json.loads(lines[number - 1])
    edit(record)
    lines[number - 1] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")


def put(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda record: record.update({key: value})


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*.jsonl")), ids=str)
def test_committed_records_are_read(path: Path) -> None:
    kind = {**FILES, "differences": DifferenceRecord}[path.stem]
    assert len(read_lines(kind, path)) == len(path.read_text().splitlines()) > 10


NAN, INFINITE, HUGE = float("nan"), float("inf"), 10**400
WRONG = [
    ("records", "value", "0.5"),
    ("records", "value", NAN),
    ("records", "value", -INFINITE),
    ("records", "value", HUGE),
    ("records", "value", 2.0),
    ("records", "value", -0.01),
    ("records", "value", True),
    ("records", "value", [0.5]),
    ("records", "ci_high", 1.5),
    ("records", "method", 5),
    ("records", "method", ""),
    ("records", "method", "\ud800"),
    ("records", "seed", "0"),
    ("records", "seed", 0.0),
    ("records", "seed", False),
    ("records", "seed", -1),
    ("records", "n_ood", HUGE),
    ("records", "status", "weird"),
    ("records", "tuned_on", "luck"),
    ("records", "reason", 3),
    ("records", "detector_params", []),
    ("records", "detector_params", {"epsilon": NAN}),
    ("records", "detector_params", {"sizes": [1, HUGE]}),
    ("records", "schema_version", True),
    ("records", "schema_version", 2),
    ("costs", "flops_per_image", "many"),
    ("costs", "latency_ms_batch1", INFINITE),
    ("costs", "fit_seconds", -1.0),
    ("costs", "ms_per_image_batched", 1e300),
    ("costs", "peak_memory_bytes", 1.5),
    ("costs", "peak_memory_bytes", HUGE),
    ("costs", "ad_hoc_models", 1),
    ("costs", "seed", "1"),
    ("training", "train_loss", NAN),
    ("training", "test_accuracy", "0.9"),
    ("training", "train_accuracy", 7),
    ("training", "epoch", "one"),
]


@pytest.mark.parametrize(("name", "key", "value"), WRONG)
def test_values_of_a_wrong_type(folder: Path, name: str, key: str, value: object) -> None:
    path = folder / f"{name}.jsonl"
    change(path, put(key, value), number=2)
    with pytest.raises(UserError) as raised:
        read_lines(FILES[name], path)
    said = raised.value.message
    assert said.startswith(f"{path}:2: not a record of this version of oodbench ({key} is "), said
    shown = ascii(value)
    assert shown[:57] in said
    assert len(said) < len(str(path)) + 150, "one line, whatever stands there"


def test_keys_that_are_missing_or_too_many(folder: Path) -> None:
    path = folder / "records.jsonl"
    before = path.read_text()
    for key in json.loads(before.splitlines()[0]):
        change(path, lambda record, key=key: record.pop(key))
        with pytest.raises(UserError, match=key):
            read_lines(QualityRecord, path)
        path.write_text(before)
    change(path, put("valeu", 0.5))
    with pytest.raises(UserError, match="there is no 'valeu'"):
        read_lines(QualityRecord, path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"value": None}, "value is None and status is 'ok'"),
        ({"status": "failed"}, "and status is 'failed'"),
        ({"ood_dataset": None}, "ood_dataset is None and metric is 'auroc'"),
        ({"metric": "id_accuracy"}, "metric is 'id_accuracy'"),
        ({"ci_low": 0.9, "ci_high": 0.1}, "ci_low is 0.9 and ci_high is 0.1"),
        ({"ci_low": None}, "ci_low is None"),
        ({"n_id": None}, "n_id is None and status is 'ok'"),
        ({"n_ood": None}, "n_ood is None and status is 'ok'"),
    ],
)
def test_values_that_contradict_each_other(folder: Path, values: dict[str, Any], said: str) -> None:
    change(folder / "records.jsonl", lambda record: record.update(values))
    with pytest.raises(UserError, match=f"records.jsonl:1: not a record.*{said}"):
        read_lines(QualityRecord, folder / "records.jsonl")


def test_a_line_that_was_cut_is_not_valid_json(folder: Path) -> None:
    path = folder / "costs.jsonl"
    path.write_text('{"method"\n')
    with pytest.raises(UserError, match="it is not valid JSON: Expecting ':' delimiter in line 1"):
        read_lines(CostRecord, path)


@pytest.mark.parametrize("line", ["", "[]", "7", "null", "{", "NaN", "[" * 100_000, "9" * 5000])
def test_lines_of_something_else(folder: Path, line: str) -> None:
    path = folder / "costs.jsonl"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(UserError, match=r"costs\.jsonl:21: not a record"):
        read_lines(CostRecord, path)


def test_what_rounding_gives_is_a_fraction(folder: Path) -> None:
    path = folder / "records.jsonl"
    change(path, put("ci_high", 1 + 2**-52))
    assert read_lines(QualityRecord, path)[0].ci_high == 1 + 2**-52


def test_fields_that_later_versions_add_may_be_absent(folder: Path) -> None:
    from oodbench.storage.record_lines import ADDED_LATER

    line = json.loads((folder / "records.jsonl").read_text().splitlines()[0])
    assert not ADDED_LATER & line.keys(), "a file of before"
    assert len(read_lines(QualityRecord, folder / "records.jsonl")) == 20


@pytest.mark.parametrize("form", ["table", "md", "csv", "json", "html", "latex"])
@pytest.mark.parametrize(
    ("name", "key", "value"), [WRONG[0], WRONG[1], WRONG[3], WRONG[10], WRONG[30]]
)
def test_every_form_of_report_refuses(
    folder: Path,
    command: Command,
    form: str,
    name: str,
    key: str,
    value: object,
) -> None:
    assert command("report", folder, "--format", form).code == 0
    change(folder / f"{name}.jsonl", put(key, value))
    said = command("report", folder, "--format", form)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert f"{name}.jsonl:1: not a record" in said.err
    assert f"({key} is " in said.err
    assert "Traceback" not in said.err


def test_a_program_gets_the_same_error(folder: Path) -> None:
    change(folder / "records.jsonl", put("value", "0.5"))
    run = oodbench.api.open_run(folder)
    assert isinstance(run, oodbench.Run)
    with pytest.raises(UserError, match=r"not a record .*value is '0.5'"):
        run.leaderboard()
