"""Unpacking archives that may be hostile or damaged: tar (gz, bz2, xz), zip, and single gz files.

Names, links and declared sizes are checked before anything is written; real sizes are counted
while writing. The headers of a tar are limited too (`oodbench.data.readers.tar_members`). Links
become copies of their targets: no link is created, and the unpacked files are the same everywhere.

`tarfile.data_filter` refuses devices, and members and links that lead out of the folder. Own checks
are needed beyond it because it strips leading slashes instead of refusing them, applies the path
rules of the running system only (drives, backslashes), limits no sizes, and exists only for tar.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import posixpath
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from oodbench.data.readers.tar_members import TAR_ERRORS, TarMembers, UnsafeTarError
from oodbench.data.store.disk import CHUNK, disk_errors
from oodbench.data.store.locations import PLACE
from oodbench.errors import UserError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SUFFIXES = (*TAR_SUFFIXES, ".zip", ".gz")

_COMPRESSED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""First bytes of a compressed tar -> function that opens it."""

Unpacked = dict[str, tuple[int, str]]
"""Path in the folder, with "/" -> size in bytes and SHA-256."""


def unpack(archive: Path, name: str, folder: Path, limit: int) -> Unpacked:
    """Unpack an archive into a folder.

    Args:
        archive: the file.
        name: name of the archive; its suffix decides the format.
        folder: an empty folder; it is incomplete if an error is raised.
        limit: maximum size of the content in bytes.

    Returns:
        Size and checksum of every file that was written.

    Raises:
        UserError: a member lies outside of the folder, is a link that leads out of it, or is a
            device; content or headers are too large, or larger than declared; the archive is
            damaged or of an unknown format; or the disk is full. Bad members and declared sizes
            are found before anything is written.
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
                f"Known suffixes: {', '.join(SUFFIXES)}. If the file is not an archive, remove its "
                "'unpacked_limit' from the manifest.",
            )
    return work.written


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
            try:
                self._tar(TarMembers(content))
            except UnsafeTarError as error:
                raise self._refused(str(error)) from error

    def _tar(self, members: TarMembers) -> None:
        files: dict[str, tarfile.TarInfo] = {}
        links: dict[str, str] = {}
        declared = 0
        for member in members:
            name = self._safe(member.name)
            if not (member.isreg() or member.isdir()):  # of those, `_safe` has checked all
                self._filter(member)
            if member.issym() or member.islnk():
                links[name] = self._target(member)
                files.pop(name, None)
            elif member.isreg():
                declared += member.size
                self._within_limit(declared)
                files[name] = member
                links.pop(name, None)
        ends: dict[str, str] = {}
        for link in links:
            declared += files[self._end(link, links, files, ends)].size
            self._within_limit(declared)
        # In the order of the archive: going back, a compressed one is read from its start.
        for name, member in sorted(files.items(), key=lambda item: item[1].offset_data):
            content = members.tar.extractfile(member)
            assert content is not None  # it is a regular file
            self._write(name, content, member.size)
        for link in links:
            self._copy(link, ends[link])

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
        """The decompressed tar."""
        with self.archive.open("rb") as file:
            start = file.read(max(map(len, _COMPRESSED)))
        reader = next(
            (reader for sign, reader in _COMPRESSED.items() if start.startswith(sign)), None
        )
        with self.archive.open("rb") if reader is None else reader(self.archive) as content:
            yield content

    # --- checks before anything is written ----------------------------------------------------

    def _safe(self, name: str) -> str:
        """Path of a member relative to the folder, with "/"; "." for the folder itself."""
        path = PurePosixPath(name)
        windows = PureWindowsPath(name)
        outside = path.is_absolute() or ".." in path.parts
        # Backslashes and drives are part of a name on Linux, but lead elsewhere on Windows.
        if outside or windows.drive or windows.root or "\\" in name or "\0" in name:
            raise self._refused(f"its member '{name}' lies outside of the folder it is unpacked to")
        return path.as_posix()

    def _filter(self, member: tarfile.TarInfo) -> None:
        """Apply the standard library's filter."""
        try:
            tarfile.data_filter(member, str(self.folder))
        except tarfile.SpecialFileError as error:
            raise self._refused(f"its member '{member.name}' is a device or a pipe") from error
        except (tarfile.AbsoluteLinkError, tarfile.LinkOutsideDestinationError) as error:
            raise self._refused(f"its link '{member.name}' leads out of the folder") from error
        except tarfile.FilterError as error:
            raise self._refused(f"its member '{member.name}' is not safe: {error}") from error

    def _target(self, member: tarfile.TarInfo) -> str:
        """Target of a link, as a path relative to the folder."""
        # Hard links name a member; symbolic links are relative to their own folder.
        base = "" if member.islnk() else posixpath.dirname(member.name)
        return self._safe(posixpath.normpath(posixpath.join(base, member.linkname)))

    def _end(
        self,
        link: str,
        links: dict[str, str],
        files: dict[str, tarfile.TarInfo],
        ends: dict[str, str],
    ) -> str:
        """The file at the end of a chain of links; `ends` keeps that of every link on the way."""
        chain = [link]
        while (target := links[chain[-1]]) not in files and target not in ends:
            if target not in links:
                raise self._refused(f"its link '{link}' leads to no file of the archive")
            chain.append(target)
            if len(chain) > len(links):
                raise self._refused(f"its link '{link}' leads to itself")
        end = ends.get(target, target)
        ends |= dict.fromkeys(chain, end)
        return end

    def _within_limit(self, size: int) -> None:
        if size > self.limit:
            raise self._refused(f"its content is larger than {self.limit:,} bytes")

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
        # Here too: otherwise an error of reading looks like an error of the target disk.
        with self.damage_explained():
            return content.read(CHUNK)

    def _copy(self, link: str, target: str) -> None:
        path = self.folder / link
        with disk_errors(path, PLACE):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / target, path)
        self.total += self.written[target][0]
        self.written[link] = self.written[target]

    # --- errors -------------------------------------------------------------------------------

    @contextmanager
    def damage_explained(self) -> Iterator[None]:
        """Turn errors of the decompressors into messages."""
        try:
            yield
        except (
            *(*TAR_ERRORS, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError),
            NotImplementedError,  # zip: unknown compression
        ) as error:
            raise self._damaged(str(error).rstrip(".") or type(error).__name__) from error

    def _damaged(self, reason: str) -> UserError:
        return UserError(
            f"Cannot unpack {self.archive}: {reason}.",
            "If its checksum is right, the published file is damaged: get it from another place.",
        )

    def _refused(self, reason: str) -> UserError:
        return UserError(
            f"Refused to unpack {self.archive}: {reason}.",
            "Normal archives do not do this. If you trust it, unpack it by hand and use a manifest "
            "without 'files'.",
        )
