"""The images of a split as they are stored: what they are called, their labels, their content."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.data.pictures import Content
from oodbench.errors import UserError
from oodbench.files import digest


@dataclass(frozen=True, eq=False)
class Source:
    """The images of one split, not decoded yet.

    Attributes:
        names: what each image is called in messages: for image files, the path in the data set's
            folder.
        labels: shape [N], int64; None for images without classes.
        content: gets an image by its index. Raises OSError if a file cannot be read.
        files: every file that is read, as paths in the data set's folder.
        identity: changes when a file's path, size or time does.
        classes: names of the classes, where the files tell them.
    """

    names: Sequence[str]
    labels: NDArray[np.int64] | None
    content: Callable[[int], Content]
    files: Sequence[str]
    identity: str
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells a file from what it was before, without reading it.

    Attributes:
        path: where it is, parts joined by "/".
        size: in bytes.
        modified: in nanoseconds.
    """

    path: str
    size: int
    modified: int

    @classmethod
    def of(cls, path: str, stat: os.stat_result) -> FileStamp:
        """The stamp of a file that has been looked at."""
        return cls(path, stat.st_size, stat.st_mtime_ns)


def stamp(folder: Path, path: str, where: str = "") -> FileStamp:
    """The stamp of a file in a folder.

    Args:
        folder: the folder.
        path: of the file in it.
        where: what the message begins with: where the path is written, if not in the manifest.

    Raises:
        UserError: if it is not there, or not to be looked at.
    """
    try:
        return FileStamp.of(path, (folder / path).stat())
    except (OSError, ValueError) as error:  # ValueError: a path with a character that none can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{where}cannot read {folder / path}: {reason}.",
            "Correct the path, or put the file there."
            if where
            else "Correct 'paths' in the manifest, or put the file there.",
        ) from error


def identity_of(stamps: Iterable[FileStamp]) -> str:
    """64 hexadecimal digits that change when a stamp does."""
    text = "".join(f"{each.path}\0{each.size}\0{each.modified}\n" for each in stamps)
    # Names that are not valid in the system's encoding are text with surrogates.
    return digest(text.encode("utf-8", "surrogateescape"))


def array_source(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    stamps: Sequence[FileStamp],
) -> Source:
    """Images that were read from a few files all at once.

    Args:
        images: shape [N, C, H, W].
        labels: shape [N], or None.
        stamps: the files.
    """
    return Source(
        names=[f"number {index}" for index in range(len(images))],
        labels=labels,
        content=lambda index: images[index],
        files=[each.path for each in stamps],
        identity=identity_of(stamps),
    )
