"""Images of a large split: worker processes decode them while they are read; none is stored."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from oodbench.data.array_checks import check_labels, mismatch
from oodbench.data.duplicates import digests_of
from oodbench.data.image_array import PixelDigest
from oodbench.data.image_selection import Indices
from oodbench.data.split_decoder import SplitDecoder
from oodbench.data.store.stored_dataset import remarks
from oodbench.errors import UserError, shown
from oodbench.progress import Reporter

WORKERS_VARIABLE = "OODBENCH_WORKERS"
"""Environment variable with the number of worker processes; 0: this process decodes."""

_MOST_WORKERS = 16
_IMAGES_AT_ONCE = 16
"""Maximum number of images that a worker decodes before it hands them over."""
_BLOCKS_AHEAD = 2
"""Number of batches of the network that workers decode ahead, if the shared memory holds them."""

_RETURNED_EACH = 32_000_000
"""Bytes of images after which freed memory is returned to the system."""

T = TypeVar("T")


def worker_count() -> int:
    """Number of worker processes: `OODBENCH_WORKERS`, else a core each, one left for the network.

    Raises:
        UserError: the variable is not a whole number from 0.
    """
    given = os.environ.get(WORKERS_VARIABLE)
    if not given:
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        return max(1, min(cores - 1, _MOST_WORKERS))
    if not (given.isascii() and given.isdigit()):
        raise UserError(
            f"{WORKERS_VARIABLE} is {shown(given)}, not a number of processes.",
            "Set it to a whole number from 0; 0 decodes in the process of the run.",
        )
    return int(given)


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
        found, done, unreturned = _Pass(), 0, 0
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
                unreturned += images.nbytes
                if unreturned > _RETURNED_EACH:
                    _return_freed_memory()
                    unreturned = 0
        self._note(found, digest)

    def _labels(self, indices: list[int]) -> NDArray[np.int64] | None:
        labels = self._decoder.source.labels
        return None if labels is None else labels[indices]

    def _blocks(self, found: _Pass, workers: int) -> Iterator[Tensor]:
        """Images batch by batch; `found` may be ahead of them by a part."""
        waiting: list[Tensor] = []
        count = 0
        for part in self._loader(workers):
            found.add(part)
            waiting.append(part.pixels)
            count += len(part.pixels)
            while count >= self._batch_size:
                joined = torch.cat(waiting)  # a copy: workers get their shared memory back
                yield joined[: self._batch_size]
                waiting = [joined[self._batch_size :]]
                count -= self._batch_size
            if part.failure is not None:
                raise UserError(*part.failure)
        if count:
            yield torch.cat(waiting)

    def _loader(self, workers: int) -> DataLoader[_Part]:
        size = math.prod(self._decoder.spec.shape)
        ahead = _BLOCKS_AHEAD * self._batch_size
        if workers:
            ahead = max(workers, min(ahead, _shared_memory() // size))
        length = max(1, min(_IMAGES_AT_ONCE, self._batch_size, ahead // (2 * max(1, workers))))
        return DataLoader(
            _Parts(self._decoder, self._indices, length),
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=workers,
            generator=torch.Generator(),  # a seed of workers is not drawn from the global one
            prefetch_factor=max(2, ahead // (workers * length)) if workers else None,
        )

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


def _return_freed_memory() -> None:
    """Let glibc return what was freed: between blocks of other sizes it reuses too little of it.

    Without this, a pass with many detectors grew by the size of every batch.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _unchanged(part: T) -> T:
    return part


def _shared_memory() -> int:
    """Bytes that workers may use to hand over images: half of what is free."""
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).free // 2 if folder.is_dir() else 2**30
