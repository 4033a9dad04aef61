"""Writing large files: folders that are complete or absent, errors of the disk, checksums."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oodbench.errors import UserError
from oodbench.files import TEMPORARY_PREFIX

CHUNK = 1 << 20
"""Number of bytes that are read, hashed or written at a time."""

_LEFTOVER_AGE = 24 * 3600
"""Age in seconds at which the process of any incomplete folder is assumed to be dead."""


@contextmanager
def disk_errors(path: Path, place: str) -> Iterator[None]:
    """Turn errors of the disk into messages.

    Args:
        path: the file or folder that is written.
        place: the options that choose another place, such as "--data-root or OODBENCH_DATA".

    Raises:
        UserError: in place of every OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"No space left on the disk while writing {path}.",
                "Finished files and partial downloads are kept. Free some space and repeat the "
                f"command, or choose another place with {place}.",
            ) from error
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}.",
            f"Make the folder writable, or choose another one with {place}.",
        ) from error


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `target` when the body ends without an error.

    Only one process at a time may create a target: incomplete folders of others are removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target)))
    try:
        # mkdtemp creates private folders; set the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder; it is renamed first, so that it never exists incomplete under its name."""
    if not folder.exists():
        return
    doomed = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_prefix(folder)))
    folder.rename(doomed / folder.name)
    shutil.rmtree(doomed, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove incomplete folders of killed processes."""
    for leftover in target.parent.glob(f"{TEMPORARY_PREFIX}*"):
        try:
            old = time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE
        except OSError:
            continue  # another process has just removed it
        if leftover.is_dir() and (old or leftover.name.startswith(_prefix(target))):
            shutil.rmtree(leftover, ignore_errors=True)


def _prefix(target: Path) -> str:
    """Prefix of the temporary names of a folder."""
    return f"{TEMPORARY_PREFIX}{target.name}-"


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
