"""A part of a split, for a first try."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from oodbench.data.arrays import ImageArray


def limited(data: ImageArray, most: int, name: str, split: str) -> ImageArray:
    """At most so many images of a split, classes balanced, in the order of the split.

    Images are taken in the order of the SHA-256 of "oodbench/limit/<name>/<split>/<index>": with
    labels, first one of each class, then a second one of each, and so on. The images of a smaller
    limit are among those of a larger one. No random generator is involved, so no library version
    can change this.

    Args:
        data: all images of the split.
        most: how many to take.
        name: of the data set.
        split: which of its splits it is.
    """
    if len(data) <= most:
        return data
    order = sorted(range(len(data)), key=lambda index: _key(name, split, index))
    if data.labels is not None:
        seen: Counter[int] = Counter()
        rounds = {}
        for index in order:
            label = int(data.labels[index])
            rounds[index] = seen[label]
            seen[label] += 1
        order.sort(key=lambda index: rounds[index])  # stable
    return data.select(np.sort(np.array(order[:most], dtype=np.int64)))


def _key(name: str, split: str, index: int) -> bytes:
    return hashlib.sha256(f"oodbench/limit/{name}/{split}/{index}".encode()).digest()
