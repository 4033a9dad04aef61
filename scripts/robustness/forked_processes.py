"""Commands of oodbench in forked processes, which cost no imports, and what kills them.

The process that forks imports, and does nothing else with torch: what a library does with threads
before a fork may never end after it. POSIX alone.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.small_content import cached_in, one_thread

from oodbench.cli import main as cli
from oodbench.training.state import TrainingState

STATE_SECONDS = 0.03
"""Fewest seconds between two writes of a training's state: small trainings write it, too."""

CRASHED = 70
"""Exit code of a process that ended with an error of Python's."""


LOG, TEMPORARY, COUNT = "said", "tmp", "writes"
"""What a forked process has in its folder: what it said, temporary files, its number of writes."""

_WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
"""Events of Python's audit hooks that change a folder, besides opening a file to write."""


@dataclass(frozen=True)
class Moment:
    """When a process is killed with SIGKILL.

    Attributes:
        seconds: after its start, its whole group; or None.
        write: before the nth change of a file or folder in its place, counted from 1; or None.
    """

    seconds: float | None = None
    write: int | None = None

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s" if self.write is None else f"write {self.write}"


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; None if it was killed.
        seconds: from its start to its end.
        said: what it wrote to standard output and standard error.
        writes: how often it changed a file or folder in its place; 0 if it was killed.
        left: whether a process of its group was left.
    """

    code: int | None
    seconds: float
    said: str
    writes: int = 0
    left: bool = False


def command_of(words: tuple[str, ...], cache: Path) -> Callable[[], None]:
    """The command `oodbench` with a cache, for `forked`."""

    def call() -> None:
        with (
            cached_in(cache),
            patch.object(TrainingState.__init__, "__defaults__", (STATE_SECONDS,)),
            patch.object(sys, "argv", ["oodbench", *words]),
            patch.dict(os.environ, {"NO_PROXY": "127.0.0.1"}),
        ):
            cli.main()

    return call


def forked(
    call: Callable[[], object],
    place: Path,
    *,
    until: Moment | None = None,
    modules: Path | None = None,
    patience: float = 20.0,
) -> Ended:
    """Call a function in a forked process, the leader of its group, with one thread.

    Args:
        call: the function.
        place: folder for what it writes to the terminal, and for temporary files, which are removed
            at the end.
        until: when it is killed; None: it ends by itself.
        modules: where it lists the modules that it has imported, for `preload`.
        patience: seconds that the other processes of its group may take to end.
    """
    temporary, log, count = place / TEMPORARY, place / LOG, place / COUNT
    temporary.mkdir(parents=True, exist_ok=True)
    count.unlink(missing_ok=True)
    until = until or Moment()
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        _child(call, place, until.write, modules)
    with suppress(OSError):  # the child has done it
        os.setpgid(process, process)
    status = _wait(process, None if until.seconds is None else started + until.seconds)
    if status is None:
        os.killpg(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
    seconds = time.monotonic() - started
    left = not group_ends(process, patience)
    if left:
        os.killpg(process, signal.SIGKILL)
    shutil.rmtree(temporary, ignore_errors=True)
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    said = log.read_text("utf-8", "replace") if log.exists() else ""
    writes = int(count.read_text("utf-8")) if count.exists() else 0
    return Ended(code, seconds, said, writes, left)


class _Writes:
    """An audit hook that counts the changes in a folder, and kills its process before one.

    Args:
        folder: what is in it counts, except for what `forked` has there.
        last: the number before which the process is killed.
    """

    def __init__(self, folder: Path, last: int | None) -> None:
        self._folder, self._last, self.count = f"{folder}{os.sep}", last, 0
        self._others = tuple(f"{self._folder}{name}" for name in (LOG, TEMPORARY, COUNT))

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not opened and event not in _WRITES:
            return
        name = str(arguments[0])
        if name.startswith(self._folder) and not name.startswith(self._others):
            self.count += 1
            if self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def _child(call: Callable[[], object], place: Path, last: int | None, modules: Path | None) -> None:
    """Call a function and end this process; it does not return."""
    code, writes = CRASHED, _Writes(place, last)
    try:
        os.setpgid(0, 0)
        _redirect(place / LOG)
        os.environ["TMPDIR"] = str(place / TEMPORARY)
        tempfile.tempdir = None  # it may hold another one
        one_thread()
        sys.addaudithook(writes)
        call()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        (place / COUNT).write_text(str(writes.count), encoding="utf-8")
        if modules is not None:
            modules.write_text("\n".join(sys.modules), encoding="utf-8")
        os._exit(code)  # what the parent does at its end is not to be done here


def _redirect(log: Path) -> None:
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, descriptor in ((nothing, 0), (target, 1), (target, 2)):
        os.dup2(source, descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):  # pytest has put others there
        setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))


def _wait(process: int, until: float | None) -> int | None:
    """The status of a process that has ended; None if it runs at a time of the monotonic clock."""
    if until is None:
        return os.waitpid(process, 0)[1]
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return status
        left = until - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(left, 0.002))


def group_ends(group: int, patience: float = 20.0) -> bool:
    """Whether all processes of a group have ended, after a time in seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def preload(listed: Path) -> None:
    """Import what a forked process has imported, so that the next ones need not."""
    for name in listed.read_text("utf-8").splitlines():
        if name not in sys.modules and not name.startswith("_"):
            with suppress(Exception):  # a detector's file, which is no module elsewhere
                importlib.import_module(name)
