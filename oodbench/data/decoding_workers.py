"""Worker processes that decode images part by part, within the memory that they may use."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from oodbench.errors import UserError, shown

WORKERS_VARIABLE = "OODBENCH_WORKERS"
"""Environment variable with the number of worker processes; 0: this process decodes."""

_MOST_WORKERS = 16
_IMAGES_AT_ONCE = 16
"""Maximum number of images that a worker decodes before it hands them over."""
_BLOCKS_AHEAD = 2
"""Number of batches of the network that workers decode ahead, if the shared memory holds them."""

P = TypeVar("P")
"""A part: what a worker decoded of some images."""


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


def parts_loader(
    parts: Callable[[int], Dataset[P]], image_bytes: int, batch_size: int, workers: int
) -> DataLoader[P]:
    """Reads parts in order, as many ahead as two batches take and shared memory holds.

    Args:
        parts: takes the number of images of a part, and gives the parts; they can be pickled.
        image_bytes: size of a decoded image.
        batch_size: images of a batch of the network.
        workers: number of worker processes; 0: this process decodes.
    """
    ahead = _BLOCKS_AHEAD * batch_size
    if workers:
        ahead = max(workers, min(ahead, _shared_memory() // image_bytes))
    length = max(1, min(_IMAGES_AT_ONCE, batch_size, ahead // (2 * max(1, workers))))
    return DataLoader(
        parts(length),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        generator=torch.Generator(),  # a seed of workers is not drawn from the global one
        prefetch_factor=max(2, ahead // (workers * length)) if workers else None,
        worker_init_fn=_quiet,
    )


def in_batches(pixels: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Images [B, C, H, W] batch by batch, all of the batch size but the last one.

    Args:
        pixels: shape [N, C, H, W], of any numbers of images.
        batch_size: images of a batch.
    """
    waiting: list[Tensor] = []
    count = 0
    for each in pixels:
        waiting.append(each)
        count += len(each)
        while count >= batch_size:
            joined = torch.cat(waiting)  # a copy: workers get their shared memory back
            yield joined[:batch_size]
            waiting = [joined[batch_size:]]
            count -= batch_size
    if count:
        yield torch.cat(waiting)


def _quiet(worker: int) -> None:
    """Errors of a worker are raised where it is read; after Ctrl-C, its threads print none."""
    sys.excepthook = lambda *error: None


def _unchanged(part: P) -> P:
    return part


def _shared_memory() -> int:
    """Bytes that workers may use to hand over images: half of what is free."""
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).free // 2 if folder.is_dir() else 2**30
