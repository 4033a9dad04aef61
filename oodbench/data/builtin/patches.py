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
"""Least standard deviation of a patch. Sky and blurred background are drawn again: a blank patch
says nothing about photographs, and half of all crops are blank."""


def photo_patches(split: SplitName, *, counts: Counts, seed: NonNegativeInt) -> ImageArray:
    """Random square crops of the two photographs that scikit-learn ships, reduced to 8x8.

    Photograph, side (8 to 96 pixels) and place of a crop are uniform. Validation crops lie within
    the left third of a photograph, test crops within the right two thirds, so the two splits share
    no pixel; crops of one split may overlap. A crop that is nearly blank (standard deviation of its
    64 values below 0.05) is drawn again.

    Args:
        split: "validation" or "test"; each has its own random stream.
        counts: number of images of each split.
        seed: seed of the random streams.

    Returns:
        Images of shape [N, 1, 8, 8], float32 in [0, 1]; no labels.

    Raises:
        UserError: `counts` does not name the split, or scikit-learn's files are missing.
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

    Each output pixel is the mean over the rectangle that it covers, a pixel on its border counting
    with the share that lies inside. (Pillow's BOX filter counts such a pixel fully or not at all.)

    Args:
        crop: shape [S, S], with S >= `side`.
        side: rows and columns of the result.

    Returns:
        Shape [side, side]; no value lies outside the range of the crop's.
    """
    size = len(crop)
    edges = np.arange(side + 1) * (size / side)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0.0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    # Rounding may carry a mean beyond the crop's extremes by one unit in the last place.
    mean: NDArray[np.float64] = weights @ crop @ weights.T
    return mean.clip(crop.min(), crop.max()).astype(np.float32)


def _read_gray(name: str) -> NDArray[np.float32]:
    """Luma (ITU-R BT.601, as Pillow computes it) of a photograph in [0, 1], shape [H, W]."""
    from PIL import Image

    with Image.open(sklearn_file(name)) as photograph:
        return np.asarray(photograph.convert("L"), dtype=np.float32) / np.float32(255)
