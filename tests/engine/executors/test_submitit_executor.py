"""Tasks and a run as jobs of submitit on this machine; options that it does not take."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from helpers.commands import Command
from helpers.finished_run import records, run
from helpers.notes import Notes
from helpers.worker_tasks import Answer, Killed, Raises, Waits

from oodbench.engine.executors import slurm_queue
from oodbench.engine.executors import submitit_executor as submitit_executor_module
from oodbench.engine.executors.submitit_executor import SubmititExecutor, submitit_executor
from oodbench.errors import UserError
from oodbench.planning.executor_options import ExecutorOptions, job_options

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def executor(folder: Path, notes: Notes) -> SubmititExecutor[Any]:
    pytest.importorskip("submitit")
    options = {"folder": str(folder), "cluster": "local", "timeout_min": 5}
    made: Any = submitit_executor(options, 3, CPU)(notes)
    return made


@pytest.mark.usefixtures("content")
def test_tasks_of_which_one_is_lost_and_one_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # tasks of the tests
    notes = Notes()
    tasks = [Answer("a", threads=True), Killed("once", 1, tmp_path / "once")]
    (after := tmp_path / "raises").write_text("0")
    with executor(tmp_path / "jobs", notes) as jobs:
        assert (jobs.workers, jobs.sharing, jobs.threads) == (3, 3, 1)
        for task in (*tasks, Raises(after, number=0)):
            jobs.submit(task)
        ended = {each.task.label: each for each in jobs.ended()}
    label, process, threads = ended["a"].result
    assert (label, threads, process == os.getpid()) == ("a", 1, False)
    assert ended["once"].result == ("once", 1, 0)
    assert isinstance(ended["raises"].error, UserError)
    assert "in run" in ended["raises"].error.__notes__[0], "the traceback of the job"
    said = "\n".join(notes.warnings)
    assert "a warns" in said
    assert "once: its job " in said
    assert "it is tried again" in said
    assert "job " in "\n".join(notes.details)
    left = {path.suffix for path in (tmp_path / "jobs").glob("oodbench-*/*")}
    assert left == {".out", ".err"}, "logs stay, pickled tasks and results do not"


@pytest.mark.usefixtures("content")
def test_what_is_cancelled_may_keep_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    # A shell's job in the background ignores interrupts, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    waits = Waits("waits", tmp_path / "started", tmp_path / "stopped")
    with executor(tmp_path / "jobs", Notes()) as jobs:
        jobs.submit(waits)
        deadline = time.monotonic() + 240
        while not waits.started.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert jobs.withdraw([waits]) == [], "it has a job"
    while not waits.stopped.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert waits.stopped.read_text() == "stopped"


class Refusing:
    """A cluster with room for no job."""

    cluster = "slurm"

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, 0

    def submit(self, job: object) -> Any:
        self.asked += 1
        raise RuntimeError("sbatch: error:\n QOSMaxSubmitJobPerUserLimit")


def slurm_executor(jobs: object, notes: Notes, workers: int = 1) -> SubmititExecutor[Any]:
    pytest.importorskip("submitit")
    return SubmititExecutor(notes, jobs=jobs, name="oodbench-1", workers=workers, threads=1)


def test_a_job_that_is_refused_is_an_error_of_its_task(tmp_path: Path) -> None:
    jobs, tasks = Refusing(tmp_path), [Answer("a"), Answer("b"), Answer("c")]
    with slurm_executor(jobs, Notes(), workers=3) as made:
        for task in tasks:
            made.submit(task)
        assert jobs.asked == 1
        found = made.ended()
        first = next(found)
        assert made.withdraw([tasks[1]]) == [tasks[1]]
        (last,) = found
    assert (first.task, last.task) == (tasks[0], tasks[2])
    assert "job of c cannot be submitted: sbatch: error: QOSMax" in str(last.error)


class EndingAtOnce(Refusing):
    """A cluster whose jobs end at once, with a result that raises an error when it is read."""

    job_id = "1"

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        super().__init__(folder)
        self.error = error

    def submit(self, job: object) -> Self:
        self.asked += 1
        if self.error:
            self.paths.result_pickle.touch()
        return self

    @property
    def paths(self) -> SimpleNamespace:
        names = ("submitted_pickle", "result_pickle", "stderr")
        return SimpleNamespace(**{name: self.folder / f"{name}.pkl" for name in names})

    def result(self) -> None:
        assert self.error is not None
        raise self.error


def test_a_result_that_cannot_be_read_is_an_error_of_its_task(tmp_path: Path) -> None:
    jobs = EndingAtOnce(tmp_path, ModuleNotFoundError("No module named 'mine'"))
    with slurm_executor(jobs, Notes()) as made:
        made.submit(Answer("a"))
        (ended,) = made.ended()
    assert str(ended.error) == "No module named 'mine'"


def test_tries_are_counted_anew_for_a_task_that_is_submitted_again(tmp_path: Path) -> None:
    notes, jobs = Notes(), EndingAtOnce(tmp_path, RuntimeError("no result"))
    with slurm_executor(jobs, notes) as made:
        task = Answer("a")
        for times in (1, 2):
            made.submit(task)
            (ended,) = made.ended()
            assert ended.lost.endswith(", 4 times")
            assert len(notes.warnings) == 3 * times


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command `squeue` that prints the content of a file."""
    if sys.platform == "win32":
        pytest.skip("there is no Slurm for Windows")
    said, command = tmp_path / "said", tmp_path / "bin" / "squeue"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\ncat {said}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    monkeypatch.setattr(slurm_queue, "_INTERVAL", 0.0)
    monkeypatch.setattr(submitit_executor_module, "_SECONDS_TO_APPEAR", 0.0)
    monkeypatch.setitem(submitit_executor_module._LOOK_AFTER, "slurm", 0.01)
    return said


