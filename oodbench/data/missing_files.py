"""Files that data sets and checkpoints still need: what to get from where, and where to put it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from oodbench.data.listed_files import choices, fetched_place, images_are_there
from oodbench.data.readers.listed_images import class_folder
from oodbench.data.readers.published_lists import list_file
from oodbench.data.store.availability import dataset_state
from oodbench.data.store.checkpoint_files import CheckpointFiles, Weights, placed_checkpoint
from oodbench.data.store.fetching import unpacked_whole
from oodbench.data.store.locations import StoredFiles, content_folder, dataset_folder
from oodbench.specs import CheckpointSpec, DatasetSpec, FileSpec


@dataclass(frozen=True)
class MissingFile:
    """A file, or a folder of the user's, that is not there.

    Attributes:
        target: the path that it must have.
        owners: what needs it, as in "data set 'svhn'".
        urls: its addresses, the preferred one first; empty if the user has to provide it.
        size: size in bytes; None if unknown.
        checksum: "sha256 ..." or "md5 ..."; empty if none is published.
        what: what a folder or a file without address is; empty for files with addresses.
        instead: what else would do, as paths in the data root.
    """

    target: Path
    owners: tuple[str, ...]
    urls: tuple[str, ...] = ()
    size: int | None = None
    checksum: str = ""
    what: str = ""
    instead: tuple[str, ...] = ()


@dataclass(frozen=True)
class NeededFiles:
    """Everything with files that some benchmarks need.

    Attributes:
        datasets: manifests.
        checkpoints: published checkpoints, each with the file of its benchmark.
        weights: weights of torchvision.
    """

    datasets: tuple[DatasetSpec, ...] = ()
    checkpoints: tuple[tuple[CheckpointSpec, Path | None], ...] = ()
    weights: tuple[Weights, ...] = ()

    def __add__(self, other: NeededFiles) -> NeededFiles:
        """Everything of both, once."""
        return NeededFiles(
            tuple({spec.name: spec for spec in self.datasets + other.datasets}.values()),
            tuple(dict.fromkeys(self.checkpoints + other.checkpoints)),
            tuple(dict.fromkeys(self.weights + other.weights)),
        )

    def missing(self, root: Path, *, by_hand: bool = False) -> list[MissingFile]:
        """Everything that is not in the data root, from a quick look: files are not read.

        A file that several data sets or checkpoints need is named once, with all of them.

        Args:
            root: the data root.
            by_hand: the user downloads the files: an archive of all lists in place of each list.
        """
        found: list[MissingFile] = []
        for spec in self.datasets:
            found += _of_dataset(spec, root, by_hand=by_hand)
        for checkpoint, benchmark in self.checkpoints:
            found += _of_checkpoint(checkpoint, benchmark, root)
        for weights in self.weights:
            if not any(place.is_file() for place in weights.places(root)):
                found.append(_of_weights(weights, root))
        return _merged(found)


def owner_of(needed: DatasetSpec | CheckpointSpec | Weights) -> str:
    """What needs files, as in "data set 'svhn'"."""
    if isinstance(needed, DatasetSpec):
        return f"{needed.noun} '{needed.name}'"
    if isinstance(needed, CheckpointSpec):
        return f"checkpoint '{needed.path or needed.file_name}'"
    return f"network '{needed.network}'"


def _of_dataset(spec: DatasetSpec, root: Path, *, by_hand: bool) -> list[MissingFile]:
    owner = owner_of(spec)
    if spec.lists:
        lists = _lists_of(spec, owner, root, by_hand=by_hand)
        return [*lists, *_images_of(spec, owner, root)]
    state = dataset_state(spec, root).state
    if state == "missing":
        folder = dataset_folder(spec, root)
        return [MissingFile(folder, (owner,), what=f"the folder of {spec.title}")]
    return _of_files(spec, owner, root) if state == "not fetched" else []


def _lists_of(spec: DatasetSpec, owner: str, root: Path, *, by_hand: bool) -> list[MissingFile]:
    """The published lists that a data set lacks, unless the archive of all lists is there."""
    archive = spec.list_archive
    if archive is not None and _plausible(root / archive.name, archive):
        return []
    wanted = list(spec.lists.values())
    wanted += [each.classes for each in spec.class_folders.values() if each.classes is not None]
    absent = [listing for listing in wanted if list_file(listing, root) is None]
    if by_hand and absent and archive is not None:
        folders = dict.fromkeys(PurePosixPath(listing.path).parts[0] for listing in absent)
        return [_missing(root / archive.name, archive, owner, tuple(folders))]
    return [_missing(root / listing.path, listing.text_file, owner) for listing in absent]


def _images_of(spec: DatasetSpec, owner: str, root: Path) -> list[MissingFile]:
    """The files of the first place with addresses for all, and folders of the user's."""
    found = []
    if not images_are_there(spec, root):
        place = fetched_place(spec)
        if place is None:
            at, what = root / spec.places[0].folder, f"the images of {spec.title}"
            found.append(MissingFile(at, (owner,), what=what, instead=choices(spec)))
        else:
            at = root / place.folder
            found += [_missing(at / file.name, file, owner, choices(spec)) for file in place.files]
    for split, folders in spec.class_folders.items():
        if class_folder(folders, root) is None:
            what = f"the {split} images of {spec.title}, one sub-folder per class"
            target = root / folders.folders[0]
            found.append(MissingFile(target, (owner,), what=what, instead=folders.folders[1:]))
    return found


