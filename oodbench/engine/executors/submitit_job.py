"""What a job of `--executor submitit` does: one task of a run, after the checks of its machine."""

from __future__ import annotations

import pickle
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from submitit.core.utils import UncompletedJobError
from submitit.helpers import DelayedSubmission

from oodbench.engine.executors.messages import portable
from oodbench.engine.executors.remote_process import Answer, Settings
from oodbench.engine.executors.sent_progress import SentProgress
from oodbench.errors import UserError
from oodbench.files import cache_folder

_INTERVAL = 2.0
"""Shortest time in seconds between two details of a task, each a write to a shared folder."""
_STOPS = (signal.SIGTERM, signal.SIGINT)


class Job:
    """A task as the function of a job, which is queued again when it reaches its time limit.

    Args:
        content: the task, pickled: unpickling it loads torch, after the process is prepared.
        settings: what all tasks of a run have in common.
        progress: file that the progress of the task is written to.
    """

    def __init__(self, content: bytes, settings: Settings, progress: Path) -> None:
        self.content, self.settings, self.progress = content, settings, progress
        self.said: list[tuple[str, str]] = []
        self._written = 0.0
        self._queued_again = False

    def __call__(self) -> Answer:
        """Do the task.

        SIGTERM, which Slurm sends to a job that is canceled, interrupts it: a training then keeps
        its state. submitit itself ignores this signal. On one machine, a job gets SIGINT from the
        terminal and from submitit.
        """
        for number in _STOPS:
            signal.signal(number, _stop)
        try:
            self.settings.prepare()
            self._send("detail", "")
            if not self.settings.cache.enter():
                raise UserError(
                    f"The node {socket.gethostname()} has another cache than the run: "
                    f"{cache_folder()}.",
                    "Set OODBENCH_CACHE to a folder that all nodes share.",
                )
            task = pickle.loads(self.content)
            if "torch" in sys.modules:  # it may take fewer threads than OpenMP does
                sys.modules["torch"].set_num_threads(self.settings.threads)
            return Answer(task.run(SentProgress(self._send)), said=tuple(self.said))
        except UncompletedJobError:  # its time was over too often, as submitit found
            raise
        except Exception as error:
            if self._queued_again:  # `scontrol requeue` was ended with this job, or was refused
                raise SystemExit(str(error)) from error
            return Answer(error=portable(error), said=tuple(self.said))
        finally:
            self.progress.unlink(missing_ok=True)

    def checkpoint(self) -> DelayedSubmission:
        """What is put into the queue again: the same, since a training continues from its state."""
        self._queued_again = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm sends it when submitit says so
        return DelayedSubmission(Job(self.content, self.settings, self.progress))

    def _send(self, kind: str, text: Any) -> None:
        """Write a detail at most every few seconds; keep the rest for the answer."""
        if kind != "detail":
            self.said.append((kind, str(text)))
        elif time.monotonic() - self._written >= _INTERVAL:
            with suppress(OSError):  # it is only shown
                self.progress.write_text(f"{socket.gethostname()}\n{text}", encoding="utf-8")
            self._written = time.monotonic()


def _stop(number: int, frame: object) -> None:
    for each in _STOPS:  # a second one would break off what is being kept
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
