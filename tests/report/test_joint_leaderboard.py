"""Several runs on one leaderboard: what is refused, how rows are named, and when ties are shown."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Command
from helpers.records import cost, quality

import oodbench
from oodbench import metrics
from oodbench.errors import ExitCode, UserError
from oodbench.storage.record_lines import to_lines
from oodbench.storage.run_description import Checksums, Environment, RunDescription
from oodbench.storage.run_directory import COSTS, RECORDS, RunDirectory, arrays_content, scores_name

SETS = {"letters": "near", "noise": "far"}
BENCHMARK = {
    "name": "toy",
    "version": 1,
    "id": "digits",
    "ood": {"near": ["letters"], "far": ["noise"]},
    "models": {"SoftMax": {"network": "resnet8", "head": "softmax"}},
    "evaluation": {"resamples": 100},
    "tuning": {"protocol": "fgsm", "detectors": ["odin"]},
}
DATA = {"digits": {"train": "11aa", "test": "22bb"}, "letters": {"test": "33cc"}}
HOSTILE = "=cmd|<b>x</b>,*_`"

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a run of methods, each with the distance of its ID scores from its OOD scores."""

    def write(
        name: str,
        methods: Mapping[str, float],
        *,
        benchmark: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        scores: bool = True,
        **fields: Any,
    ) -> Path:
        contents: dict[str, bytes | str] = {}
        records, costs = [], []
        used = {**BENCHMARK, **(benchmark or {})}
        shared = {"benchmark": used["name"], "benchmark_version": used["version"]}
        for method, distance in methods.items():
            for seed in range(2):
                draw = np.random.default_rng(seed)
                found = {
                    "id": draw.normal(distance, 1, 100),
                    "letters": draw.normal(0, 1, 50),
                    "noise": draw.normal(0, 1, 50),
                }
                if scores:
                    contents[scores_name((method, seed))] = arrays_content(found)
                for ood in SETS:
                    value = metrics.auroc(found["id"], found[ood])
                    records.append(quality(method, seed, ood, value, **shared))
                costs.append(cost(method, seed, benchmark=used["name"]))
        records += [
            quality(
                "SoftMax+ViM",
                seed,
                ood,
                None,
                status="skipped",
                reason="no linear head",
                n_id=None,
                n_ood=None,
                **shared,
            )
            for seed in range(2)
            for ood in SETS
        ]
        contents |= {COSTS: to_lines(costs), RECORDS: to_lines(records)}
        description = RunDescription(
            benchmark=used,
            status=fields.pop("status", "complete"),
            written=fields.pop("written", "2026-01-02T03:04:05+00:00"),
            checksums=Checksums(data={**DATA, **(data or {})}),
            environment=Environment(device="cpu", processor="x86_64", threads=2),
            versions={"oodbench": "0.1.0", "oodbench_revision": "abc"},
            **fields,
        )
        RunDirectory(tmp_path / name).write(description, contents)
        return tmp_path / name

    return write


def test_same_method_in_two_runs_is_two_rows(make: Make) -> None:
    own = make("own", {"SoftMax+MSP": 1.0, "SoftMax+Energy": 2.0})
    theirs = make("theirs", {"SoftMax+MSP": 1.5})
    board = oodbench.leaderboard(own, theirs)
    found = [(row.rank, row.method, row.run) for row in board.rows]
    assert found == [
        (1, "SoftMax+Energy", "own"),
        (2, "SoftMax+MSP", "theirs"),
        (3, "SoftMax+MSP", "own"),
    ]
    assert [(each.method, each.run) for each in board.absences] == [
        ("SoftMax+ViM", "own"),
        ("SoftMax+ViM", "theirs"),
    ]
    alone = {row.method: row for row in oodbench.leaderboard(own).rows}
    for row in board.rows[::2]:
        mean = board.column("mean")
        assert (
            row.entries["auroc", mean].estimate == alone[row.method].entries["auroc", mean].estimate
        )


def test_run_alone_is_shown_as_it_is(make: Make) -> None:
    own = make("own", {"SoftMax+MSP": 1.0, "SoftMax+Energy": 2.0})
    board = oodbench.leaderboard(own)
    assert not board.runs
    assert board.to_csv() == oodbench.open_run(own).report().to_csv()
    assert board.to_json() == oodbench.open_run(own).report().to_json()


def test_ties_over_runs(make: Make) -> None:
    own = make("own", {"SoftMax+MSP": 1.0, "SoftMax+Energy": 2.0})
    near = make("near", {"SoftMax+New": 1.99})
    board = oodbench.leaderboard(own, near)
    assert board.tested
    mean = board.column("mean")
    marks = {row.method: row.entries["auroc", mean].mark for row in board.rows}
    assert marks == {"SoftMax+Energy": "best", "SoftMax+New": "tied", "SoftMax+MSP": None}


