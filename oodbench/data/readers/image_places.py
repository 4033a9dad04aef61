"""Where the images of a list are: in folders, or in zip and tar files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from oodbench.data.image_decoder import Content
from oodbench.data.readers.archive_members import Members
from oodbench.data.readers.published_lists import SUBFOLDERS
from oodbench.data.stored_images import FileContents, FileStamp, stamp
from oodbench.specs import PlaceSpec

UNPACKED = "unpacked/content"
"""Folder of unpacked archives in the folder of a place (`oodbench.data.store.locations`)."""


@dataclass(frozen=True, eq=False)
class FoundImages:
    """The images of a list at a place.

    Attributes:
        missing: paths in the list of images that the place lacks; if there are any, the rest is
            empty.
        names: name of each image in messages, in the order of the list.
        content: returns an image by its index.
        stamps: stamps of the files that are read, with paths in the data root.
        where: the folder or file that they are in.
    """

    missing: Sequence[str]
    names: Sequence[str]
    content: Callable[[int], Content]
    stamps: Sequence[FileStamp]
    where: Path


def found_images(place: PlaceSpec, paths: Sequence[str], root: Path) -> FoundImages | None:
    """Look for the images of a list at a place.

    Args:
        place: a place without a builder.
        paths: the paths in the list.
        root: the data root.

    Returns:
        Those of the folder that lacks the fewest; None if there is none of the images.
    """
    look = _in_archive if place.is_archive else _in_folder
    best: FoundImages | None = None
    for where in candidates(place, root):
        found = look(where, place, paths, root)
        if not found.missing:
            return found
        if len(found.missing) < len(paths if best is None else best.missing):
            best = found
    return best


def candidates(place: PlaceSpec, root: Path) -> Iterator[Path]:
    """Existing folders or files that a place may mean."""
    for base in SUBFOLDERS:
        for folder in (root / base / place.folder / UNPACKED, root / base / place.folder):
            path = folder / (place.path or "")
            if path.is_file() if place.is_archive else path.is_dir():
                yield path
    if place.is_archive and place.path is not None and (root / place.path).is_file():
        yield root / place.path


def _in_folder(folder: Path, place: PlaceSpec, paths: Sequence[str], root: Path) -> FoundImages:
    """The images of a list in a folder."""
    found: list[str | None]
    if place.match == "name":
        at = {path.rpartition("/")[2]: path for path in _files_below(folder)}
        found = [at.get(path.rpartition("/")[2]) for path in paths]
    else:
        wanted = list(map(_tail, paths)) if place.match == "tail" else list(paths)
        found = [each if (folder / each).is_file() else None for each in wanted]
        if place.match == "tail" and None in found:  # blanks may have become underscores
            at = {path.replace(" ", "_"): path for path in _files_below(folder)}
            found = [at.get(each) for each in wanted]
    prefix = folder.relative_to(root)
    names = [(prefix / each).as_posix() for each in found if each is not None]
    missing = [path for path, each in zip(paths, found, strict=True) if each is None]
    stamps = [stamp(root, name) for name in names]
    return FoundImages(missing, names, FileContents(root, names), stamps, folder)


def _in_archive(archive: Path, place: PlaceSpec, paths: Sequence[str], root: Path) -> FoundImages:
    """The images of a list in a zip or tar file."""
    about = stamp(root, archive.relative_to(root).as_posix())
    members = _members(archive, about)
    if place.match == "name":
        at: Mapping[str, str] = {name.rpartition("/")[2]: name for name in members.names}
        wanted = [at.get(path.rpartition("/")[2]) for path in paths]
    else:
        inner = list(map(_tail, paths)) if place.match == "tail" else list(paths)
        known = set(members.names)
        prefix = _prefix(members.names, inner) if place.match == "tail" else ""
        wanted = [prefix + path if prefix + path in known else None for path in inner]
    missing = [path for path, name in zip(paths, wanted, strict=True) if name is None]
    names = [name for name in wanted if name is not None]
    shown = [f"{archive.name}: {name}" for name in names]
    return FoundImages(missing, shown, members.contents(names), [about], archive)


@lru_cache(maxsize=4)
def _members(archive: Path, about: FileStamp) -> Members:
    """The images in an archive; a long tar file takes seconds to read through."""
    del about  # part of the key: another file of this name
    return Members(archive)


def _tail(path: str) -> str:
    """A path without its first folder."""
    return path.partition("/")[2]


def _prefix(members: Sequence[str], inner: Sequence[str]) -> str:
    """What an archive has before the paths of a list: "" or a folder with its "/"."""
    known = set(inner)
    for name in members:
        parts = name.split("/")
        for start in range(len(parts)):
            if "/".join(parts[start:]) in known:
                return "".join(f"{part}/" for part in parts[:start])
    return ""


def _files_below(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, in the order of their paths."""
    for top, folders, names in os.walk(folder):
        folders.sort()
        inner = Path(top).relative_to(folder).as_posix()
        yield from (name if inner == "." else f"{inner}/{name}" for name in sorted(names))
