"""Who writes into a run directory: one process, and in it one thread, at a time.

While a directory is held, the file `.lock` in it is locked by the operating system and says who
holds it. The lock of a process that was killed is gone with the process, whatever the file says.
Unlike the lock files of data sets, which `filelock` leaves where they are, this one is removed with
the lock: a run directory holds the files of a run and no others.

Reading needs no lock: every file is written whole.
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
from oodbench.files import TEMPORARY_PREFIX, explained, make_folder

log = logging.getLogger(__name__)

LOCK = ".lock"
DESCRIPTIONS = ("run.json", "suite.json")
"""A folder with one of these is the directory of a run, or of a suite."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the directory of a run or of a suite; it is made if there is none.

    One that was made and that nothing came into is removed at the end.

    Raises:
        UserError: if someone else holds it, if it cannot be written, or if it holds something that
            is neither a run nor a suite.
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
        with explained(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_me()).encode())
        yield
    finally:
        _release(path, descriptor)
        if new:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _acquire(path: Path) -> int | None:
    """A descriptor of the file, locked; None if someone else has locked it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _lock(descriptor)
            # Between opening and locking, the last holder may have removed the file, and the next
            # one made a new one: then this one locks nothing.
            if locked and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            locked = True
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not locked:
            return None


if sys.platform == "win32":
    import msvcrt

    _FAR = 2**30
    """The byte that is locked: a file can be read but for bytes that are locked."""

    def _lock(descriptor: int) -> bool:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        os.lseek(descriptor, 0, os.SEEK_SET)
        return True

    def _release(path: Path, descriptor: int) -> None:
        os.close(descriptor)
        with suppress(OSError):  # an open file cannot be removed, and the next one has opened it
            path.unlink()

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                raise
            log.warning("this file system has no locks: do not start two runs in one directory")
        return True

    def _release(path: Path, descriptor: int) -> None:
        path.unlink(missing_ok=True)  # before the lock is gone: it may be another's after that
        os.close(descriptor)


@contextmanager
def held_around(path: Path) -> Iterator[None]:
    """Hold the run directory that a file or a folder lies in, or will; nothing if it is in none.

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
    """Refuse a folder that holds something else than a run.

    Raises:
        UserError: if it holds something else, or cannot be read.
    """
    if is_run(folder):
        return
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise UserError(f"Cannot read {folder}: {error.strerror}.") from error
    # What a killed run was in the middle of writing does not count.
    if not all(name == LOCK or name.startswith(TEMPORARY_PREFIX) for name in names):
        raise UserError(
            f"{folder} is not empty and holds no run.",
            "Choose an empty or a new folder with --out.",
        )


def claim(folder: Path) -> bool:
    """Make a folder that is not there yet; False if it is, whoever made it.

    Raises:
        UserError: if it cannot be made.
    """
    make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError:
        make_folder(folder)  # says why it cannot be made
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
        who = json.loads(path.read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']} since {who['since']} (`{who['command']}`)"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # which has not written yet who it is
