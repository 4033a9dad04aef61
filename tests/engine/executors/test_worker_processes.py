"""Worker processes: results, progress, workers that are killed, tasks that are cancelled."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.notes import Notes
from helpers.worker_tasks import Answer, Killed, Raises, SlowToImport, Unreadable, Waits

from oodbench import Detector
from oodbench.engine.executors import worker_processes
from oodbench.engine.executors.executor_choice import executor_of
from oodbench.engine.executors.in_process import InProcess
from oodbench.engine.executors.worker_processes import WorkerProcesses
from oodbench.errors import UserError
from oodbench.planning.executor_options import ExecutorOptions

CPU = torch.device("cpu")
LOCAL = ExecutorOptions()
pytestmark = pytest.mark.usefixtures("one_thread")


def test_results_and_workers_that_are_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One of four tasks is killed once and tried again, one is killed on both tries."""
    notes = Notes()
    tasks = [Answer("a", threads=True), Killed("once", 1, tmp_path / "once"), Answer("b")]
    tasks += [Killed("twice", 9, tmp_path / "twice")]
    torch.set_num_threads(5)
    executor: WorkerProcesses[Any] = WorkerProcesses(notes, workers=2, device=CPU)
    torch.set_num_threads(1)
    with executor:
        assert (executor.workers, executor.sharing, executor.threads) == (2, 2, 2)
        for task in tasks:
            executor.submit(task)
        ended = {each.task.label: each for each in executor.ended()}
        assert list(executor.ended()) == []
    assert set(ended) == {"a", "b", "once", "twice"}
    for label in "ab":
        found, process, threads = ended[label].result
        assert (found, threads, ended[label].lost) == (label, 2 if label == "a" else 0, "")
        assert process != os.getpid()
    assert ended["once"].result == ("once", 1, 0)
    assert ended["twice"].result is None
    assert (tmp_path / "twice").read_text() == "xx", "tried twice"
    for word in ("twice", "SIGKILL", "memory"):
        assert word in ended["twice"].lost
    assert "a: thinking" in "\n".join(notes.details)
    warned = "\n".join(notes.warnings)
    for part in ("a warns", "b warns", "once: its worker process was ended by SIGKILL"):
        assert part in warned
    out, err = capfd.readouterr()
    assert (out, err.count("a detector prints this")) == ("", 2), "results have a pipe of their own"


def test_what_a_task_raises(tmp_path: Path) -> None:
    """It is given; at the end, the other task is stopped, and may keep its state."""
    waits = Waits("waits", tmp_path / "started", tmp_path / "stopped")
    executor: WorkerProcesses[Any] = WorkerProcesses(Notes(), workers=2, device=CPU)
    executor.submit(waits)
    executor.submit(Raises(after=waits.started))
    executor.submit(dropped := Answer("dropped"))
    with executor:
        assert executor.withdraw([waits, dropped]) == [dropped], "the other one runs"
        ended = next(executor.ended())
    assert isinstance(ended.error, UserError)
    assert (ended.error.message, ended.error.hint) == (
        "The loss is not finite.",
        "Lower the learning rate.",
    )
    assert "in run" in ended.error.__notes__[0], "the traceback of the worker"
    assert waits.stopped.read_text() == "stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(int(waits.started.read_text()), 0)


def test_a_result_that_cannot_be_read_is_an_error_of_its_task() -> None:
    executor: WorkerProcesses[Any] = WorkerProcesses(Notes(), workers=1, device=CPU)
    with executor:
        executor.submit(Unreadable("unreadable"))
        executor.submit(Answer("next"))
        first, last = executor.ended()
    assert (first.task.label, str(first.error)) == ("unreadable", "no such class here")
    assert last.result[0] == "next"


def test_a_second_signal_does_not_break_off_what_is_kept(tmp_path: Path) -> None:
    """A scheduler sends SIGTERM to all processes; then the run stops its workers, too."""
    waits = Waits("waits", tmp_path / "started", tmp_path / "stopped", seconds=0.5)
    executor: WorkerProcesses[Any] = WorkerProcesses(Notes(), workers=2, device=CPU)
    with executor:
        executor.submit(waits)
        while not waits.started.exists() or not waits.started.read_text():
            time.sleep(0.02)
        os.kill(int(waits.started.read_text()), signal.SIGTERM)
        time.sleep(0.2)
    assert waits.stopped.read_text() == "stopped"


def test_a_worker_that_imports_stops_at_once(tmp_path: Path) -> None:
    """Torch takes seconds to import, and much longer on a busy machine."""
    executor: WorkerProcesses[Any] = WorkerProcesses(Notes(), workers=2, device=CPU)
    started = tmp_path / "started"
    with executor:
        executor.submit(SlowToImport("slow", started))
        while not started.exists() or not started.read_text():
            time.sleep(0.02)
        begun = time.monotonic()
    assert time.monotonic() - begun < 3.0, "before it gives up, or is killed"
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_a_worker_that_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_processes, "_SECONDS_TO_STOP", 0.2)
    waits = Waits("waits", tmp_path / "started", tmp_path / "stopped", stubborn=True)
    executor: WorkerProcesses[Any] = WorkerProcesses(Notes(), workers=2, device=CPU)
    with executor:
        executor.submit(waits)
        while not waits.started.exists() or not waits.started.read_text():
            time.sleep(0.02)
        begun = time.monotonic()
    assert time.monotonic() - begun < 2.0, "the worker itself gives up after four seconds"
    with pytest.raises(ProcessLookupError):
        os.kill(int(waits.started.read_text()), 0)


def test_one_worker_is_this_process() -> None:
    notes = Notes()
    with executor_of(LOCAL, workers=1, device=CPU)(notes) as executor:
        assert isinstance(executor, InProcess)
        executor.submit(Answer("a", threads=True))
        (ended,) = executor.ended()
    assert ended.result == ("a", os.getpid(), torch.get_num_threads())


def test_classes_that_workers_cannot_import(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(Detector):
        pass

    with pytest.raises(UserError, match=r"cannot import the class .*Local") as raised:
        executor_of(LOCAL, workers=2, device=CPU, classes=[Local])
    assert "one worker" in raised.value.hint
    monkeypatch.setattr(Answer, "__module__", "__main__")
    with pytest.raises(UserError, match="Answer"):
        executor_of(LOCAL, workers=2, device=CPU, classes=[Answer])
    executor_of(LOCAL, workers=2, device=CPU, classes=[Killed])
    executor_of(LOCAL, workers=1, device=CPU, classes=[Local])
