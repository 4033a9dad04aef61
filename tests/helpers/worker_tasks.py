"""Tasks for worker processes: they answer, talk, raise, or kill their process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oodbench.errors import UserError
from oodbench.progress import Reporter


@dataclass(frozen=True)
class Answer:
    """Gives its process and, if asked, torch's number of threads there."""

    label: str
    threads: bool = False
    files = ()

    def run(self, say: Reporter) -> tuple[str, int, int]:
        say.detail("thinking")
        say.warn(f"{self.label} warns")
        print("a detector prints this")
        if not self.threads:
            return self.label, os.getpid(), 0
        import torch

        return self.label, os.getpid(), torch.get_num_threads()


@dataclass(frozen=True)
class Killed:
    """Kills its process, so many times; a file counts them."""

    label: str
    times: int
    counter: Path
    files = ()

    def run(self, say: Reporter) -> tuple[str, int, int]:
        before = len(self.counter.read_text()) if self.counter.exists() else 0
        if before < self.times:
            self.counter.write_text("x" * (before + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return self.label, before, 0


@dataclass(frozen=True)
class Unreadable:
    """Has a result that other processes cannot unpickle."""

    label: str
    files = ()

    def run(self, say: Reporter) -> UnreadableResult:
        return UnreadableResult()


class UnreadableResult:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[int]]:
        return _only_in, (os.getpid(),)


def _only_in(process: int) -> None:
    if os.getpid() != process:
        raise ValueError("no such class here")


@dataclass(frozen=True)
class SlowToImport:
    """Takes a minute to be unpickled; a file says when that begins."""

    label: str
    started: Path
    files = ()

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return _imported, (self.started,)

    def run(self, say: Reporter) -> None:
        raise NotImplementedError


def _imported(started: Path) -> None:
    started.write_text(str(os.getpid()))
    time.sleep(60)


@dataclass(frozen=True)
class Raises:
    """Fails with an error for the user, after a signal to the process that a file names."""

    after: Path
    label: str = "raises"
    number: int = signal.SIGINT
    files = ()

    def run(self, say: Reporter) -> tuple[str, int, int]:
        while not self.after.exists() or not self.after.read_text():
            time.sleep(0.02)
        if self.number:
            os.kill(int(self.after.read_text()), self.number)
        time.sleep(0.1)
        raise UserError("The loss is not finite.", "Lower the learning rate.")


@dataclass(frozen=True)
class Waits:
    """Waits until it is stopped, and writes a file `seconds` later; a stubborn one goes on."""

    label: str
    started: Path
    stopped: Path
    stubborn: bool = False
    seconds: float = 0.0
    files = ()

    def run(self, say: Reporter) -> tuple[str, int, int]:
        try:
            self.started.write_text(str(os.getpid()))
            while True:
                time.sleep(0.05)
        finally:
            time.sleep(self.seconds)
            self.stopped.write_text("stopped")
            while self.stubborn:
                time.sleep(0.05)
