"""Digits: those of scikit-learn, split by class."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.built_in_sets import (
    images_as_bytes,
    load,
    manifest,
)

from oodbench.data.builtin import BUILDERS
from oodbench.data.builtin.digits import DIGITS_SPLITS, split_indices


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    original = load_digits()
    parts = split_indices(original.target)
    for split, indices in parts.items():
        data = load("digits", split)
        np.testing.assert_array_equal(data.images[:, 0] * 16, original.images[indices])
        np.testing.assert_array_equal(data.labels, original.target[indices])


def test_digits_split_is_a_stratified_partition() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().target
    parts = split_indices(digits)
    assert {split: len(indices) for split, indices in parts.items()} == DIGITS_SPLITS
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(1797))
    for split, indices in parts.items():
        share = np.bincount(digits) * len(indices) / len(digits)
        counts = np.bincount(digits[indices])
        assert np.abs(counts - share).max() <= 1, f"{split}: {counts} instead of {share}"


def test_digits_split_does_not_follow_the_files_order() -> None:
    from sklearn.datasets import load_digits

    # Neighbors in the file are likely one writer's: each split must take images from all over it.
    # The tolerance is three and a half standard deviations of a random split's share (validation).
    for indices in split_indices(load_digits().target).values():
        eighths = np.bincount(indices * 8 // 1797, minlength=8) / len(indices)
        assert eighths == pytest.approx(np.full(8, 1 / 8), abs=0.06)


def test_classes_are_relabeled_in_the_given_order() -> None:
    everything = BUILDERS["sklearn_digits"]("test")
    some = BUILDERS["sklearn_digits"]("test", classes=[7, 2])
    kept = everything.select(np.isin(everything.labels, [2, 7]))
    np.testing.assert_array_equal(some.images, kept.images)
    np.testing.assert_array_equal(some.labels, np.where(kept.labels == 7, 0, 1))


def test_validation_and_known_digits_share_no_image_and_make_up_all() -> None:
    known, unknown, everything = (
        [image for split in manifest(name).splits for image in images_as_bytes(load(name, split))]
        for name in ("digits-known", "digits-unknown", "digits")
    )
    assert not set(known) & set(unknown)
    assert set(known) | set(unknown) == set(everything)
    assert len(known) + len(unknown) == len(everything)


def test_validation_validation_is_within_digits_validation() -> None:
    validation = load("digits-unknown", "validation")
    assert validation.labels is None
    digits = set(images_as_bytes(load("digits", "validation")))
    assert digits.issuperset(images_as_bytes(validation))
