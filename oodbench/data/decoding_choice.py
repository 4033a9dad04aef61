"""Whether the images of a split are decoded once into the cache, or each time they are read."""

from __future__ import annotations

import math

from oodbench.specs import DatasetSpec, SplitName

ALWAYS_CACHED = 2**29
"""Splits of at most this many decoded bytes are cached, however often they are read."""

NEVER_CACHED = 2**35
"""Splits of more decoded bytes are not cached: the training images of ImageNet take 193 GB."""


def is_large(spec: DatasetSpec, split: SplitName) -> bool:
    """Whether a split need not be cached: image files that take much space when decoded.

    The whole split counts, also in a limited run.
    """
    return spec.kind in ("folder", "list") and _decoded_bytes(spec, split) > ALWAYS_CACHED


def is_streamed(spec: DatasetSpec, split: SplitName, reads: int, most: int | None) -> bool:
    """Whether a split that is not in the cache yet is decoded while it is read.

    Args:
        spec: the manifest.
        split: the split.
        reads: how often a run reads it.
        most: largest number of its images that are read; None for all.
    """
    if not is_large(spec, split):
        return False
    reduced = most is not None and most < spec.splits[split]
    return reads <= 1 or reduced or _decoded_bytes(spec, split) > NEVER_CACHED


def _decoded_bytes(spec: DatasetSpec, split: SplitName) -> int:
    return spec.splits[split] * math.prod(spec.shape)
