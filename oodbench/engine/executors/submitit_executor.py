"""The executor of `--executor submitit`: each task a job of Slurm, by way of submitit."""

from __future__ import annotations

import functools
import logging
import pickle
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch

from oodbench.engine.executors.executor import Ended, Executor, MakeExecutor, Result, Task
from oodbench.engine.executors.node_cache import CacheOfRun
from oodbench.engine.executors.remote_process import Answer, Settings
from oodbench.engine.executors.sent_progress import ShownProgress
from oodbench.engine.executors.slurm_queue import (
    TIMED_OUT,
    Ending,
    SlurmQueue,
    cancel_all,
    environment_of_jobs,
)
from oodbench.errors import UserError, sentence, shown
from oodbench.files import cache_folder, expanded, make_folder
from oodbench.progress import Reporter

log = logging.getLogger(__name__)

_LOOK_AFTER = {"local": 0.5, "slurm": 2.0}
"""Seconds between two looks at the files of jobs."""
_SECONDS_TO_APPEAR = 15.0
"""A file of a job that has ended may be seen later, on a network file system."""
_SECONDS_TO_STOP = 4.0
_DEFAULT_MINUTES = 240
"""Time limit of a job; submitit's own is five minutes."""
_NAMES = ("name", "slurm_job_name")
_OWN = ("folder", "cluster", *_NAMES)
"""Options that are not given to submitit as they are."""
_ONE_PROCESS = ("nodes", "tasks_per_node", "slurm_ntasks_per_node")
_LOGS = (".out", ".err", ".sh")
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
    for option in _ONE_PROCESS:
        if options.get(option, 1) != 1:
            raise UserError(f"submitit_options: {option}: a job is one process, on one node.")
    make_folder(folder)
    given = next((options[key] for key in _NAMES if key in options), "oodbench")
    name = f"{given}-{uuid.uuid4().hex[:8]}"
    try:
        jobs = submitit.AutoExecutor(folder / name, cluster=cluster)
        parameters: dict[str, Any] = {
            "timeout_min": _DEFAULT_MINUTES,
            "cpus_per_task": _cores(jobs.cluster, workers),
            "gpus_per_node": 1 if device.type == "cuda" else None,
        }
        parameters |= {key: value for key, value in options.items() if key not in _OWN}
        threads = int(parameters["cpus_per_task"])
        jobs.update_parameters(**parameters | _for_slurm(name, parameters))
    except (RuntimeError, NameError, ValueError, AssertionError, TypeError) as error:
        raise UserError(
            f"submitit_options: {sentence(' '.join(str(error).split()))}",
            "docs/how-to/slurm.md lists common options.",
        ) from error
    return functools.partial(
        SubmititExecutor, jobs=jobs, name=name, workers=workers, threads=threads
    )


