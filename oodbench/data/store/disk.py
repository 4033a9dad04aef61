"""Writing what is large: folders that are whole or absent, and what is said of a full disk."""

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
"""Bytes that are read, hashed or written at a time."""

_LEFTOVER_AGE = 24 * 3600
"""Seconds after which any half-made folder belongs to a process that was killed."""


@contextmanager
def disk_errors(path: Path, place: str) -> Iterator[None]:
    """Turn errors of the disk into messages.

    Args:
        path: what is being written.
        place: what moves it elsewhere, such as "--data-root or OODBENCH_DATA".

    Raises:
        UserError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"No space left on the disk while writing {path}.",
                "What was finished before is kept. Free some space and repeat the command, or "
                f"choose another place with {place}.",
            ) from error
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}.",
            f"Make the place writable, or choose another one with {place}.",
        ) from error


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target` once the body has ended well.

    Only one process at a time may make a target: what another one left half made is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target)))
    try:
        # mkdtemp makes folders private to the user; give them the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder; never half of it under its own name."""
    if not folder.exists():
        return
    doomed = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_prefix(folder)))
    folder.rename(doomed / folder.name)
    shutil.rmtree(doomed, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes have left half made."""
    for leftover in target.parent.glob(f"{TEMPORARY_PREFIX}*"):
        try:
            old = time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE
        except OSError:
            continue  # its own process has just removed it
        if leftover.is_dir() and (old or leftover.name.startswith(_prefix(target))):
            shutil.rmtree(leftover, ignore_errors=True)


def _prefix(target: Path) -> str:
    """What the temporary names of a folder begin with."""
    return f"{TEMPORARY_PREFIX}{target.name}-"


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
