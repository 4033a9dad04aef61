"""Gray-scale patches of photographs: far out-of-distribution data for small images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from oodbench.data.builtin.random_images import Counts, count_for, split_generator
from oodbench.data.builtin.sklearn_files import sklearn_file
from oodbench.data.image_array import ImageArray
from oodbench.specs import SplitName

_PHOTOGRAPHS = ("images/china.jpg", "images/flower.jpg")
_SIDE = 8
_CROP_SIDES = (8, 96)
_MIN_CONTRAST = 0.05
"""Minimum standard deviation of a patch. Half of all crops are nearly blank (sky, background); they
are drawn again, because blank patches do not look like photographs."""


def photo_patches(split: SplitName, *, counts: Counts, seed: NonNegativeInt) -> ImageArray:
    """Random square crops of the two photographs that scikit-learn ships, reduced to 8x8.

    Photograph, side (8 to 96 pixels) and position of a crop are uniform. Validation crops are from
    the left third of a photograph, test crops from the right two thirds: the splits share no pixel.
    Crops of one split may overlap. Nearly blank crops (standard deviation of the 64 values below
    0.05) are drawn again.

    Args:
        split: "validation" or "test"; each has its own random generator.
        counts: number of images of each split.
        seed: seed of the random generators.

    Returns:
        Images of shape [N, 1, 8, 8], float32 in [0, 1]; no labels.

    Raises:
        UserError: `counts` has no entry for the split, or scikit-learn's files are missing.
    """
    count = count_for(counts, split)
    rng = split_generator(seed, "photo_patches", split)
    regions = [region_of(_read_gray(name), split) for name in _PHOTOGRAPHS]
    images = np.empty((count, 1, _SIDE, _SIDE), dtype=np.float32)
    filled = 0
    while filled < count:
        region = regions[rng.integers(len(regions))]
        side = int(rng.integers(*_CROP_SIDES, endpoint=True))
        top = int(rng.integers(region.shape[0] - side, endpoint=True))
        left = int(rng.integers(region.shape[1] - side, endpoint=True))
        patch = area_resize(region[top : top + side, left : left + side], _SIDE)
        if patch.std() >= _MIN_CONTRAST:
            images[filled, 0] = patch
            filled += 1
    return ImageArray(images)


def region_of(photograph: NDArray[np.float32], split: SplitName) -> NDArray[np.float32]:
    """The part of a photograph, shape [H, W], that the crops of a split are taken from.

    Returns:
        The left third for "validation", else the right two thirds; all rows.
    """
    border = photograph.shape[1] // 3
    return photograph[:, :border] if split == "validation" else photograph[:, border:]


def area_resize(crop: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Reduce a square to `side` x `side` by exact area averaging.

    Each output pixel is the mean over the rectangle that it covers; pixels on the border count with
    the fraction inside. (Pillow's BOX filter counts them fully or not at all.)

    Args:
        crop: shape [S, S], with S >= `side`.
        side: rows and columns of the result.

    Returns:
        Shape [side, side]; all values are within the range of the crop.
    """
    size = len(crop)
    edges = np.arange(side + 1) * (size / side)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0.0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    # Rounding may move a mean outside of the crop's range by one unit in the last place.
    mean: NDArray[np.float64] = weights @ crop @ weights.T
    return mean.clip(crop.min(), crop.max()).astype(np.float32)


def _read_gray(name: str) -> NDArray[np.float32]:
    """Luma (ITU-R BT.601, as Pillow computes it) of a photograph in [0, 1], shape [H, W]."""
    from PIL import Image

    with Image.open(sklearn_file(name)) as photograph:
        return np.asarray(photograph.convert("L"), dtype=np.float32) / np.float32(255)
