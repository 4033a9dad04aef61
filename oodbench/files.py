"""Files that are either whole or absent, and the folders oodbench keeps."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oodbench.errors import UserError

TEMPORARY_PREFIX = ".writing-"
"""What the names of files begin with while they are being written."""

_TRIES = 3
"""How often a file is written whose unfinished one was removed."""


def expanded(path: str | Path) -> Path:
    """A path with the home folder in place of "~".

    Raises:
        UserError: if it begins with "~NAME" and there is no user NAME.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path} begins with the home folder of a user who does not exist.",
            "Write the whole path, or ./~... for a folder with this name.",
        ) from error


def cache_folder() -> Path:
    """Where checkpoints are kept: `OODBENCH_CACHE`, or the platform's user cache folder."""
    chosen = os.environ.get("OODBENCH_CACHE")
    if chosen:
        return expanded(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("oodbench"))


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of writing a file into a UserError that says what to do.

    A full disk has its own message. For all other errors the user can choose another place.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"No space left on the disk while writing {path}.",
                "What was stored before is whole. Free some space, then repeat the command "
                "(`oodbench run` with --resume).",
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise UserError(
                f"Cannot write {path}: {error.strerror}.",
                "There is a file where a folder is needed, or a folder where a file is needed; "
                "choose another place with --out.",
            ) from error
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}.",
            "Choose another place with --out (runs, reports) or OODBENCH_CACHE (checkpoints).",
        ) from error


def make_folder(path: Path) -> Path:
    """Create a folder and its parents.

    Raises:
        UserError: if the disk is full or the place cannot be written.
    """
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def check_writable(path: Path) -> None:
    """Check that `write_atomic` can write a file, before the work that gives its content.

    Nothing is created: the check is made in the nearest folder that exists.

    Raises:
        UserError: if the place cannot be written.
    """
    with explained(path):
        if path.is_dir():
            raise _is_folder()
        if _is_device(path):
            return
        folder = next(each for each in path.absolute().parents if each.exists())
        with tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY_PREFIX):
            pass


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name, flush it to the disk, rename it.

    A reader, or a run that is killed at any moment, sees the old file or the new one. What a killed
    process has left of this file under a temporary name is removed. A device or a pipe, such as
    /dev/null, is written to.

    Raises:
        UserError: if the disk is full or the place cannot be written.
    """
    # Bytes of a file name that are not text cannot be encoded; in JSON the escape is the character.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    make_folder(path.parent)
    with explained(path):
        if path.is_dir():  # renaming onto it fails too, with words that depend on the system
            raise _is_folder()
        if _is_device(path):  # renaming onto it would replace it
            path.write_bytes(data)
            return
        remove_unfinished_of(path)
        for left in reversed(range(_TRIES)):
            try:
                _write(path, data)
                return
            except FileNotFoundError:
                # Another machine writes this file too, on a file system that shares no locks, and
                # has removed what it took for a leftover.
                if not left:
                    raise


def _write(path: Path, data: bytes) -> None:
    """Write a file once, as `write_atomic`."""
    descriptor, temporary = _claimed(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp makes files private to the user; give them the usual permissions.
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            if sys.platform != "win32":  # there, an open file cannot be renamed
                temporary.replace(path)
        if sys.platform == "win32":
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def unfinished_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside a file or folder, for its content; it is removed at the end.

    Args:
        path: what is written.
    """
    remove_unfinished_of(path)
    descriptor, folder = _claimed_folder(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def remove_unfinished_of(path: Path) -> None:
    """Remove what killed processes have not written to its end of one file or folder.

    What a living process is writing stays: it holds a lock on it.
    """
    try:
        names = os.listdir(path.parent)  # noqa: PTH208 - names alone
    except OSError:
        return
    prefix = _prefix(path)
    for leftover in (path.parent / name for name in names if name.startswith(prefix)):
        with suppress(OSError):  # in use, or removed by another process
            if leftover.is_dir():
                _remove_unused(leftover, os.O_RDONLY, shutil.rmtree)
            else:
                _remove_unused(leftover, os.O_RDWR, Path.unlink)


def _prefix(path: Path) -> str:
    """What the temporary names of a file or folder begin with."""
    return f"{TEMPORARY_PREFIX}{digest(os.fsencode(path.name))[:12]}-"


def _claimed(path: Path) -> tuple[int, Path]:
    """A new temporary file for a file: a descriptor, and its path; locked while it is open."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
        if _is_claimed(descriptor, name):
            return descriptor, Path(name)
        os.close(descriptor)


def _claimed_folder(path: Path) -> tuple[int | None, Path]:
    """The same of a new folder; the descriptor is None where folders cannot be opened."""
    while True:
        name = tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path))
        if sys.platform == "win32":
            return None, Path(name)
        with suppress(FileNotFoundError):  # removed by another process already
            descriptor = os.open(name, os.O_RDONLY)
            if _is_claimed(descriptor, name):
                return descriptor, Path(name)
            os.close(descriptor)


def _is_claimed(descriptor: int, name: str) -> bool:
    """Lock a new file or folder; False if another process has taken it for a leftover."""
    try:
        _lock(descriptor)
    except BlockingIOError:
        return False
    except OSError:  # no locks here: then nobody removes it
        return True
    return os.path.exists(name)  # noqa: PTH110 - False where the system cannot look


if sys.platform == "win32":

    def _lock(descriptor: int) -> None:
        """An open file cannot be removed anyway."""

    def _remove_unused(path: Path, mode: int, remove: Callable[[Path], object]) -> None:
        if remove is Path.unlink:  # a folder that is in use could be removed
            remove(path)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        """Lock an open file or folder; BlockingIOError if another process or thread has."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _remove_unused(path: Path, mode: int, remove: Callable[[Path], object]) -> None:
        """Remove a file or folder that no process has locked; OSError if one has."""
        descriptor = os.open(path, mode)
        try:
            _lock(descriptor)
            remove(path)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process has not written to its end, in a folder and below it."""
    for leftover in sorted(folder.rglob(f"{TEMPORARY_PREFIX}*")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _is_folder() -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parsed_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"it is not valid JSON: {error.msg} in {place}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def digest(*parts: bytes | str) -> str:
    """SHA-256 of the parts, each preceded by its length, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.hexdigest()