def _of_checkpoint(spec: CheckpointSpec, benchmark: Path | None, root: Path) -> list[MissingFile]:
    owner = owner_of(spec)
    if placed_checkpoint(spec, benchmark, root) is not None:
        return []
    if not spec.files:
        assert spec.path is not None  # a checkpoint has files or a path
        return [MissingFile(root / spec.path, (owner,), what="a checkpoint")]
    files = CheckpointFiles(spec)
    if content_folder(files, root) != dataset_folder(files, root) and unpacked_whole(files, root):
        return []
    folder = PurePosixPath(spec.path or "").parts[:1]  # as OpenOOD has it
    instead = tuple(f"results/{name}" for name in folder)
    return [replace(file, instead=instead) for file in _of_files(files, owner, root)]


def _of_weights(weights: Weights, root: Path) -> MissingFile:
    checksum = f"sha256 {weights.hash_part}..." if weights.hash_part else ""
    return MissingFile(
        weights.target(root),
        (owner_of(weights),),
        (weights.url,),
        checksum=checksum,
    )


def _of_files(spec: StoredFiles, owner: str, root: Path) -> list[MissingFile]:
    folder = dataset_folder(spec, root)
    return [
        _missing(folder / file.name, file, owner)
        for file in spec.files
        if not any(_plausible(at / file.name, file) for at in (folder, root))
    ]


def _missing(
    target: Path, file: FileSpec, owner: str, instead: tuple[str, ...] = ()
) -> MissingFile:
    what = "" if file.urls else "a file"
    return MissingFile(
        target, (owner,), file.urls, file.size, _checksum(file), what, tuple(instead)
    )


def _plausible(path: Path, file: FileSpec) -> bool:
    """Whether a file exists and, as far as a look can tell, is whole."""
    if not path.is_file():
        return False
    return file.size is None or file.text or path.stat().st_size == file.size


def _checksum(file: FileSpec) -> str:
    if not file.checksum:
        return ""
    kind = "md5" if file.sha256 is None else "sha256"
    return f"{kind} {file.checksum}{' with LF line ends' if file.text else ''}"


def _merged(files: Iterable[MissingFile]) -> list[MissingFile]:
    """Each file once: files with the same name and addresses are the same."""
    merged: dict[object, MissingFile] = {}
    for file in files:
        key = (file.target.name, file.urls) if file.urls else file.target
        first = merged.get(key, file)
        owners = tuple(dict.fromkeys(first.owners + file.owners))
        merged[key] = MissingFile(
            *(first.target, owners, first.urls, first.size, first.checksum, first.what),
            tuple(dict.fromkeys(first.instead + file.instead)),
        )
    return list(merged.values())
