"""Kind `folder`: image files in a folder, or in one sub-folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.data.pictures import SUFFIXES
from oodbench.data.readers.classes import ordered_classes
from oodbench.data.sources import FileStamp, Source, identity_of
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec, SplitName


def open_folder(spec: DatasetSpec, split: SplitName, folder: Path) -> Source:
    """The images of a split.

    With classes in the manifest, the sub-folders are labels 0, 1, ... in the order of their names
    (`oodbench.data.readers.classes`); images are sorted by class, then by path below it. Without,
    all
    images below the folder are taken, sorted by path. Sorting is by code point. Files and folders
    whose name starts with "." are left out; links are followed.

    Args:
        spec: the manifest.
        split: a split that `spec.paths` names.
        folder: what the path is relative to.

    Raises:
        UserError: the folder is not there, or an image is in no class.
    """
    top = folder / spec.paths[split]
    if not top.is_dir():
        raise UserError(
            f"there is no folder {top}.",
            "Correct 'paths' in the manifest, or put the images there.",
        )
    found = list(_images_below(top, "", frozenset()))
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if spec.num_classes is None:
        found.sort(key=lambda image: image.path)
    else:
        stray = min((image.path for image in found if "/" not in image.path), default=None)
        if stray is not None:
            raise UserError(
                f"{top / stray} is in no class: a data set with classes has a sub-folder for each.",
                "Move it into the sub-folder of its class, or out of the data set.",
            )
        classes = ordered_classes(image.path.split("/", 1)[0] for image in found)
        places = {name: label for label, name in enumerate(classes)}

        def place(image: FileStamp) -> tuple[int, str]:
            # By class first: "a/x" sorts behind "a-b/x", though class "a" comes before "a-b".
            name, below = image.path.split("/", 1)
            return places[name], below

        found.sort(key=place)
        labels = np.array([place(image)[0] for image in found], dtype=np.int64)
    prefix = top.relative_to(folder).as_posix() if top.is_relative_to(folder) else top.as_posix()
    names = [image.path if prefix == "." else f"{prefix}/{image.path}" for image in found]
    return Source(
        names=names,
        labels=labels,
        content=lambda index: (folder / names[index]).read_bytes(),
        files=names,
        identity=identity_of(found),
        classes=classes,
    )


def _images_below(top: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[FileStamp]:
    """Image files in a folder and the folders below it.

    Args:
        top: the folder to look into.
        prefix: what the paths of the files in it begin with.
        above: the folders that lead here, so that a link to one of them is not followed for ever.
    """
    about = top.stat()
    here = about.st_dev, about.st_ino
    if here in above and here[1] != 0:  # some file systems number nothing
        return
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below = f"{prefix}{entry.name}/"
                yield from _images_below(Path(entry.path), below, above | {here})
            elif entry.name.rpartition(".")[2].lower() in SUFFIXES:
                yield FileStamp.of(prefix + entry.name, entry.stat())
