"""The UCI handwritten digits that scikit-learn ships, with a fixed split.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49. scikit-learn ships the 1,797 images of the
original *test* part (13 writers): 32x32 bitmaps reduced to 8x8 by counting the set pixels of each
4x4 block. Which writer wrote which digit is not recorded, so the split below is by image: the same
hands occur in train and in test.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from oodbench.data.arrays import ImageArray
from oodbench.data.builtin.sklearn_files import sklearn_file
from oodbench.errors import UserError
from oodbench.specs import SplitName

DIGITS_SPLITS: dict[SplitName, int] = {"train": 897, "validation": 300, "test": 600}
"""Number of images of each split; together all 1,797."""

DIGIT_LEVELS = 16
"""Pixels of a 4x4 block: the greatest value of an original pixel."""

_SPLIT_SALT = "oodbench/digits/1"

Digit = Annotated[int, Field(ge=0, le=9)]
Digits = Annotated[list[Digit], Field(min_length=1)]
Pool = dict[SplitName, Annotated[list[SplitName], Field(min_length=1)]]


def sklearn_digits(
    split: SplitName,
    *,
    classes: Digits | None = None,
    pool: Pool | None = None,
    labeled: bool = True,
) -> ImageArray:
    """Handwritten digits 0..9 in the order of scikit-learn's file.

    Args:
        split: the split wanted.
        classes: digits to keep, all different; the i-th becomes label i. None keeps all ten.
        pool: for each split, the splits of the digits that its images come from. None means that
            each split is itself. Classes that are never trained on can so lend the images of
            digits' train split to their test split.
        labeled: whether the images carry labels; false for classes that are only ever
            out-of-distribution.

    Returns:
        Images of shape [N, 1, 8, 8], float32, the original levels 0..16 divided by 16 (exact), and
        labels 0..K-1 in the order of `classes`.

    Raises:
        UserError: `classes` repeats a digit, `pool` does not name the split or takes one image
            into two splits, or scikit-learn's file is missing.
    """
    levels, digits = _read_table()
    if classes is None:
        classes = list(range(10))
    if len(set(classes)) < len(classes):
        raise UserError(f"option 'classes' repeats a digit: {classes}", "Name each digit once.")
    # A digit's new label is its place in `classes`; -1 marks the digits that are left out.
    new_label = np.full(10, -1, dtype=np.int64)
    new_label[classes] = np.arange(len(classes))

    parts = split_indices(digits)
    indices = np.sort(np.concatenate([parts[name] for name in _sources(pool, split)]))
    indices = indices[new_label[digits[indices]] >= 0]
    images = (levels[indices] / np.float32(DIGIT_LEVELS)).reshape(-1, 1, 8, 8)
    return ImageArray(images, new_label[digits[indices]] if labeled else None)


def split_indices(digits: NDArray[Any]) -> dict[SplitName, NDArray[np.int64]]:
    """The fixed, stratified split of the digits: train 897, validation 300, test 600.

    1. Within each class, the images are ordered by the SHA-256 of a fixed salt and the image's
       index in the file. No random generator is involved, so no library version can change this.
    2. The image at place r (from 0) of a class of n images gets the quantile (r + 1/2) / n. All
       images are sorted by quantile (ties: smaller digit first) and dealt out from the lowest: 600
       to test, the next 300 to validation, the rest to train.

    Equal quantile ranges of every class go to a split, so the totals are exact and each class's
    count is within one image of its exact share.

    Args:
        digits: the classes in the order of the file, shape [1797].

    Returns:
        The ascending indices of each split; disjoint, together all images.
    """
    quantiles = np.empty(len(digits))
    for digit in np.unique(digits):
        members = sorted(np.flatnonzero(digits == digit).tolist(), key=_split_key)
        quantiles[members] = (np.arange(len(members)) + 0.5) / len(members)
    dealt = np.lexsort((digits, quantiles))
    last_test = DIGITS_SPLITS["test"]
    last_validation = last_test + DIGITS_SPLITS["validation"]
    return {
        "train": np.sort(dealt[last_validation:]),
        "validation": np.sort(dealt[last_test:last_validation]),
        "test": np.sort(dealt[:last_test]),
    }


def _split_key(index: int) -> str:
    return hashlib.sha256(f"{_SPLIT_SALT}/{index}".encode()).hexdigest()


def _sources(pool: Pool | None, split: SplitName) -> list[SplitName]:
    """The digits' splits whose images make up `split`."""
    if pool is None:
        return [split]
    if split not in pool:
        raise UserError(
            f"option 'pool' does not say where the images of split '{split}' come from",
            f"It has: {', '.join(pool) or 'no split'}.",
        )
    taken = [source for sources in pool.values() for source in sources]
    if len(set(taken)) < len(taken):
        raise UserError("option 'pool' takes the same images twice", "Name each source split once.")
    return pool[split]


@functools.cache
def _read_table() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Original levels 0..16, shape [1797, 64], and digits, shape [1797]; read-only, as cached."""
    table = np.loadtxt(sklearn_file("data/digits.csv.gz"), delimiter=",", dtype=np.float32)
    levels, digits = table[:, :-1], table[:, -1].astype(np.int64)
    levels.flags.writeable = digits.flags.writeable = False
    return levels, digits
