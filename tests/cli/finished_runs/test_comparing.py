"""The command `oodbench compare`: exit codes, gate, formats, files, what CI systems read."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.commands import Command
from helpers.records import cost, quality

from oodbench import metrics
from oodbench.storage.record_lines import to_lines
from oodbench.storage.records import QualityRecord

SETS = ("letters", "noise")
IMAGES = 200


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs the command in this process, in an empty folder, outside of any CI system."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return command


def write_run(folder: str, separations: dict[str, float], *, scores: bool = True) -> str:
    """A leaderboard with scores: ID scores have mean `separation`, OOD scores mean 0."""
    records: list[QualityRecord] = []
    for method, separation in separations.items():
        for seed in range(3):
            generator = np.random.default_rng(seed)  # the same images in every run
            arrays = {"id": generator.normal(size=IMAGES) + separation}
            arrays |= {name: generator.normal(size=IMAGES) for name in SETS}
            for name in SETS:
                values = metrics.evaluate(arrays["id"], arrays[name])
                records += [
                    quality(method, seed, name, value, metric=metric, n_id=IMAGES, n_ood=IMAGES)
                    for metric, value in values.items()
                ]
            if scores:
                path = Path(folder, "scores", method, f"seed{seed}.npz")
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez(path, **arrays)
    Path(folder).mkdir(exist_ok=True)
    Path(folder, "records.jsonl").write_text(to_lines(records), encoding="utf-8")
    costs = [cost(method, seed) for method in separations for seed in range(3)]
    Path(folder, "costs.jsonl").write_text(to_lines(costs), encoding="utf-8")
    return folder


@pytest.fixture
def runs(command: Command) -> tuple[str, str]:
    """A base, and a head with one method that is 2 points of AUROC worse."""
    base = write_run("base", {"KNN": 1.2, "MSP": 1.0})
    return base, write_run("head", {"KNN": 1.05, "MSP": 1.0})


def test_a_run_against_itself(command: Command, runs: tuple[str, str]) -> None:
    done = command("compare", runs[0], runs[0])
    assert (done.code, done.err) == (0, "")
    assert (
        "No difference is shown for any of 2 methods.\nGate passed.\nRules: fail-on worse.\n"
        in done.out
    )


def test_a_worse_method_is_named(command: Command, runs: tuple[str, str]) -> None:
    done = command("compare", *runs)
    assert done.code == 1
    assert "1 of 2 methods is worse: KNN." in done.out
    assert "FAILURE: AUROC of KNN on average is worse" in done.out
    assert command("compare", *reversed(runs)).code == 0  # better


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--max-drop", "auroc=0.5"], 1),
        (["--max-drop", "auroc=5"], 0),
        (["--max-drop", "auroc=5", "--max-drop", "auroc@KNN=1"], 1),
        (["--max-drop", "auroc=0.5", "--max-drop", "auroc@KNN=5"], 0),
        (["--max-drop", "aupr_in=0.1"], 1),
        (["--fail-on", "missing"], 0),
        (["--fail-on", "missing", "--fail-on", "worse"], 1),
        (["--max-slower", "1.2"], 0),
    ],
)
def test_gates(command: Command, runs: tuple[str, str], options: list[str], code: int) -> None:
    assert command("compare", *runs, *options).code == code


def test_a_missing_comparison(command: Command, runs: tuple[str, str]) -> None:
    Path("head/costs.jsonl").unlink()
    done = command("compare", *runs, "--max-slower", "1.2")
    assert done.code == 3
    assert "Gate incomplete" in done.out
    other = write_run("other", {"KNN": 1.0})
    lines = Path(other, "records.jsonl").read_text(encoding="utf-8")
    Path(other, "records.jsonl").write_text(
        lines.replace('"benchmark_version":1', '"benchmark_version":2'), encoding="utf-8"
    )
    done = command("compare", runs[0], other)
    assert done.code == 3
    assert "The two runs cannot be compared." in done.out
    assert "version" in done.out.partition("NOT COMPARABLE")[2]


def test_without_scores(command: Command) -> None:
    base = write_run("base", {"KNN": 2.0}, scores=False)
    head = write_run("head", {"KNN": 0.5}, scores=False)
    done = command("compare", base, Path(head, "records.jsonl"))
    assert done.code == 1
    assert "intervals of the records" in done.out


def test_the_gate_of_the_folder_and_options(command: Command, runs: tuple[str, str]) -> None:
    Path("oodbench.toml").write_text("[gate]\nmax_drop = {auroc = 5.0}\n", encoding="utf-8")
    assert command("compare", *runs).code == 0
    assert command("compare", *runs, "--max-drop", "auroc=1").code == 1
    assert command("compare", *runs, "--fail-on", "worse").code == 1
    Path("gate.yaml").write_text("gate: {max_drop: {auroc: 1.0}}\n", encoding="utf-8")
    assert command("compare", *runs, "--gate", "gate.yaml").code == 1

    records = Path("head/costs.jsonl").read_text(encoding="utf-8")
    twice = records.replace('"forwards_per_image":1.0', '"forwards_per_image":2.0')
    Path("head/costs.jsonl").write_text(twice, encoding="utf-8")
    assert command("compare", *runs).code == 1
    Path("oodbench.toml").write_text(
        "[gate]\nmax_drop = {auroc = 5.0}\nallow_cost = true\n", encoding="utf-8"
    )
    assert command("compare", *runs).code == 0
    assert command("compare", *runs, "--no-allow-cost").code == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-drop", "aurok=1"], ["aurok", "'auroc'"]),
        (["--max-drop", "auroc@KN=1"], ["KN", "'KNN'"]),
        (["--max-drop", "auroc"], ["--max-drop", "METRIC=X"]),
        (["--max-drop", "auroc=much"], ["--max-drop", "METRIC=X"]),
        (["--max-drop", "auroc=-1"], ["auroc", "-1"]),
        (["--max-drop", "auroc=nan"], ["auroc", "nan"]),
        (["--max-slower", "0"], ["max_slower", "0"]),
        (["--fail-on", "better"], ["better"]),
        (["--metrics", "aurok"], ["aurok", "'auroc'"]),
        (["--gate", "missing.toml"], ["missing.toml"]),
        (["--format", "csv"], ["csv"]),
        (["--out", "."], ["Cannot write"]),
        (["--out", "base/records.jsonl/x.md"], ["Cannot write"]),
        (["--badge", "base"], ["Cannot write base"]),
        (["--out", "a.pdf"], ["not written as .pdf", ".html", "--format"]),
        (["--out", "a.svg", "--badge", "./a.svg"], ["--out and --badge name the same file"]),
    ],
)
def test_bad_usage(
    command: Command, runs: tuple[str, str], options: list[str], words: list[str]
) -> None:
    done = command("compare", *runs, *options)
    assert done.code == 2, done
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err, done.err


def test_no_run(command: Command, runs: tuple[str, str]) -> None:
    done = command("compare", runs[0], "nowhere")
    assert done.code == 2
    assert "There is no folder nowhere" in done.err
    misspelt = f"{runs[1][:-1]}"
    for words in (("compare", runs[0]), ("verify",), ("report",), ("site",)):
        done = command(*words, misspelt, *(("--out", "s") if words == ("site",) else ()))
        assert done.code == 2
        assert "Did you mean" in done.err, words
        assert f"{runs[1]}?" in done.err, words


def test_files(command: Command, runs: tuple[str, str]) -> None:
    begins = {
        "a.md": "## ",
        "new/folder/a.html": "<!DOCTYPE html>",
        "a.json": "{",
        "a.xml": "<?xml",
        "a.txt": "Comparison of two runs",
    }
    for name, beginning in begins.items():
        done = command("compare", *runs, "--out", name)
        assert (done.code, done.out) == (1, "")
        assert "1 of 2 methods is worse: KNN.\nGate failed" in done.err
        assert Path(name).read_text(encoding="utf-8").startswith(beginning)
    Path("a.md").write_text("older", encoding="utf-8")
    assert command("compare", *runs, "--out", "a.md", "--format", "json").code == 1
    json.loads(Path("a.md").read_text(encoding="utf-8"))


def test_standard_output_is_the_report_alone(command: Command, runs: tuple[str, str]) -> None:
    done = command("compare", *runs, "--format", "json")
    assert json.loads(done.out)["exit_code"] == done.code == 1
    done = command("compare", *runs, "--format", "junit", "--metrics", "auroc,aupr_out")
    root = ElementTree.fromstring(done.out)
    assert root.get("tests") == str(len(SETS) * 2 + 2)  # and the gate's, of each metric
    assert "FAILURE: AUROC of KNN" in done.err


def test_files_are_checked_before_the_runs_are_read(command: Command) -> None:
    """A comparison takes seconds; an output that cannot be written is said at once."""
    done = command("compare", "nowhere", "nowhere", "--badge-json", ".")
    assert done.code == 2
    assert "Cannot write ." in done.err


def test_an_ood_set_that_is_gone(command: Command, runs: tuple[str, str]) -> None:
    lines = Path("head/records.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["ood_dataset"] != "noise"]
    Path("head/records.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    done = command("compare", *runs, "--max-drop", "auroc@noise=1")
    assert "is gone on noise: MSP." in done.out  # KNN is worse as well
    assert "values are gone. [max-drop auroc@noise=1]" in " ".join(done.out.split())
    assert done.code == 3


def test_costs_that_are_missing_are_a_warning(command: Command, runs: tuple[str, str]) -> None:
    Path("head/costs.jsonl").unlink()
    done = command("compare", "base", "head", "--max-drop", "auroc=50")
    assert (done.code, done.out.count("WARNING")) == (0, 1), done
    assert "were not compared: no costs in the head." in " ".join(done.out.split())
    assert "WARNING" not in command("compare", "head", "base", "--fail-on", "missing").out


def test_badges(command: Command, runs: tuple[str, str]) -> None:
    done = command("compare", *runs, "--badge", "b.svg", "--badge-json", "b.json", "--out", "c.md")
    assert done.err.splitlines()[-3:] == ["Wrote c.md", "Wrote b.svg", "Wrote b.json"]
    assert json.loads(Path("b.json").read_text(encoding="utf-8"))["message"] == "1 worse"
    assert ElementTree.parse("b.svg").getroot().get("aria-label") == "oodbench toy: 1 worse"


def test_in_github_actions(
    command: Command, runs: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    done = command("compare", *runs)
    assert done.code == 1
    assert done.err.startswith("::error title=oodbench KNN::AUROC of KNN on average is worse")
    assert done.out.startswith("::stop-commands::")
    assert Path("summary.md").read_text(encoding="utf-8").startswith("## ")

    done = command("compare", *runs, "--format", "json")
    json.loads(done.out)
    assert done.err.count("::error ") == 2  # AUROC and FPR95
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "base")  # a folder
    done = command("compare", *runs)
    assert done.code == 1
    assert "WARNING: Cannot write base" in done.err
