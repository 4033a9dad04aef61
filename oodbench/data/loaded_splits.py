"""The images of data sets, read when first needed and then kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from oodbench.data import ImageArray, checked_split
from oodbench.data.image_selection import limited
from oodbench.data.store.locations import root_folder
from oodbench.progress import Reporter, Silent
from oodbench.specs import DatasetSpec, SplitName


class LoadedSplits:
    """The images of data sets, read when first needed and then kept.

    Args:
        specs: name of a data set, as in a benchmark -> its manifest.
        data_root: folder of the data sets; default: `OODBENCH_DATA`, else in the cache.
        say: progress reporter; default: silent, with warnings as Python warnings.
        most: largest number of images of a split; None for all (`oodbench.data.image_selection`).
    """

    def __init__(
        self,
        specs: Mapping[str, DatasetSpec],
        data_root: str | Path | None = None,
        say: Reporter | None = None,
        most: int | None = None,
    ) -> None:
        self._specs, self._data_root, self._say = specs, data_root, say or Silent()
        self._most = most
        self._loaded: dict[tuple[str, str], tuple[ImageArray, str]] = {}

    def num_classes(self, dataset: str) -> int:
        """Number of classes that a manifest declares; 0 for data without classes."""
        return self._specs[dataset].num_classes or 0

    def shape(self, dataset: str) -> tuple[int, int, int]:
        """Channels, height and width that a manifest declares."""
        return self._specs[dataset].shape

    @property
    def root(self) -> Path:
        """The data root."""
        return root_folder(self._data_root)

    def get(self, dataset: str, split: SplitName) -> ImageArray:
        """Images of a split; verified against the fingerprint of when they were decoded."""
        return self._load(dataset, split)[0]

    def fingerprint(self, dataset: str, split: SplitName) -> str:
        """SHA-256 of a split."""
        return self._load(dataset, split)[1]

    def _load(self, dataset: str, split: SplitName) -> tuple[ImageArray, str]:
        key = dataset, split
        if key not in self._loaded:
            spec = self._specs[dataset]
            data, fingerprint = checked_split(spec, split, self._data_root, self._say)
            if self._most is not None and len(data) > self._most:
                data = limited(data, self._most, spec.name, split)
                fingerprint = data.fingerprint()
            self._loaded[key] = data, fingerprint
        return self._loaded[key]
