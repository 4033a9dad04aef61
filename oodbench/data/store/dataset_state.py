"""What is here of a data set, without reading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from oodbench.data.store.dataset_files import unpacked_whole
from oodbench.data.store.dataset_folders import content_folder, dataset_folder
from oodbench.data.store.image_cache import DamagedCacheError, open_decoded
from oodbench.data.store.stored_dataset import StoredDataset
from oodbench.errors import UserError
from oodbench.progress import Silent
from oodbench.specs import DatasetSpec

State = Literal["built in", "not fetched", "fetched", "unpacked", "missing", "present", "decoded"]
"""Computed, nothing is stored; then: of data sets with `files`, how far they are; of the user's
own, whether the folder is there; and for both, whether the images are in the cache."""


@dataclass(frozen=True)
class DatasetState:
    """What is known of a data set's files.

    Attributes:
        state: how far it is.
        folder: the data set's folder; None for built-in ones.
        hosts: where its files come from, the preferred one first.
        size: bytes of its files; None where they are not known, or are the user's own.
    """

    state: State
    folder: Path | None
    hosts: tuple[str, ...]
    size: int | None


def dataset_state(spec: DatasetSpec, root: Path) -> DatasetState:
    """Look at what is here of a data set.

    Args:
        spec: the manifest.
        root: the data root.
    """
    if spec.kind == "builtin":
        return DatasetState("built in", None, (), None)
    hosts = dict.fromkeys(urlsplit(url).hostname or url for f in spec.files for url in f.urls)
    sizes = [file.size for file in spec.files]
    known = [size for size in sizes if size is not None]
    return DatasetState(
        state=_state(spec, root),
        folder=dataset_folder(spec, root),
        hosts=tuple(hosts),
        size=sum(known) if known and len(known) == len(sizes) else None,
    )


def _state(spec: DatasetSpec, root: Path) -> State:
    folder = dataset_folder(spec, root)
    if not spec.files and not folder.is_dir():
        return "missing"
    try:
        if open_decoded(StoredDataset(spec, root, Silent()).folder()) is not None:
            return "decoded"
    except (DamagedCacheError, UserError):
        pass  # decoded again when it is needed, which then says why
    if not spec.files:
        return "present"
    if content_folder(spec, root) != folder and unpacked_whole(spec, root):
        return "unpacked"
    # Sizes and checksums are looked at when the files are used.
    here = all(any((at / f.name).is_file() for at in (folder, root)) for f in spec.files)
    return "fetched" if here else "not fetched"
