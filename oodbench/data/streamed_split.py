"""Images of a large split: worker processes decode them while they are read; none is stored."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from oodbench.data.array_checks import check_labels, mismatch
from oodbench.data.decoding_workers import in_batches, parts_loader
from oodbench.data.duplicates import digests_of
from oodbench.data.image_array import PixelDigest
from oodbench.data.image_selection import Indices
from oodbench.data.split_decoder import SplitDecoder
from oodbench.data.store.stored_dataset import remarks
from oodbench.errors import UserError
from oodbench.progress import Reporter


@dataclass(frozen=True, eq=False)
class _Part:
    """What a worker decoded.

    Attributes:
        pixels: shape [N, C, H, W], uint8.
        indices: of these images in the stored images.
        digests: of these images (`oodbench.data.duplicates.digests_of`).
        skipped: names of images that cannot be decoded.
        lost: what conversion dropped of images.
        failure: message and hint of the error that ended the work; None if there was none.
    """

    pixels: Tensor
    indices: list[int]
    digests: NDArray[np.uint64]
    skipped: list[str]
    lost: list[str]
    failure: tuple[str, str] | None


class _Parts(Dataset[_Part]):
    """The parts of a split, decoded by their number."""

    def __init__(self, decoder: SplitDecoder, indices: Indices, length: int) -> None:
        self._decoder, self._indices, self._length = decoder, indices, length

    def __len__(self) -> int:
        return math.ceil(len(self._indices) / self._length)

    def __getitem__(self, number: int) -> _Part:
        start = number * self._length
        pixels, kept, skipped, lost = [], [], [], []
        failure = None
        try:
            for index in self._indices[start : start + self._length].tolist():
                image = self._decoder.decoded(index)
                if image.pixels is None:
                    skipped.append(self._decoder.source.names[index])
                    continue
                pixels.append(image.pixels)
                kept.append(index)
                lost += [image.lost] if image.lost else []
        except UserError as error:  # an exception would come with the traceback of the worker
            failure = error.message, error.hint
        stacked = np.stack(pixels) if pixels else np.empty((0, *self._decoder.spec.shape), np.uint8)
        digests = digests_of(stacked)
        return _Part(torch.from_numpy(stacked), kept, digests, skipped, lost, failure)


@dataclass
class _Pass:
    """What is found in a pass over a split."""

    indices: list[int] = field(default_factory=list)
    digests: list[NDArray[np.uint64]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)

    def add(self, part: _Part) -> None:
        self.indices += part.indices
        self.digests.append(part.digests)
        self.skipped += part.skipped
        self.lost.update(part.lost)


class StreamedSplit:
    """Images of a split that are decoded each time they are read, in their order.

    Args:
        decoder: decodes an image.
        indices: the images, in the stored images.
        batch_size: images of a batch.
        workers: number of worker processes; 0: this process decodes.
        say: progress reporter, for warnings about images.

    Attributes:
        fingerprint: that of `ImageArray`, known after a whole pass; None if images were skipped.
        digests: of the images (`oodbench.data.duplicates.digests_of`), known after a whole pass.
    """

    def __init__(
        self,
        decoder: SplitDecoder,
        indices: Indices,
        *,
        batch_size: int,
        workers: int,
        say: Reporter,
    ) -> None:
        self._decoder, self._indices, self._say = decoder, indices, say
        self._batch_size, self._workers = batch_size, workers
        self._skipped = 0
        self.fingerprint: str | None = None
        self.digests: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        """Number of images; after a pass, without those that were skipped."""
        return len(self._indices) - self._skipped

    def first(self) -> tuple[Tensor, NDArray[np.int64] | None]:
        """Images [B, C, H, W], uint8, and labels [B] of the first batch, decoded in this process.

        Raises:
            UserError: as `batches`.
        """
        found = _Pass()
        for images in self._blocks(found, workers=0):
            return images, self._labels(found.indices[: len(images)])
        return torch.empty((0, *self._decoder.spec.shape), dtype=torch.uint8), self._labels([])

    def batches(self) -> Iterator[tuple[Tensor, NDArray[np.int64] | None]]:
        """Images [B, C, H, W], uint8, and labels [B] of all batches in order.

        All have the batch size but the last one.

        Raises:
            UserError: an image cannot be decoded, and the manifest does not say to skip it; or the
                images are not those of the manifest's checksum, or of an earlier pass.
        """
        found, done = _Pass(), 0
        digest = PixelDigest(len(self), self._decoder.spec.shape, np.dtype(np.uint8))
        with ThreadPoolExecutor(1) as thread:  # hashing while the network computes
            hashed: Future[None] | None = None
            for images in self._blocks(found, self._workers):
                if hashed is not None:
                    hashed.result()
                hashed = thread.submit(digest.add, images.numpy())
                labels = self._labels(found.indices[done : done + len(images)])
                done += len(images)
                yield images, labels
        self._note(found, digest)

    def _labels(self, indices: list[int]) -> NDArray[np.int64] | None:
        labels = self._decoder.source.labels
        return None if labels is None else labels[indices]

    def _blocks(self, found: _Pass, workers: int) -> Iterator[Tensor]:
        """Images batch by batch; `found` may be ahead of them by a part."""

        def pixels() -> Iterator[Tensor]:
            for part in self._loader(workers):
                found.add(part)
                yield part.pixels
                if part.failure is not None:
                    raise UserError(*part.failure)

        return in_batches(pixels(), self._batch_size)

    def _loader(self, workers: int) -> DataLoader[_Part]:
        size = math.prod(self._decoder.spec.shape)
        parts = functools.partial(_Parts, self._decoder, self._indices)
        return parts_loader(parts, size, self._batch_size, workers)

    def _note(self, found: _Pass, digest: PixelDigest) -> None:
        """Keep what a whole pass found, and check it."""
        spec, split, note = self._decoder.spec, self._decoder.split, self._decoder.source.note
        if self.digests is None:
            count = len(found.indices)
            for text in remarks(spec, split, count, found.skipped, found.lost, note):
                self._say.warn(text)
        self.digests = np.concatenate(found.digests)
        if len(found.indices) != len(self):  # the number of images is part of the fingerprint
            self._skipped = len(found.skipped)
            if found.skipped:
                check_labels(spec, split, self._labels(found.indices))
            return
        fingerprint = digest.fingerprint(self._labels(found.indices))
        if self.fingerprint not in (None, fingerprint):
            raise UserError(
                f"data set '{spec.name}', split '{split}': the images changed during the run.",
                "Start again, and leave the files as they are meanwhile.",
            )
        self.fingerprint = fingerprint
        wanted = spec.sha256.get(split) if len(self._indices) == spec.splits[split] else None
        if wanted not in (None, fingerprint):
            raise mismatch(spec, split, f"sha256 {wanted}", fingerprint)
