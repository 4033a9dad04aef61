"""Files that are either whole or absent, and the folders oodbench keeps."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oodbench.errors import UserError

TEMPORARY_PREFIX = ".writing-"
"""What the names of files begin with while they are being written."""


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

    A reader, or a run that is killed at any moment, sees the old file or the new one. A device or a
    pipe, such as /dev/null, is written to.

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
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY_PREFIX)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files private to the user; give them the usual permissions.
            mask = os.umask(0)
            os.umask(mask)
            Path(temporary).chmod(0o666 & ~mask)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


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


def digest(*parts: bytes | str) -> str:
    """SHA-256 of the parts, each preceded by its length, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.hexdigest()
