"""Locks on run directories and checkpoints: one process, and in it one thread, writes at a time.

A held directory has a file `.lock`, which the operating system locks and which names the process.
When a process is killed, its lock ends with it, even if the file stays. At the end the file is
removed with the lock, so that a run directory has the files of a run alone (`filelock`, used for
data sets, leaves its files).

Reading needs no lock, because every file is written whole.
"""

from __future__ import annotations

import datetime
import errno
import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oodbench.errors import UserError
from oodbench.files import TEMPORARY_PREFIX, explained, make_folder, parsed_json

log = logging.getLogger(__name__)

LOCK = ".lock"
CONTENT = "content"
"""Folder of content in a run directory: the benchmark and the manifests of `oodbench evaluate`."""
DESCRIPTIONS = ("run.json", "suite.json")
"""A folder with one of these is the directory of a run, or of a suite."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock the directory of a run or of a suite; create it if there is none.

    If it was created here and is empty at the end, it is removed.

    Raises:
        UserError: if another process holds it, if it cannot be written, or if it has files that
            belong neither to a run nor to a suite.
    """
    new = not os.path.exists(folder)  # noqa: PTH110 - False where the system cannot look
    make_folder(folder)
    check_vacant(folder)
    path = folder / LOCK
    with explained(path):
        descriptor = _acquire(path)
    if descriptor is None:
        raise UserError(
            f"{folder} is in use by {_holder(path)}.",
            "Wait until it has ended, or choose another folder with --out.",
        )
    try:
        _sign(path, descriptor)
        yield
    finally:
        _release(path, descriptor)
        if new:
            with suppress(OSError):  # not empty
                folder.rmdir()


class FileLock:
    """A lock on work that several processes may do, of which one does it and the others wait.

    Args:
        path: the file of the lock; its folder is created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def holder(self) -> str:
        """The process that holds it, in words."""
        return _holder(self._path)

    def acquire(self) -> bool:
        """Try to lock; False if another process or thread has done so.

        Raises:
            UserError: if the file cannot be written.
        """
        make_folder(self._path.parent)
        with explained(self._path):
            self._descriptor = _acquire(self._path)
        if self._descriptor is not None:
            _sign(self._path, self._descriptor)
        return self._descriptor is not None

    def release(self) -> None:
        """Unlock, and remove the file."""
        if self._descriptor is not None:
            _release(self._path, self._descriptor)
            self._descriptor = None


def _sign(path: Path, descriptor: int) -> None:
    """Write into a locked file which process this is."""
    with explained(path):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_me()).encode())


def _acquire(path: Path) -> int | None:
    """A descriptor of the locked file; None if another process has locked it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _lock(descriptor)
            # Between opening and locking, another process may have removed the file, and a third
            # one made a new file: then this lock protects nothing.
            if locked and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            locked = True
        except BaseException:
            _close(descriptor)
            raise
        _close(descriptor)
        if not locked:
            return None


if sys.platform == "win32":
    import msvcrt

    _FAR = 2**30
    """Position of the locked byte. Windows lets others read all bytes but this one."""

    def _lock(descriptor: int) -> bool:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        os.lseek(descriptor, 0, os.SEEK_SET)
        return True

    _close = os.close

    def _release(path: Path, descriptor: int) -> None:
        _close(descriptor)
        with suppress(OSError):  # the next process may have opened it, so it cannot be removed
            path.unlink()

else:
    import fcntl

    _held: set[int] = set()
    """Descriptors of the files that this process has locked."""

    def _forget() -> None:
        """Close the files in a forked process: it may live on when the holder is killed."""
        for descriptor in _held:
            os.close(descriptor)
        _held.clear()

    os.register_at_fork(after_in_child=_forget)

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                raise
            log.warning("this file system has no locks: do not start two runs in one directory")
        _held.add(descriptor)
        return True

    def _release(path: Path, descriptor: int) -> None:
        path.unlink(missing_ok=True)  # before unlocking: later it may belong to another process
        _close(descriptor)

    def _close(descriptor: int) -> None:
        _held.discard(descriptor)
        os.close(descriptor)


@contextmanager
def held_around(path: Path) -> Iterator[None]:
    """Lock the run directory that a path lies in; without one, lock nothing.

    Raises:
        UserError: as `held`.
    """
    place = path.resolve()
    for folder in (place, *place.parents):
        if is_run(folder):
            with held(folder):
                yield
            return
    yield


def is_run(folder: Path) -> bool:
    """Whether a folder is the directory of a run or of a suite."""
    try:
        return any((folder / name).is_file() for name in DESCRIPTIONS)
    except OSError:
        return False


def check_vacant(folder: Path) -> None:
    """Check that a folder is empty but for the content of a new run, or has a run.

    Raises:
        UserError: if it has other files, or cannot be read.
    """
    if is_run(folder):
        return
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise UserError(f"Cannot read {folder}: {error.strerror}.") from error
    # Unfinished files of a killed run do not count.
    if not all(name in (LOCK, CONTENT) or name.startswith(TEMPORARY_PREFIX) for name in names):
        raise UserError(
            f"{folder} is not empty and holds no run.",
            "Choose an empty or a new folder with --out.",
        )


def claim(folder: Path) -> bool:
    """Create a folder; False if it exists already.

    Raises:
        UserError: if it cannot be created.
    """
    make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError:
        make_folder(folder)  # raises an error with the reason
    return True


def _me() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(["oodbench", *sys.argv[1:]]),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _holder(path: Path) -> str:
    try:
        holder = parsed_json(path.read_text(encoding="utf-8"))
        where = f"process {holder['pid']} on {holder['host']}"
        return f"{where} since {holder['since']} (`{holder['command']}`)"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # which has not written the file yet
