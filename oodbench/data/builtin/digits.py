"""The UCI handwritten digits that scikit-learn ships, with a fixed split.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49. scikit-learn ships the 1,797 images of the
original *test* part (13 writers): 32x32 bitmaps reduced to 8x8 by counting the set pixels of each
4x4 block. The writers of the digits are not recorded, so the split below is by image, and the same
writers occur in train and test.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from oodbench.data.builtin.sklearn_files import sklearn_file
from oodbench.data.image_array import ImageArray
from oodbench.data.image_selection import hash_order
from oodbench.errors import UserError
from oodbench.specs import SplitName

DIGITS_SPLITS: dict[SplitName, int] = {"train": 897, "validation": 300, "test": 600}
"""Number of images of each split; together all 1,797."""

DIGIT_LEVELS = 16
"""Maximum of an original pixel: the number of pixels in a 4x4 block."""

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
        split: the split to return.
        classes: digits to keep, all different; the i-th becomes label i. None keeps all ten.
        pool: for each split, the splits of the digits that its images come from; None: each split
            has its own images. If no network is trained on `classes`, their test split may also
            contain the images of the train split.
        labeled: whether the images have labels; false for classes that are only used as
            out-of-distribution data.

    Returns:
        Images of shape [N, 1, 8, 8], float32, the original levels 0..16 divided by 16 (exact), and
        labels 0..K-1 in the order of `classes`.

    Raises:
        UserError: `classes` repeats a digit, `pool` lacks the split or puts an image into two
            splits, or scikit-learn's file is missing.
    """
    levels, digits = _read_table()
    if classes is None:
        classes = list(range(10))
    if len(set(classes)) < len(classes):
        raise UserError(f"option 'classes' repeats a digit: {classes}", "Name each digit once.")
    # A digit's new label is its index in `classes`; -1 marks digits that are not kept.
    new_label = np.full(10, -1, dtype=np.int64)
    new_label[classes] = np.arange(len(classes))

    parts = split_indices(digits)
    indices = np.sort(np.concatenate([parts[name] for name in _sources(pool, split)]))
    indices = indices[new_label[digits[indices]] >= 0]
    images = (levels[indices] / np.float32(DIGIT_LEVELS)).reshape(-1, 1, 8, 8)
    return ImageArray(images, new_label[digits[indices]] if labeled else None)


def split_indices(digits: NDArray[Any]) -> dict[SplitName, NDArray[np.int64]]:
    """The fixed, stratified split of the digits: train 897, validation 300, test 600.

    1. The images of each class are put in hash order (`data.selection`).
    2. The image at place r (from 0) of a class of n images gets the quantile (r + 1/2) / n. All
       images are sorted by quantile (ties: smaller digit first): the first 600 are test, the next
       300 validation, the others train.

    A split has the same range of quantiles of every class, so the totals are exact and the count
    of each class is within one image of its exact share. (scikit-learn's stratified splits depend
    on NumPy's random generator.)

    Args:
        digits: the classes in the order of the file, shape [1797].

    Returns:
        The ascending indices of each split; disjoint, together all images.
    """
    quantiles = np.empty(len(digits))
    for digit in np.unique(digits):
        members = hash_order(np.flatnonzero(digits == digit).tolist(), _SPLIT_SALT)
        quantiles[members] = (np.arange(len(members)) + 0.5) / len(members)
    dealt = np.lexsort((digits, quantiles))
    last_test = DIGITS_SPLITS["test"]
    last_validation = last_test + DIGITS_SPLITS["validation"]
    return {
        "train": np.sort(dealt[last_validation:]),
        "validation": np.sort(dealt[last_test:last_validation]),
        "test": np.sort(dealt[:last_test]),
    }


def _sources(pool: Pool | None, split: SplitName) -> list[SplitName]:
    """The splits of the digits that the images of `split` come from."""
    if pool is None:
        return [split]
    if split not in pool:
        raise UserError(
            f"option 'pool' has no entry for split '{split}'",
            f"It has: {', '.join(pool) or 'no split'}.",
        )
    taken = [source for sources in pool.values() for source in sources]
    if len(set(taken)) < len(taken):
        raise UserError("option 'pool' uses the same images twice", "Name each source split once.")
    return pool[split]


@functools.cache
def _read_table() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Original levels 0..16, shape [1797, 64], and digits, shape [1797]; cached, so read-only."""
    table = np.loadtxt(sklearn_file("data/digits.csv.gz"), delimiter=",", dtype=np.float32)
    levels, digits = table[:, :-1], table[:, -1].astype(np.int64)
    levels.flags.writeable = digits.flags.writeable = False
    return levels, digits
