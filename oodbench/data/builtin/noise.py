"""Noise images: the simplest far out-of-distribution data.

Both builders follow S. Liang, Y. Li and R. Srikant, "Enhancing the Reliability of
Out-of-distribution Image Detection in Neural Networks", ICLR 2018; the noise sets there have 10,000
color images each.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from oodbench.data.builtin.random_images import Counts, count_for, split_generator
from oodbench.data.image_array import ImageArray
from oodbench.specs import SplitName

Shape = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt], Field(strict=False)]


def uniform_noise(
    split: SplitName, *, shape: Shape, counts: Counts, seed: NonNegativeInt
) -> ImageArray:
    """Every value of every pixel independent and uniform on [0, 1).

    Args:
        split: "validation" or "test"; each has its own random generator.
        shape: channels, height, width.
        counts: number of images of each split.
        seed: seed of the random generators.

    Returns:
        Images of shape [N, *shape], float32; no labels.

    Raises:
        UserError: `counts` has no entry for the split.
    """
    size = (count_for(counts, split), *shape)
    rng = split_generator(seed, "uniform_noise", split)
    return ImageArray(rng.random(size, dtype=np.float32))


def gaussian_noise(
    split: SplitName, *, shape: Shape, counts: Counts, seed: NonNegativeInt
) -> ImageArray:
    """Every value of every pixel independent, normal with mean 0.5 and variance 1, then clipped.

    Clipping to [0, 1] makes 31% of the values 0 and as many 1.

    Args:
        split: "validation" or "test"; each has its own random generator.
        shape: channels, height, width.
        counts: number of images of each split.
        seed: seed of the random generators.

    Returns:
        Images of shape [N, *shape], float32 in [0, 1]; no labels.

    Raises:
        UserError: `counts` has no entry for the split.
    """
    size = (count_for(counts, split), *shape)
    rng = split_generator(seed, "gaussian_noise", split)
    normal = rng.standard_normal(size, dtype=np.float32)
    return ImageArray(np.clip(normal + np.float32(0.5), 0.0, 1.0))
