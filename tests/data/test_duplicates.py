"""Images that occur in two sets."""

from __future__ import annotations

import numpy as np

from oodbench.data import ImageArray
from oodbench.data.duplicates import duplicates


def random(count: int, seed: int, dtype: type = np.uint8) -> ImageArray:
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4)).astype(np.uint8)
    return ImageArray(images if dtype is np.uint8 else (images / 255).astype(np.float32))


def test_duplicates_are_found_whatever_their_labels() -> None:
    train, ood = random(50, 0), random(30, 1)
    images = ood.images.copy()
    images[[3, 17, 29]] = train.images[[49, 0, 0]]
    found = duplicates(
        ImageArray(train.images, np.zeros(50, np.int64)), ImageArray(images, np.ones(30, np.int64))
    )
    assert found.tolist() == [3, 17, 29]
    assert found.dtype == np.int64


def test_one_pixel_makes_another_image() -> None:
    train = random(5, 0)
    images = train.images.copy()
    images[:, 2, 3, 3] ^= 1
    assert duplicates(train, ImageArray(images)).tolist() == []
    assert duplicates(train, train).tolist() == [0, 1, 2, 3, 4]


def test_other_types_and_shapes_are_other_images() -> None:
    black = ImageArray(np.zeros((1, 1, 4, 4), np.uint8))
    assert duplicates(black, ImageArray(np.zeros((1, 1, 2, 8), np.uint8))).size == 0
    assert duplicates(black, ImageArray(np.zeros((1, 1, 1, 4), np.float32))).size == 0
    assert duplicates(black, black.select([])).size == 0


def test_memory_layout_does_not_matter() -> None:
    train = random(8, 0, np.float32)
    other = ImageArray(np.asfortranarray(train.images))
    assert duplicates(train, other).tolist() == list(range(8))
