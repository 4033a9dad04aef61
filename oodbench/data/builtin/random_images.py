"""Data sets of random images: their option `counts`, and one random generator per split."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import PositiveInt

from oodbench.errors import UserError
from oodbench.specs import SplitName

DrawnSplit = Literal["validation", "test"]
"""Random images are out-of-distribution data, used for tuning and testing, not for training."""

Counts = dict[DrawnSplit, PositiveInt]
"""Number of images of each split."""


def count_for(counts: Counts, split: SplitName) -> int:
    """Number of images of a split.

    Raises:
        UserError: `counts` has no entry for the split.
    """
    for name, count in counts.items():
        if name == split:
            return count
    raise UserError(
        f"option 'counts' has no number of images for split '{split}'",
        f"It has: {', '.join(counts) or 'no split'}.",
    )


def split_generator(seed: int, builder: str, split: SplitName) -> np.random.Generator:
    """The random generator of one split of one builder.

    The names of builder and split are part of the seed, so that validation and test images differ,
    and uniform and Gaussian noise with the same seed are independent.

    Args:
        seed: the manifest's seed, >= 0.
        builder: name of the builder.
        split: name of the split.

    Returns:
        A PCG64 generator that depends on the arguments only, not on NumPy's global state.
    """
    key = tuple(f"{builder}/{split}".encode())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
