"""Images of lists in the arrays of torchvision's files: the paths of a list give their indices.

OpenOOD wrote the images of these sets to files of its own. What their names mean:

- CIFAR: `cifar10/test/airplane/0298.png` is the 298th image of its class, in the order of the
  batches. This is how the tool cifar2png numbers its files, whose names have this form; it is an
  assumption, which labels cannot confirm.
- SVHN: `svhn/test/022008_2.jpg` is image 22,008, counted from 1, and its digit.
- MNIST: `mnist/test/8_8486.jpg` is the digit and the index, counted from 0.

Every index is checked: the label there must be the class or digit in the path, and the label in the
list, if it has one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from oodbench.data.readers.cifar import read_class_names
from oodbench.data.readers.image_places import FoundImages, candidates
from oodbench.data.readers.published_lists import ListedImage
from oodbench.data.readers.torchvision_sets import READERS
from oodbench.data.stored_images import ArrayContents, stamp
from oodbench.errors import UserError, did_you_mean
from oodbench.specs import PlaceSpec

Position = tuple[str, int, int]
"""Split of the files ("train" or "test"), index in it, and the label that the path tells."""

Labels = Callable[[str], NDArray[np.int64]]
"""Split of the files -> its labels."""


def found_arrays(
    place: PlaceSpec, entries: Sequence[ListedImage], root: Path
) -> FoundImages | None:
    """Look for the images of a list in the files of torchvision.

    Args:
        place: a place with a builder.
        entries: the lines of the list.
        root: the data root.

    Returns:
        The images, shape [C, H, W] each; None if the files are not there.

    Raises:
        UserError: the builder is unknown, the files cannot be read, or they disagree with the list.
    """
    folder = arrays_folder(place, root)
    if folder is None or place.builder is None:
        return None
    return _Arrays(place.builder, folder, root).found(entries)


def arrays_folder(place: PlaceSpec, root: Path) -> Path | None:
    """The folder of the files of a place with a builder; None if they are not there.

    Raises:
        UserError: the builder is unknown.
    """
    builder = place.builder or ""
    if builder not in _POSITIONS:
        raise UserError(
            f"there is no torchvision reader '{builder}' for lists",
            did_you_mean(builder, _POSITIONS),
        )
    for folder in candidates(place, root):
        if any((folder / name).is_file() for name in _SIGNS[builder]):
            return folder
    return None


class _Arrays:
    """The files of a data set of torchvision, read when first needed."""

    def __init__(self, builder: str, folder: Path, root: Path) -> None:
        self._builder, self._folder, self._root = builder, folder, root
        self._read: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]] = {}

    def found(self, entries: Sequence[ListedImage]) -> FoundImages:
        """The images of a list, each checked against its label."""
        positions = list(_POSITIONS[self._builder](entries, self._labels, self._folder))
        for entry, (split, index, label) in zip(entries, positions, strict=True):
            labels = self._labels(split)
            if not 0 <= index < len(labels):
                raise self._disagreement(entry, f"there are {len(labels):,} images of this kind")
            if labels[index] != label or entry.label not in (-1, label):
                raise self._disagreement(entry, f"the label of image {index:,} is {labels[index]}")
        splits = sorted({split for split, _, _ in positions})
        starts = dict(zip(splits, np.cumsum([0, *map(self._count, splits)]), strict=False))
        whole = [self._read[split][0] for split in splits]
        chosen = [int(starts[split]) + index for split, index, _ in positions]
        images = (whole[0] if len(whole) == 1 else np.concatenate(whole))[chosen]
        prefix = self._folder.relative_to(self._root).as_posix()
        return FoundImages(
            missing=(),
            names=[entry.path for entry in entries],
            content=ArrayContents(images),
            stamps=[
                stamp(self._root, f"{prefix}/{name}")
                for split in splits
                for name in self._read[split][2]
            ],
            where=self._folder,
        )

    def _labels(self, split: str) -> NDArray[np.int64]:
        if split not in self._read:
            self._read[split] = READERS[self._builder](self._folder, split)
        return self._read[split][1]

    def _count(self, split: str) -> int:
        return len(self._labels(split))

    def _disagreement(self, entry: ListedImage, problem: str) -> UserError:
        return UserError(
            f"the list (line {entry.line}: {entry.path} {entry.label}) does not fit the files in "
            f"{self._folder}: {problem}.",
            "The files are others than those that the list was made for, or are in another order: "
            "use the images of OpenOOD instead.",
        )


def _cifar(
    entries: Sequence[ListedImage], labels: Labels, folder: Path, meta: str, key: bytes
) -> Iterator[Position]:
    names = {name: label for label, name in enumerate(read_class_names(folder / meta, key))}
    orders: dict[tuple[str, int], NDArray[np.int64]] = {}
    for entry in entries:
        split, name, number = _parts(entry, r"[^/]+/(train|test)/([^/]+)/([0-9]{1,6})\.png")
        if name not in names:
            raise UserError(
                f"the list (line {entry.line}: {entry.path}) has the class '{name}', which the "
                f"files in {folder} lack.",
                did_you_mean(name, names),
            )
        label = names[name]
        if (split, label) not in orders:
            orders[split, label] = np.flatnonzero(labels(split) == label)
        order = orders[split, label]
        found = 1 <= int(number) <= len(order)
        yield split, int(order[int(number) - 1]) if found else -1, label


def _cifar10(entries: Sequence[ListedImage], labels: Labels, folder: Path) -> Iterator[Position]:
    return _cifar(entries, labels, folder, "cifar-10-batches-py/batches.meta", b"label_names")


def _cifar100(entries: Sequence[ListedImage], labels: Labels, folder: Path) -> Iterator[Position]:
    return _cifar(entries, labels, folder, "cifar-100-python/meta", b"fine_label_names")


def _svhn(entries: Sequence[ListedImage], labels: Labels, folder: Path) -> Iterator[Position]:
    del labels, folder
    for entry in entries:
        split, number, digit = _parts(entry, r"[^/]+/(train|test)/([0-9]{6})_([0-9])\.[a-z]+")
        yield split, int(number) - 1, int(digit)


def _mnist(entries: Sequence[ListedImage], labels: Labels, folder: Path) -> Iterator[Position]:
    del labels, folder
    for entry in entries:
        split, digit, index = _parts(entry, r"[^/]+/(train|test)/([0-9])_([0-9]{1,6})\.[a-z]+")
        yield split, int(index), int(digit)


def _parts(entry: ListedImage, pattern: str) -> tuple[str, str, str]:
    match = re.fullmatch(pattern, entry.path, re.ASCII)
    if match is None:
        raise UserError(
            f"the list (line {entry.line}) has the path {entry.path}, which tells no index of an "
            "image.",
            "Use the images of OpenOOD instead of torchvision's files.",
        )
    return match[1], match[2], match[3]


_POSITIONS: Mapping[str, Callable[..., Iterator[Position]]] = MappingProxyType(
    {"CIFAR10": _cifar10, "CIFAR100": _cifar100, "SVHN": _svhn, "MNIST": _mnist}
)
"""Builder -> function that gives the position of each image of a list."""

_SIGNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "CIFAR10": ("cifar-10-batches-py/batches.meta",),
        "CIFAR100": ("cifar-100-python/meta",),
        "SVHN": ("test_32x32.mat", "train_32x32.mat"),
        "MNIST": ("t10k-images-idx3-ubyte", "train-images-idx3-ubyte"),
    }
)
"""Builder -> files of which one shows that the data set is in a folder."""