def test_without_scores_ties_are_not_shown_and_the_run_is_named(make: Make) -> None:
    own = make("own", {"SoftMax+MSP": 1.0})
    committed = make("committed", {"SoftMax+MSP": 1.5}, scores=False)
    board = oodbench.leaderboard(own, committed)
    assert not board.tested
    text = " ".join(board.to_text().split())
    assert "Ties are not shown: differences cannot be tested without scores (committed has" in text
    assert "Run committed: made on 2026-01-02, with oodbench 0.1.0 (abc)" in text
    assert "without scores" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"benchmark": {"name": "other"}}, "the benchmark is toy in one and other in the other"),
        ({"benchmark": {"version": 2}}, "the benchmark version is 1 in one and 2 in the other"),
        (
            {"data": {"letters": {"test": "99ff"}}},
            "the test images of 'letters' have the checksum 33cc in one and 99ff in the other",
        ),
        (
            {"data": {"digits": {"train": "0000", "test": "22bb"}}},
            "the train images of 'digits' have the checksum 11aa",
        ),
        (
            {"benchmark": {"evaluation": {"resamples": 200}}},
            "their benchmarks differ in evaluation.resamples",
        ),
        (
            {"benchmark": {"models": {"SoftMax": {"network": "resnet34", "head": "softmax"}}}},
            "their benchmarks differ in models.SoftMax.network",
        ),
        ({"benchmark": {"limited": {"images": 5}}}, ""),
    ],
)
def test_what_cannot_be_compared_is_refused(
    make: Make, command: Command, changes: Mapping[str, Any], words: str
) -> None:
    own = make("own", {"SoftMax+MSP": 1.0})
    other = make("other", {"SoftMax+MSP": 1.5}, **changes)
    done = command("leaderboard", own, other)
    if not words:  # a key that one of the two lacks is that of another version
        assert done.code == ExitCode.OK
        return
    assert done.code == ExitCode.USAGE
    assert f"{own} and {other} cannot share a leaderboard: {words}" in done.err
    assert "Traceback" not in done.err


def test_other_methods_models_and_tuned_detectors_are_no_difference(make: Make) -> None:
    own = make("own", {"SoftMax+MSP": 1.0})
    models = {**BENCHMARK["models"], "New": {"network": "resnet8", "head": "dismax"}}  # type: ignore[dict-item]
    tuning = {"protocol": "fgsm", "detectors": ["mine"], "tune": "all"}
    changes = {"models": models, "tuning": tuning, "methods": {"New+X": {"model": "New"}}}
    theirs = make("theirs", {"New+X": 2.0}, benchmark=changes)
    assert [row.run for row in oodbench.leaderboard(own, theirs).rows] == ["theirs", "own"]


def test_run_twice(make: Make, command: Command) -> None:
    own = make("own", {"SoftMax+MSP": 1.0})
    done = command("leaderboard", own, own)
    assert (done.code, "is given twice" in done.err) == (ExitCode.USAGE, True)


def test_folders_of_one_name_are_told_apart(make: Make) -> None:
    one, other = make("a/run", {"SoftMax+MSP": 1.0}), make("b/run", {"SoftMax+MSP": 2.0})
    assert [row.run for row in oodbench.leaderboard(one, other).rows] == ["b/run", "a/run"]


def test_records_alone_and_half_finished(make: Make, tmp_path: Path, command: Command) -> None:
    own = make("own", {"SoftMax+MSP": 1.0}, status="running")
    whole = make("whole", {"SoftMax+MSP": 2.0})
    (tmp_path / "records").mkdir()
    shutil.copy(whole / RECORDS, tmp_path / "records")
    done = command("leaderboard", own, tmp_path / "records", "--format", "json")
    assert done.code == ExitCode.OK
    warnings = json.loads(done.out)["warnings"]
    assert "own: the run is not finished." in warnings
    assert "records: there is no run.json, so its data cannot be compared." in warnings


def test_changed_records_are_said_and_are_a_finding(make: Make, command: Command) -> None:
    own, theirs = make("own", {"SoftMax+MSP": 1.0}), make("theirs", {"SoftMax+MSP": 2.0})
    path = theirs / RECORDS
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"n_id":100', '"n_id":99'), encoding="utf-8")
    with pytest.raises(UserError, match="99 and with 100 images"):
        oodbench.leaderboard(own, theirs)
    path.write_text(text.replace('"untuned":null', '"untuned":["k"]'), encoding="utf-8")
    done = command("leaderboard", own, theirs, "--format", "md")
    assert done.code == ExitCode.FINDING
    assert "records.jsonl changed after the run" in done.err
    assert "theirs: records.jsonl changed after the run" in done.out


