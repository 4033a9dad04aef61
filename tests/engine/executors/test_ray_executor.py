"""Tasks and a run on a Ray cluster of this machine; what is said when there is no Ray."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.commands import Command
from helpers.finished_run import check_same, description, run
from helpers.notes import Notes
from helpers.worker_tasks import Answer, Killed

from oodbench.engine.executors import ray_executor
from oodbench.engine.executors.ray_executor import RayExecutor
from oodbench.errors import UserError
from oodbench.files import cache_folder
from oodbench.storage.run_directory import RunDirectory

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.usefixtures("content")
def test_tasks_and_a_run(complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is killed; then the nodes have another cache than the run, with its checkpoints."""
    pytest.importorskip("ray", reason="Ray has no wheels for this platform")
    notes = Notes()
    try:
        executor: RayExecutor[Any] = RayExecutor(notes, address="local", workers=2, device=CPU)
    except UserError as error:  # Ray gives a node half a minute, which a busy machine may exceed
        pytest.skip(f"no node of Ray starts on this machine: {error.message}")
    with executor:
        assert (executor.workers, executor.sharing, executor.threads) == (2, 2, 1)
        assert "PYTHONBREAKPOINT" not in os.environ, "breakpoint() starts the debugger it did"
        for task in (Answer("a", threads=True), Killed("once", 1, tmp_path / "once")):
            executor.submit(task)
        ended = {each.task.label: each for each in executor.ended()}
        assert set(ended) == {"a", "once"}
        label, process, threads = ended["a"].result
        assert (label, threads, process == os.getpid()) == ("a", 1, False)
        assert ended["once"].result == ("once", 1, 0)
        said = "\n".join(notes.warnings)
        assert "a warns" in said
        assert "once: its worker process was ended; it is tried again" in said
        assert "a on " in "\n".join(notes.details), "the line of a task names its node"

        node_cache, cache = cache_folder(), tmp_path / "cache"
        monkeypatch.setenv("OODBENCH_CACHE", str(cache))
        done = run(tmp_path / "run", executor="ray", workers=2)  # on the same cluster
        assert done.complete, done.failures
        check_same(done.folder, complete)
        environment = description(done.folder)["environment"]
        assert (environment["threads"], environment["workers"]) == (1, 2)
        trained = sorted(cache.glob("checkpoints/*.safetensors"))
        assert len(trained) == 4, "the checkpoints came back from the nodes"

        one: dict[str, Any] = {"seeds": 1, "methods": ["SoftMax+ODIN"], "shard_images": 600}
        done = run(tmp_path / "shards", executor="ray", workers=2, **one)
        assert done.complete, done.failures
        expected, found = (
            RunDirectory(each).read_scores(("SoftMax+ODIN", 0)) for each in (complete, done.folder)
        )
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        assert not list(cache.glob("fitted/*"))
        shutil.rmtree(node_cache / "fitted")  # kept for 14 days; other tests use this cache

        with monkeypatch.context() as patch:
            patch.setattr(ray_executor, "keep_missing", _no_space)
            executor.submit(Answer("b"))
            (full,) = executor.ended()
        assert isinstance(full.error, UserError), "a full disk ends one task, not the executor"

        monkeypatch.setattr(RayExecutor, "tries", 1)
        executor.submit(Killed("always", 9, tmp_path / "always"))
        (lost,) = executor.ended()
        assert (lost.result, lost.lost) == (None, "its worker process was ended")


def _no_space(*arguments: Any) -> None:
    raise UserError("No space left on the disk.")


def test_what_a_task_raises(tmp_path: Path) -> None:
    """Without a cluster: the function that a worker runs gives the error back."""
    from oodbench.engine.executors import ray_worker, remote_process
    from oodbench.engine.executors.node_cache import CacheOfRun

    pytest.importorskip("ray")
    settings = remote_process.Settings.of_run(1, CacheOfRun.here())
    settings = replace(settings, versions={**settings.versions, "torch": "0.1"})
    answer = ray_worker.work(b"", 0, settings, board=None)
    assert isinstance(answer.error, UserError)
    assert "torch is" in answer.error.message
    assert "0.1" in answer.error.message


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "No Ray cluster can be reached at 127.0.0.1:1"),
        ("ray://127.0.0.1:10001", "expected HOST:PORT"),
        ("head", "expected HOST:PORT"),
        ("127.0.0.1:99999", "No Ray cluster can be reached"),
    ],
)
def test_addresses_without_a_cluster(address: str, said: str, command: Command) -> None:
    pytest.importorskip("ray")
    started = time.monotonic()
    done = command("run", "digits", "--executor", "ray", "--address", address, "--device", "cpu")
    assert time.monotonic() - started < 60
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 2


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="not installed") as raised:
        ray_executor.ray_executor(None, 1, CPU)
    assert "oodbench[ray]" in raised.value.hint


def test_arguments_that_contradict(command: Command) -> None:
    assert "local, ray or submitit" in command("run", "digits", "--executor", "slurm").err
    assert "--executor ray" in command("run", "digits", "--address", "auto").err
    with pytest.raises(UserError, match="Ray chooses the GPU"):
        ray_executor.ray_executor(None, 1, torch.device("cuda:1"))
