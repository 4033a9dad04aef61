"""What the folders and lists of images hold that a user gives: counts and classes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from oodbench.data.image_decoder import SUFFIXES
from oodbench.data.readers.image_folders import images_below, open_folder
from oodbench.data.readers.image_lists import open_list
from oodbench.data.stored_images import StoredImages
from oodbench.errors import UserError, listed
from oodbench.files import expanded
from oodbench.specs import DatasetSpec

_MANY = 10**6
"""Number of classes before the classes are known."""


@dataclass(frozen=True, slots=True)
class FoundImages:
    """The images of a folder or of a list.

    Attributes:
        option: how the user gave it, for messages: "--id", "--ood near/textures".
        path: the folder or the file of the list, absolute.
        classes: names of the classes that images have, in the order of their labels; empty for OOD
            images, and for lists with numbers.
        num_classes: number of classes by the labels; 0 for OOD images.
        images: as they are stored.
        options: of the manifest: how a list is read.
    """

    option: str
    path: Path
    classes: tuple[str, ...]
    num_classes: int
    images: StoredImages
    options: Mapping[str, Any]

    @property
    def kind(self) -> Literal["folder", "list"]:
        """Kind of a manifest."""
        return "folder" if self.path.is_dir() else "list"

    def sizes(self, most: int) -> set[tuple[int, int]]:
        """Height and width of some of the images, spread over all; of those that can be read."""
        steps = np.linspace(0, len(self.images) - 1, min(most, len(self.images))).astype(int)
        found = set()
        for index in steps.tolist():
            content = self.images.content(index)
            assert isinstance(content, bytes)  # of image files
            try:
                with Image.open(io.BytesIO(content)) as image:
                    found.add((image.height, image.width))
            except OSError:
                continue  # named when it is decoded
        return found


def scan(option: str, given: str | Path, folder: Path, *, labeled: bool) -> FoundImages:
    """Look at a folder or a list of images; no image is decoded.

    Args:
        option: how the user gave it, for messages.
        given: the path.
        folder: the folder that it is relative to.
        labeled: whether images have classes.

    Raises:
        UserError: there is no such folder or list, it has no images, or ID images without classes.
    """
    path = (folder / expanded(given)).resolve()
    if not path.exists():
        raise UserError(f"{option}: there is no folder or list {given}.", _nearest(path))
    if path.is_dir():
        found = sorted(image.path for image in images_below(path))
        if not found:
            raise UserError(
                f"{option}: folder {given} has no images.",
                f"Images are files with one of these suffixes: {', '.join(sorted(SUFFIXES))}.",
            )
        if labeled and not any("/" in image for image in found):
            raise UserError(
                f"{option}: folder {given} has no class folders: its images lie directly in it.",
                "ID images are in a sub-folder for each class, or in a list with a path and a "
                "label a line.",
            )
    options = {} if path.is_dir() or labeled else _labels_to_skip(path)
    spec = DatasetSpec(
        schema_version=1,
        name="images",
        title="images",
        summary="images",
        kind="folder" if path.is_dir() else "list",
        paths={"test": path.name},
        shape=(3, 1, 1),
        num_classes=_MANY if labeled else None,
        splits={"test": 1},
        license="none",
        citation="none",
    )
    opened = open_folder if path.is_dir() else open_list
    try:
        images = opened(spec, "test", path.parent, **options)
    except UserError as error:
        error.say_first(option)
        raise
    if not len(images):
        raise UserError(f"{option}: list {given} names no images.", "Write a path on each line.")
    count = len(images.classes)
    if labeled and not images.classes:
        assert images.labels is not None
        count = int(images.labels.max()) + 1
    return FoundImages(option, path, images.classes if labeled else (), count, images, options)


def _nearest(path: Path) -> str:
    """The part of a path that exists."""
    there = next(parent for parent in path.parents if parent.exists())
    inside = sorted(each.name for each in there.iterdir()) if there.is_dir() else []
    shown = f"; it has: {listed(inside, 8)}" if inside else ""
    return f"There is {there}{shown}."


def _labels_to_skip(path: Path) -> dict[str, Any]:
    """Options for a list of OOD images: whether its lines have labels after the paths."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError):
        return {}  # an error when it is opened
    first = next((line.strip(" \t") for line in lines if line.strip() and line[0] != "#"), "")
    if "\t" in first or (path.parent / first).exists():
        return {}
    return {"labeled": True} if (path.parent / first.rpartition(" ")[0]).is_file() else {}


def check_disjoint(found: Sequence[FoundImages]) -> None:
    """Check that no folder is given twice, or inside another one.

    Raises:
        UserError: if one is.
    """
    for one, other in combinations(found, 2):
        if one.path == other.path:
            raise UserError(
                f"{one.option} and {other.option} are the same images: {one.path}.",
                "Scores are of images that are neither fitted on nor of another set: give each its "
                "own folder.",
            )
        for outer, inner in ((one, other), (other, one)):
            if inner.path.is_dir() and outer.path in inner.path.parents:
                raise UserError(
                    f"{inner.option} ({inner.path}) lies inside {outer.option}, which has its "
                    "images, too.",
                    "Give folders that lie beside each other.",
                )


def common_classes(found: Sequence[FoundImages], order: Sequence[str] | None) -> tuple[str, ...]:
    """The classes of all ID images in the order of their labels; empty if labels are numbers.

    Args:
        found: all sets of ID images.
        order: the order that the user or the model gives.

    Raises:
        UserError: sets have different classes, or classes that are not in the order.
    """
    named = [each for each in found if each.classes]
    if not named:
        return ()
    numbered = [each for each in found if not each.classes]
    if numbered:
        raise UserError(
            f"The labels of {numbered[0].option} are numbers, those of {named[0].option} names.",
            "Write the names of the classes into the list.",
        )
    if order is not None:
        return tuple(order)
    first = named[0]
    for each in named[1:]:
        one, other = set(first.classes), set(each.classes)
        if one - other and other - one:
            raise UserError(
                f"{first.option} and {each.option} have different classes: "
                f"'{min(one - other)}' and '{min(other - one)}' are in only one of them.",
                "Give the class folders the same names.",
            )
    return max((each.classes for each in named), key=len)
