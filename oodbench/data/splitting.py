"""Splits that are set apart from the images of another split, by hash."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from oodbench.specs import DatasetSpec, SplitName

Indices = NDArray[np.int64]


def division(spec: DatasetSpec, source: SplitName) -> dict[SplitName, Indices]:
    """Which images of a source belong to which split.

    The images are ordered by the SHA-256 of "oodbench/hold-out/<name>/<index>"; the lowest go to
    the splits that are set apart, in the manifest's order. No random generator is involved, so no
    library version can change this.

    Args:
        spec: the manifest.
        source: a split that is read from the data set's files.

    Returns:
        Ascending indices of each split; disjoint, together all that the manifest counts.
    """
    validation = [split for split, origin in spec.split_from.items() if origin == source]
    total = spec.splits[source] + sum(spec.splits[split] for split in validation)
    if not validation:
        return {source: np.arange(total)}
    order = np.array(sorted(range(total), key=lambda index: _key(spec.name, index)), dtype=np.int64)
    parts, start = {}, 0
    for split in validation:
        parts[split] = np.sort(order[start : start + spec.splits[split]])
        start += spec.splits[split]
    return {source: np.sort(order[start:]), **parts}


def _key(name: str, index: int) -> bytes:
    return hashlib.sha256(f"oodbench/hold-out/{name}/{index}".encode()).digest()
