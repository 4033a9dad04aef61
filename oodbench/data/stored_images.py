"""The images of a split as they are stored, before decoding: names, labels, contents."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.data.image_decoder import Content, read_encoded
from oodbench.errors import UserError
from oodbench.files import digest


@dataclass(frozen=True, eq=False)
class StoredImages:
    """The images of one split, before decoding.

    Attributes:
        names: name of each image in messages; for image files, the path in the data set's folder.
        labels: shape [N], int64; None for images without classes.
        content: returns an image by its index; raises OSError if a file cannot be read. It can be
            pickled, so that worker processes can read images.
        files: all files that are read, as paths in the data set's folder.
        identity: digest of path, size and modification time of every file.
        classes: names of the classes, if the files contain them.
        note: how the images differ from those that the manifest describes; "" if they do not.
        listing: digest of path and size of every file, the same for a copy of the files; "" if the
            images were read into one array.
    """

    names: Sequence[str]
    labels: NDArray[np.int64] | None
    content: Callable[[int], Content]
    files: Sequence[str]
    identity: str
    classes: tuple[str, ...] = ()
    note: str = ""
    listing: str = ""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class FileContents:
    """Reads image files.

    Attributes:
        folder: the folder of the files.
        names: paths of the files in the folder.
    """

    folder: Path
    names: Sequence[str]

    def __call__(self, index: int) -> bytes:
        """The bytes of a file; OSError if it cannot be read."""
        return read_encoded(self.folder / self.names[index])


@dataclass(frozen=True, eq=False)
class ArrayContents:
    """Images of an array.

    Attributes:
        images: shape [N, C, H, W].
    """

    images: NDArray[np.uint8]

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """An image, shape [C, H, W]."""
        image: NDArray[np.uint8] = self.images[index]
        return image


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Path, size and modification time, which show a change without reading the file.

    Attributes:
        path: path of the file, parts joined by "/".
        size: size in bytes.
        modified: modification time in nanoseconds.
    """

    path: str
    size: int
    modified: int

    @classmethod
    def of(cls, path: str, stat: os.stat_result) -> FileStamp:
        """The stamp for a path and its `os.stat` result."""
        return cls(path, stat.st_size, stat.st_mtime_ns)


def stamp(folder: Path, path: str, where: str = "") -> FileStamp:
    """The stamp of a file in a folder.

    Args:
        folder: the folder.
        path: path of the file, relative to the folder.
        where: beginning of the message: the place where the path is written, if that is not the
            manifest.

    Raises:
        UserError: the file does not exist or cannot be accessed.
    """
    try:
        return FileStamp.of(path, (folder / path).stat())
    except (OSError, ValueError) as error:  # ValueError: an invalid character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{where}cannot read {folder / path}: {reason}.",
            "Correct the path, or put the file there."
            if where
            else "Correct 'paths' in the manifest, or put the file there.",
        ) from error


def identity_of(stamps: Iterable[FileStamp]) -> str:
    """Digest of stamps, 64 hexadecimal digits."""
    text = "".join(f"{each.path}\0{each.size}\0{each.modified}\n" for each in stamps)
    # Names that are not valid in the system's encoding contain surrogates.
    return digest(text.encode("utf-8", "surrogateescape"))


def listing_of(stamps: Iterable[FileStamp]) -> str:
    """Digest of paths and sizes, 64 hexadecimal digits: equal for a copy of the files."""
    return identity_of(FileStamp(each.path, each.size, 0) for each in stamps)


def images_of_array(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    stamps: Sequence[FileStamp],
) -> StoredImages:
    """Images that were read into one array.

    Args:
        images: shape [N, C, H, W].
        labels: shape [N], or None.
        stamps: stamps of the files that were read.
    """
    return StoredImages(
        names=[f"number {index}" for index in range(len(images))],
        labels=labels,
        content=ArrayContents(images),
        files=[each.path for each in stamps],
        identity=identity_of(stamps),
    )
