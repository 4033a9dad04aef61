"""Where data sets lie: the data root, a data set's folder, the cache of decoded images."""

from __future__ import annotations

import os
from pathlib import Path

from oodbench.files import cache_folder, expanded
from oodbench.specs import DatasetSpec

DATA_VARIABLE = "OODBENCH_DATA"

PLACE = f"--data-root or {DATA_VARIABLE}"
"""What moves the data sets elsewhere, for messages."""


def root_folder(given: str | Path | None = None) -> Path:
    """The folder that data sets lie in: as given, else `OODBENCH_DATA`, else in the cache."""
    chosen = given or os.environ.get(DATA_VARIABLE)
    return expanded(chosen) if chosen else cache_folder() / "data"


def dataset_folder(spec: DatasetSpec, root: Path) -> Path:
    """The folder of a data set; an absolute `folder` of the manifest is itself."""
    return root / expanded(spec.folder or spec.name)


def unpacked_folder(spec: DatasetSpec, root: Path) -> Path:
    """What the data set's archives are unpacked to: their content and the record of it."""
    return dataset_folder(spec, root) / "unpacked"


def content_folder(spec: DatasetSpec, root: Path) -> Path:
    """The folder that the manifest's `paths` are relative to."""
    if any(file.unpacked_limit is not None for file in spec.files):
        return unpacked_folder(spec, root) / "content"
    return dataset_folder(spec, root)


def decoded_root() -> Path:
    """The folder of the decoded images of all data sets."""
    return cache_folder() / "decoded"
