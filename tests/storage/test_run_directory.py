"""The run directory: what is in it, and that no accident changes what comes out."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Command, start
from helpers.tiny_benchmark import tiny_benchmark

import oodbench
from oodbench import api, files, metrics
from oodbench.engine import benchmark_run as engine
from oodbench.errors import UserError
from oodbench.plugins.catalog import Catalog
from oodbench.report.writers.run_files import RUN_FILES
from oodbench.results import Run
from oodbench.storage import run_description
from oodbench.storage import run_directory as rundir
from oodbench.storage.records import ID_ACCURACY, CostRecord, QualityRecord, to_lines
from oodbench.storage.run_description import RunDescription
from oodbench.storage.run_directory import RunDirectory
from oodbench.training.trained_models import ModelStore

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = tiny_benchmark(
    {
        "SoftMax+MSP": "baseline",
        "DisMax+Entropy": "{model: DisMax, detector: dismax_entropy}",
        "SoftMax+ODIN": "{model: SoftMax, detector: odin, parameters: {temperature: 1000.0}}",
    },
    ood="{near: [letters], far: [uniform-noise]}",
    models="  DisMax: {network: resnet8, head: dismax, loss_options: {alpha: 10}, "
    "training: *training}",
    matrix="{models: [SoftMax], detectors: [dismax_entropy]}",
    reference="SoftMax+MSP",
    tuning="{fgsm_step: 0.3}",
)
METHODS = ("SoftMax+MSP", "DisMax+Entropy", "SoftMax+ODIN")
SKIPPED = "SoftMax+DisMaxEntropy"
SETS = {"letters": "near", "uniform-noise": "far"}
SEEDS = 2


@pytest.fixture(scope="module", autouse=True)
def content(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with the benchmark; a cache that the tests of this module share."""
    folder = tmp_path_factory.mktemp("content")
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OODBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OODBENCH_PLUGINS", str(folder))
        yield folder


def run(out: Path, **options: Any) -> Run:
    return oodbench.run("tiny", out=out, device="cpu", **({"seeds": SEEDS} | options))


