"""What `oodbench verify` finds, says that it did not check, and cannot find."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Command

import oodbench
from oodbench.errors import ExitCode, UserError
from oodbench.storage.description import sealed
from oodbench.storage.method_lines import MethodLines
from oodbench.storage.run_directory import RunDirectory, arrays_content

MSP = "scores/SoftMax+MSP/seed0.npz"

Lines = list[dict[str, Any]]


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def change(file: Path, edit: Callable[[Lines], Any]) -> None:
    """Edit the JSON objects of a file with one object a line."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    edit(lines)
    file.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")


def describe(run: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    edit(content)
    (run / "run.json").write_text(json.dumps(sealed(content)), encoding="utf-8")


def forge(run: Path) -> None:
    """Write the digests of run.json again, as a forger would."""
    records, costs = RunDirectory(run).read_records()
    groups: dict[tuple[str, int], Any] = {}
    for record in records:
        groups.setdefault((record.method, record.seed), []).append(record)
    of_cost = {(cost.method, cost.seed): cost for cost in costs}
    digests = [
        {"method": k[0], "seed": k[1], "sha256": MethodLines.of(group, of_cost.get(k)).digest}
        for k, group in groups.items()
    ]

    def edit(content: dict[str, Any]) -> None:
        content["records"] = digests
        for name in content["files"]:
            content["files"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()

    describe(run, edit)


def remake_reports(run: Path) -> None:
    from oodbench.report.writers.run_files import RUN_FILES

    board = oodbench.open_run(run).report()
    for name, written in RUN_FILES.items():
        (run / name).write_text(written(board), encoding="utf-8")


def test_fresh_run_follows_and_the_output_says_what_was_checked(
    finished: Path, command: Command
) -> None:
    done = command("verify", finished)
    assert done.code == ExitCode.OK, done.out
    for words in (
        "128 quality records and 8 cost records",
        "values, intervals and counts",
        "100 resamples",
        "accuracies and metrics on request against predictions in 2 files",
        "digests of 14 files",
        "paired differences",
        "leaderboard.md",
        "summary.json",
    ):
        assert words in done.out, done.out
    assert "NOT checked" not in done.out


def test_first_wrong_value_is_named_with_both_values(run: Path, command: Command) -> None:
    value: list[float] = []

    def edit(lines: Lines) -> None:
        value.append(lines[30]["ci_low"])
        lines[30]["ci_low"] = 0.1
        lines[40]["value"] = 0.99999
        lines[40]["ci_high"] = 1.0

    change(run / "records.jsonl", edit)
    done = command("verify", run)
    assert done.code == ExitCode.FINDING
    assert "records.jsonl:31: SoftMax+Energy, seed 0" in done.out
    assert f"ci_low is 0.1 and should be {value[0]}" in done.out
    assert "others" in done.out
    whole = command("verify", run, "--all")
    assert "records.jsonl:41" not in done.out
    assert "records.jsonl:41" in whole.out


def test_without_scores_what_was_not_checked_is_said(run: Path, command: Command) -> None:
    shutil.rmtree(run / "scores")
    done = command("verify", run)
    assert done.code == ExitCode.INCOMPLETE
    assert "NOT checked: values and intervals of SoftMax+MSP, seed 0" in done.out
    assert "no scores are stored" in done.out
    assert "NOT checked: differences.jsonl" in done.out


def test_records_alone(run: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copy(run / "records.jsonl", tmp_path / "alone")
    done = command("verify", tmp_path / "alone" / "records.jsonl")
    assert done.code == ExitCode.INCOMPLETE
    for words in ("no run.json", "no costs.jsonl", "no scores"):
        assert words in done.out
    change(tmp_path / "alone" / "records.jsonl", lambda lines: lines[3].update(n_ood=199))
    done = command("verify", tmp_path / "alone")
    assert done.code == ExitCode.FINDING
    assert "records.jsonl:4" in done.out


def test_half_finished_run(run: Path, command: Command) -> None:
    describe(run, lambda content: content.update(status="running"))
    done = command("verify", run)
    assert done.code == ExitCode.INCOMPLETE
    assert "it is not finished (resume it with --resume)" in done.out


def test_method_that_is_not_there(run: Path, command: Command) -> None:
    def drop(lines: Lines) -> None:
        lines[:] = [each for each in lines if (each["method"], each["seed"]) != ("SoftMax+MSP", 1)]

    change(run / "records.jsonl", drop)
    change(run / "costs.jsonl", drop)
    shutil.rmtree(run / "scores" / "SoftMax+MSP")
    forge_without = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert command("verify", run).code == ExitCode.FINDING
    forge_without["files"] = {
        name: digest for name, digest in forge_without["files"].items() if (run / name).exists()
    }
    (run / "run.json").write_text(json.dumps(forge_without), encoding="utf-8")
    forge(run)
    done = command("verify", run)
    assert "SoftMax+MSP, seed 1: neither records nor a reason are there" in done.out


def test_line_twice(run: Path, command: Command) -> None:
    change(run / "records.jsonl", lambda lines: lines.insert(20, dict(lines[5])))
    done = command("verify", run)
    assert done.code == ExitCode.FINDING
    assert "records.jsonl:21: SoftMax+MSP, seed 0" in done.out
    assert "recorded twice, also on line 6" in done.out


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_number_that_is_not_finite(run: Path, command: Command, value: str) -> None:
    path = run / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    start, _, end = lines[7].partition('"ci_low":')
    lines[7] = f'{start}"ci_low":{value},{end.partition(",")[2]}'
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = command("verify", run)
    assert done.code == ExitCode.FINDING
    assert "records.jsonl:8: not a possible record: ci_low is" in done.out


def test_other_schema(run: Path, command: Command) -> None:
    change(run / "records.jsonl", lambda lines: lines[2].update(schema_version=0))
    done = command("verify", run)
    assert (done.code, "schema_version is 0" in done.out) == (ExitCode.FINDING, True)
    change(run / "records.jsonl", lambda lines: [e.update(schema_version=2) for e in lines])
    done = command("verify", run)
    assert done.code == ExitCode.USAGE
    assert "holds no record of this version of oodbench" in done.err
    assert "schema_version is 2" in done.err


def test_run_that_stopped_before_its_first_result(run: Path, command: Command) -> None:
    (run / "records.jsonl").write_text("")
    done = command("verify", run)
    assert done.code == ExitCode.USAGE
    assert "records.jsonl is empty: the run stopped before its first result" in done.err


def test_no_run(tmp_path: Path, command: Command) -> None:
    done = command("verify", tmp_path)
    assert done.code == ExitCode.USAGE
    assert "there is no records.jsonl" in done.err
    with pytest.raises(UserError, match=r"no records\.jsonl"):
        oodbench.verify(tmp_path)


def test_cost_is_found_by_its_digest(run: Path, command: Command) -> None:
    change(run / "costs.jsonl", lambda lines: lines[3].update(forwards_per_image=0.5))
    done = command("verify", run)
    assert done.code == ExitCode.FINDING
    assert "costs.jsonl:4: SoftMax+Energy, seed 1: the costs do not have the digest" in done.out


def test_scores(run: Path, command: Command) -> None:
    scores = RunDirectory(run).read_scores(("SoftMax+MSP", 0))
    scores["letters"][4] = np.nan
    (run / MSP).write_bytes(arrays_content(scores))
    done = command("verify", run)
    assert done.code == ExitCode.FINDING
    assert f"{MSP}: 'letters' is nan for image 4" in done.out
    scores["letters"] = scores["letters"][:3]
    (run / MSP).write_bytes(arrays_content(scores))
    forge(run)
    done = command("verify", run)
    assert (
        "n_ood is 200 and should be 3 (computed from its scores)"
        in command("verify", run, "--all").out
    )
    (run / MSP).write_bytes(b"no archive")
    assert "Cannot read the scores" in command("verify", run, "--all").out


def test_scores_of_a_data_set_without_records(run: Path, command: Command) -> None:
    with np.load(run / MSP) as stored:
        scores = dict(stored)
    (run / MSP).write_bytes(arrays_content({**scores, "extra": scores["letters"]}))
    forge(run)
    said = command("verify", run)
    assert said.code == ExitCode.FINDING
    assert f"{MSP}: there is no record of 'extra'" in " ".join(said.out.split())


def test_scores_of_no_method(run: Path, command: Command) -> None:
    shutil.copytree(run / "scores" / "SoftMax+MSP", run / "scores" / "SoftMax+Best")
    done = command("verify", run)
    assert done.code == ExitCode.FINDING
    assert "SoftMax+Best/seed0.npz" in done.out


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("leaderboard.md", "SoftMax+Energy", "SoftMax+Energx"),
        ("leaderboard.csv", "SoftMax+Energy", "SoftMax+Energx"),
        ("leaderboard.json", '"rank": 1', '"rank": 2'),
        ("quality.md", "near", "hard"),
        ("quality.json", '"benchmark_version": 1', '"benchmark_version": 2'),
        ("cost.md", "Energy", "Energx"),
        ("cost.json", '"forwards_per_image": 1.0', '"forwards_per_image": 0.5'),
        ("summary.json", '"complete": true', '"complete": false'),
        ("differences.jsonl", '"methods":4', '"methods":5'),
    ],
)
def test_report_that_does_not_follow(
    run: Path, command: Command, file: str, old: str, new: str
) -> None:
    path = run / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    forge(run)
    found = oodbench.verify(run)
    assert found.exit_code == ExitCode.FINDING, found
    assert {each.file for each in found.discrepancies} == {file}


def test_run_of_another_version_is_not_accused_of_its_form(run: Path, command: Command) -> None:
    describe(run, lambda content: content["versions"].update(oodbench_revision="1234567"))
    path = run / "leaderboard.md"
    path.write_text(path.read_text(encoding="utf-8") + "More.\n", encoding="utf-8")
    done = command("verify", run)
    assert done.code == ExitCode.INCOMPLETE
    assert "NOT checked: leaderboard.md: another version of oodbench" in done.out


def test_benchmark_of_run_json_is_bound_to_the_id_of_the_run(run: Path, command: Command) -> None:
    describe(run, lambda content: content["benchmark"]["tuning"].update(noise_std=0.5))
    done = command("verify", run)
    assert done.code == ExitCode.FINDING
    assert "run.json: run_id is" in done.out


@pytest.mark.parametrize("key", ["duplicates_of_id_images", "warnings"])
def test_a_changed_value_of_run_json_is_found(run: Path, command: Command, key: str) -> None:
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    content[key]["letters"] = 3 if key == "duplicates_of_id_images" else ["half are digits"]
    (run / "run.json").write_text(json.dumps(content), encoding="utf-8")
    assert "run.json" in {each.file for each in oodbench.verify(run).discrepancies}
    done = command("report", run)
    assert done.code == ExitCode.FINDING
    assert "run.json changed after the run" in done.err


def test_a_late_digit_of_a_report_is_found(run: Path) -> None:
    path = run / "quality.json"
    value = json.loads(path.read_text(encoding="utf-8"))["methods"][0]["quality"][0]["mean"]
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(str(value), str(value + 3e-6), 1), encoding="utf-8")
    (found,) = oodbench.verify(run).discrepancies
    assert found.file == "quality.json"


