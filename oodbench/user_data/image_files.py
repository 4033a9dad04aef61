"""Image files that a user names: found in files, folders and lists, decoded while they are read.

Pixels are those of a benchmark's images (`oodbench.data.image_decoder`): color is converted to RGB
or gray (ITU-R 601) and gray to equal channels, palettes are resolved, transparency is dropped, EXIF
orientation is ignored, of an animation the first image is taken. An image with more than 8 bits per
channel is refused, and so is one of more than 178 million pixels, Pillow's limit.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from oodbench.data.decoding_workers import in_batches, parts_loader, worker_count
from oodbench.data.image_decoder import (
    SUFFIXES,
    CorruptImageError,
    Shape,
    WrongShapeError,
    decode_image,
    read_encoded,
)
from oodbench.errors import UserError, counted, listed
from oodbench.specs import ResizeSpec

LIST_SUFFIX = ".txt"
"""Suffix of a file with one path a line."""

STANDARD_INPUT = "-"
"""In the place of a list: its lines come from standard input."""

_MOST_AT_ONCE = 256
_PLACES = 1 << 22
"""Maximum of images x height x width in a batch, if no size is given."""


def usual_batch_size(shape: tuple[int, ...]) -> int:
    """Images of a batch if no size is given, for images of this shape, channels first."""
    return max(1, min(_MOST_AT_ONCE, _PLACES // max(1, math.prod(shape[1:]))))


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file.

    Attributes:
        path: the path that was given, or one below the folder that was given.
        label: name of the sub-folder of that folder which it lies in, or its label in a list; "" if
            there is none.
    """

    path: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class FoundImages:
    """The image files of some places.

    Attributes:
        files: in the order of the places; of a folder, sorted by path.
        unreadable: (folder, reason) of sub-folders that cannot be read.
        left_out: suffix -> number of other files in the folders.
    """

    files: tuple[ImageFile, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    left_out: Counter[str] | None = None

    @property
    def note(self) -> str:
        """What is left out of the folders, a sentence; "" if nothing is."""
        if not self.left_out:
            return ""
        suffixes = listed(suffix or "none" for suffix, _ in self.left_out.most_common())
        count = self.left_out.total()
        return f"{counted(count, 'file')} without the suffix of an image left out ({suffixes})."


def find_images(places: Sequence[str | Path]) -> FoundImages:
    """The image files of files, folders and lists.

    Of a folder and its sub-folders, files with the suffix of an image are taken, sorted by code
    point of their paths; names that begin with "." are ignored, links are followed. A list is a
    file with the suffix `.txt`, or "-" for standard input: a path a line, relative to the list (to
    the working directory for "-"), then perhaps a tab and a label. Any other file is taken for an
    image.

    Raises:
        UserError: a place does not exist, a list cannot be read, or there is no image.
    """
    walk = _Walk()
    for place in places:
        walk.add(place)
    if not walk.files:
        left_out = FoundImages((), (), walk.left_out).note
        raise UserError(
            f"There is no image in {listed(map(str, places))}.",
            left_out or "Give image files, folders with images, or a .txt file with paths.",
        )
    return FoundImages(tuple(walk.files), tuple(walk.unreadable), walk.left_out)


class _Walk:
    def __init__(self) -> None:
        self.files: list[ImageFile] = []
        self.unreadable: list[tuple[str, str]] = []
        self.left_out: Counter[str] = Counter()

    def add(self, place: str | Path) -> None:
        """Add the images of a file, a folder or a list."""
        given = Path(place)
        if str(place) == STANDARD_INPUT:
            self._add_lines(sys.stdin, Path())
        elif given.is_dir():
            self._add_folder(given, "", frozenset())
        elif not os.path.lexists(given):
            raise UserError(f"There is no file or folder {given}.", "Correct the path.")
        elif given.suffix.lower() == LIST_SUFFIX:
            self._add_list(given)
        else:
            self.files.append(ImageFile(str(given)))

    def _add_list(self, path: Path) -> None:
        try:
            with path.open(encoding="utf-8-sig", newline="\n") as lines:
                self._add_lines(lines, path.parent)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise UserError(f"cannot read {path}: {error}.", "It must be UTF-8 text.") from error

    def _add_lines(self, lines: Iterable[str], folder: Path) -> None:
        for line in lines:
            name, _, label = line.rstrip("\r\n").partition("\t")
            if name.strip() and not name.startswith("#"):
                self.files.append(ImageFile(str(folder / name.strip()), label.strip()))

    def _add_folder(self, folder: Path, label: str, above: frozenset[tuple[int, int]]) -> None:
        """Add the images of a folder.

        Args:
            folder: the folder.
            label: name of the sub-folder of the given one that it lies in; "" for the given one.
            above: device and inode of the folders above: links to them would have no end.
        """
        try:
            about = folder.stat()
            here = about.st_dev, about.st_ino
            if here in above and here[1] != 0:  # some file systems have no inode numbers
                return
            with os.scandir(folder) as found:
                # Sorted so, all paths are in the order of their code points.
                entries = sorted((f"{e.name}/" if e.is_dir() else e.name, e.path) for e in found)
        except OSError as error:
            self.unreadable.append((str(folder), error.strerror or str(error)))
            return
        for name, path in entries:
            if name.startswith("."):
                continue
            if name.endswith("/"):
                self._add_folder(Path(path), label or name[:-1], above | {here})
            elif name.rpartition(".")[2].lower() in SUFFIXES:
                self.files.append(ImageFile(path, label))
            else:
                self.left_out[Path(name).suffix.lower()] += 1


@dataclass(frozen=True, eq=False)
class _Part:
    """What a worker decoded.

    Attributes:
        pixels: shape [N, C, H, W], uint8.
        indices: of these images.
        unreadable: index -> why it cannot be read or decoded.
        lost: what conversion dropped of images.
    """

    pixels: Tensor
    indices: list[int]
    unreadable: dict[int, str]
    lost: list[str]


class _Parts(Dataset[_Part]):
    def __init__(
        self, files: Sequence[ImageFile], shape: Shape, resize: ResizeSpec | None, length: int
    ) -> None:
        self._files, self._how, self._length = files, (shape, resize), length

    def __len__(self) -> int:
        return math.ceil(len(self._files) / self._length)

    def __getitem__(self, number: int) -> _Part:
        start = number * self._length
        pixels, indices, lost = [], [], []
        unreadable: dict[int, str] = {}
        for index in range(start, min(start + self._length, len(self._files))):
            try:
                image, dropped = decoded_file(self._files[index].path, *self._how)
            except CorruptImageError as error:
                unreadable[index] = str(error)
                continue
            pixels.append(image)
            indices.append(index)
            lost += [dropped] if dropped else []
        stacked = np.stack(pixels) if pixels else np.empty((0, *self._how[0]), np.uint8)
        return _Part(torch.from_numpy(stacked), indices, unreadable, lost)


def decoded_file(
    path: str, shape: Shape, resize: ResizeSpec | None
) -> tuple[NDArray[np.uint8], str]:
    """Pixels [C, H, W] of an image file, and what conversion dropped (`decode_image`).

    Raises:
        CorruptImageError: whatever goes wrong; the message is the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, such as of images that are large
            return decode_image(_content(path), shape, resize)
    except WrongShapeError as error:
        size = "x".join(map(str, shape[1:]))
        raise CorruptImageError(
            f"it is {error}, and the detector takes {size} and resizes no images"
        ) from error
    except MemoryError as error:
        raise CorruptImageError("it does not fit into the memory") from error


def _content(path: str) -> bytes:
    """The bytes of a file; CorruptImageError if it cannot be read."""
    try:
        content = read_encoded(Path(path))
    except (OSError, ValueError) as error:  # ValueError: an invalid character in the path
        reason = error.strerror if isinstance(error, OSError) else None
        raise CorruptImageError(reason or str(error)) from error
    if not content:
        raise CorruptImageError("the file is empty")
    return content


class ImageStream:
    """Images that are decoded each time they are read, in the order of their files.

    Args:
        files: the files.
        shape: channels (1: gray, 3: RGB), height, width of the images.
        resize: how images of other sizes are resized; None: they are skipped.
        batch_size: images of a batch.
        workers: number of worker processes that decode ahead; 0: this process decodes; None:
            `oodbench.data.decoding_workers.worker_count`.
        report: called with each file that cannot be read or decoded, and the reason; it is skipped.
        name: the name in messages.

    Attributes:
        read: index of the file of each image, in the order of the images; grows during a pass, and
            may be ahead of the batches.
        lost: what conversion dropped, "transparency" or "CMYK" -> number of images so far.
    """

    def __init__(
        self,
        files: Sequence[ImageFile],
        shape: Shape,
        resize: ResizeSpec | None,
        *,
        batch_size: int,
        workers: int | None = None,
        report: Callable[[ImageFile, str], None] = lambda file, reason: None,
        name: str = "the images",
    ) -> None:
        self.files, self.name, self._report = files, name, report
        self.shape, self.resize = shape, resize
        self._batch_size = batch_size
        self._workers = worker_count() if workers is None else workers
        self.read: list[int] = []
        self.lost: Counter[str] = Counter()

    @property
    def size(self) -> int:
        """Number of files."""
        return len(self.files)

    def first(self) -> tuple[Tensor, None]:
        """Images [B, C, H, W], uint8, of the first batch, decoded in this process; kept."""
        return self._first, None

    @functools.cached_property
    def _first(self) -> Tensor:
        parts = _Parts(self.files, self.shape, self.resize, self._batch_size)
        found = (part.pixels for part in map(parts.__getitem__, range(len(parts))))
        return next(filter(len, found), torch.empty((0, *self.shape), dtype=torch.uint8))

    def batches(self) -> Iterator[tuple[Tensor, None]]:
        """Images [B, C, H, W], uint8, of all batches; all have the batch size but the last one.

        Raises:
            UserError: a worker process was killed.
        """
        self.read.clear()
        self.lost.clear()
        for images in in_batches(self._pixels(), self._batch_size):
            yield images, None

    def _pixels(self) -> Iterator[Tensor]:
        parts = functools.partial(_Parts, self.files, self.shape, self.resize)
        loader = parts_loader(parts, math.prod(self.shape), self._batch_size, self._workers)
        try:
            for part in loader:
                for index, reason in part.unreadable.items():
                    self._report(self.files[index], reason)
                self.read += part.indices
                self.lost.update(part.lost)
                yield part.pixels
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                "A worker process that decodes images was killed, perhaps for its memory.",
                "Use fewer workers; with 0, this process decodes.",
            ) from error
