"""Runs with several workers: the same results as with one, and what is stored when they fail."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import Command
from helpers.finished_run import check_same, description, records, run

from oodbench import api
from oodbench.engine.executors import executor_choice, worker_processes
from oodbench.engine.executors.executor import Ended
from oodbench.engine.executors.in_process import InProcess
from oodbench.errors import InterruptedRun, UserError
from oodbench.files import canonical_json
from oodbench.progress import Silent
from oodbench.storage.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread", "content")


def decisive(folder: Path) -> dict[str, Any]:
    """`run.json` without times, the command and what follows from times."""
    found = description(folder)
    for key in ("seal", "written", "command", "records", "environment"):
        del found[key]
    for name in list(found["files"]):
        if name == "costs.jsonl":
            del found["files"][name]
    return found


def test_two_workers_give_what_one_gives(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained in the workers, out of order, with the same number of threads."""
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    done = run(tmp_path / "run", workers=2)
    assert done.complete, done.failures
    check_same(done.folder, complete)
    got, expected = decisive(done.folder), decisive(complete)
    for each in (got, expected):  # the histories of trainings have times
        each["files"].pop("training.jsonl", None)
    assert canonical_json(got) == canonical_json(expected)
    environment = description(done.folder)["environment"]
    assert (environment["threads"], environment["workers"]) == (1, 2)
    costs = {cost.device for cost in RunDirectory(done.folder).read_records()[1]}
    assert costs == {"cpu shared by 2 workers"}
    assert "Costs were measured on cpu shared by 2 workers." in done.leaderboard().to_markdown()


def test_there_are_no_more_workers_than_cells(tmp_path: Path) -> None:
    """Times are then not those of a shared device, and each worker has a larger share of cores."""
    done = run(tmp_path / "run", workers=7, seeds=1, methods=["SoftMax+MSP"])
    environment = description(done.folder)["environment"]
    assert (environment["threads"], environment["workers"]) == (1, 1)
    assert {cost.device for cost in RunDirectory(done.folder).read_records()[1]} == {"cpu"}


class Losing(InProcess[Any]):
    """Loses the first task."""

    def ended(self) -> Any:
        first = self._waiting.popleft()
        yield Ended(first, None, "its worker process ended twice, by SIGKILL")
        yield from super().ended()


def test_a_lost_cell_fails_alone_and_is_resumed(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(executor_choice, "InProcess", Losing)
        done = run(folder)
    assert not done.complete
    lost = {("SoftMax+MSP", 0), ("SoftMax+ODIN", 0)}
    failed = [record for record in records(folder) if record["status"] == "failed"]
    assert {(record["method"], record["seed"]) for record in failed} == lost
    assert {record["reason"] for record in failed} == {"its worker process ended twice, by SIGKILL"}
    assert len(done.failures) == 2
    assert run(folder, resume=True).complete
    check_same(folder, complete)


class Interrupting(Silent):
    """As a user who presses Ctrl-C when the first model is evaluated."""

    def done(self, text: str) -> None:
        if "test accuracy" in text:
            raise KeyboardInterrupt


def test_an_interrupt_ends_all_workers(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def noted(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*args, **options))
        return started[-1]

    monkeypatch.setattr(worker_processes.subprocess, "Popen", noted)
    with pytest.raises(InterruptedRun):
        run(folder, workers=2, progress=Interrupting())
    assert len(started) == 2
    assert all(process.returncode is not None for process in started), "no worker is left"
    assert run(folder, resume=True).complete
    check_same(folder, complete)


def test_the_command_to_go_on_names_the_workers(
    monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    asked = []

    def interrupted(benchmark: str, **options: Any) -> None:
        asked.append(options["workers"])
        raise InterruptedRun(Path("place"))

    with monkeypatch.context() as patch:
        patch.setattr(api, "run", interrupted)
        done = command("run", "tiny", "--workers", "3")
    assert (done.code, asked) == (3, [3])
    assert shlex.split(done.err.splitlines()[-1])[-2:] == ["--workers", "3"]
    assert command("run", "tiny", "--workers", "0").code == 2
    with pytest.raises(UserError, match="workers: expected a whole number"):
        run(Path("never"), workers=0)
