"""Published lists and the images that they name: found in the data root, or fetched.

A list is fetched once for all manifests that name it. Images are used where they are; if no place
has them, the files of the places are fetched, until those of one place can be.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import ClassVar

from oodbench.data.readers.listed_images import is_there, place_of
from oodbench.data.readers.published_lists import ListedImage, list_file, read_list
from oodbench.data.store.disk import disk_errors
from oodbench.data.store.download import OfflineError
from oodbench.data.store.fetching import fetch
from oodbench.data.store.locations import PLACE, StoredFiles
from oodbench.data.stored_images import FileStamp
from oodbench.errors import UserError, listed
from oodbench.files import write_atomic
from oodbench.progress import Reporter
from oodbench.specs import DatasetSpec, FileSpec, ListSpec, PlaceSpec, SplitName

_FIRST = 20
"""Number of images of a list that show whether a place has its images."""

_verified: set[tuple[FileStamp, ...]] = set()
"""The files of places that this process has verified."""


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
    try:
        _fetch(spec, split, root, say)
    except UserError as error:
        where = f"data set '{spec.name}'"
        if not error.message.startswith(where):
            reason = error.message.replace(f"{where}: ", "").replace(f"{where} needs", "it needs")
            raise type(error)(f"{where}, split '{split}': {reason}", error.hint) from error
        raise


def _fetch(spec: DatasetSpec, split: SplitName, root: Path, say: Reporter) -> None:
    if split in spec.class_folders:
        classes = spec.class_folders[split].classes
        if classes is not None:
            _fetch_list(spec, classes, root, say)
        return
    listing = spec.lists[split]
    _fetch_list(spec, listing, root, say)
    entries = read_list(spec, listing, root)
    place, _ = place_of(spec, entries, root)
    if place is None:
        _fetch_images(spec, entries, root, say)
    elif place.files:
        _verify(spec, place, root, say)


def is_present(spec: DatasetSpec, root: Path) -> bool:
    """Whether the lists and their images seem to be in the data root, from a quick look.

    Splits without a list, which only the user can provide, do not count.

    Args:
        spec: a manifest with `lists`.
        root: the data root.
    """
    return all(images_are_here(spec, listing, root) for listing in spec.lists.values())


def images_are_here(spec: DatasetSpec, listing: ListSpec, root: Path) -> bool:
    """Whether a list and its images seem to be in the data root, from a quick look.

    Args:
        spec: a manifest with `lists`.
        listing: one of its lists.
        root: the data root.
    """
    try:
        entries = read_list(spec, listing, root)
    except UserError:  # it is not there, or cannot be used
        return False
    return any(is_there(place, entries, root) for place in spec.places)


def images_are_there(spec: DatasetSpec, root: Path) -> bool:
    """Whether the images of lists seem to be in the data root, from a quick look.

    Of lists that are missing themselves, the images are there if an archive with images is.

    Args:
        spec: a manifest with `lists`.
        root: the data root.
    """
    known = [each for each in spec.lists.values() if list_file(each, root) is not None]
    if known:
        return all(images_are_here(spec, listing, root) for listing in known)
    return any(place.files and _is_here(place, root) for place in spec.places)


def fetched_place(spec: DatasetSpec) -> PlaceSpec | None:
    """The first place of which all files have addresses; None if the user has to provide them."""
    places = (place for place in spec.places if place.files)
    return next((place for place in places if all(file.urls for file in place.files)), None)


def images_folder(spec: DatasetSpec, root: Path) -> Path:
    """The folder or archive with the images of lists, or the folder that they are downloaded to.

    Args:
        spec: a manifest with `lists`.
        root: the data root.
    """
    for listing in spec.lists.values():
        try:
            entries = read_list(spec, listing, root)
        except UserError:  # it is not there, or cannot be used
            continue
        _, found = place_of(spec, entries[:_FIRST], root)
        if found is not None:
            return found.where
    return root / (fetched_place(spec) or spec.places[0]).folder


def downloaded_files(spec: DatasetSpec, root: Path) -> list[StoredFiles]:
    """The files of all places of which a file is in its folder, whether or not it is used.

    Args:
        spec: a manifest with `lists`.
        root: the data root.
    """
    return [
        _Files(spec.name, place.folder, place.files)
        for place in spec.places
        if any((root / place.folder / file.name).is_file() for file in place.files)
    ]


def used_places(spec: DatasetSpec, root: Path) -> list[PlaceSpec]:
    """The places that have the images of lists, each once.

    Args:
        spec: a manifest with `lists`.
        root: the data root.
    """
    used: dict[str, PlaceSpec] = {}
    for listing in spec.lists.values():
        try:
            place, _ = place_of(spec, read_list(spec, listing, root), root)
        except UserError:  # the list is not there; it or an archive cannot be read
            continue
        if place is not None:
            used[place.folder] = place
    return list(used.values())


def used_files(spec: DatasetSpec, root: Path) -> list[StoredFiles]:
    """The files of these places, those of one place together."""
    return [_Files(spec.name, p.folder, p.files) for p in used_places(spec, root) if p.files]


def _fetch_list(spec: DatasetSpec, listing: ListSpec, root: Path, say: Reporter) -> None:
    if list_file(listing, root) is not None:
        return
    folder = PurePosixPath(listing.path).parent.as_posix()
    try:
        fetch(_Files(spec.name, folder, (listing.text_file,)), root, say)
        return
    except UserError as error:
        first = error
    reasons = [first]
    if spec.list_archive is not None:
        try:
            _from_archive(spec, spec.list_archive, listing, root, say)
            return
        except UserError as error:
            reasons.append(error)
    raise _unreachable(
        reasons,
        "its list cannot be fetched",
        f"Put the folder '{listing.path.partition('/')[0]}' into {root}, or connect this "
        "machine to the internet.",
    ) from first


def _unreachable(reasons: Sequence[UserError], what: str, hint: str) -> UserError:
    """The error of files that no source has; of one kind if no server can be reached."""
    offline = bool(reasons) and all(isinstance(each, OfflineError) for each in reasons)
    texts = [each.message for each in reasons] or ["no address is known."]
    kind = OfflineError if offline else UserError
    return kind(f"{what}: {' '.join(texts[:1] if offline else texts)}", hint)


def _from_archive(
    spec: DatasetSpec, about: FileSpec, listing: ListSpec, root: Path, say: Reporter
) -> None:
    """Take a list from the zip file of all lists.

    Raises:
        UserError: the file cannot be fetched or read, or does not have the list.
    """
    path = fetch(_Files(spec.name, ".", (about,)), root, say) / about.name
    inner = "/".join(PurePosixPath(listing.path).parts[-2:])
    try:
        with zipfile.ZipFile(path) as file:
            name = next((n for n in file.namelist() if f"/{n}".endswith(f"/{inner}")), None)
            content = b"" if name is None else file.read(name).replace(b"\r\n", b"\n")
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"cannot read {path}: {error}.") from error
    if sha256(content).hexdigest() != listing.sha256:
        problem = "no" if name is None else "another version of"
        raise UserError(f"{path} has {problem} {inner}.")
    with disk_errors(root / listing.path, PLACE):
        (root / listing.path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(root / listing.path, content)


def _fetch_images(
    spec: DatasetSpec, entries: Sequence[ListedImage], root: Path, say: Reporter
) -> None:
    """Unpack archives that are there, else download those of the first place that can be."""
    fetched = [place for place in spec.places if place.files]
    failures: list[UserError] = []
    for place in sorted(fetched, key=lambda place: not _is_here(place, root)):  # stable
        if not _is_here(place, root) and not all(file.urls for file in place.files):
            continue
        try:
            _verify(spec, place, root, say)
        except UserError as error:
            failures.append(error)
            continue
        if place_of(spec, entries[:_FIRST], root)[0] is not None:
            return
        failures.append(UserError(f"{place.files[0].name} has none of the images."))
    raise _unreachable(
        failures,
        f"the images of its list are not in {root}, and cannot be fetched",
        f"Put one of these into {root}: {listed(choices(spec), 20)}.",
    )


def choices(spec: DatasetSpec) -> tuple[str, ...]:
    """What a user can put into the data root to have the images of lists."""
    names = []
    for place in spec.places:
        if place.files:
            names += ["/".join((place.folder, "+".join(file.name for file in place.files)))]
        else:
            names.append(place.folder if place.path is None else f"{place.folder}/{place.path}")
    return tuple(dict.fromkeys(names))


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
    if _stamps(place, folder) in _verified:
        return
    fetch(_Files(spec.name, place.folder, place.files), root, say)
    _verified.add(_stamps(place, folder))


def _stamps(place: PlaceSpec, folder: Path) -> tuple[FileStamp, ...]:
    paths = [folder / file.name for file in place.files]
    return tuple(FileStamp.of(str(path), path.stat()) for path in paths if path.is_file())
