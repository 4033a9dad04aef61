"""A finished run of a tiny benchmark, and copies of it that a test may change: fixtures."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import oodbench
from helpers.tiny_benchmark import tiny_benchmark
from oodbench import files
from oodbench.engine import costs
from oodbench.engine.cells import evaluator
from oodbench.results import Run
from oodbench.storage.run_directory import RunDirectory
from oodbench.training.trained_models import ModelStore

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


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for the networks of the benchmark."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def content_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the benchmark; a test that changes it puts it back."""
    folder = tmp_path_factory.mktemp("content")
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "tiny.yaml").write_text(TINY)
    return folder


@contextmanager
def among_plugins(folder: Path, cache: Path) -> Iterator[None]:
    """The folder is among the plug-ins; trained networks are kept."""
    with pytest.MonkeyPatch.context() as patch, few_repetitions():
        patch.setenv("OODBENCH_CACHE", str(cache))
        patch.setenv("OODBENCH_PLUGINS", str(folder))
        yield


@contextmanager
def few_repetitions() -> Iterator[None]:
    """Times are measured once: for runs that are not about how steady they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(costs.measure.__kwdefaults__, "rounds", 1)
        yield


@pytest.fixture(scope="module")
def content(content_folder: Path, shared_cache: Path) -> Iterator[Path]:
    """The folder with the benchmark, which is among the plug-ins; trained networks are kept."""
    with among_plugins(content_folder, shared_cache):
        yield content_folder


def run(out: Path, **options: Any) -> Run:
    return oodbench.run("tiny", out=out, device="cpu", **({"seeds": SEEDS} | options))


@pytest.fixture(scope="session")
def complete(
    content_folder: Path, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An undisturbed run, with one thread; tests that change it copy it."""
    folder, threads = tmp_path_factory.mktemp("complete") / "run", torch.get_num_threads()
    torch.set_num_threads(1)
    with among_plugins(content_folder, shared_cache):
        done = run(folder)
    torch.set_num_threads(threads)
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
    evaluate, trained = evaluator.evaluate, ModelStore.trained

    def counted_evaluate(*args: Any, **options: Any) -> Any:
        done.update(f"{method.name} seed {options['seed']}" for method in args[1])
        return evaluate(*args, **options)

    def counted_trained(self: ModelStore, model: str, seed: int) -> Any:
        done.update([f"{model} seed {seed}"])
        return trained(self, model, seed)

    monkeypatch.setattr(evaluator, "evaluate", counted_evaluate)
    monkeypatch.setattr(ModelStore, "trained", counted_trained)
    return done


def without_digests(folder: Path) -> None:
    """As an earlier version wrote it."""
    described = description(folder)
    del described["files"], described["records"], described["seal"]
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