def test_names_do_not_reach_the_terminal_as_control_characters(run: Path, command: Command) -> None:
    change(run / "records.jsonl", lambda lines: lines[0].update(method="\x1b[31mA\n<b>,=cmd"))
    done = command("verify", run)
    assert done.code == ExitCode.FINDING
    assert "\x1b" not in done.out + done.err
    assert r"\x1b[31mA\n<b>,=cmd" in done.out


# --- what cannot be found when digests are forged ------------------------------------------------


def test_forged_values_that_only_a_new_run_could_find(run: Path, command: Command) -> None:
    """Costs and detector parameters do not follow from scores. This is what the help says."""

    def faster(lines: Lines) -> None:
        for each in lines:
            if each["method"] == "SoftMax+ODIN":
                each["ms_per_image_batched"] /= 2

    def parameters(lines: Lines) -> None:
        for each in lines:
            if (each["method"], each["seed"]) == ("SoftMax+ODIN", 0):
                each["detector_params"]["temperature"] = 77.0

    change(run / "costs.jsonl", faster)
    change(run / "records.jsonl", parameters)
    assert command("verify", run).code == ExitCode.FINDING
    forge(run)
    remake_reports(run)
    assert command("verify", run).code == ExitCode.OK


def test_forged_values_without_scores_are_found_by_the_reports(run: Path, command: Command) -> None:
    shutil.rmtree(run / "scores")
    describe(
        run,
        lambda c: c.update(files={n: d for n, d in c["files"].items() if "scores" not in n}),
    )
    change(run / "records.jsonl", lambda lines: lines[0].update(value=0.999, ci_high=1.0))
    forge(run)
    assert command("verify", run).code == ExitCode.FINDING
    remake_reports(run)
    done = command("verify", run)
    assert done.code == ExitCode.INCOMPLETE
    assert "NOT checked: values and intervals" in done.out


@pytest.mark.parametrize("share", [0.004, 0.3])
def test_forged_accuracy_has_to_be_possible(run: Path, share: float) -> None:
    """All methods of a model and seed changed together; images are whole, intervals are near."""

    def edit(lines: Lines) -> None:
        for each in lines:
            if each["metric"] == "id_accuracy" and each["seed"] == 0:
                each["value"] = max(0.0, each["value"] - share)

    change(run / "records.jsonl", edit)
    forge(run)
    found = oodbench.verify(run)
    assert found.exit_code == ExitCode.FINDING
    assert found.discrepancies[0].record == "SoftMax+MSP, seed 0, id_accuracy"
