"""A part of a split: which images, and that they are always the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from oodbench.data import ImageArray
from oodbench.data.image_selection import limited
from oodbench.data.loaded_splits import LoadedSplits
from oodbench.plugins.catalog import Catalog


def images(labels: list[int] | None, count: int = 0) -> ImageArray:
    """Images of one pixel, whose value is their index."""
    count = len(labels) if labels is not None else count
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return ImageArray(pixels, None if labels is None else np.array(labels, dtype=np.int64))


def indices(data: ImageArray) -> list[int]:
    return [int(value) for value in data.images[:, 0, 0, 0]]


def test_classes_are_balanced() -> None:
    labels = [0] * 100 + [1] * 30 + [2] * 3
    for most, expected in ((3, [1, 1, 1]), (9, [3, 3, 3]), (13, [5, 5, 3]), (63, [30, 30, 3])):
        part = limited(images(labels), most, "toy", "train")
        assert part.labels is not None
        assert np.bincount(part.labels).tolist() == expected, most
        assert indices(part) == sorted(indices(part)), "in the order of the split"
        assert [labels[index] for index in indices(part)] == part.labels.tolist()


def test_a_smaller_part_is_of_a_larger_one() -> None:
    for data in (images([0, 1, 2] * 40), images(None, 120)):
        parts = [set(indices(limited(data, most, "toy", "test"))) for most in (10, 11, 50, 119)]
        assert [len(part) for part in parts] == [10, 11, 50, 119]
        assert all(small < large for small, large in itertools.pairwise(parts))


def test_it_is_always_the_same_part() -> None:
    """Figures from the definition, with hashlib alone."""
    assert indices(limited(images(None, 20), 4, "toy", "test")) == [1, 15, 17, 19]
    assert indices(limited(images(None, 20), 4, "toy", "train")) != [1, 15, 17, 19]
    assert indices(limited(images(None, 20), 4, "other", "test")) != [1, 15, 17, 19]


def test_what_is_small_enough_is_left_as_it_is() -> None:
    data = images([0, 1] * 5)
    assert limited(data, 10, "toy", "test") is data
    assert limited(data, 2**40, "toy", "test") is data


@pytest.mark.parametrize(("name", "split"), [("digits", "train"), ("letters", "test")])
def test_a_store_gives_parts_with_fingerprints_of_their_own(name: str, split: str) -> None:
    specs = {name: Catalog().dataset(name)}
    whole, part = LoadedSplits(specs), LoadedSplits(specs, most=50)
    assert len(part.get(name, split)) == 50 < len(whole.get(name, split))
    assert part.fingerprint(name, split) == part.get(name, split).fingerprint()  # type: ignore[arg-type]
    assert part.fingerprint(name, split) != whole.fingerprint(name, split)  # type: ignore[arg-type]