def _cores(cluster: str, workers: int) -> int:
    """Cores of a job: as many as this process has threads, or its share of this machine."""
    return max(1, torch.get_num_threads() // (workers if cluster == "local" else 1))


def _for_slurm(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of jobs that Slurm needs, beside those that are given."""
    return {
        "name": name,
        # From Slurm 22.05 on, srun does not take this from sbatch.
        "slurm_srun_args": [
            f"--cpus-per-task={parameters['cpus_per_task']}",
            *parameters.get("slurm_srun_args", ()),
        ],
        # submitit requeues jobs, which some clusters do not allow unless a job says so.
        "slurm_additional_parameters": {"requeue": True}
        | dict(parameters.get("slurm_additional_parameters", {})),
    }


class SubmititExecutor(Executor[Result]):
    """Runs each task as a job.

    A job that reaches its time limit is put into the queue again by submitit, and a training
    continues. A task whose job was lost in another way gets another job (`slurm_queue.Ending`).

    Args:
        say: progress reporter; shows the progress of all tasks.
        jobs: submitit's executor with its parameters.
        name: name of the jobs, which those of no other run have.
        workers: most jobs at once, in the queue or running.
        threads: torch's number of threads in each.
    """

    def __init__(self, say: Reporter, *, jobs: Any, name: str, workers: int, threads: int) -> None:
        local = jobs.cluster == "local"
        super().__init__(say, workers=workers, sharing=workers if local else 1, threads=threads)
        self._jobs, self._name, self._shown = jobs, name, ShownProgress(say)
        self._folder = make_folder(jobs.folder)
        self._queue = None if local else SlurmQueue()
        self._settings = Settings.of_run(threads, CacheOfRun.here())
        self._submission: futures.Future[Any] | None = None
        self._running: list[_Try[Result]] = []
        self._refused: list[Ended[Result]] = []

    def ended(self) -> Iterator[Ended[Result]]:
        """Tasks as they end."""
        self._say.stage("")  # each task has a line of its own
        while self._running or self._waiting or self._refused:
            self._start()
            while self._refused:
                yield self._refused.pop()
            if self._queue is not None:
                self._queue.look([tried.job.job_id for tried in self._running])
                with suppress(OSError):  # a network file system forgets what was not there before
                    self._folder.chmod(self._folder.stat().st_mode)
            done = [tried for tried in self._running if self._is_done(tried)]
            for tried in done:
                self._running.remove(tried)
                self._shown.row(tried.task.label, None)
                ended = self._taken(tried)
                if ended is not None:
                    yield ended
            for tried in self._running:
                self._show(tried)
            if not done:
                time.sleep(_LOOK_AFTER[self._jobs.cluster])

    def _is_done(self, tried: _Try[Result]) -> bool:
        """Whether there is an answer, or there will be none."""
        if tried.result.exists():
            return True
        if self._queue is None:
            return bool(tried.job.done())
        if self._queue.ending(tried.job.job_id) is None:
            tried.over = None
            return False
        tried.over = tried.over or time.monotonic()
        return time.monotonic() - tried.over > _SECONDS_TO_APPEAR

    def _taken(self, tried: _Try[Result]) -> Ended[Result] | None:
        """A task with the answer of its job; None if it is tried again."""
        try:
            if not tried.result.exists():
                return self._lose(tried, self._ending(tried.job))
            answer: Answer = tried.job.result()
        except RuntimeError as error:  # UncompletedJobError, FailedJobError
            log.debug("%s", error)
            too_long = "timed-out too many times" in str(error)
            return self._lose(tried, TIMED_OUT if too_long else Ending("failed"))
        except Exception as error:  # an answer that cannot be unpickled here
            return Ended(tried.task, None, error=error)
        finally:
            tried.remove_files()
        for kind, text in answer.said:
            self._shown.take(tried.task.label, kind, text)
        return Ended(tried.task, answer.result, error=answer.error)

    def _ending(self, job: Any) -> Ending:
        """How a job ended that has no answer."""
        found = self._queue and self._queue.ending_of(job.job_id, job.paths.stderr)
        return found or Ending("was lost")

    def _lose(self, tried: _Try[Result], ending: Ending) -> Ended[Result] | None:
        """Try a task again whose job has no answer; its end after the last try."""
        more = f"; {ending.advice}" if ending.advice else ""
        reason = f"its job {tried.job.job_id} {ending.words} (log: {tried.job.paths.stderr}){more}"
        return self._try_again(tried.task, reason, ending.tries)

    def _show(self, tried: _Try[Result]) -> None:
        """Show the state of a job, and the progress of its task."""
        job = tried.job.job_id
        words = tried.progress or (self._queue.words(job) if self._queue else "waits")
        self._shown.row(tried.task.label, f"job {job} {words}")

    def _start(self) -> None:
        """Submit jobs for tasks that wait, until the cluster refuses one."""
        from oodbench.engine.executors.submitit_job import Job

        while self._waiting and len(self._running) < self.workers and not self._refused:
            task = self._waiting.popleft()
            content = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
            told = self._folder / f"{uuid.uuid4().hex}.txt"
            try:
                job = self._submitted(Job(content, self._settings, told))
                self._running.append(_Try(task, job, told))
                self._show(self._running[-1])
            except Exception as error:  # of sbatch
                one_line = " ".join(str(error).split()) or type(error).__name__
                refusal = UserError(
                    f"The job of {task.label} cannot be submitted: {sentence(one_line)}",
                    "Check the options of the jobs with the documentation of the cluster.",
                )
                refusal.__cause__ = error
                self._refused.append(Ended(task, None, error=refusal))
            self._submission = None

    def _submitted(self, job: Any) -> Any:
        """Submit a job, in a thread: after an interrupt, `_cancel` waits until it is submitted.

        Raises:
            Exception: as the cluster.
        """
        submission: futures.Future[Any] = futures.Future()

        def submit() -> None:
            try:
                with environment_of_jobs(self.threads):
                    submission.set_result(self._jobs.submit(job))
            except BaseException as error:
                submission.set_exception(error)

        self._submission = submission
        threading.Thread(target=submit, daemon=True).start()
        return submission.result()

    def _cancel(self) -> None:
        """Cancel all jobs; those in a training keep its state."""
        deadline = time.monotonic() + _SECONDS_TO_STOP
        left = [tried.job for tried in self._running]
        if self._submission is not None:
            futures.wait([self._submission], _SECONDS_TO_STOP)
            if self._submission.done() and not self._submission.exception():
                left.append(self._submission.result())
        if self._queue is None:
            for job in left:
                job.cancel(False)
            while time.monotonic() < deadline and not all(job.done() for job in left):
                time.sleep(0.05)
        elif (left or self._submission is not None) and not cancel_all(
            self._name, deadline - time.monotonic()
        ):
            self._say.warn(
                "Slurm does not answer, and may have jobs of this run. Cancel them with "
                f"`scancel --name={self._name}`."
            )
        with suppress(OSError):
            for path in self._folder.iterdir():
                if path.suffix not in _LOGS or path.name.startswith("."):
                    path.unlink(missing_ok=True)
            self._folder.rmdir()  # if there are no logs


@dataclass(eq=False, slots=True)
class _Try(Generic[Result]):
    """One try of a task.

    Attributes:
        task: the task.
        job: its job.
        told: file that the job writes its progress to.
        over: when it was seen that the job has ended without an answer; None if it was not.
    """

    task: Task[Result]
    job: Any
    told: Path
    over: float | None = None

    @property
    def result(self) -> Path:
        """The file with the answer."""
        path: Path = self.job.paths.result_pickle
        return path

    @property
    def progress(self) -> str:
        """The progress of the task, in words."""
        with suppress(OSError, ValueError):
            node, _, text = self.told.read_text(encoding="utf-8").partition("\n")
            return ", ".join(filter(None, (f"on {node}", text)))
        return ""

    def remove_files(self) -> None:
        """Remove the files of the job but its logs."""
        for path in (self.told, self.job.paths.submitted_pickle, self.result):
            with suppress(OSError):
                path.unlink(missing_ok=True)
