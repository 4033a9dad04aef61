"""Kind `folder`: image files in a folder, or in one sub-folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.data.image_decoder import SUFFIXES
from oodbench.data.readers.class_names import labels_of
from oodbench.data.stored_images import (
    FileContents,
    FileStamp,
    StoredImages,
    identity_of,
    listing_of,
)
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec, SplitName


def open_folder(
    spec: DatasetSpec, split: SplitName, folder: Path, *, order: list[str] | None = None
) -> StoredImages:
    """The images of a split.

    If the manifest has classes, each sub-folder is a class; labels 0, 1, ... follow `order`, or the
    order of `class_names.ordered_classes`, and images are sorted by class, then by path. Otherwise
    all images below the folder are read, sorted by path. Sorting is by code point. Files and
    folders with names that start with "." are ignored; links are followed.

    Args:
        spec: the manifest.
        split: a key of `spec.paths`.
        folder: the folder that paths are relative to.
        order: names of all classes in the order of their labels; some may have no sub-folder.

    Raises:
        UserError: the folder does not exist, an image is not in a sub-folder of a class, or a class
            is not in `order`.
    """
    top = folder / spec.paths[split]
    if not top.is_dir():
        raise UserError(
            f"there is no folder {top}.",
            "Correct 'paths' in the manifest, or put the images there.",
        )
    found = list(images_below(top))
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if spec.num_classes is None:
        found.sort(key=lambda image: image.path)
    else:
        stray = min((image.path for image in found if "/" not in image.path), default=None)
        if stray is not None:
            raise UserError(
                f"{top / stray} is not in the folder of a class: each class has a sub-folder.",
                "Move it into the sub-folder of its class, or out of the data set.",
            )
        places = labels_of((image.path.split("/", 1)[0] for image in found), order, str(top))
        classes = tuple(places)

        def place(image: FileStamp) -> tuple[int, str]:
            # By class first: "a-b/x" sorts before "a/x", but class "a" comes before "a-b".
            name, below = image.path.split("/", 1)
            return places[name], below

        found.sort(key=place)
        labels = np.array([place(image)[0] for image in found], dtype=np.int64)
    prefix = top.relative_to(folder).as_posix() if top.is_relative_to(folder) else top.as_posix()
    names = [image.path if prefix == "." else f"{prefix}/{image.path}" for image in found]
    return StoredImages(
        names=names,
        labels=labels,
        content=FileContents(folder, names),
        files=names,
        identity=identity_of(found),
        listing=listing_of(found),
        classes=classes,
    )


def images_below(
    top: Path, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[FileStamp]:
    """Image files in a folder and its sub-folders, in no particular order.

    Args:
        top: the folder.
        prefix: prefix of the paths of its files.
        above: device and inode of the folders above: links to them would have no end.
    """
    about = top.stat()
    here = about.st_dev, about.st_ino
    if here in above and here[1] != 0:  # some file systems have no inode numbers
        return
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below = f"{prefix}{entry.name}/"
                yield from images_below(Path(entry.path), below, above | {here})
            elif entry.name.rpartition(".")[2].lower() in SUFFIXES:
                yield FileStamp.of(prefix + entry.name, entry.stat())
