"""The files of a manifest: found or downloaded, archives unpacked.

A file with the manifest's size and checksum is used where it is, also in the folder of another data
set; otherwise it is downloaded, and a wrong file of its name is kept as `<name>.wrong`. A file
without a published checksum that has changed since it was first fetched is an error. Archives are
unpacked into `<data set's folder>/unpacked/`: `content/`, and `record.json` with the checksum of
every archive and of every unpacked file. The folder gets its name when it is complete.
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
from oodbench.data.store.checksums import (
    FirstFetch,
    checksum_problem,
    first_fetch,
    record_first_fetch,
    record_path,
    with_line_feeds,
    with_recorded_checksum,
)
from oodbench.data.store.disk import disk_errors, file_digest, new_folder, remove_folder
from oodbench.data.store.download import download
from oodbench.data.store.locations import (
    PLACE,
    StoredFiles,
    content_folder,
    dataset_folder,
    unpacked_folder,
)
from oodbench.errors import UserError
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
    """Look for a file in the data set's folder, in the data root and in the folders of others.

    Returns:
        Its path, or None; and for wrong files of its name, what is wrong with them.

    Raises:
        UserError: the record about a file without a published checksum is damaged.
    """
    wrong: dict[Path, str] = {}
    folder = dataset_folder(spec, root)
    known = with_recorded_checksum(file, folder)
    for path in (folder / file.name, root / file.name):
        if path.is_file():
            problem = checksum_problem(path, known)
            if problem is None:
                return path, wrong
            wrong[path] = problem
    for path in sorted({*root.glob(f"*/{file.name}"), *root.glob(f"*/*/{file.name}")}):
        if path.parent != folder and path.is_file() and _is_same_file(path, file, known):
            return path, wrong
    return None, wrong


def _is_same_file(path: Path, file: FileSpec, known: FileSpec) -> bool:
    """Whether a file of another data set is the one that is wanted."""
    if not known.checksum:
        origin = first_fetch(path)
        if origin is None or origin.source not in file.urls:
            return False
        known = with_recorded_checksum(file, path.parent)
    return checksum_problem(path, known) is None


def obtain(spec: StoredFiles, file: FileSpec, root: Path, say: Reporter) -> None:
    """Find or download a file, and put it into the data set's folder, which must exist.

    Raises:
        UserError: it cannot be found or downloaded; or it has no published checksum and has changed
            since it was first fetched.
    """
    say.detail(f"checking {file.name}")
    folder = dataset_folder(spec, root)
    target = folder / file.name
    path, wrong = find(spec, file, root)
    known = with_recorded_checksum(file, folder)
    if file.unverified is not None and known.checksum and target in wrong:
        raise _changed(spec, target, wrong[target])
    for other, problem in wrong.items():
        kept = f"; it is now {_put_aside(other)}" if other.parent == folder else ""
        say.warn(f"{spec.noun} '{spec.name}': {other} is not used: it has {problem}{kept}")
    if path is None:
        download(known, folder, spec.name, say, spec.noun)
    elif path.parent != folder:
        origin = first_fetch(path) if file.unverified is not None else None
        _place(path, target, text=file.text)
        if origin is not None:
            record_first_fetch(target, origin.source)
    if file.unverified is not None:
        record_first_fetch(target, str(path or target))


def _changed(spec: StoredFiles, path: Path, problem: str) -> UserError:
    origin = first_fetch(path)
    when = "" if origin is None else f" (on {origin.day}, from {origin.source})"
    return UserError(
        f"{spec.noun} '{spec.name}': {path} has changed since it was first fetched{when}: it has "
        f"{problem}.",
        f"Delete it to fetch it again. If the new file is right, delete {record_path(path)} "
        "instead; results may differ then.",
    )


def _all_there(spec: StoredFiles, folder: Path, say: Reporter) -> bool:
    """Whether each file is in the folder, with the right size and checksum."""
    paths = [(folder / file.name, with_recorded_checksum(file, folder)) for file in spec.files]
    if not all(path.is_file() and file.checksum for path, file in paths):
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


def checksums_of(spec: StoredFiles, root: Path) -> dict[str, str]:
    """Name of each file -> its checksum, as published or recorded; empty if there is none yet.

    Raises:
        UserError: the record about a file without a published checksum is damaged.
    """
    folder = dataset_folder(spec, root)
    return {file.name: with_recorded_checksum(file, folder).checksum for file in spec.files}


def unverified_files(spec: StoredFiles, root: Path) -> dict[FileSpec, FirstFetch | None]:
    """Files without a published checksum -> how each was first fetched; None if it never was.

    Raises:
        UserError: the record about a file is damaged.
    """
    folder = dataset_folder(spec, root)
    files = (file for file in spec.files if file.unverified is not None)
    return {file: first_fetch(folder / file.name) for file in files}


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
    if record is None or record["archives"] != checksums_of(spec, root):
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
                _place(folder / file.name, content / file.name, text=file.text)
                size = (content / file.name).stat().st_size
                files[file.name] = size, file_digest(content / file.name)
            else:
                with _blame_on_the_file(file, folder):
                    files |= unpack(folder / file.name, file.name, content, file.unpacked_limit)
        record = {"schema_version": 1, "archives": checksums_of(spec, root), "files": files}
        write_checksummed(temporary / RECORD, record)
        remove_folder(target)


@contextmanager
def _blame_on_the_file(file: FileSpec, folder: Path) -> Iterator[None]:
    """Say what to do with an archive that no published checksum shows to be right."""
    try:
        yield
    except UserError as error:
        if file.unverified is not None:
            path = folder / file.name
            error.hint = (
                f"{error.hint} No checksum of {file.name} is published: delete {path} and "
                f"{record_path(path)} to fetch it again."
            )
        raise


def _place(path: Path, target: Path, *, text: bool) -> None:
    """Link a file to another path, or copy it if the system cannot; texts get LF line ends."""
    part = target.with_name(f"{target.name}.part")
    with disk_errors(target, PLACE):
        target.unlink(missing_ok=True)
        if text and b"\r\n" in (content := path.read_bytes()):
            part.write_bytes(with_line_feeds(content))
        else:
            try:
                os.link(path, target)
            except OSError:
                shutil.copyfile(path, part)
            else:
                return
        part.replace(target)
