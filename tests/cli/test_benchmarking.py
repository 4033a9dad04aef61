"""`oodbench run` of a benchmark and `oodbench train`: plans, files, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers.commands import Command
from helpers.tiers import by_default
from helpers.tiny_content import TEN_LINES, TINY, check_refusal, content

from oodbench.report.writers.run_files import RUN_FILES

pytestmark = pytest.mark.usefixtures("one_thread", "kept_networks", "empty_folder")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "mps", "cpu:x", ""])
def test_unknown_devices(command: Command, plugins: Path, tmp_path: Path, device: str) -> None:
    given = ("run", "tiny", "--plugins", plugins, "--device", device, "--out", "run")
    check_refusal(command(*given), "--device: ", "cpu")
    if device != "cuda:99":  # which another machine may have
        check_refusal(command(*given, "--dry-run"), "--device: ", f"not '{device}'")
    assert not (tmp_path / "run").exists()


def test_parameters_are_checked_before_anything_is_trained(
    command: Command, plugins: Path, tmp_path: Path
) -> None:
    extra = "methods:\n  Mine: {model: SoftMax, detector: odin, parameters: {epsilonn: 0.1}}"
    content(plugins, TINY.replace("methods:", extra))
    done = command("run", "tiny", "--plugins", plugins, "--out", "run")
    check_refusal(done, "'odin' has no parameter 'epsilonn'", "'epsilon'")
    assert not (tmp_path / "run").exists()


def test_dry_run_does_nothing(command: Command, plugins: Path, tmp_path: Path) -> None:
    done = command("run", "tiny", "--plugins", plugins, "--dry-run", "--out", "run")
    assert done.code == 0
    for said in ("Plan of benchmark 'tiny'", "digits", "letters", "needs a DisMax head"):
        assert said in done.out
    assert not (tmp_path / "run").exists()


def test_dry_run_finds_a_network_that_a_library_lacks(command: Command, plugins: Path) -> None:
    content(plugins, TINY.replace("network: resnet8", "network: torchvision:resnet99"))
    done = command("run", "tiny", "--plugins", plugins, "--dry-run")
    check_refusal(
        done, "models.SoftMax: Network 'torchvision:resnet99'", "no classifier of this name"
    )


VALUES: list[tuple[str, str, str]] = [
    ("models: {SoftMax: {training: {epochs: yes}}}", "epochs", "valid integer, not True"),
    ("models: {SoftMax: {training: {epochs: 010}}}", "010", "read as a number of base 8"),
    (
        "methods: {X: {model: SoftMax, detector: knn, parameters: {k: true}}}",
        "X.parameters",
        "True",
    ),
    ("methods: {X: {model: SoftMax, detector: knn, parameters: {k: 1.5}}}", "X.parameters", "1.5"),
    (
        "methods: {X: {model: SoftMax, detector: knn, parameters: {k: -1}}}",
        "X.parameters: Detector 'knn' cannot be made",
        "k must be at least 1, not -1",
    ),
    (
        "methods: {X: {model: SoftMax, detector: odin, parameters: {temperature: .inf}}}",
        "methods.X.parameters",
        "temperature: input should be a finite number",
    ),
    (f"methods: {{{'M' * 300}: {{model: SoftMax, detector: energy}}}}", "methods.MMM", "300 bytes"),
    (f"methods: {{{'漢' * 100}: {{model: SoftMax, detector: energy}}}}", "methods.漢", "300 bytes"),
    ("methods: {CON: {model: SoftMax, detector: energy}}", "methods.CON", "device on Windows"),
    (f"models: {{{'M' * 300}: {{network: resnet8, head: softmax}}}}", "models.MMM", "300 bytes"),
    ("default_detectors: energy", "default_detectors", "should be 'all' or a list, not 'energy'"),
]


@pytest.mark.parametrize(
    ("line", "key", "said"), by_default([*VALUES[:2], *VALUES[4:7], VALUES[10]], VALUES)
)
@pytest.mark.parametrize("options", [["--dry-run"], ["--out", "run"]])
def test_values_that_could_only_fail_later_are_refused_with_the_plan(
    command: Command, tmp_path: Path, line: str, key: str, said: str, options: list[str]
) -> None:
    text = "schema_version: 1\nextends: digits\nname: mine\nversion: 1\ntitle: t\nsummary: s\n"
    (tmp_path / "mine.yaml").write_text(f"{text}{line}\n", encoding="utf-8")
    done = command("run", "mine.yaml", "--seeds", "1", *options)
    assert done.code == 2
    assert done.out == ""
    assert re.match(r"error: .*mine\.yaml:7:", done.err), done.err
    assert key in done.err
    assert said in done.err
    assert len(done.err) < 500
    assert not list((tmp_path / "run").glob("*"))


def test_a_run_leaves_the_files_of_the_contract(finished: Path) -> None:
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    contract = {"leaderboard.md", "leaderboard.csv", "leaderboard.json"}
    assert contract | {"quality.md", "quality.json", "summary.json"} < RUN_FILES.keys()
    assert files == {
        "run.json",
        "records.jsonl",
        "costs.jsonl",
        "training.jsonl",
        "differences.jsonl",
        *RUN_FILES,
        "predictions/SoftMax/seed0.npz",
        "scores/SoftMax+MSP/seed0.npz",
        "scores/SoftMax+Entropy/seed0.npz",
    }


def test_a_run_onto_a_run(command: Command, plugins: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    done = command("run", "tiny", "--plugins", plugins, "--seeds", "1", "--out", finished)
    check_refusal(done, "holds a run already", "--resume", "--out")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_ten_lines_make_a_detector(command: Command, plugins: Path) -> None:
    content(plugins, TINY.replace("[entropy]", "all"), my_energy=TEN_LINES)
    shown = command("list", "detectors", "--plugins", plugins)
    assert "my_energy" in shown.out
    done = command(
        *("run", "tiny", "--plugins", plugins, "--seeds", "1", "--device", "cpu", "--out", "run"),
        *("--methods", "baseline,my_energy"),
    )
    assert done.code == 0, done.err
    assert "SoftMax+MyEnergy" in done.out
    board = Path("run/leaderboard.md").read_text()
    assert "SoftMax+MyEnergy" in board


def test_a_skipped_method_that_was_asked_for(command: Command, plugins: Path) -> None:
    """The benchmark names it, so something that was asked for is missing."""
    done = command(
        *("run", "tiny", "--plugins", plugins, "--seeds", "1", "--device", "cpu", "--out", "run")
    )
    assert done.code == 3, done.err
    reason = "needs a DisMax head; SoftMax has a linear head"
    assert reason in " ".join(done.out.split())
    assert "Incomplete" in done.err
    records = [json.loads(line) for line in Path("run/records.jsonl").read_text().splitlines()]
    skipped = [record for record in records if record["status"] == "skipped"]
    assert {record["method"] for record in skipped} == {"SoftMax+DisMaxEntropy"}
    assert {record["reason"] for record in skipped} == {reason}
    assert {r["method"] for r in records if r["status"] == "ok"} == {
        "SoftMax+MSP",
        "SoftMax+Entropy",
    }


def test_only_a_skipped_method(command: Command, plugins: Path) -> None:
    done = command(
        *("run", "tiny", "--plugins", plugins, "--seeds", "1", "--device", "cpu", "--out", "run"),
        *("--methods", "SoftMax+DisMaxEntropy"),
    )
    assert done.code == 3, done.err
    assert "Traceback" not in done.err
    assert "needs a DisMax head" in " ".join(done.out.split())


def test_train_prints_checkpoints_and_is_cached(
    command: Command, plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    arguments = ("train", "tiny", "--plugins", plugins, "--seeds", "2", "--device", "cpu")
    first = command(*arguments)
    assert first.code == 0, first.err
    assert first.err.count(": trained, ") == 2, first.err
    lines = [line.split("  ") for line in first.out.splitlines()]
    assert [line[0] for line in lines] == ["SoftMax seed 0", "SoftMax seed 1"]
    paths = [Path(line[1]) for line in lines]
    written = [path.stat().st_mtime_ns for path in paths]
    assert all(path.suffix == ".safetensors" and path.stat().st_size > 1000 for path in paths)
    again = command(*arguments, "--model", "SoftMax")
    assert again.code == 0, again.err
    assert again.out == first.out
    assert again.err.count(": in the cache, ") == 2, again.err
    assert [path.stat().st_mtime_ns for path in paths] == written


def test_one_seed_is_trained_alone(command: Command, plugins: Path) -> None:
    arguments = ("train", "tiny", "--plugins", plugins, "--model", "SoftMax", "--device", "cpu")
    alone = command(*arguments, "--seed", "2")
    assert alone.code == 0, alone.err
    (line,) = alone.out.splitlines()
    assert line.startswith("SoftMax seed 2  ")
    together = command(*arguments, "--seeds", "3")
    assert together.out.splitlines()[2] == line, "the same checkpoint"
    assert together.err.count("seed 2: in the cache") == 1, together.err
