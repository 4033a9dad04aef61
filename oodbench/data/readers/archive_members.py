"""Images in zip and tar files that are not unpacked; any process can read them."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.data.image_decoder import LARGEST_FILE, SUFFIXES
from oodbench.data.readers.tar_members import TAR_ERRORS, TarMembers, UnsafeTarError
from oodbench.errors import UserError

_HEADER = 30
"""Bytes of a member's header in a zip file, before its name; the last four are two lengths."""

_JUNK = ("__MACOSX/",)
"""Folders that an operating system adds to zip files."""


@dataclass(frozen=True, eq=False)
class TarContents:
    """Reads members of a tar file without compression, by their position.

    Attributes:
        path: the file.
        spans: shape [N, 2], int64: position and size of each member's data, in bytes.
    """

    path: Path
    spans: NDArray[np.int64]

    def __call__(self, index: int) -> bytes:
        """The bytes of a member; OSError if they cannot be read."""
        start, size = self.spans[index].tolist()
        with self.path.open("rb") as file:
            file.seek(start)
            content = file.read(size)
        if len(content) < size:
            raise OSError(f"{self.path} ends before it")
        return content


@dataclass(frozen=True, eq=False)
class ZipContents:
    """Reads members of a zip file, by their position: processes and threads share no open file.

    Attributes:
        path: the file.
        spans: shape [N, 5], int64: position of each member's header, size of its compressed data,
            size of its data, compression method (0: none, 8: deflate), CRC-32.
    """

    path: Path
    spans: NDArray[np.int64]

    def __call__(self, index: int) -> bytes:
        """The bytes of a member; OSError if they cannot be read."""
        start, compressed, size, method, checksum = self.spans[index].tolist()
        with self.path.open("rb") as file:
            file.seek(start)
            header = file.read(_HEADER)
            if len(header) == _HEADER:
                name, extra = struct.unpack("<HH", header[-4:])
                file.seek(name + extra, os.SEEK_CUR)
            content = file.read(compressed)
        if method == zipfile.ZIP_DEFLATED:
            try:  # a byte more than it says is enough for a wrong checksum
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
            except zlib.error as error:
                raise OSError(f"{self.path}: {error}") from error
        elif method != zipfile.ZIP_STORED:
            raise OSError(f"{self.path}: its compression method {method} is not known")
        if zlib.crc32(content) != checksum:
            raise OSError(f"{self.path}: its CRC-32 is wrong")
        return content


class Members:
    """The images in a zip or tar file, without those of more than a gigabyte.

    Args:
        path: the file; its suffix tells the format.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spans: dict[str, tuple[int, ...]] = {}
        try:
            length = path.stat().st_size
            for name, span, sizes in _tar(path) if path.suffix == ".tar" else _zip(path):
                if max(sizes) <= LARGEST_FILE and span[0] < length:
                    self._spans[name] = span
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
        except (*TAR_ERRORS, UnsafeTarError, zipfile.BadZipFile, struct.error) as error:
            raise UserError(
                f"cannot read {path}: {error}.", "It is damaged: remove it to fetch it again."
            ) from error
        self.names = [name for name in self._spans if _is_image(name)]
        """Paths of the images, parts joined by "/"."""

    def contents(self, names: Sequence[str]) -> TarContents | ZipContents:
        """Reads some of the images, in the given order."""
        spans = np.array([self._spans[name] for name in names], dtype=np.int64)
        if self._path.suffix == ".tar":
            return TarContents(self._path, spans.reshape(-1, 2))
        return ZipContents(self._path, spans.reshape(-1, 5))


_Found = Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]
"""Name, span and sizes of each member."""


def _tar(path: Path) -> _Found:
    with path.open("rb") as file:
        for each in TarMembers(file):
            if each.isreg() and not each.issparse():
                yield each.name.removeprefix("./"), (each.offset_data, each.size), (each.size,)


def _zip(path: Path) -> _Found:
    with zipfile.ZipFile(path) as archive:
        for each in archive.infolist():
            sizes = each.compress_size, each.file_size
            yield each.filename, (each.header_offset, *sizes, each.compress_type, each.CRC), sizes


def _is_image(name: str) -> bool:
    stem = name.rpartition("/")[2]
    return (
        stem.rpartition(".")[2].lower() in SUFFIXES
        and not stem.startswith(".")
        and not name.startswith(_JUNK)
    )
