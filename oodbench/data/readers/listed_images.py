"""Kind `list` with published lists: the list selects and orders images, a place has them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from oodbench.data.image_decoder import SUFFIXES
from oodbench.data.readers.image_places import FoundImages, candidates, found_images
from oodbench.data.readers.listed_arrays import arrays_folder, found_arrays
from oodbench.data.readers.published_lists import ListedImage, list_file, places_of, read_list
from oodbench.data.stored_images import (
    FileContents,
    FileStamp,
    StoredImages,
    identity_of,
    listing_of,
    stamp,
)
from oodbench.errors import UserError, counted, listed
from oodbench.files import digest
from oodbench.specs import ClassFoldersSpec, DatasetSpec, ListSpec, PlaceSpec, SplitName


def open_listed(spec: DatasetSpec, split: SplitName, root: Path) -> StoredImages:
    """The images of a split, in the order of its list.

    Args:
        spec: a manifest with `lists`.
        split: one of its splits.
        root: the data root.

    Raises:
        UserError: the list cannot be used (`published_lists.read_list`); no place has its images,
            or all lack some; or a split without a list has no folder.
    """
    if split in spec.class_folders:
        return _class_folders(spec, spec.class_folders[split], root)
    listing = spec.lists[split]
    entries = read_list(spec, listing, root)
    place, found = place_of(spec, entries, root)
    if found is None or place is None:
        raise UserError(
            f"the images of the list are nowhere in {root}: looked for {_wanted(spec, entries)}.",
            f"Run `oodbench data fetch {spec.name}`, or put them there.",
        )
    if found.missing:
        raise UserError(
            f"{found.where} lacks {len(found.missing):,} of the list's "
            f"{counted(len(entries), 'image')}: {listed(found.missing)}.",
            "Complete it; or move it away, and oodbench fetches the images.",
        )
    labels = None
    if spec.num_classes is not None:
        labels = np.array([entry.label for entry in entries], dtype=np.int64)
    about = _stamp(listing, root)
    return StoredImages(
        names=found.names,
        labels=labels,
        content=found.content,
        files=list(dict.fromkeys(each.path for each in (about, *found.stamps))),
        identity=digest(listing.sha256, identity_of(found.stamps)),
        listing=digest(listing.sha256, *(str(each.size) for each in found.stamps)),
        note=place.note or "",
    )


def place_of(
    spec: DatasetSpec, entries: Sequence[ListedImage], root: Path
) -> tuple[PlaceSpec | None, FoundImages | None]:
    """The first place that has all images of a list; if there is none, the one that lacks fewest.

    Args:
        spec: a manifest with `lists`.
        entries: the lines of the list.
        root: the data root.

    Returns:
        The place and its images; None twice if no place has an image.
    """
    paths = [entry.path for entry in entries]
    best: tuple[PlaceSpec | None, FoundImages | None] = None, None
    for place in spec.places:
        found = (
            found_images(place, paths, root)
            if place.builder is None
            else found_arrays(place, entries, root)
        )
        if found is None:
            continue
        if not found.missing:
            return place, found
        if best[1] is None or len(found.missing) < len(best[1].missing):
            best = place, found
    return best


def is_there(place: PlaceSpec, entries: Sequence[ListedImage], root: Path) -> bool:
    """Whether a place seems to have the images of a list, from a look at the first one.

    Args:
        place: the place.
        entries: the lines of the list.
        root: the data root.
    """
    if place.builder is not None:
        return arrays_folder(place, root) is not None
    if place.is_archive:
        return next(candidates(place, root), None) is not None
    found = found_images(place, [entry.path for entry in entries[:1]], root)
    return found is not None and not found.missing


def class_folder(folders: ClassFoldersSpec, root: Path) -> Path | None:
    """The folder of a split without a list, or None."""
    places = (path for folder in folders.folders for path in places_of(folder, root))
    return next((path for path in places if path.is_dir()), None)


def _class_folders(spec: DatasetSpec, folders: ClassFoldersSpec, root: Path) -> StoredImages:
    """All images of a folder with one sub-folder per class, sorted by label, then by name."""
    top = class_folder(folders, root)
    if top is None:
        raise UserError(
            "there is no folder of the images; looked for: "
            f"{', '.join(str(root / folder) for folder in folders.folders)}.",
            "Put them there, with one sub-folder per class, or choose another data root.",
        )
    if folders.classes is None:
        names = sorted(each.name for each in os.scandir(top) if each.is_dir())
        labels = {name: label for label, name in enumerate(names)}
    else:
        listed = read_list(spec, folders.classes, root)
        labels = {PurePosixPath(entry.path).parent.name: entry.label for entry in listed}
    prefix = top.relative_to(root).as_posix()
    stamps: list[FileStamp] = []
    found: list[int] = []
    for name, label in sorted(labels.items(), key=lambda item: item[1]):
        if not (top / name).is_dir():
            raise UserError(
                f"{top} has no sub-folder '{name}' (class {label}).", "Put its images there."
            )
        inner = sorted(
            (
                FileStamp.of(f"{prefix}/{name}/{each.name}", each.stat())
                for each in os.scandir(top / name)
                if each.name.rpartition(".")[2].lower() in SUFFIXES and each.name[0] != "."
            ),
            key=lambda each: each.path,
        )
        stamps += inner
        found += [label] * len(inner)
    paths = [each.path for each in stamps]
    return StoredImages(
        names=paths,
        labels=np.array(found, dtype=np.int64),
        content=FileContents(root, paths),
        files=paths,
        identity=identity_of(stamps),
        listing=listing_of(replace(each, path=each.path.removeprefix(prefix)) for each in stamps),
    )


def _wanted(spec: DatasetSpec, entries: Sequence[ListedImage]) -> str:
    """Where images of a list are looked for: the places with the first image."""
    first = entries[0].path if entries else ""
    texts = []
    for place in spec.places:
        if place.files:
            texts.append(f"{place.folder}/{place.files[0].name}")
        elif place.path is not None:
            texts.append(f"{place.folder}/{place.path}")
        else:
            texts.append(place.folder if place.match == "name" else f"{place.folder}/{first}")
    return ", ".join(texts)


def _stamp(listing: ListSpec, root: Path) -> FileStamp:
    path = list_file(listing, root)
    assert path is not None  # it has just been read
    return stamp(root, path.relative_to(root).as_posix())