@pytest.fixture(scope="module")
def complete(content: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("complete") / "run"
    done = run(folder)
    assert done.complete, done.failures
    return folder


@pytest.fixture
def copy(complete: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed run, to be changed."""
    return Path(shutil.copytree(complete, tmp_path / "copy"))


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its bytes and its time."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_same(folder: Path, expected: Path) -> None:
    """The same records and differences byte for byte, and the same scores."""
    got = (folder / "records.jsonl").read_text().splitlines()
    wanted = (expected / "records.jsonl").read_text().splitlines()
    different = [(g, w) for g, w in zip(got, wanted, strict=False) if g != w]
    assert not different, f"{len(different)} records differ, first:\n{different[0]}"
    assert len(got) == len(wanted), f"{len(got)} records, expected {len(wanted)}"
    for name in ("differences.jsonl", "quality.md", "quality.json", "summary.json"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    for path in expected.glob("scores/*/*.npz"):
        with np.load(path) as want, np.load(folder / path.relative_to(expected)) as have:
            assert set(have) == set(want), path
            for name in want:
                np.testing.assert_array_equal(have[name], want[name], err_msg=f"{path}: {name}")


def forget(folder: Path, finished: Callable[[dict[str, Any]], bool]) -> None:
    """Take records out of a run, as if it had been stopped before it had them."""
    kept = [record for record in records(folder) if finished(record)]
    text = "".join(files.canonical_json(record) + "\n" for record in kept)
    directory = RunDirectory(folder)
    directory.write(directory.read_description(), {"records.jsonl": text})


def description(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "run.json").read_text())
    assert isinstance(content, dict)
    return content


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts trainings and evaluations: "SoftMax seed 0", "SoftMax+ODIN seed 0"."""
    done: Counter[str] = Counter()
    evaluate, trained = engine.evaluate, ModelStore.trained

    def counted_evaluate(*args: Any, **options: Any) -> Any:
        done.update(f"{method.name} seed {options['seed']}" for method in args[1])
        return evaluate(*args, **options)

    def counted_trained(self: ModelStore, model: str, seed: int) -> Any:
        done.update([f"{model} seed {seed}"])
        return trained(self, model, seed)

    monkeypatch.setattr(engine, "evaluate", counted_evaluate)
    monkeypatch.setattr(ModelStore, "trained", counted_trained)
    return done


# --- the contract ---------------------------------------------------------------------------


def test_description(complete: Path) -> None:
    described = json.loads((complete / "run.json").read_text())
    assert described["schema_version"] == 1
    assert described["status"] == "complete"
    assert described["seeds"] == [0, 1]
    assert described["benchmark"]["name"] == "tiny"
    assert described["benchmark"]["models"]["DisMax"]["training"]["momentum"] == 0.9, "as resolved"
    assert described["skipped"] == {SKIPPED: "needs a DisMax head; SoftMax has a linear head"}
    assert {"oodbench", "python", "torch", "numpy"} <= described["versions"].keys()
    assert {"platform", "device", "threads"} <= described["environment"].keys()
    assert described["environment"]["process"]["threads"] == 1
    sums = described["checksums"]
    assert described["trained_on"].keys() == sums["checkpoints"].keys()
    assert {each["threads"] for each in described["trained_on"].values()} == {1}
    assert {each["device"] for each in described["trained_on"].values()} == {"cpu"}
    assert {"train", "validation", "test"} == sums["data"]["digits"].keys()
    assert set(sums["checkpoints"]) == {
        f"{m}/seed{s}" for m in ("SoftMax", "DisMax") for s in (0, 1)
    }
    assert {"baseline", "dismax_entropy", "odin"} <= sums["detectors"].keys()
    for checksum in (*sums["checkpoints"].values(), sums["data"]["letters"]["test"]):
        assert len(checksum) == 64


def test_every_cell_is_there_once(complete: Path) -> None:
    found = Counter(
        (r["method"], r["seed"], r["ood_dataset"], r["metric"], r["status"])
        for r in records(complete)
    )
    cells = [(ood, metric) for ood in SETS for metric in metrics.METRICS]
    expected = {(m, s, *c, "ok") for m in METHODS for s in range(SEEDS) for c in cells}
    expected |= {(m, s, None, ID_ACCURACY, "ok") for m in METHODS for s in range(SEEDS)}
    expected |= {(SKIPPED, s, *c, "skipped") for s in range(SEEDS) for c in cells}
    assert set(found) == expected, f"differ: {set(found) ^ expected}"
    assert set(found.values()) == {1}
    assert len(metrics.METRICS) == 6


def test_records_have_the_fields_of_the_contract(complete: Path) -> None:
    names = {
        *("schema_version", "run_id", "benchmark", "benchmark_version", "method", "model", "loss"),
        *("detector", "detector_params", "tuned_on", "seed", "id_dataset", "ood_dataset"),
        *("ood_group", "metric", "value", "ci_low", "ci_high", "n_id", "n_ood", "status", "reason"),
        *("tie_fraction", "untuned"),  # beyond the contract
    }
    assert {field.name for field in fields(QualityRecord)} == names
    for record in records(complete):
        assert record.keys() == names
        assert record["ood_group"] == SETS.get(record["ood_dataset"])
        if record["status"] == "ok":
            assert 0 <= record["ci_low"] <= record["ci_high"] <= 1, record
            assert 0 <= record["value"] <= 1, record
            assert record["n_id"] == 600
            assert record["n_ood"] == (600 if record["ood_dataset"] else None)
            assert record["reason"] is None
        else:
            assert record["reason"]
            assert {record[k] for k in ("value", "ci_low", "ci_high", "n_id", "n_ood")} == {None}
    tuned = {(r["method"], r["tuned_on"]) for r in records(complete) if r["status"] == "ok"}
    assert tuned == {
        ("SoftMax+MSP", "none"),
        ("DisMax+Entropy", "none"),
        ("SoftMax+ODIN", "fgsm"),
    }


def test_costs_have_the_fields_of_the_contract(complete: Path) -> None:
    lines = [json.loads(line) for line in (complete / "costs.jsonl").read_text().splitlines()]
    assert Counter((line["method"], line["seed"]) for line in lines) == Counter(
        (method, seed) for method in METHODS for seed in range(SEEDS)
    )
    contract = {
        *("method", "detector", "model", "seed", "device", "forwards_per_image"),
        *("backwards_per_image", "flops_per_image", "latency_ms_batch1", "ms_per_image_batched"),
        *("relative_to_baseline", "fit_seconds", "tune_seconds", "peak_memory_bytes"),
        *("input_preprocessing", "feature_ensemble", "ood_or_adversarial_samples"),
        *("post_processing_phase", "ad_hoc_models"),
    }
    assert contract <= {field.name for field in fields(CostRecord)}
    for line in lines:
        assert contract <= line.keys(), contract - line.keys()
        gradient = line["method"] == "SoftMax+ODIN" and line["backwards_per_image"] > 0
        assert line["forwards_per_image"] == (2 if gradient else 1), line
        assert line["peak_memory_bytes"] > 0
        assert line["ms_per_image_batched"] > 0


def test_scores_are_one_float64_per_image(complete: Path) -> None:
    stored = {str(p.relative_to(complete / "scores")) for p in complete.glob("scores/*/*")}
    assert stored == {f"{method}/seed{seed}.npz" for method in METHODS for seed in range(SEEDS)}
    for name in stored:
        with np.load(complete / "scores" / name, allow_pickle=False) as arrays:
            assert set(arrays) == {"id", *SETS}, name
            for key in arrays:
                assert arrays[key].dtype == np.float64, f"{name}: {key}"
                assert arrays[key].shape == (600,), f"{name}: {key}"
                assert np.isfinite(arrays[key]).all(), f"{name}: {key}"


def test_records_follow_from_the_scores(complete: Path) -> None:
    done = Run(complete)
    checked = 0
    for record in records(complete):
        if record["status"] == "ok" and record["ood_dataset"]:
            scores = done.scores(record["method"], record["seed"])
            again = metrics.evaluate(scores["id"], scores[record["ood_dataset"]])
            assert again[record["metric"]] == record["value"], record
            checked += 1
    assert checked == len(METHODS) * SEEDS * len(SETS) * 6


def test_leaderboards_follow_from_the_records(complete: Path) -> None:
    board = Run(complete).leaderboard()
    assert (complete / "leaderboard.md").read_text() == board.to_markdown()
    assert (complete / "leaderboard.csv").read_text() == board.to_csv()
    assert (complete / "leaderboard.json").read_text() == board.to_json()
    assert (complete / "quality.md").read_text() == board.without_costs().to_markdown()
    for name, written in RUN_FILES.items():
        assert (complete / name).read_text(encoding="utf-8") == written(board), name


def test_differences_follow_from_the_scores(copy: Path) -> None:
    """A run of an older version has no file of them."""
    kept = Run(copy).differences
    methods, columns = len(METHODS), 2 + len(SETS) + len(SETS)
    assert len(kept) == (methods - 1) * columns * 6
    assert Run(copy).leaderboard().tested
    (copy / "differences.jsonl").unlink()
    assert Run(copy).differences == kept
    # Those of fewer methods are not those of the run.
    (copy / "differences.jsonl").write_text(to_lines(kept[1:]))
    assert Run(copy).differences == kept
    assert run(copy, resume=True).differences == kept
    assert RunDirectory(copy).read_differences() == kept
    assert not RunDirectory(copy).changed()
    shutil.rmtree(copy / "scores" / METHODS[0])
    assert Run(copy).differences == kept
    (copy / "differences.jsonl").unlink()
    assert Run(copy).differences == []
    assert "cannot be tested without scores" in Run(copy).leaderboard().to_markdown()


def test_differences_are_of_the_same_images_and_seeds(complete: Path) -> None:
    done = Run(complete)
    records = {(r.method, r.seed, r.ood_dataset, r.metric): r.value for r in done.records}
    for each in done.differences:
        if each.column_kind == "set":
            sign = -1 if each.metric == "fpr95_ood_positive" else 1
            by_seed = [
                sign * (records[each.best, seed, each.column, each.metric] or 0.0)
                - sign * (records[each.method, seed, each.column, each.metric] or 0.0)
                for seed in range(SEEDS)
            ]
            assert each.difference == pytest.approx(np.mean(by_seed), abs=1e-12)
            assert (each.seeds, each.methods) == (SEEDS, len(METHODS))
            assert each.shift_low <= each.shift <= each.shift_high


@pytest.mark.parametrize("cache", ["the same", "another"])
def test_two_runs_give_the_same_records(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    """Whether the checkpoints are there or trained again."""
    if cache == "another":
        monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    run(tmp_path / "run")
    check_same(tmp_path / "run", complete)


# --- resuming ---------------------------------------------------------------------------------


def test_a_complete_run_is_not_done_again(copy: Path, work: Counter[str], complete: Path) -> None:
    scores = {name: time for name, (_, time) in contents(copy).items() if "scores" in name}
    assert run(copy, resume=True).complete
    assert not work
    assert {n: time for n, (_, time) in contents(copy).items() if "scores" in n} == scores
    for name in ("records.jsonl", "costs.jsonl", "leaderboard.md"):
        assert (copy / name).read_bytes() == (complete / name).read_bytes(), name


def test_finished_work_is_not_done_again(copy: Path, work: Counter[str], complete: Path) -> None:
    forget(copy, lambda r: (r["method"], r["seed"]) not in (("SoftMax+ODIN", 0), (METHODS[1], 1)))
    run(copy, resume=True)
    assert work == Counter(
        ["SoftMax seed 0", "SoftMax+ODIN seed 0", "DisMax seed 1", "DisMax+Entropy seed 1"]
    )
    check_same(copy, complete)


@pytest.mark.parametrize("lost", ["one record", "a cost", "scores", "half of the scores"])
def test_half_finished_work_is_done_again(
    copy: Path, work: Counter[str], complete: Path, lost: str
) -> None:
    scores = copy / "scores" / "DisMax+Entropy" / "seed1.npz"
    if lost == "one record":
        last = [r for r in records(copy) if (r["method"], r["seed"]) == ("DisMax+Entropy", 1)][-1]
        forget(copy, lambda record: record != last)
    elif lost == "a cost":
        lines = (copy / "costs.jsonl").read_text().splitlines(keepends=True)
        gone = [line for line in lines if "DisMax+Entropy" in line and '"seed":1' in line]
        assert len(gone) == 1
        (copy / "costs.jsonl").write_text("".join(line for line in lines if line not in gone))
    elif lost == "scores":
        scores.unlink()
    else:
        scores.write_bytes(scores.read_bytes()[: scores.stat().st_size // 2])
    run(copy, resume=True)
    assert work == Counter(["DisMax seed 1", "DisMax+Entropy seed 1"])
    check_same(copy, complete)


def test_more_seeds(tmp_path: Path, work: Counter[str], complete: Path) -> None:
    run(tmp_path / "run", seeds=1)
    work.clear()
    run(tmp_path / "run", seeds=2, resume=True)
    assert not [name for name in work if name.endswith("seed 0")]
    check_same(tmp_path / "run", complete)


def test_fewer_seeds_take_nothing_away(copy: Path, work: Counter[str], complete: Path) -> None:
    run(copy, seeds=1, resume=True)
    assert not work
    kept = [r for r in records(copy) if r["status"] == "ok"]
    assert kept == [r for r in records(complete) if r["status"] == "ok"]


def test_fewer_seeds_keep_what_was_skipped(copy: Path, complete: Path) -> None:
    run(copy, seeds=1, resume=True)
    kept = [r for r in records(copy) if r["status"] == "skipped"]
    assert kept == [r for r in records(complete) if r["status"] == "skipped"]


@pytest.mark.parametrize("first", ["DisMax+Entropy", "SoftMax+ODIN", "SoftMax+MSP"])
def test_more_methods(tmp_path: Path, work: Counter[str], complete: Path, first: str) -> None:
    """Also where the first ones need no tuning data and the others do."""
    run(tmp_path / "run", methods=[first])
    work.clear()
    run(tmp_path / "run", resume=True)
    assert not [name for name in work if name.startswith(f"{first} ")]
    check_same(tmp_path / "run", complete)


@pytest.mark.parametrize("file", ["mine", "_shared", "_deeper"])
def test_a_changed_detector_is_run_again(tmp_path: Path, work: Counter[str], file: str) -> None:
    """Its own file, a helper that it imports, or one that the helper imports."""
    source = Path(Catalog().entry("detector", "entropy").path).read_text()
    text = source.replace('"entropy"', '"mine"').replace('label="Entropy"', 'label="Mine"')
    assert text != source
    text = text.replace("from torch import", "from _shared import f\nfrom torch import", 1)
    files = {"mine": text, "_shared": "from ._deeper import f\n", "_deeper": "f = abs\n"}
    folder = tmp_path / "content"
    (folder / "detectors").mkdir(parents=True)
    for version in ("first", "second"):
        for name, content in files.items():
            changed = f"# {version}\n" if name == file else ""
            (folder / "detectors" / f"{name}.py").write_text(content + changed)
        work.clear()
        run(
            tmp_path / "run",
            seeds=1,
            methods=["SoftMax+MSP", "mine"],
            plugins=[folder],
            resume=version == "second",
        )
    again = ["SoftMax seed 0", "SoftMax+Mine seed 0", "DisMax seed 0", "DisMax+Mine seed 0"]
    assert work == Counter(again)


# --- what is refused, with nothing changed ------------------------------------------------------


def refused(folder: Path, *said: str, **options: Any) -> None:
    """A run that must not start: the message, and not a byte changed."""
    before = contents(folder)
    with pytest.raises(UserError) as raised:
        run(folder, **options)
    text = str(raised.value)
    assert len(text.splitlines()) <= 2, text
    for part in said:
        assert part in text, f"'{part}' is not in: {text}"
    assert contents(folder) == before, "something on the disk has changed"


def test_a_run_is_not_overwritten(copy: Path) -> None:
    refused(copy, str(copy), "holds a run already", "--resume", "--out")


def test_another_benchmark(copy: Path, content: Path) -> None:
    other = content / "benchmarks" / "other.yaml"
    other.write_text("extends: tiny\nname: other\n")
    try:
        before = contents(copy)
        with pytest.raises(UserError, match="run of benchmark 'tiny' version 1, not of 'other'"):
            oodbench.run(other, out=copy, device="cpu", resume=True)
        assert contents(copy) == before
    finally:
        other.unlink()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs: 1", "epochs: 2", "another state of 'tiny'"),
        ("version: 1\ntitle", "version: 2\ntitle", "'tiny' version 1, not of 'tiny' version 2"),
        ("resamples: 100", "resamples: 101", "another state of 'tiny'"),
    ],
)
def test_a_changed_benchmark(copy: Path, content: Path, old: str, new: str, said: str) -> None:
    path = content / "benchmarks" / "tiny.yaml"
    assert old in TINY
    path.write_text(TINY.replace(old, new))
    try:
        refused(copy, said, "--out", resume=True)
    finally:
        path.write_text(TINY)


def test_another_version_of_the_package(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oodbench.storage.same_work.__version__", "99")
    refused(
        copy,
        f"oodbench {json.loads((copy / 'run.json').read_text())['versions']['oodbench']}",
        resume=True,
    )


def test_a_description_that_is_no_json(copy: Path) -> None:
    (copy / "run.json").write_text('{"benchmark": ')
    refused(copy, "Cannot read", "run.json", resume=True)


def test_records_that_are_none_in_a_run_without_digests(copy: Path) -> None:
    without_digests(copy)
    lines = (copy / "records.jsonl").read_text().splitlines(keepends=True)
    (copy / "records.jsonl").write_text("".join([*lines[:3], "{}\n", *lines[4:]]))
    refused(copy, "records.jsonl:4: not a record", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_something_else(tmp_path: Path, resume: bool) -> None:
    folder = tmp_path / "thesis"
    (folder / "chapters").mkdir(parents=True)
    (folder / "chapters" / ".writing-one").write_text("not ours")
    refused(folder, f"{folder} is not empty and holds no run", "--out", resume=resume)


def test_what_a_killed_run_was_writing_is_no_obstacle(tmp_path: Path, complete: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".writing-abc").write_text("{")
    run(folder, resume=True)
    check_same(folder, complete)
    assert not list(folder.rglob(".writing-*"))


# --- places that cannot be written --------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file", "File exists"),
        ("file/below", "Not a directory"),
        ("/dev/null/x", "Not a directory"),
        ("/proc/x", "No such file"),
        ("n" * 300, "File name too long"),
    ],
)
def test_unwritable_places(tmp_path: Path, work: Counter[str], place: str, said: str) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError) as raised:
        run(tmp_path / place)
    assert raised.value.message.startswith("Cannot write "), raised.value
    assert said in raised.value.message
    assert "--out" in raised.value.hint
    assert not work, "found before anything is trained"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_places_that_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Counter[str], number: int
) -> None:
    """As the system says it to one who is not root."""
    closed = tmp_path / "closed"
    closed.mkdir()
    make = os.mkdir

    def mkdir(path: Any, *args: Any, **options: Any) -> None:
        if closed in Path(path).parents:
            raise OSError(number, os.strerror(number), str(path))
        make(path, *args, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(UserError) as raised:
        run(closed / "run")
    assert raised.value.message == f"Cannot write {closed / 'run'}: {os.strerror(number)}."
    assert "--out" in raised.value.hint
    assert not work


@pytest.mark.parametrize("kibibytes", [0, 20, 40])
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: Path, kibibytes: int
) -> None:
    """What is stored stays whole and readable; with some space, resuming completes the run."""
    folder, sync = tmp_path / "run", os.fsync

    def fsync(descriptor: int) -> None:
        used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if used > 1024 * kibibytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(UserError, match="No space left on the disk while writing") as raised:
            run(folder)
    assert str(folder) in raised.value.message
    assert "--resume" in raised.value.hint
    assert not list(folder.rglob(".writing-*")), "a leftover takes space that is needed"
    if kibibytes:
        stored = records(folder)
        assert all(record in records(complete) for record in stored)
    run(folder, resume=True)
    check_same(folder, complete)


# --- runs that are stopped ------------------------------------------------------------------------


def start_run(out: Path, *options: str) -> subprocess.Popen[str]:
    """A run in a process of its own; returns when it has made its folder."""
    words = ["run", "tiny", "--out", str(out), "--device", "cpu", "--seeds", str(SEEDS), *options]
    process = start(
        *words,
        # A shell's job in the background ignores interrupts, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert " data: " in line, line + process.stderr.read()
    return process


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_a_killed_run(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """Killed at a random moment after so many stages; resumed, it gives the same."""
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    process = start_run(folder)
    assert process.stderr is not None
    for _ in range(lines):
        process.stderr.readline()
    delay = float(np.random.default_rng().uniform(0, 0.5))
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
    process.wait()
    process.stderr.close()
    if (folder / "run.json").exists():
        assert Run(folder).changed == (), "nobody has changed a file"
    run(folder, resume=True)
    check_same(folder, complete)
    assert not list(folder.rglob(".writing-*")), f"leftovers after a kill at {delay:.3f} s"


def test_an_interrupted_run_says_how_to_go_on(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "a run"
    process = start_run(folder)
    assert process.stderr is not None
    # Torch imports its compiler for the first optimizer, and may lose an interrupt in that second:
    # wait until a model is trained.
    assert any("trained" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 3, said
    lines = said.splitlines()
    assert lines[-2] == "Interrupted. What is finished is stored; continue with:", said
    assert "Traceback" not in said
    words = shlex.split(lines[-1])
    assert words[:2] == ["oodbench", "run"]
    assert "--resume" in words
    assert command(*words[1:]).code == 0
    check_same(folder, complete)


# --- damaged files --------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "another's"])
def test_a_damaged_checkpoint_is_trained_again(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    cache = Path(shutil.copytree(files.cache_folder(), tmp_path / "cache"))
    monkeypatch.setenv("OODBENCH_CACHE", str(cache))
    (path,) = cache.glob("checkpoints/resnet8-softmax-seed0-*.safetensors")
    (other,) = cache.glob("checkpoints/resnet8-softmax-seed1-*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "noise": np.random.default_rng(0).bytes(len(whole)),
            "another's": other.read_bytes(),
        }[damage]
    )
    with pytest.warns(UserWarning, match="cannot be used") as warned:
        run(tmp_path / "run", seeds=1, methods=["SoftMax+MSP"])
    said = next(str(w.message) for w in warned if "cannot be used" in str(w.message))
    assert path.name in said
    assert "training again" in said
    assert path.with_suffix(".damaged").exists(), "moved aside"
    expected = [r for r in records(complete) if (r["method"], r["seed"]) == (METHODS[0], 0)]
    assert [r["value"] for r in records(tmp_path / "run")] == [r["value"] for r in expected]


# --- bytes that were changed after the run ------------------------------------------------------


def without_digests(folder: Path) -> None:
    """As an earlier version wrote it."""
    described = description(folder)
    del described["files"], described["records"]
    (folder / "run.json").write_text(json.dumps(described))


def flip(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, path
    assert len(old) == len(new), "only bytes are changed"
    path.write_text(text.replace(old, new, 1))


def first_value(folder: Path, name: str, key: str) -> tuple[str, str]:
    """A number of a file and one that differs in a digit."""
    value = json.loads((folder / name).read_text().splitlines()[0])[key]
    digits = json.dumps(value)
    place = max(i for i, char in enumerate(digits) if char in "123456789")
    other = "7" if digits[place] != "7" else "6"
    return f'"{key}":{digits}', f'"{key}":{digits[:place]}{other}{digits[place + 1 :]}'


CHANGES = [("records.jsonl", "ci_low"), ("costs.jsonl", "flops_per_image")]
CHANGES += [("records.jsonl", "value"), ("training.jsonl", "train_loss")]


def test_every_file_with_results_has_a_digest(complete: Path) -> None:
    described = description(complete)
    found = {str(path.relative_to(complete)) for path in complete.glob("scores/*/*.npz")}
    assert len(found) == len(METHODS) * SEEDS
    results = {"records.jsonl", "costs.jsonl", "training.jsonl", "differences.jsonl"}
    assert set(described["files"]) == results | found
    for name, digest in described["files"].items():
        assert hashlib.sha256((complete / name).read_bytes()).hexdigest() == digest, name
    assert "writing" not in described
    assert Run(complete).changed == ()


@pytest.mark.parametrize(("name", "key"), CHANGES)
@pytest.mark.parametrize("form", ["table", "md", "csv", "json", "html", "latex"])
def test_a_report_says_that_a_file_was_changed(
    copy: Path,
    command: Command,
    form: str,
    name: str,
    key: str,
) -> None:
    for code in (0, 1):
        said = command("report", copy, "--format", form)
        assert said.code == code, said.err
        assert (f"WARNING: {copy}: {name} changed after the run" in said.err) == bool(code)
        assert ("--resume" in said.err) == bool(code)
        shown = said.out.replace("\\_", "_")
        assert (form != "csv" and "is not what was measured" in " ".join(shown.split())) == (
            bool(code) and form != "csv"
        )
        if code == 0:
            flip(copy / name, *first_value(copy, name, key))


@pytest.mark.parametrize("change", ["flipped", "cut", "longer", "gone"])
@pytest.mark.parametrize("name", ["records.jsonl", "scores/SoftMax+ODIN/seed1.npz"])
def test_changed_files_are_named(copy: Path, name: str, change: str) -> None:
    path = copy / name
    content = bytearray(path.read_bytes())
    if change == "flipped":
        content[len(content) // 2] ^= 1
    changed = {"cut": content[:-1], "longer": content + b"\n"}.get(change, content)
    path.unlink() if change == "gone" else path.write_bytes(changed)
    said = f"{name} is missing: " if change == "gone" else f"{name} changed after the run"
    with pytest.warns(UserWarning, match=re.escape(said)) as warned:
        found = api.open_run(copy)
    assert found.changed == (name,)
    text = str(warned[0].message)
    assert ("is not what was measured" in text) == (change != "gone")
    assert text.endswith("`oodbench run` with --resume makes it again.")


@pytest.mark.parametrize(
    ("gone", "lacking"),
    [
        (["costs.jsonl"], "costs.jsonl is missing: costs are not shown"),
        (["training.jsonl"], "training is not shown"),
        (["differences.jsonl"], "differences.jsonl is missing: ties are tested again"),
        (["scores"], "are missing: figures cannot be drawn of these scores"),
        (["scores", "differences.jsonl"], "which methods are tied is not shown"),
    ],
)
def test_files_that_are_missing_say_what_is_not_shown(
    copy: Path, gone: list[str], lacking: str
) -> None:
    before = Run(copy).leaderboard()
    for name in gone:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.warns(UserWarning, match="missing: ") as warned:
        board = api.open_run(copy).report()
    assert lacking in str(warned[0].message)
    assert "not what was measured" not in str(warned[0].message)
    assert isinstance(board, type(before))
    assert [row.rank for row in board.rows] == [row.rank for row in before.rows]
    assert board.tested == (len(gone) == 1)


@pytest.mark.parametrize("how", ["missing", "empty"])
@pytest.mark.parametrize("digests", [True, False])
def test_records_that_are_gone_are_said(
    copy: Path, recwarn: pytest.WarningsRecorder, how: str, digests: bool
) -> None:
    if not digests:
        without_digests(copy)
    path = copy / "records.jsonl"
    path.unlink() if how == "missing" else path.write_text("")
    with pytest.raises(UserError, match=rf"records\.jsonl is {how}: ") as raised:
        Run(copy).report()
    assert f"--resume and --out {copy}" in raised.value.hint
    assert not recwarn.list


def test_a_run_of_before_there_were_digests(copy: Path, recwarn: pytest.WarningsRecorder) -> None:
    without_digests(copy)
    flip(copy / "records.jsonl", *first_value(copy, "records.jsonl", "value"))
    assert api.open_run(copy).changed == ()
    assert not recwarn.list


def test_resuming_does_again_what_was_changed(
    copy: Path, work: Counter[str], complete: Path
) -> None:
    flip(copy / "records.jsonl", *first_value(copy, "records.jsonl", "value"))
    first = records(copy)[0]
    with pytest.warns(
        UserWarning, match=r"records\.jsonl .* changed after the run; computed again"
    ):
        run(copy, resume=True)
    label = f"seed {first['seed']}"
    assert work == Counter([f"{first['method']} {label}", f"{first['model']} {label}"])
    check_same(copy, complete)
    assert Run(copy).changed == ()


@pytest.mark.parametrize("name", ["records.jsonl", "costs.jsonl"])
def test_resuming_does_all_again_where_nothing_can_be_read(
    copy: Path, complete: Path, work: Counter[str], name: str
) -> None:
    (copy / name).write_text("{}\n")
    with pytest.warns(UserWarning, match=f"{name} .* changed after the run; computed again"):
        run(copy, resume=True)
    assert set(work) >= {f"{method} seed {seed}" for method in METHODS for seed in range(SEEDS)}
    check_same(copy, complete)


def test_resuming_makes_the_history_again(copy: Path, complete: Path, work: Counter[str]) -> None:
    flip(copy / "training.jsonl", *first_value(copy, "training.jsonl", "train_loss"))
    with pytest.warns(UserWarning, match=r"training\.jsonl changed after the run"):
        run(copy, resume=True)
    assert not [name for name in work if "+" in name], "no method is done again"
    assert (copy / "training.jsonl").read_bytes() == (complete / "training.jsonl").read_bytes()


@pytest.mark.parametrize("options", [{"methods": ["SoftMax+ODIN"]}, {"seeds": 1}])
def test_changed_records_are_not_lost(copy: Path, options: dict[str, Any]) -> None:
    (copy / "records.jsonl").write_text("")
    refused(copy, "changed after the run", "DisMax+Entropy (seed 1)", resume=True, **options)


VERSIONS = [{"b": b"1", "scores/a.npz": b"1", "records.jsonl": b"1"}]
VERSIONS += [{"scores/b.npz": b"1", "records.jsonl": b"2", "b": b"2"}]
VERSIONS += [{"scores/a.npz": b"3", "records.jsonl": b"3", "b": b"1"}]


def write_until(directory: RunDirectory, version: int, writes: int) -> bool:
    """Write a version; killed when so many files are written. Whether it was."""
    write, left = rundir.write_atomic, writes

    def killed(path: Path, content: bytes | str) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        write(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rundir, "write_atomic", killed)
        patch.setattr(run_description, "write_atomic", killed)
        try:
            directory.write(RunDescription(run_id=str(version)), VERSIONS[version])
        except KeyboardInterrupt:
            return True
    return False


@pytest.mark.parametrize("second", range(6))
@pytest.mark.parametrize("first", range(6))
def test_no_kill_makes_a_false_alarm(tmp_path: Path, first: int, second: int) -> None:
    """Killed between any two files, twice: what was not changed is not called so, the rest is."""
    directory = RunDirectory(tmp_path)
    killed = [write_until(directory, 0, first), write_until(directory, 1, second)]
    killed += [write_until(directory, 2, 2)]
    assert (any(killed[:2]), killed[2]) == (min(first, second) < 5, True)
    assert directory.changed() == ()
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        name, content = str(path.relative_to(tmp_path)), path.read_bytes()
        if name != "run.json":
            path.write_bytes(b"x")
            assert directory.changed() == (name,)
            path.write_bytes(content)
    assert not write_until(directory, 2, 9)
    assert directory.changed() == ()
    assert {name: (tmp_path / name).read_bytes() for name in VERSIONS[2]} == VERSIONS[2]


def test_no_false_alarm_while_another_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path)
    directory.write(RunDescription(), VERSIONS[0])
    read, reads = RunDirectory.read_description, 0

    def read_and_write(self: RunDirectory) -> RunDescription:
        nonlocal reads
        reads += 1
        found = read(self)
        if reads in (1, 3):
            monkeypatch.setattr(RunDirectory, "read_description", read)
            RunDirectory(tmp_path).write(RunDescription(), VERSIONS[reads // 2 + 1])
            monkeypatch.setattr(RunDirectory, "read_description", read_and_write)
        return found

    monkeypatch.setattr(RunDirectory, "read_description", read_and_write)
    assert directory.changed() == ()
    assert reads >= 4, "it looked again"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("benchmark", []),
        ("seeds", "0"),
        ("methods", [{"name": 5}]),
        ("checksums", {"checkpoints": [1]}),
        ("files", {"records.jsonl": 5}),
        ("files", {"../../etc/passwd": "0"}),
        ("records", {}),
        ("schema_version", 2),
        ("status", "halted"),
        ("benchmark", {"evaluation": {"resamples": 1}}),
        ("environment", {"threads": "two"}),
        ("notes", {"a/seed0": "one"}),
    ],
)
def test_a_description_of_a_wrong_type(copy: Path, key: str, value: object) -> None:
    (copy / "run.json").write_text(json.dumps(description(copy) | {key: value}))
    with pytest.raises(UserError, match=rf"Cannot read .*run\.json: {key}"):
        api.open_run(copy)


def test_unreadable_scores_are_said(copy: Path) -> None:
    directory = RunDirectory(copy)
    for content in (b"", b"PK\x03\x04 torn", b"text"):
        directory.scores_path((METHODS[0], 0)).write_bytes(content)
        with pytest.raises(UserError, match="Cannot read the scores in"):
            directory.read_scores((METHODS[0], 0))
    with pytest.raises(UserError, match="Cannot read the scores in"):
        directory.read_scores(("nothing", 0))


@pytest.mark.parametrize("field", ["benchmark_version", "n_id"])
def test_a_changed_file_is_named_before_what_it_contradicts(copy: Path, field: str) -> None:
    path = copy / "records.jsonl"
    first, *others = path.read_text().splitlines()
    record = json.loads(first)
    record[field] += 1
    path.write_text("\n".join([json.dumps(record), *others]) + "\n")
    with pytest.warns(UserWarning, match="changed after the run"):
        run = api.open_run(copy)
    with pytest.raises(UserError, match=r"records\.jsonl changed after the run.*not comparable"):
        run.leaderboard()
