"""Unpacking archives that may be hostile or damaged: tar (gz, bz2, xz), zip, and single gz files.

Names, links and declared sizes are looked at before anything is written; real sizes are counted
while it is. What tarfile keeps in memory, headers and members, is limited too. Links become copies
of what they point to, so no link is ever made, and what was unpacked is the same on every system.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import math
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from oodbench.data.store.dataset_folders import PLACE
from oodbench.data.store.disk import CHUNK, disk_errors
from oodbench.errors import UserError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SUFFIXES = (*TAR_SUFFIXES, ".zip", ".gz")

_MEMBERS = 2_000_000
"""Members that a tar may have; each costs about a kilobyte of memory."""

_HEADERS = 1 << 20
"""Bytes that the headers of a tar may have; tarfile reads a long name whole, however long."""

_HEADERS_PER_MEMBER = 1 << 12
"""Bytes that each member adds to that."""

_COMPRESSED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""By what the file begins with: what reads a compressed tar."""

Unpacked = dict[str, tuple[int, str]]
"""Path in the folder, with "/" -> size in bytes and SHA-256."""


def unpack(archive: Path, name: str, folder: Path, limit: int) -> Unpacked:
    """Unpack an archive into a folder.

    Args:
        archive: the file.
        name: its name, whose suffix tells the format.
        folder: an empty folder; it is unfinished if an error is raised.
        limit: the most bytes that the content may have.

    Returns:
        What was written.

    Raises:
        UserError: a member would be written outside of the folder, or is a link that leads out or
            a device; the content is larger than the limit, or than it says, or a tar's headers
            are; the archive is damaged or of an unknown format; or the disk is full. The first
            three are found before anything is written, as far as the archive tells the truth.
    """
    work = _Unpacking(archive, folder, limit)
    with work.damage_explained():
        if name.endswith(TAR_SUFFIXES):
            work.tar()
        elif name.endswith(".zip"):
            work.zip()
        elif name.endswith(".gz"):
            work.gz(name.removesuffix(".gz"))
        else:
            raise UserError(
                f"{archive}: cannot tell from the name '{name}' how to unpack it.",
                f"Known endings: {', '.join(SUFFIXES)}. A file that is used as it is has no "
                "'unpacked_limit' in the manifest.",
            )
    return work.written


