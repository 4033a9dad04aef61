"""State of a data set on this machine, from a quick look: missing, fetched, decoded, ..."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from oodbench.data.decoding_choice import is_large
from oodbench.data.listed_files import fetched_place, is_present
from oodbench.data.store.fetching import unpacked_whole
from oodbench.data.store.image_cache import DamagedCacheError, open_decoded
from oodbench.data.store.locations import content_folder, dataset_folder
from oodbench.data.store.stored_dataset import StoredDataset
from oodbench.errors import UserError
from oodbench.progress import Silent
from oodbench.specs import DatasetSpec

State = Literal["built in", "not fetched", "fetched", "unpacked", "missing", "present", "decoded"]
"""built in: computed, not stored. not fetched, fetched, unpacked: data sets with `files`. missing:
data sets whose folder the user provides. present, not fetched: published lists and their images.
present: also images that the user provides. decoded: any kind, with images in the cache, except for
those that are decoded while they are read.
"""


@dataclass(frozen=True)
class DatasetState:
    """State of a data set.

    Attributes:
        state: the state.
        folder: the data set's folder; None for built-in data sets.
        hosts: hosts of its files, the preferred one first.
        size: total size of its files in bytes; None if unknown, or if the user provides them.
    """

    state: State
    folder: Path | None
    hosts: tuple[str, ...]
    size: int | None


def dataset_state(spec: DatasetSpec, root: Path) -> DatasetState:
    """Find out the state of a data set without reading its files.

    Args:
        spec: the manifest.
        root: the data root.
    """
    if spec.kind == "builtin":
        return DatasetState("built in", None, (), None)
    hosts = dict.fromkeys(urlsplit(url).hostname or url for f in spec.published for url in f.urls)
    place = fetched_place(spec) if spec.lists else None
    sizes = [file.size for file in (spec.files if place is None else place.files)]
    known = [size for size in sizes if size is not None]
    return DatasetState(
        state=_state(spec, root),
        folder=dataset_folder(spec, root),
        hosts=tuple(hosts),
        size=sum(known) if known and len(known) == len(sizes) else None,
    )


def _state(spec: DatasetSpec, root: Path) -> State:
    folder = dataset_folder(spec, root)
    if spec.lists:
        return "present" if is_present(spec, root) else "not fetched"
    if not spec.files and not folder.is_dir():
        return "missing"
    try:
        stored = StoredDataset(spec, root, Silent())
        cached = [split for split in spec.splits if not is_large(spec, split)]
        if cached and all(open_decoded(stored.folder(split)) is not None for split in cached):
            return "decoded"
    except (DamagedCacheError, UserError):
        pass  # it will be decoded again when needed, with a warning
    if not spec.files:
        return "present"
    if content_folder(spec, root) != folder and unpacked_whole(spec, root):
        return "unpacked"
    # Sizes and checksums are checked when the files are used.
    here = all(any((at / f.name).is_file() for at in (folder, root)) for f in spec.files)
    return "fetched" if here else "not fetched"
