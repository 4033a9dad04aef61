"""Checksums of downloaded files: of the manifest, or recorded when a file is first fetched.

A file without a published checksum has a record beside it, `<name>.first-fetch.json`: checksum,
size, who fetched it, when and from where. From then on the file is verified against the record, as
other files are against the manifest.
"""

from __future__ import annotations

import getpass
import hashlib
import platform
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from oodbench.data.store.checksummed_json import (
    DamagedRecordError,
    read_checksummed,
    write_checksummed,
)
from oodbench.data.store.disk import disk_errors, file_digest
from oodbench.data.store.locations import PLACE
from oodbench.errors import UserError
from oodbench.specs import FileSpec
from oodbench.version import __version__

_WEB_PAGE = (b"<!doctype html", b"<html")


@dataclass(frozen=True)
class FirstFetch:
    """How a file without a published checksum was first fetched.

    Attributes:
        sha256: checksum of the file.
        size: size in bytes.
        source: the address, or the place where the user put the file.
        fetched_by: user and machine.
        fetched_at: date and time, UTC.
        oodbench: version of oodbench.
    """

    sha256: str
    size: int
    source: str
    fetched_by: str
    fetched_at: str
    oodbench: str

    @property
    def day(self) -> str:
        """The date, for messages."""
        return self.fetched_at.partition("T")[0]


def record_path(file: Path) -> Path:
    """The path of the record about a file."""
    return file.with_name(f"{file.name}.first-fetch.json")


def first_fetch(file: Path) -> FirstFetch | None:
    """The record about a file, which need not exist any more; None if there is no record.

    Raises:
        UserError: the record is damaged.
    """
    path = record_path(file)
    if not path.is_file():
        return None
    try:
        return FirstFetch(**read_checksummed(path))
    except (DamagedRecordError, TypeError) as error:
        raise UserError(
            f"The record of the checksum of {file.name} is damaged: {path}: {error}.",
            f"If you trust {file}, delete the record: a new one is made. Otherwise delete both.",
        ) from error


def record_first_fetch(file: Path, source: str, *, content: Path | None = None) -> None:
    """Record the checksum of a file, unless there is a record.

    Args:
        file: the file.
        source: the address, or the place where the user put it.
        content: where the content of the file is until it gets its name; None: in `file`.

    Raises:
        UserError: the record cannot be written.
    """
    path, held = record_path(file), content or file
    if path.exists():
        return
    record = {
        "sha256": file_digest(held),
        "size": held.stat().st_size,
        "source": source,
        "fetched_by": f"{_user()}@{platform.node()}",
        "fetched_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "oodbench": __version__,
    }
    part = path.with_name(f"{path.name}.part")
    with disk_errors(path, PLACE):
        write_checksummed(part, record)
        part.replace(path)


def with_recorded_checksum(spec: FileSpec, folder: Path) -> FileSpec:
    """The spec of a file, with checksum and size of the record in a folder if none is published.

    Raises:
        UserError: the record is damaged.
    """
    known = None if spec.unverified is None else first_fetch(folder / spec.name)
    if known is None:
        return spec
    return spec.model_copy(update={"sha256": known.sha256, "size": known.size})


def checksum_problem(path: Path, spec: FileSpec) -> str | None:
    """What is wrong with a file's size or checksum; None if both are right.

    Without a checksum, only what no file of its name can contain is a problem.
    """
    text = with_line_feeds(path.read_bytes()) if spec.text else None
    size = path.stat().st_size if text is None else len(text)
    if spec.size is not None and size != spec.size:
        return f"{size:,} bytes instead of {spec.size:,}"
    if not spec.checksum:
        return _wrong_content(path, spec.name)
    algorithm = "md5" if spec.sha256 is None else "sha256"
    if text is None:
        found = file_digest(path, algorithm)
    else:
        found = hashlib.new(algorithm, text).hexdigest()
    return (
        None
        if found.startswith(spec.checksum)
        else f"{algorithm} {found} instead of {spec.checksum}"
    )


def with_line_feeds(text: bytes) -> bytes:
    """A text with LF at the end of its lines."""
    return text.replace(b"\r\n", b"\n")


def _wrong_content(path: Path, name: str) -> str | None:
    with path.open("rb") as file:
        start = file.read(512)
    if is_web_page(start):
        return "the content of a web page"
    if name.endswith(".zip") and not zipfile.is_zipfile(path):
        return "the content of an incomplete zip archive"
    return None


def is_web_page(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a web page."""
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_WEB_PAGE)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a user
        return "unknown"
