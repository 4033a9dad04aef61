"""Slurm's queue: the states of jobs, how they end, and canceling them.

It asks `squeue`, which every cluster has. submitit asks `sacct`, which needs a database of
accounts: without one, a run would wait for a lost job without end.
"""

from __future__ import annotations

import logging
import math
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from oodbench.engine.executors.executor import TRIES
from oodbench.engine.executors.remote_process import THREAD_VARIABLES

log = logging.getLogger(__name__)

_INTERVAL = 15.0
"""Shortest time in seconds between two calls of `squeue`: one process answers a whole cluster."""
_SECONDS_TO_ANSWER = 60.0
_OF_THE_USER = ("SLURM_CONF", "SLURM_CLUSTERS")
"""Variables that are settings of Slurm's commands, and not of the job that this process is in."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended that has no result.

    Attributes:
        words: the end of a sentence about the job.
        tries: how often its task is tried, this time included.
        advice: what helps; or "".
    """

    words: str
    tries: float = TRIES
    advice: str = ""


TIMED_OUT = Ending("reached its time limit", 1, "ask for more time (timeout_min) and resume")
_OUT_OF_MEMORY = Ending("ran out of memory", 1, "ask for more (mem_gb) and resume")
_ENDINGS: Mapping[str, Ending] = MappingProxyType(
    {
        "BOOT_FAIL": Ending("was lost with its node"),
        "CANCELLED": Ending("was canceled", 1, "resume to compute it"),
        "COMPLETED": Ending("ended without a result"),
        "DEADLINE": TIMED_OUT,
        "FAILED": Ending("failed"),
        "NODE_FAIL": Ending("was lost with its node"),
        "OUT_OF_MEMORY": _OUT_OF_MEMORY,
        "PREEMPTED": Ending("was preempted", math.inf),
        "TIMEOUT": TIMED_OUT,
        "": Ending("is not in Slurm's queue any more"),
    }
)
"""State that a job stays in, "" if Slurm has forgotten it -> what that means."""
_MEMORY_LIMIT = re.compile(rb"^slurmstepd.*(memory limit|oom.?kill)", re.MULTILINE | re.IGNORECASE)
_END_OF_LOG = 2**16
"""Bytes that are looked through."""


class SlurmQueue:
    """The states of the jobs of this user, as `squeue` gave them last."""

    def __init__(self) -> None:
        self._states: dict[str, tuple[str, str]] = {}
        self._asked = -math.inf

    def look(self, jobs: Iterable[str]) -> None:
        """Call `squeue`, at most every few seconds.

        Args:
            jobs: numbers of the jobs, which Slurm may have forgotten.
        """
        if time.monotonic() - self._asked < _INTERVAL:
            return
        self._asked = time.monotonic()
        command = ["squeue", "--noheader", f"--user={os.getuid()}", "--states=all"]
        try:
            answer = subprocess.run(
                [*command, "--format=%i|%T|%r"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
                timeout=_SECONDS_TO_ANSWER,
                env={name: value for name, value in os.environ.items() if "SQUEUE_" not in name},
            ).stdout
        except (OSError, subprocess.SubprocessError) as error:  # Slurm may be starting again
            log.debug("squeue: %s", error)
            return
        lines = (line.split("|", 2) for line in answer.splitlines())
        found = {line[0]: (line[1], line[2]) for line in lines if len(line) == 3}
        for job in jobs:
            if job in found or self.ending(job) is None:
                self._states[job] = found.get(job, ("", ""))

    def ending(self, job: str) -> Ending | None:
        """How a job ended; None if it has not, or its state is not known yet."""
        if job not in self._states:
            return None
        state, reason = self._states[job]
        if state == "FAILED" and reason not in ("", "None"):
            return Ending(f"failed ({reason})")
        return _ENDINGS.get(state)

    def ending_of(self, job: str, log_file: Path) -> Ending | None:
        """The same, with what Slurm has written into the log of the job.

        Clusters without control groups say in the log alone that the memory was not enough.
        """
        found = self.ending(job)
        if found is not None and self._states[job][0] == "FAILED":
            with suppress(OSError), log_file.open("rb") as file:
                file.seek(max(0, log_file.stat().st_size - _END_OF_LOG))
                if _MEMORY_LIMIT.search(file.read()):
                    return _OUT_OF_MEMORY
        return found

    def words(self, job: str) -> str:
        """The state of a job, as "waits (Priority)"."""
        state, reason = self._states.get(job, ("PENDING", ""))
        if state == "RUNNING":
            return "starts"
        if ending := self.ending(job):
            return ending.words
        named = "waits" if state == "PENDING" else state.lower()
        return named if reason in ("", "None") else f"{named} ({reason})"


def cancel_all(name: str, seconds: float) -> bool:
    """Cancel all jobs of this user with a name.

    Args:
        name: the name.
        seconds: the time that Slurm has to answer.

    Returns:
        Whether Slurm did so in this time.
    """
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(
        ["scancel", f"--name={name}"],
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,  # Ctrl-C in the terminal does not end it
    )
    try:
        return process.wait(max(0.0, seconds)) == 0
    except subprocess.TimeoutExpired:  # it goes on
        return False


@contextmanager
def environment_of_jobs(threads: int) -> Iterator[None]:
    """While it lasts, this process has the environment of its jobs, which `sbatch` hands on.

    That is its own without what Slurm has set in a job that this process is in.

    Args:
        threads: number of threads of a job.
    """
    before = dict(os.environ)
    if "SLURM_JOB_ID" in before:
        for name in before:
            if name.startswith(("SLURM", "SRUN", "SUBMITIT")) and name not in _OF_THE_USER:
                del os.environ[name]
    os.environ |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    try:
        yield
    finally:
        for name in THREAD_VARIABLES:
            os.environ.pop(name, None)
        os.environ |= before
