"""Selecting images by hash: splits taken from other splits, and parts of splits for a first try.

Images are ordered by the SHA-256 of a fixed text and their index. No random generator is involved,
so the selected images are the same with every version of every library. (scikit-learn's
`train_test_split` depends on NumPy's generator.)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from oodbench.data.image_array import ImageArray
from oodbench.specs import DatasetSpec, SplitName

Indices = NDArray[np.int64]


def hash_order(indices: Iterable[int], text: str) -> list[int]:
    """Indices in the order of the SHA-256 of "<text>/<index>"; `text` takes the role of a seed."""
    return sorted(indices, key=lambda index: hashlib.sha256(f"{text}/{index}".encode()).digest())


def split_parts(
    spec: DatasetSpec, source: SplitName, found: int | None = None
) -> dict[SplitName, Indices]:
    """Distribute the images of a split that is read over the splits that are taken from it.

    The first images in hash order go to the splits of `split_from`, in the manifest's order.

    Args:
        spec: the manifest.
        source: a split that is read from the data set's files.
        found: number of its images, where the manifest gives only an upper bound.

    Returns:
        Ascending indices of each split; disjoint, together all images that the manifest counts.
    """
    taken = [split for split, origin in spec.split_from.items() if origin == source]
    total = spec.splits[source] + sum(spec.splits[split] for split in taken)
    if not taken:
        folders = spec.class_folders.get(source)
        exact = folders is None or not folders.at_most
        return {source: np.arange(total if exact or found is None else min(found, total))}
    # The text is part of the definition of published splits: it must not change.
    order = np.array(hash_order(range(total), f"oodbench/hold-out/{spec.name}"), dtype=np.int64)
    parts, start = {}, 0
    for split in taken:
        parts[split] = np.sort(order[start : start + spec.splits[split]])
        start += spec.splits[split]
    return {source: np.sort(order[start:]), **parts}


def limited(data: ImageArray, most: int, name: str, split: str) -> ImageArray:
    """At most `most` images of a split, with balanced classes, in the order of the split.

    Images are taken in hash order: with labels, first one image of each class, then a second one,
    and so on. A smaller selection is part of every larger one.

    Args:
        data: all images of the split.
        most: maximum number of images.
        name: name of the data set.
        split: name of the split.
    """
    if len(data) <= most:
        return data
    return data.select(limited_indices(len(data), data.labels, most, name, split))


def limited_indices(
    count: int, labels: NDArray[np.int64] | None, most: int, name: str, split: str
) -> Indices:
    """Indices of the images that `limited` takes, ascending, of a split of `count` images."""
    order = hash_order(range(count), f"oodbench/limit/{name}/{split}")
    if labels is not None:
        seen: Counter[int] = Counter()
        rounds = {}
        for index in order:
            label = int(labels[index])
            rounds[index] = seen[label]
            seen[label] += 1
        order.sort(key=lambda index: rounds[index])  # stable
    return np.sort(np.array(order[:most], dtype=np.int64))
