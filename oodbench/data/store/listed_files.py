"""Published lists and the images that they name: found in the data root, or fetched.

A list is fetched once for all manifests that name it. Images are used where they are; if no place
has them, the files of the places are fetched, until those of one place can be.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import ClassVar

from oodbench.data.readers.listed_images import place_of
from oodbench.data.readers.published_lists import ListedImage, list_file, read_list
from oodbench.data.store.disk import disk_errors
from oodbench.data.store.fetching import fetch
from oodbench.data.store.locations import PLACE
from oodbench.data.stored_images import FileStamp
from oodbench.errors import UserError, listed
from oodbench.files import write_atomic
from oodbench.progress import Reporter
from oodbench.specs import DatasetSpec, FileSpec, ListSpec, PlaceSpec, SplitName

_FIRST = 20
"""Number of images of a list that show whether a place has its images."""


@dataclass(frozen=True, slots=True)
class _Files:
    """Files in a folder of the data root, as the store fetches them."""

    noun: ClassVar[str] = "data set"
    name: str
    folder: str
    files: tuple[FileSpec, ...]


def fetch_listed(spec: DatasetSpec, split: SplitName, root: Path, say: Reporter) -> None:
    """Fetch what a split lacks in the data root, and verify the archive that its images are in.

    Args:
        spec: a manifest with `lists`.
        split: one of its splits.
        root: the data root.
        say: progress reporter.

    Raises:
        UserError: the list or the images are not there and cannot be fetched, or the list cannot
            be used.
    """
    with disk_errors(root, PLACE):
        root.mkdir(parents=True, exist_ok=True)
    if split in spec.class_folders:
        classes = spec.class_folders[split].classes
        if classes is not None:
            _fetch_list(spec, classes, root, say)
        return
    listing = spec.lists[split]
    _fetch_list(spec, listing, root, say)
    entries = read_list(spec, listing, root)
    place, _ = place_of(spec, entries[:_FIRST], root)
    if place is None:
        _fetch_images(spec, split, entries, root, say)
    elif place.files:
        _verify(spec, place, root, say)


def _fetch_list(spec: DatasetSpec, listing: ListSpec, root: Path, say: Reporter) -> None:
    if list_file(listing, root) is not None:
        return
    folder = PurePosixPath(listing.path).parent.as_posix()
    try:
        fetch(_Files(spec.name, folder, (listing.text_file,)), root, say)
    except UserError as error:
        if spec.list_archive is None or not _from_archive(spec, listing, root, say):
            raise UserError(
                f"the list {root / listing.path} is missing, and no source of it can be reached: "
                f"{error.message}",
                f"Put OpenOOD's folder 'benchmark_imglist' or its file "
                f"'{'' if spec.list_archive is None else spec.list_archive.name}' into {root}.",
            ) from error


def _from_archive(spec: DatasetSpec, listing: ListSpec, root: Path, say: Reporter) -> bool:
    """Take a list from the zip file of all lists; whether that worked."""
    assert spec.list_archive is not None
    try:
        archive = fetch(_Files(spec.name, ".", (spec.list_archive,)), root, say)
        with zipfile.ZipFile(archive / spec.list_archive.name) as file:
            ends = PurePosixPath(*PurePosixPath(listing.path).parts[-2:]).as_posix()
            name = next(name for name in file.namelist() if f"/{name}".endswith(f"/{ends}"))
            content = file.read(name).replace(b"\r\n", b"\n")
    except (UserError, zipfile.BadZipFile, StopIteration, OSError):
        return False
    if sha256(content).hexdigest() != listing.sha256:
        return False
    with disk_errors(root / listing.path, PLACE):
        (root / listing.path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(root / listing.path, content)
    return True


def _fetch_images(
    spec: DatasetSpec, split: SplitName, entries: Sequence[ListedImage], root: Path, say: Reporter
) -> None:
    """Unpack archives that are there, else download those of the first place that can be."""
    fetched = [place for place in spec.places if place.files]
    failures = []
    for place in sorted(fetched, key=lambda place: not _is_here(place, root)):  # stable
        if not _is_here(place, root) and not all(file.urls for file in place.files):
            continue
        try:
            _verify(spec, place, root, say)
        except UserError as error:
            failures.append(error.message)
            continue
        if place_of(spec, entries[:_FIRST], root)[0] is not None:
            return
        failures.append(f"{place.files[0].name} has none of the images")
    raise UserError(
        f"data set '{spec.name}', split '{split}': its images are not in {root}, and cannot be "
        f"fetched: {'; '.join(failures) or 'no address of them is known'}",
        f"Put one of these into {root}: {listed(_choices(spec), 20)}.",
    )


def _choices(spec: DatasetSpec) -> list[str]:
    """What a user can put into the data root."""
    names = []
    for place in spec.places:
        if place.files:
            names += ["/".join((place.folder, "+".join(file.name for file in place.files)))]
        else:
            names.append(place.folder if place.path is None else f"{place.folder}/{place.path}")
    return list(dict.fromkeys(names))


def _is_here(place: PlaceSpec, root: Path) -> bool:
    """Whether all files of a place are in its folder or in the data root, verified or not."""
    return all(
        (root / place.folder / file.name).is_file()
        or any(next(root.glob(f"{at}{file.name}"), None) for at in ("", "*/", "*/*/"))
        for file in place.files
    )


def _verify(spec: DatasetSpec, place: PlaceSpec, root: Path, say: Reporter) -> None:
    """Fetch the files of a place as far as they are missing; verify each once in a process."""
    folder = root / place.folder
    if _stamps(place, folder) in _verified():
        return
    fetch(_Files(spec.name, place.folder, place.files), root, say)
    _verified().add(_stamps(place, folder))


def _stamps(place: PlaceSpec, folder: Path) -> tuple[FileStamp, ...]:
    paths = [folder / file.name for file in place.files]
    return tuple(FileStamp.of(str(path), path.stat()) for path in paths if path.is_file())


@lru_cache(maxsize=1)
def _verified() -> set[tuple[FileStamp, ...]]:
    """The files of places that this process has verified."""
    return set()
