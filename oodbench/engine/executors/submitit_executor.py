"""The executor of `--executor submitit`: each task a job of Slurm, by way of submitit."""

from __future__ import annotations

import functools
import logging
import pickle
import threading
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self

import torch

from oodbench.engine.executors.executor import Ended, MakeExecutor, Result, Task, put, taken_out
from oodbench.engine.executors.node_cache import CacheOfRun
from oodbench.engine.executors.remote_process import Answer, Settings
from oodbench.engine.executors.sent_progress import ShownProgress
from oodbench.errors import UserError, sentence, shown
from oodbench.files import cache_folder, expanded, make_folder
from oodbench.progress import Reporter

log = logging.getLogger(__name__)

_LOOK_AFTER = 0.5
"""Seconds between two looks at the jobs."""
_SECONDS_TO_STOP = 4.0
_TRIES = 4
_DEFAULT_MINUTES = 240
"""Time limit of a job; submitit's own is five minutes."""
_OWN = ("folder", "cluster")
"""Options that are not parameters of submitit's jobs."""
CLUSTERS = ("slurm", "local")


def submitit_executor(
    options: Mapping[str, Any], workers: int, device: torch.device
) -> MakeExecutor[Any]:
    """What makes the executor of jobs.

    Args:
        options: `folder` of logs and results, `cluster` ("slurm" or "local"; default: Slurm if this
            machine has it), and parameters of submitit's jobs (`timeout_min`, `mem_gb`,
            `cpus_per_task`, `gpus_per_node`, `slurm_partition`, ...).
        workers: most jobs at once, in the queue or running.
        device: where the tasks compute.

    Raises:
        UserError: if submitit is not installed, or does not take an option.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "The executor 'submitit' needs submitit, which is not installed.",
            "Install it with: pip install 'oodbench[submitit]'.",
        ) from error
    if device.index is not None:
        raise UserError(
            f"device: Slurm chooses the GPU of each job, and '{device}' names one.",
            "Use the device cuda.",
        )
    given = options.get("folder", cache_folder() / "jobs")
    if not isinstance(given, str | Path):
        raise UserError(f"submitit_options: folder: expected a path, not {shown(given)}.")
    folder, cluster = expanded(given).absolute(), options.get("cluster")
    if cluster not in (None, *CLUSTERS):
        raise UserError(f"submitit_options: cluster: expected slurm or local, not '{cluster}'.")
    make_folder(folder)
    try:
        jobs = submitit.AutoExecutor(folder, cluster=cluster)
        parameters: dict[str, Any] = {
            "name": "oodbench",
            "timeout_min": _DEFAULT_MINUTES,
            "cpus_per_task": _cores(jobs.cluster, workers),
            "gpus_per_node": int(device.type == "cuda"),
        }
        parameters |= {key: value for key, value in options.items() if key not in _OWN}
        threads = int(parameters["cpus_per_task"])
        jobs.update_parameters(**parameters)
    except (RuntimeError, NameError, ValueError, AssertionError, TypeError) as error:
        raise UserError(
            f"submitit_options: {sentence(' '.join(str(error).split()))}",
            "docs/how-to/slurm.md lists common options.",
        ) from error
    return functools.partial(SubmititExecutor, jobs=jobs, workers=workers, threads=threads)


def _cores(cluster: str, workers: int) -> int:
    """Cores of a job: as many as this process has threads, or its share of this machine."""
    return max(1, torch.get_num_threads() // (workers if cluster == "local" else 1))


class SubmititExecutor(Generic[Result]):
    """Runs each task as a job; an `Executor`.

    A job that reaches its time limit is put into the queue again by submitit, and a training
    continues. A task whose job was lost otherwise gets another job, three times at most.

    Args:
        say: progress reporter; shows the progress of all tasks.
        jobs: submitit's executor with its parameters.
        workers: most jobs at once, in the queue or running.
        threads: torch's number of threads in each.
    """

    def __init__(self, say: Reporter, *, jobs: Any, workers: int, threads: int) -> None:
        self.workers, self.threads = workers, threads
        self.sharing = workers if jobs.cluster == "local" else 1
        self._jobs, self._say, self._shown = jobs, say, ShownProgress(say)
        self._settings = Settings.of_run(threads, CacheOfRun.here())
        self._waiting: deque[Task[Result]] = deque()
        self._running: list[_Try[Result]] = []
        self._refused: list[Ended[Result]] = []
        self._lost: dict[int, int] = {}

    def submit(self, task: Task[Result], *, first: bool = False) -> None:
        """Queue a task; its job is submitted if there are not too many."""
        put(self._waiting, task, first=first)
        self._start()

    def withdraw(self, tasks: Collection[Task[Result]]) -> list[Task[Result]]:
        """Drop those of some tasks that have no job; returns them."""
        return taken_out(self._waiting, tasks)

    def ended(self) -> Iterator[Ended[Result]]:
        """Tasks as they end."""
        self._say.stage("")  # each task has a line of its own
        while self._running or self._waiting or self._refused:
            self._start()
            while self._refused:
                yield self._refused.pop()
            done = [tried for tried in self._running if tried.job.done()]
            for tried in done:
                self._running.remove(tried)
                self._shown.row(tried.task.label, None)
                ended = self._taken(tried)
                if ended is not None:
                    yield ended
            for tried in self._running:
                self._shown.row(tried.task.label, tried.state)
            if not done:
                time.sleep(_LOOK_AFTER)

    def _taken(self, tried: _Try[Result]) -> Ended[Result] | None:
        """A task with the answer of its job; None if it is tried again."""
        task = tried.task
        times = self._lost.pop(id(task), 0) + 1  # a later task may have its place in memory
        try:
            answer = tried.answer(wait=self._jobs.cluster != "local")
        except RuntimeError as error:  # UncompletedJobError, FailedJobError
            log.debug("%s", error)
            reason = f"its job {tried.job.job_id} was lost (log: {tried.job.paths.stderr})"
            if times == _TRIES:
                return Ended(task, None, f"{reason}, {_TRIES} times")
            self._say.warn(f"{task.label}: {reason}; it is tried again.")
            self._lost[id(task)] = times
            self._waiting.append(task)
            return None
        except Exception as error:  # an answer that cannot be unpickled here
            return Ended(task, None, error=error)
        for kind, text in answer.said:
            self._shown.take(task.label, kind, text)
        return Ended(task, answer.result, error=answer.error)

    def _start(self) -> None:
        """Submit jobs for tasks that wait, until the cluster refuses one."""
        from oodbench.engine.executors.submitit_job import Job

        while self._waiting and len(self._running) < self.workers and not self._refused:
            task = self._waiting.popleft()
            content = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
            progress = self._jobs.folder / f"{uuid.uuid4().hex}.txt"
            try:
                job = self._jobs.submit(Job(content, self._settings, progress))
            except Exception as error:  # of sbatch
                one_line = " ".join(str(error).split()) or type(error).__name__
                refusal = UserError(
                    f"The job of {task.label} cannot be submitted: {sentence(one_line)}",
                    "Check the options of the jobs with the documentation of the cluster.",
                )
                refusal.__cause__ = error
                self._refused.append(Ended(task, None, error=refusal))
                return
            self._running.append(_Try(task, job, progress))
            self._shown.row(task.label, self._running[-1].state)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel all jobs; those in a training keep its state."""
        left = self._running
        deadline = time.monotonic() + _SECONDS_TO_STOP
        cancels = [
            threading.Thread(target=each.job.cancel, args=(False,), daemon=True) for each in left
        ]
        for each in cancels:
            each.start()
        for each in cancels:  # scancel waits for a controller that does not answer
            each.join(max(0.0, deadline - time.monotonic()))
        if self._jobs.cluster == "local":
            while time.monotonic() < deadline and not all(tried.job.done() for tried in left):
                time.sleep(0.05)
        for tried in left:
            tried.remove_files()


@dataclass(eq=False, slots=True)
class _Try(Generic[Result]):
    """One try of a task: its job, and the file with its progress."""

    task: Task[Result]
    job: Any
    progress: Path

    @property
    def state(self) -> str:
        """The progress of the task, in words."""
        with suppress(OSError, ValueError):
            node, _, text = self.progress.read_text(encoding="utf-8").partition("\n")
            return ", ".join(filter(None, (f"job {self.job.job_id} on {node}", text)))
        return f"job {self.job.job_id} waits"

    def answer(self, *, wait: bool) -> Answer:
        """The answer of a job that is done.

        Args:
            wait: give a slow file system some seconds.

        Raises:
            RuntimeError: if there is none.
        """
        try:
            if not wait and not self.job.paths.result_pickle.exists():
                raise RuntimeError("its process was ended")
            answer: Answer = self.job.result()
            return answer
        finally:
            self.remove_files()

    def remove_files(self) -> None:
        """Remove the files of the job but its logs."""
        paths = self.job.paths
        for path in (self.progress, paths.submitted_pickle, paths.result_pickle):
            with suppress(OSError):
                path.unlink(missing_ok=True)
