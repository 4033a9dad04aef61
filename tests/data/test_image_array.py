"""Arrays of images: fingerprints, selection, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oodbench.data import ImageArray


def make_array(n: int = 3, dtype: type = np.float32) -> ImageArray:
    images = np.arange(n * 4).reshape(n, 1, 2, 2)
    values = images / images.size if dtype is np.float32 else images
    return ImageArray(values.astype(dtype), np.arange(n))


def test_fingerprint_depends_on_values_dtype_shape_and_labels() -> None:
    data = make_array()
    variants = [
        data,
        make_array(dtype=np.uint8),
        ImageArray(data.images),
        ImageArray(data.images, data.labels[::-1]),
        ImageArray(data.images[::-1], data.labels),
        ImageArray(data.images.reshape(3, 1, 1, 4), data.labels),
    ]
    prints = [variant.fingerprint() for variant in variants]
    assert len(set(prints)) == len(variants)
    assert all(len(p) == 64 and set(p) <= set("0123456789abcdef") for p in prints)


def test_fingerprint_ignores_memory_layout() -> None:
    data = make_array()
    other = ImageArray(np.asfortranarray(data.images), data.labels)
    assert not other.images.flags.c_contiguous
    assert other.fingerprint() == data.fingerprint()


def test_select_keeps_order_and_labels() -> None:
    data = make_array(4)
    chosen = data.select([2, 0])
    assert chosen.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(chosen.images, data.images[[2, 0]])
    assert len(data.select([])) == 0
    assert data.select(np.array([True, False, False, True])).labels.tolist() == [0, 3]
    assert ImageArray(data.images).select([1]).labels is None
    with pytest.raises(IndexError):
        data.select([4])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 2, 2), np.float32), None, r"shape \[N, C, H, W\], not \[2, 2, 2\]"),
        (np.zeros((2, 1, 2, 2)), None, "uint8 or float32, not float64"),
        (np.zeros((2, 1, 2, 2), ">f4"), None, "uint8 or float32, not >f4"),
        (np.full((2, 1, 2, 2), 2, np.float32), None, r"in \[0, 1\], not in \[2, 2\]"),
        (np.full((2, 1, 2, 2), np.nan, np.float32), None, r"in \[0, 1\], not in \[nan, nan\]"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(3, np.int64), r"shape \[2\].*not \[3\]"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, np.int32), "int64, not int32"),
    ],
)
def test_image_array_refuses(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageArray(images, labels)
