"""The images of data sets, read when first needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from oodbench.data import ImageArray, checked_split
from oodbench.data.decoding_choice import is_large, is_streamed
from oodbench.data.image_selection import Indices, limited, limited_indices
from oodbench.data.store.locations import root_folder
from oodbench.errors import UserError
from oodbench.files import canonical_json, digest
from oodbench.progress import Reporter, Silent
from oodbench.specs import DatasetSpec, SplitName

if TYPE_CHECKING:  # they import Pillow
    from oodbench.data.split_decoder import SplitDecoder
    from oodbench.data.store.stored_dataset import StoredDataset
    from oodbench.data.streamed_split import StreamedSplit

ReadSplits = dict[tuple[str, SplitName], tuple[str, NDArray[np.uint64]]]
"""Data set and split -> fingerprint and a digest of each image, of large splits that were read."""


def declared_checksum(spec: DatasetSpec, split: SplitName, most: int | None) -> str:
    """SHA-256 of what a manifest says of a split, known without its files.

    Args:
        spec: the manifest.
        split: one of its splits.
        most: largest number of images that are read; None for all.
    """
    from oodbench.data.store.image_cache import decisive

    return digest(decisive(spec, split), str(most))


class LoadedSplits:
    """The images of data sets, read when first needed.

    Splits are kept: in memory, or as memory maps of the cache. Large ones that are read once are
    decoded while they are read, and not stored (`oodbench.data.decoding_choice`).

    Args:
        specs: the manifests by name.
        data_root: folder of the data sets; default: `OODBENCH_DATA`, else in the cache.
        say: progress reporter; default: silent, with warnings as Python warnings.
        most: largest number of images of a split; None for all (`oodbench.data.image_selection`).
        reads: data set and split -> how often it will be read; other splits are cached.
        batch_size: images of a batch of `StreamedSplit`.
    """

    def __init__(
        self,
        specs: Mapping[str, DatasetSpec],
        data_root: str | Path | None = None,
        say: Reporter | None = None,
        most: int | None = None,
        *,
        reads: Mapping[tuple[str, SplitName], int] | None = None,
        batch_size: int = 1,
    ) -> None:
        self._specs, self._data_root, self._say = specs, data_root, say or Silent()
        self._most, self._reads, self._batch_size = most, reads or {}, batch_size
        self._loaded: dict[tuple[str, SplitName], tuple[ImageArray, str]] = {}
        self._streamed: dict[tuple[str, SplitName], StreamedSplit] = {}
        self._digests: dict[tuple[str, SplitName], NDArray[np.uint64]] = {}
        self._stored: dict[str, StoredDataset] = {}
        self._elsewhere: ReadSplits = {}

    def has(self, dataset: str) -> bool:
        """Whether there is a data set of this name."""
        return dataset in self._specs

    def num_classes(self, dataset: str) -> int:
        """Number of classes that a manifest declares; 0 for data without classes."""
        return self._specs[dataset].num_classes or 0

    def class_names(self, dataset: str) -> tuple[str, ...]:
        """Names of the classes that a manifest declares; empty if it names none."""
        return self._specs[dataset].classes

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
        """SHA-256 of the images and labels of a split."""
        return self._load(dataset, split)[1]

    def images(self, dataset: str, split: SplitName) -> ImageArray | StreamedSplit:
        """Images of a split, as `get`, or to be decoded while they are read."""
        key, spec = (dataset, split), self._specs[dataset]
        if key in self._streamed:
            return self._streamed[key]
        streamed = is_streamed(spec, split, self._reads.get(key, 2), self._most)
        if key in self._loaded or not streamed:
            return self.get(dataset, split)
        decoder, indices = self._fetched(dataset, split)
        if self._stored_set(dataset).opened(split):
            return self.get(dataset, split)
        from oodbench.data.decoding_workers import worker_count  # imports torch's data loaders
        from oodbench.data.streamed_split import StreamedSplit

        self._streamed[key] = StreamedSplit(
            decoder,
            indices,
            batch_size=self._batch_size,
            workers=worker_count(),
            say=self._say,
        )
        return self._streamed[key]

    def image(self, dataset: str, split: SplitName, index: int) -> NDArray[Any]:
        """One image [C, H, W]; of a large split, decoded alone.

        Raises:
            UserError: it cannot be read.
            IndexError: there is no such image.
        """
        if not self.is_large(dataset, split):
            return np.asarray(self.get(dataset, split).images[index])
        decoder, indices = self._fetched(dataset, split)
        pixels = decoder.decoded(int(indices[index])).pixels
        if pixels is None:
            raise UserError(f"Image {index} of the {split} images of '{dataset}' is damaged.")
        return pixels

    def checksum(self, dataset: str, split: SplitName) -> str:
        """SHA-256 of a split that is known before its images are decoded, where it is large.

        Of large splits it covers labels, paths and sizes of the files and what the manifest says
        of decoding; of the others it is the fingerprint.
        """
        if not self.is_large(dataset, split):
            return self.fingerprint(dataset, split)
        decoder, indices = self._fetched(dataset, split)
        source = decoder.source
        labels = None if source.labels is None else source.labels[indices].tolist()
        return digest(self.declared(dataset, split), source.listing, canonical_json(labels))

    def declared(self, dataset: str, split: SplitName) -> str:
        """SHA-256 of what the manifest says of a split, known without its files."""
        return declared_checksum(self._specs[dataset], split, self._most)

    def is_large(self, dataset: str, split: SplitName) -> bool:
        """Whether the images of a split may be decoded while they are read."""
        return is_large(self._specs[dataset], split)

    def pixels(self) -> dict[str, dict[str, str]]:
        """Data set -> split -> fingerprint, of the large splits that were read so far."""
        found: dict[str, dict[str, str]] = {}
        for (dataset, split), (fingerprint, _) in self._elsewhere.items():
            found.setdefault(dataset, {})[split] = fingerprint
        for (dataset, split), (_, fingerprint) in self._loaded.items():
            if self.is_large(dataset, split):
                found.setdefault(dataset, {})[split] = fingerprint
        for (dataset, split), images in self._streamed.items():
            if images.fingerprint is not None:
                found.setdefault(dataset, {})[split] = images.fingerprint
        return found

    def read(self, only: tuple[str, SplitName] | None = None) -> ReadSplits:
        """The large splits that were read so far, for another process.

        Args:
            only: data set and split; None for all.
        """
        found: ReadSplits = {}
        for dataset, splits in self.pixels().items():
            for split, fingerprint in splits.items():
                key = dataset, cast("SplitName", split)
                digests = self.digests(*key) if only in (None, key) else None
                if digests is not None:
                    found[key] = fingerprint, digests
        return found

    def add_read(self, read: ReadSplits) -> None:
        """Take note of large splits that another process has read."""
        self._elsewhere |= read

    def digests(self, dataset: str, split: SplitName) -> NDArray[np.uint64] | None:
        """A digest of each image (`oodbench.data.duplicates`).

        Returns:
            Shape [N]; None for large splits that have not been read yet.
        """
        from oodbench.data.duplicates import digests

        key = dataset, split
        if key in self._streamed:
            return self._streamed[key].digests
        if key not in self._digests:
            if key not in self._loaded and self.is_large(dataset, split):
                return self._elsewhere[key][1] if key in self._elsewhere else None
            self._digests[key] = digests(self.get(dataset, split))
        return self._digests[key]

    def _fetched(self, dataset: str, split: SplitName) -> tuple[SplitDecoder, Indices]:
        """What decodes the images of a large split, and the images that are read."""
        decoder, indices = self._stored_set(dataset).fetched(split)
        if self._most is not None and len(indices) > self._most:
            labels = decoder.source.labels
            labels = None if labels is None else labels[indices]
            manifest = self._specs[dataset].name  # the part is that of the manifest
            chosen = limited_indices(len(indices), labels, self._most, manifest, split)
            indices = indices[chosen]
        return decoder, indices

    def _stored_set(self, dataset: str) -> StoredDataset:
        from oodbench.data.store.stored_dataset import StoredDataset

        if dataset not in self._stored:
            self._stored[dataset] = StoredDataset(self._specs[dataset], self.root, self._say)
        return self._stored[dataset]

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
