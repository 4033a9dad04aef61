"""What the drawn (not recorded) data sets share: split sizes, and one random stream per split."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import PositiveInt

from oodbench.errors import UserError
from oodbench.specs import SplitName

DrawnSplit = Literal["validation", "test"]
"""Drawn sets are out-of-distribution data: they are tuned on and tested on, never trained on."""

Counts = dict[DrawnSplit, PositiveInt]
"""Number of images to draw for each split."""


def count_for(counts: Counts, split: SplitName) -> int:
    """Number of images to draw for `split`.

    Raises:
        UserError: `counts` does not name the split.
    """
    for name, count in counts.items():
        if name == split:
            return count
    raise UserError(
        f"option 'counts' has no number of images for split '{split}'",
        f"It has: {', '.join(counts) or 'no split'}.",
    )


def split_generator(seed: int, builder: str, split: SplitName) -> np.random.Generator:
    """The random stream of one split of one builder.

    The builder's and the split's names are part of the key, so that validation never repeats test,
    and uniform noise and Gaussian noise with one seed are not made from the same random bits.

    Args:
        seed: the manifest's seed, >= 0.
        builder: name of the builder.
        split: name of the split.

    Returns:
        A PCG64 generator that depends on the arguments only, not on numpy's global state.
    """
    key = tuple(f"{builder}/{split}".encode())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