@pytest.mark.parametrize(
    ("state", "jobs", "said"),
    [
        ("CANCELLED|None", 1, "its job 1 was canceled (log: "),
        ("OUT_OF_MEMORY|OutOfMemory", 1, "ran out of memory (log: "),
        ("TIMEOUT|TimeLimit", 1, "ask for more time (timeout_min)"),
        ("FAILED|NonZeroExitCode", 4, "its job 1 failed (NonZeroExitCode) (log: "),
        ("FAILED|None", 4, "its job 1 failed (log: "),
        ("FAILED|RaisedSignal:9(Killed)", 1, "ran out of memory (log: "),
        ("NODE_FAIL|None", 4, "lost with its node"),
    ],
)
def test_jobs_that_end_without_a_result(
    tmp_path: Path, squeue: Path, state: str, jobs: int, said: str
) -> None:
    if "Killed" in state:
        (tmp_path / "jobs").mkdir()
        (tmp_path / "jobs" / "stderr.pkl").write_text(
            "Said before.\nslurmstepd-n1: error: StepId=1.0 exceeded memory limit (9 > 1), killed"
        )
    squeue.write_text(f"7|RUNNING|None\n1|{state}\n12_[3-5]|PENDING|Priority\n")
    notes, cluster = Notes(), EndingAtOnce(tmp_path / "jobs")
    with slurm_executor(cluster, notes) as made:
        made.submit(Answer("a"))
        (ended,) = made.ended()
    assert said in ended.lost
    assert ended.lost.endswith(", 4 times") == (jobs == 4)
    assert (cluster.asked, len(notes.warnings)) == (jobs, jobs - 1)


def test_states_of_jobs(squeue: Path) -> None:
    queue = slurm_queue.SlurmQueue()
    assert (queue.words("1"), queue.ending("1")) == ("waits", None)
    squeue.write_text("1|PENDING|Resources\n2|SUSPENDED|None\n3|PREEMPTED|None\n4|COMPLETING|None")
    queue.look("1234")
    assert [queue.words(job) for job in "124"] == [
        *("waits (Resources)", "suspended", "completing"),
    ]
    assert [queue.ending(job) is None for job in "1234"] == [True, True, False, True]
    squeue.write_text("1|RUNNING|None\n")
    queue.look("134")
    assert queue.words("1") == "starts"
    for job, words in (("3", "was preempted"), ("4", "is not in Slurm's queue any more")):
        ending = queue.ending(job)
        assert ending is not None
        assert ending.words == words
    squeue.unlink()
    queue.look("1")
    assert queue.ending("1") is None, "squeue failed: nothing is known"