class _Metered:
    """The stream that tarfile reads an archive from; it ends where headers have no end.

    Args:
        content: the archive, decompressed.
        refuse: raises what is to be raised at more than `left` bytes.

    Attributes:
        left: bytes that may still be read.
    """

    def __init__(self, content: IO[bytes], refuse: Callable[[], None]) -> None:
        self._content, self._refuse = content, refuse
        self.left: float = _HEADERS
        self.seek, self.tell = content.seek, content.tell

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes, which is looked at before memory is taken for them."""
        self.left -= size
        if size < 0 or self.left < 0:
            self._refuse()
        return self._content.read(size)


@dataclass
class _Unpacking:
    """One archive being unpacked."""

    archive: Path
    folder: Path
    limit: int
    written: Unpacked = field(default_factory=dict)
    total: int = 0

    def tar(self) -> None:
        with self._decompressed() as content:
            stream = _Metered(content, self._refuse_headers)
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as tar:
                self._tar(tar, stream)

    def _tar(self, tar: tarfile.TarFile, stream: _Metered) -> None:
        files: dict[str, tarfile.TarInfo] = {}
        links: dict[str, str] = {}
        declared = members = 0
        for member in tar:
            # A sparse member is as many parts as it says.
            members += 1 + len(cast(list[Any], getattr(member, "sparse", None)) or ())
            if members > _MEMBERS:
                raise self._refused(f"it has more than {_MEMBERS:,} members")
            stream.left += _HEADERS_PER_MEMBER
            member.pax_headers = {}  # which have been heeded, and may be long
            name = self._safe(member.name)
            if member.issym() or member.islnk():
                links[name] = self._target(member)
                files.pop(name, None)
            elif member.isreg():
                declared += member.size
                self._within_limit(declared)
                files[name] = member
                links.pop(name, None)
            elif not member.isdir():
                raise self._refused(f"its member '{member.name}' is a device or a pipe")
        stream.left = math.inf  # contents are read a piece at a time
        for link, target in links.items():
            declared += files[self._end(link, target, links, files)].size
            self._within_limit(declared)
        for name, member in files.items():
            content = tar.extractfile(member)
            assert content is not None  # it is a regular file
            self._write(name, content, member.size)
        for link, target in links.items():
            self._copy(link, self._end(link, target, links, files))

    def zip(self) -> None:
        with zipfile.ZipFile(self.archive) as archive:
            members: dict[str, zipfile.ZipInfo] = {}
            declared = 0
            for member in archive.infolist():
                name = self._safe(member.filename)
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise self._refused(f"its member '{member.filename}' is a link or a device")
                if member.flag_bits & 1:
                    raise self._refused(f"its member '{member.filename}' is encrypted")
                if not member.is_dir():
                    declared += member.file_size
                    self._within_limit(declared)
                    members[name] = member
            for name, member in members.items():
                with archive.open(member) as content:
                    self._write(name, content, member.file_size)

    def gz(self, name: str) -> None:
        with gzip.open(self.archive) as content:
            self._write(name, cast(IO[bytes], content), None)

    @contextmanager
    def _decompressed(self) -> Iterator[IO[bytes]]:
        """A tar as it was before it was compressed."""
        with self.archive.open("rb") as file:
            start = file.read(max(map(len, _COMPRESSED)))
        reader = next(
            (reader for sign, reader in _COMPRESSED.items() if start.startswith(sign)), None
        )
        with self.archive.open("rb") if reader is None else reader(self.archive) as content:
            yield content

    # --- what is looked at before -------------------------------------------------------------

    def _safe(self, name: str) -> str:
        """The path of a member in the folder, with "/"; "." for the folder itself."""
        path = PurePosixPath(name)
        windows = PureWindowsPath(name)
        outside = path.is_absolute() or ".." in path.parts
        # A backslash or a drive is an ordinary name on Linux and leads elsewhere on Windows.
        if outside or windows.drive or windows.root or "\\" in name or "\0" in name:
            raise self._refused(f"its member '{name}' lies outside of the folder it is unpacked to")
        return path.as_posix()

    def _target(self, member: tarfile.TarInfo) -> str:
        """Where a link points, as a path in the folder."""
        # A hard link names a member; a symbolic link is relative to where it lies.
        base = "" if member.islnk() else posixpath.dirname(member.name)
        target = posixpath.normpath(posixpath.join(base, member.linkname))
        if target.startswith(("/", "../")) or target == "..":
            raise self._refused(f"its link '{member.name}' leads out of the folder it lies in")
        return self._safe(target)

    def _end(
        self, link: str, target: str, links: dict[str, str], files: dict[str, tarfile.TarInfo]
    ) -> str:
        """The file that a link leads to in the end."""
        for _ in range(len(links) + 1):
            if target in files:
                return target
            if target not in links:
                raise self._refused(f"its link '{link}' leads to no file of the archive")
            target = links[target]
        raise self._refused(f"its link '{link}' leads to itself")

    def _within_limit(self, size: int) -> None:
        if size > self.limit:
            raise self._refused(f"its content is larger than {self.limit:,} bytes")

    def _refuse_headers(self) -> None:
        raise self._refused("the headers of its members are longer than names and links need")

    # --- writing ------------------------------------------------------------------------------

    def _write(self, name: str, content: IO[bytes], declared: int | None) -> None:
        path = self.folder / name
        size, checksum = 0, hashlib.sha256()
        with disk_errors(path, PLACE):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                while chunk := self._read(content):
                    size += len(chunk)
                    if declared is not None and size > declared:
                        raise self._refused(f"its member '{name}' is larger than it says")
                    self._within_limit(self.total + size)
                    checksum.update(chunk)
                    file.write(chunk)
        if declared is not None and size != declared:
            raise self._damaged(f"its member '{name}' ends after {size:,} of {declared:,} bytes")
        self.total += size
        self.written[name] = size, checksum.hexdigest()

    def _read(self, content: IO[bytes]) -> bytes:
        # Here too, or an error of reading would be taken for one of the disk that is written to.
        with self.damage_explained():
            return content.read(CHUNK)

    def _copy(self, link: str, target: str) -> None:
        path = self.folder / link
        with disk_errors(path, PLACE):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / target, path)
        self.total += self.written[target][0]
        self.written[link] = self.written[target]

    # --- what is said -------------------------------------------------------------------------

    @contextmanager
    def damage_explained(self) -> Iterator[None]:
        """Turn what the decompressors raise at damaged archives into a message."""
        try:
            yield
        except (
            *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
            *(NotImplementedError, ValueError),  # zip: unknown compression; nonsense in a header
            RecursionError,  # tar: a header of a header of a header, ...
        ) as error:
            raise self._damaged(str(error).rstrip(".") or type(error).__name__) from error

    def _damaged(self, reason: str) -> UserError:
        return UserError(
            f"Cannot unpack {self.archive}: {reason}.",
            "If its checksum is the manifest's, the file is damaged where it comes from; get it "
            "elsewhere.",
        )

    def _refused(self, reason: str) -> UserError:
        return UserError(
            f"Refused to unpack {self.archive}: {reason}.",
            "An honest archive does not do this; if you trust it, unpack it by hand and use a "
            "manifest without 'files'.",
        )
