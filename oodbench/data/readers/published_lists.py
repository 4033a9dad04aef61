"""Published lists of images: text files with a path and a label a line, and a known checksum."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from oodbench.errors import UserError, counted, shown
from oodbench.specs import DatasetSpec, ListSpec

_LABEL = re.compile(r"-?[0-9]{1,9}", re.ASCII)

SUBFOLDERS = ("", "data")
"""Folders of the data root that paths are looked for in; OpenOOD downloads into `data`."""


@dataclass(frozen=True, slots=True)
class ListedImage:
    """A line of a list.

    Attributes:
        path: the path of the image; relative, without "..".
        label: its class; -1 for out-of-distribution images.
        line: number of the line, from 1.
    """

    path: str
    label: int
    line: int


def places_of(path: str, root: Path) -> list[Path]:
    """Where a path of a manifest may be, whether or not it exists.

    Args:
        path: path in the data root.
        root: the data root.
    """
    return [root / folder / path for folder in SUBFOLDERS]


def list_file(spec: ListSpec, root: Path) -> Path | None:
    """The file of a list in the data root, or None."""
    return next((path for path in places_of(spec.path, root) if path.is_file()), None)


def read_list(spec: DatasetSpec, listing: ListSpec, root: Path) -> list[ListedImage]:
    """The lines of a list, in order.

    Line ends, blanks around paths and labels, empty lines and a byte order mark do not matter.

    Args:
        spec: the manifest.
        listing: one of its lists.
        root: the data root.

    Raises:
        UserError: the list does not exist or has another checksum; or a line has no label, a label
            that is not a class, or a path that is absolute or has "..".
    """
    path = list_file(listing, root)
    if path is None:
        raise UserError(
            f"there is no list {places_of(listing.path, root)[0]}.",
            f"Run `oodbench data fetch {spec.name}`, or put the folder of the lists there.",
        )
    content = path.read_bytes().replace(b"\r\n", b"\n")
    found = sha256(content).hexdigest()
    if found != listing.sha256:
        raise UserError(
            f"the list {path} has sha256 {found} instead of {listing.sha256}.",
            "It is another version: results with it cannot be compared. Rename it, and oodbench "
            "fetches the right one.",
        )
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: {error}.", "It must be UTF-8 text.") from error
    return [
        _parsed(spec, f"{path}, line {number}", line, number)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _parsed(spec: DatasetSpec, where: str, line: str, number: int) -> ListedImage:
    name, label = ([*line.rsplit(maxsplit=1), ""])[:2]
    if not _LABEL.fullmatch(label):
        raise UserError(
            f"{where}: {shown(line)} does not end with a label.",
            "Write 'path label' on each line, with a whole number as label.",
        )
    name = name.strip()
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        raise UserError(
            f"{where}: the path {shown(name)} is not inside the folder of the images.",
            "Write relative paths, without '..' and with '/' between their parts.",
        )
    if spec.num_classes is not None and not 0 <= int(label) < spec.num_classes:
        raise UserError(
            f"{where}: the label {label} is not a class: the manifest says "
            f"{counted(spec.num_classes, 'class')}, so labels are 0 to {spec.num_classes - 1}.",
            "Correct the list, or num_classes in the manifest.",
        )
    return ListedImage(name, int(label), number)
