"""Folders of data sets: data root, files, unpacked archives, cache of decoded images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from oodbench.files import cache_folder, expanded
from oodbench.specs import FileSpec

DATA_VARIABLE = "OODBENCH_DATA"

PLACE = f"--data-root or {DATA_VARIABLE}"
"""Options that choose the data root, for messages."""


class StoredFiles(Protocol):
    """Files that are downloaded into a folder of their own: of a data set or of a checkpoint.

    Attributes:
        name: of the owner, for messages.
        noun: what the owner is, "data set" or "checkpoint".
        folder: its folder in the data root; None: its name.
        files: the files; archives are unpacked.
    """

    @property
    def name(self) -> str:  # noqa: D102 - above
        ...

    @property
    def noun(self) -> str:  # noqa: D102
        ...

    @property
    def folder(self) -> str | None:  # noqa: D102
        ...

    @property
    def files(self) -> tuple[FileSpec, ...]:  # noqa: D102
        ...


def root_folder(given: str | Path | None = None) -> Path:
    """The data root: as given, else `OODBENCH_DATA`, else a folder in the cache."""
    chosen = given or os.environ.get(DATA_VARIABLE)
    return expanded(chosen) if chosen else cache_folder() / "data"


def dataset_folder(spec: StoredFiles, root: Path) -> Path:
    """The folder of a data set or checkpoint: its `folder` or name, in the data root."""
    return root / expanded(spec.folder or spec.name)


def unpacked_folder(spec: StoredFiles, root: Path) -> Path:
    """The folder of the unpacked archives and of the record about them."""
    return dataset_folder(spec, root) / "unpacked"


def content_folder(spec: StoredFiles, root: Path) -> Path:
    """The folder that the manifest's `paths` are relative to."""
    if any(file.unpacked_limit is not None for file in spec.files):
        return unpacked_folder(spec, root) / "content"
    return dataset_folder(spec, root)


def decoded_root() -> Path:
    """The cache of decoded images of all data sets."""
    return cache_folder() / "decoded"