def test_no_run_and_newer_schema(make: Make, tmp_path: Path, command: Command) -> None:
    own = make("own", {"SoftMax+MSP": 1.0})
    done = command("leaderboard", own, tmp_path)
    assert (done.code, "holds no run" in done.err) == (ExitCode.USAGE, True)
    newer = make("newer", {"SoftMax+MSP": 1.0})
    path = newer / RECORDS
    path.write_text(
        path.read_text(encoding="utf-8").replace('schema_version":1', 'schema_version":9')
    )
    done = command("leaderboard", own, newer)
    assert (done.code, "schema_version is 9" in done.err) == (ExitCode.USAGE, True)
    path.write_text(path.read_text(encoding="utf-8").replace('"n_id":100', '"n_id":NaN'))
    assert command("leaderboard", own, newer).code == ExitCode.USAGE


@pytest.mark.parametrize("form", ["table", "md", "csv", "json", "html", "latex"])
def test_names_are_escaped_in_every_format(make: Make, command: Command, form: str) -> None:
    own = make("own", {"SoftMax+MSP": 1.0})
    theirs = make("<i>theirs,\x1b[31m\n", {"SoftMax+MSP": 2.0})
    for path in (theirs / RECORDS, theirs / COSTS):
        text = path.read_text(encoding="utf-8")
        text = text.replace('"detector":"softmax+msp"', f'"detector":{json.dumps(HOSTILE)}')
        text = text.replace("no linear head", "\\u001b[2Jno <b>linear</b>\\nhead")
        path.write_text(text, encoding="utf-8")
    done = command("leaderboard", own, theirs, "--format", form)
    assert "\x1b" not in done.out + done.err
    if form in ("md", "html"):
        assert "<b>" not in done.out
        assert "<i>" not in done.out
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(done.out)))
        assert {row["run"] for row in rows} == {"own", r"<i>theirs,\x1b[31m\n"}
        assert {row["detector"] for row in rows} >= {f"'{HOSTILE}", "softmax+msp"}
        assert not any(value.startswith("=") for row in rows for value in row.values())
    if form == "json":
        content = json.loads(done.out)
        assert {each["run"] for each in content["methods"]} == {"own", r"<i>theirs,\x1b[31m\n"}
        assert HOSTILE in {each["detector"] for each in content["methods"]}


@pytest.mark.parametrize("name", ["<b>x</b>", "a,b", "\x1b[31mred", "a\nb", "../../up", ".hidden"])
def test_method_that_cannot_be_a_folder_is_refused(make: Make, command: Command, name: str) -> None:
    own, theirs = make("own", {"SoftMax+MSP": 1.0}), make("theirs", {"SoftMax+MSP": 2.0})
    path = theirs / RECORDS
    text = path.read_text(encoding="utf-8").replace('"SoftMax+MSP"', json.dumps(name))
    path.write_text(text, encoding="utf-8")
    done = command("leaderboard", own, theirs)
    assert done.code == ExitCode.USAGE
    assert f"{path}:1: not a record of this version of oodbench (method is" in done.err
    assert "\x1b" not in done.err


def test_out_and_compact(make: Make, tmp_path: Path, command: Command) -> None:
    own, theirs = make("own", {"SoftMax+MSP": 1.0}), make("theirs", {"SoftMax+MSP": 2.0})
    out = tmp_path / "board.tex"
    done = command("leaderboard", own, theirs, "--format", "latex", "--compact", "--out", out)
    assert (done.code, done.out) == (ExitCode.OK, "")
    assert "theirs" in out.read_text(encoding="utf-8")
    assert command("leaderboard", own, theirs, "--compact").code == ExitCode.USAGE
    blocked = tmp_path / "folder.md"
    blocked.mkdir()
    done = command("leaderboard", own, theirs, "--format", "md", "--out", blocked)
    assert (done.code, "Cannot write" in done.err) == (ExitCode.USAGE, True)


def test_costs_of_runs_are_relative(make: Make) -> None:
    own, theirs = make("own", {"SoftMax+MSP": 1.0}), make("theirs", {"SoftMax+MSP": 2.0})
    text = " ".join(oodbench.leaderboard(own, theirs).to_text().split())
    assert "compare the time relative to the baseline" in text
    frame = oodbench.leaderboard(own, theirs).to_pandas()
    assert list(frame["run"]) == ["theirs", "own", "own", "theirs"]