def test_what_slurm_sets_in_a_job_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    with slurm_queue.environment_of_jobs(3):
        assert os.environ["SLURM_ARRAY_TASK_ID"] == "7", "this is no job"
        assert os.environ["OMP_NUM_THREADS"] == "3"
    for name in ("SLURM_JOB_ID", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "x")
    before = dict(os.environ)
    with slurm_queue.environment_of_jobs(3):
        assert {"SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID"}.isdisjoint(os.environ)
        assert {"SLURM_CONF", "SBATCH_ACCOUNT"} <= os.environ.keys()
    assert dict(os.environ) == before


def test_a_run(complete: Path, tmp_path: Path, content: Path) -> None:
    pytest.importorskip("submitit")
    folder = tmp_path / "jobs"
    options = {"folder": str(folder), "cluster": "local", "cpus_per_task": 1}
    done = run(
        tmp_path / "run",
        executor="submitit",
        submitit_options=options,
        workers=1,
        seeds=1,
        methods=["SoftMax+MSP"],
    )
    assert done.complete, done.failures
    kept = [
        record
        for record in records(complete)
        if (record["method"], record["seed"]) == ("SoftMax+MSP", 0)
    ]
    assert records(done.folder) == kept
    assert {path.suffix for path in folder.glob("oodbench-*/*")} == {".out", ".err"}


def test_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Command) -> None:
    given = ["slurm_partition=gpu", "timeout_min=600", "mem_gb=8.5", "slurm_setup=[module load x]"]
    read = job_options(given)
    assert read == {
        "slurm_partition": "gpu",
        "timeout_min": 600,
        "mem_gb": 8.5,
        "slurm_setup": ["module load x"],
    }
    assert job_options(["slurm_begin=2030-01-01"]) == {"slurm_begin": "2030-01-01"}
    with pytest.raises(UserError, match="10:00:00 is read as a number of base 60"):
        job_options(["slurm_time=10:00:00"])
    words = ExecutorOptions.read("submitit", jobs=read).words
    assert job_options(words[3::2]) == read, "the command to go on has them"
    assert [ExecutorOptions.read("submitit").workers_for(tasks) for tasks in (7, 0)] == [7, 1]
    for wrong in ("partition", "=x", "a b=1", "a=[1"):
        with pytest.raises(UserError, match="expected NAME=VALUE"):
            job_options([wrong])
    done = command("run", "digits", "--submitit-option", "timeout_min=1")
    assert (done.code, "only the executor 'submitit'" in done.err) == (2, True)
    pytest.importorskip("submitit")
    place = {"folder": str(tmp_path)}
    for options, said in (
        ({"cluster": "cray"}, "expected slurm or local"),
        ({"cluster": "local", "memory": 3}, "memory"),
        ({"cluster": "local", "timeout_min": "long"}, "timeout_min"),
        ({"cluster": "local", "nodes": 2}, "nodes: a job is one process"),
        ({"cluster": "local", "cpus_per_task": None}, "NoneType"),
        ({"folder": 5}, "folder: expected a path, not 5"),
        ({"folder": "~nobody-of-this-name/jobs"}, "a user who does not exist"),
    ):
        with pytest.raises(UserError, match=said):
            submitit_executor(place | options, 1, CPU)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="srun"):
        submitit_executor(place | {"cluster": "slurm"}, 1, CPU)
    with pytest.raises(UserError, match="Slurm chooses the GPU"):
        submitit_executor({}, 1, torch.device("cuda:1"))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="not installed"):
        submitit_executor({}, 1, CPU)
