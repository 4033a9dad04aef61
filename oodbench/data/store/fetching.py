"""The files of a manifest: found or downloaded, archives unpacked.

A file with the manifest's size and checksum is used where it is; otherwise it is downloaded, and a
wrong file of its name is kept as `<name>.wrong`. Archives are unpacked into
`<data set's folder>/unpacked/`: `content/`, and `record.json` with the checksum of every archive
and of every unpacked file. The folder gets its name when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from oodbench.data.store.archives import unpack
from oodbench.data.store.checksummed_json import (
    DamagedRecordError,
    read_checksummed,
    write_checksummed,
)
from oodbench.data.store.disk import disk_errors, file_digest, new_folder, remove_folder
from oodbench.data.store.download import checksum_problem, download
from oodbench.data.store.locations import (
    PLACE,
    StoredFiles,
    content_folder,
    dataset_folder,
    unpacked_folder,
)
from oodbench.progress import Reporter
from oodbench.specs import FileSpec

RECORD = "record.json"


def fetch(spec: StoredFiles, root: Path, say: Reporter) -> Path:
    """Download and unpack the files of a data set or checkpoint that are missing.

    Args:
        spec: the files.
        root: the data root.
        say: progress reporter.

    Returns:
        The folder that the manifest's paths are relative to.

    Raises:
        UserError: a file cannot be downloaded or unpacked, or the disk is full.
    """
    folder = dataset_folder(spec, root)
    if not spec.files:
        return folder
    content = content_folder(spec, root)
    if content != folder and unpacked_whole(spec, root):
        return content
    # Before anything is written: the folder may be read-only.
    if content == folder and _all_there(spec, folder, say):
        return content
    with disk_errors(folder, PLACE):
        folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder / ".lock"):
        if content != folder and unpacked_whole(spec, root):  # by another process meanwhile
            return content
        for file in spec.files:
            obtain(spec, file, root, say)
        if content != folder:
            _unpack_all(spec, root, say)
    return content


def find(spec: StoredFiles, file: FileSpec, root: Path) -> tuple[Path | None, dict[Path, str]]:
    """Look for a file in the data set's folder and in the data root.

    Returns:
        Its path, or None; and for wrong files of its name, what is wrong with them.
    """
    wrong: dict[Path, str] = {}
    for path in (dataset_folder(spec, root) / file.name, root / file.name):
        if path.is_file():
            problem = checksum_problem(path, file)
            if problem is None:
                return path, wrong
            wrong[path] = problem
    return None, wrong


def obtain(spec: StoredFiles, file: FileSpec, root: Path, say: Reporter) -> None:
    """Find or download a file, and put it into the data set's folder, which must exist.

    Raises:
        UserError: it cannot be found or downloaded.
    """
    say.detail(f"checking {file.name}")
    folder = dataset_folder(spec, root)
    path, wrong = find(spec, file, root)
    for other, problem in wrong.items():
        kept = f"; it is now {_put_aside(other)}" if other.parent == folder else ""
        say.warn(f"{spec.noun} '{spec.name}': {other} is not used: it has {problem}{kept}")
    if path is None:
        download(file, folder, spec.name, say.detail, spec.noun)
    elif path.parent != folder:
        _place(path, folder / file.name)


def _all_there(spec: StoredFiles, folder: Path, say: Reporter) -> bool:
    """Whether each file is in the folder, with the manifest's size and checksum."""
    paths = [(folder / file.name, file) for file in spec.files]
    if not all(path.is_file() for path, _ in paths):
        return False  # without reading the others, which may be large
    for path, file in paths:
        say.detail(f"checking {file.name}")
        if checksum_problem(path, file) is not None:
            return False
    return True


def _put_aside(path: Path) -> Path:
    """Rename a wrong file instead of removing it: it may be the user's only copy."""
    aside, number = path.with_name(f"{path.name}.wrong"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.wrong-{number}")
    with disk_errors(path, PLACE):
        path.rename(aside)
    return aside


def checksums_of(spec: StoredFiles) -> dict[str, str]:
    """Name of each file -> its checksum in the manifest."""
    return {file.name: file.sha256 or file.md5 or "" for file in spec.files}


def unpacked_record(spec: StoredFiles, root: Path) -> dict[str, Any] | None:
    """The record about the unpacked archives; None if they are not unpacked.

    Raises:
        DamagedRecordError: the record cannot be read or has changed.
    """
    folder = unpacked_folder(spec, root)
    return read_checksummed(folder / RECORD) if folder.is_dir() else None


def unpacked_whole(spec: StoredFiles, root: Path) -> bool:
    """Whether the manifest's archives are unpacked and all files have their sizes."""
    try:
        record = unpacked_record(spec, root)
    except DamagedRecordError:
        return False
    if record is None or record["archives"] != checksums_of(spec):
        return False
    content = content_folder(spec, root)
    try:
        return all(
            os.stat(content / name).st_size == size  # noqa: PTH116 - twice as fast as Path.stat
            for name, (size, _) in record["files"].items()
        )
    except OSError:
        return False


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock file; wait until no other process holds it."""
    with disk_errors(path, PLACE):
        lock = FileLock(path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _unpack_all(spec: StoredFiles, root: Path, say: Reporter) -> None:
    target, folder = unpacked_folder(spec, root), dataset_folder(spec, root)
    files: dict[str, tuple[int, str]] = {}
    if target.exists():
        say.warn(
            f"data set '{spec.name}': {target} is incomplete, or from other archives: unpacking "
            "again"
        )
    with disk_errors(target, PLACE), new_folder(target) as temporary:
        content = temporary / "content"
        content.mkdir()
        for file in spec.files:
            say.detail(f"unpacking {spec.name}: {file.name}")
            if file.unpacked_limit is None:
                _place(folder / file.name, content / file.name)
                size = (content / file.name).stat().st_size
                files[file.name] = size, file_digest(content / file.name)
            else:
                files |= unpack(folder / file.name, file.name, content, file.unpacked_limit)
        record = {"schema_version": 1, "archives": checksums_of(spec), "files": files}
        write_checksummed(temporary / RECORD, record)
        remove_folder(target)


def _place(path: Path, target: Path) -> None:
    """Link a file to another path, or copy it if the system cannot."""
    with disk_errors(target, PLACE):
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
