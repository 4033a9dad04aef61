"""Images in zip and tar files that are not unpacked; any process can read them."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.data.image_decoder import SUFFIXES
from oodbench.errors import UserError

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


@dataclass(frozen=True)
class ZipContents:
    """Reads members of a zip file.

    Attributes:
        path: the file.
        members: name of each member.
    """

    path: Path
    members: Sequence[str]

    def __call__(self, index: int) -> bytes:
        """The bytes of a member; OSError if they cannot be read."""
        try:
            return _opened(self.path, os.getpid()).read(self.members[index])
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
            raise OSError(f"{self.path}: {e}") from e


class Members:
    """The images in a zip or tar file.

    Args:
        path: the file; its suffix tells the format.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spans: dict[str, tuple[int, int]] = {}
        try:
            if path.suffix == ".tar":
                with tarfile.open(path, "r:") as file:
                    self._spans = {
                        each.name.removeprefix("./"): (each.offset_data, each.size)
                        for each in file
                        if each.isreg()
                    }
                found = list(self._spans)
            else:
                found = [each.filename for each in _opened(path, os.getpid()).infolist()]
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
        except (zipfile.BadZipFile, tarfile.TarError, ValueError, EOFError) as error:
            raise UserError(
                f"cannot read {path}: {error}.", "It is damaged: remove it to fetch it again."
            ) from error
        self.names = [name for name in found if _is_image(name)]
        """Paths of the images, parts joined by "/"."""

    def contents(self, names: Sequence[str]) -> TarContents | ZipContents:
        """Reads some of the images, in the given order."""
        if self._path.suffix == ".tar":
            spans = [self._spans[name] for name in names]
            return TarContents(self._path, np.array(spans, dtype=np.int64).reshape(-1, 2))
        return ZipContents(self._path, list(names))


def _is_image(name: str) -> bool:
    stem = name.rpartition("/")[2]
    return (
        stem.rpartition(".")[2].lower() in SUFFIXES
        and not stem.startswith(".")
        and not name.startswith(_JUNK)
    )


@lru_cache(maxsize=4)
def _opened(path: Path, process: int) -> zipfile.ZipFile:
    """A zip file, opened once in each process: a forked one must not share the file's position."""
    del process
    return zipfile.ZipFile(path)
