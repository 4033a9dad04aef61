"""Patches of photographs: disjoint regions, resized by area."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.built_in_sets import (
    COUNTS,
    load,
)

from oodbench.data.builtin.patches import area_resize, region_of


def test_regions_of_the_splits_are_disjoint_and_cover_the_photograph() -> None:
    photograph = np.arange(7 * 10, dtype=np.float32).reshape(7, 10)
    validation, test = region_of(photograph, "validation"), region_of(photograph, "test")
    assert validation.shape == (7, 3)
    assert test.shape == (7, 7)
    assert sorted([*validation.ravel(), *test.ravel()]) == sorted(photograph.ravel())


def test_area_resize_by_hand() -> None:
    crop = np.array([[0, 0, 0.9], [0, 0, 0.9], [0.9, 0.9, 0.9]], dtype=np.float32)
    # An output pixel covers 1.5x1.5 pixels. Top right: 1.5 of 2.25 at 0.9; bottom right: 2 of 2.25.
    expected = [[0.0, 0.6], [0.6, 0.8]]
    np.testing.assert_allclose(area_resize(crop, 2), expected, atol=1e-6)


@pytest.mark.parametrize("size", [8, 13, 64, 96])
def test_area_resize_keeps_the_mean_and_constants(size: int) -> None:
    crop = np.random.default_rng(size).random((size, size), dtype=np.float32)
    assert area_resize(crop, 8).mean() == pytest.approx(crop.mean(), abs=1e-6)
    assert (area_resize(np.ones((size, size), np.float32), 8) == 1).all()
    if size % 8 == 0:
        blocks = crop.reshape(8, size // 8, 8, size // 8).mean(axis=(1, 3))
        np.testing.assert_allclose(area_resize(crop, 8), blocks, atol=1e-6)


def test_no_patch_is_blank() -> None:
    for split in COUNTS:
        assert load("photo-patches", split).images.std(axis=(1, 2, 3)).min() > 0.049
