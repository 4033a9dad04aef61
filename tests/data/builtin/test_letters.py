"""Rendered letters: as large and as dark as digits."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.built_in_sets import (
    load,
    manifest,
)

from oodbench.data import load_split
from oodbench.data.builtin.letters import block_counts, rendered_letters
from oodbench.errors import UserError


def test_block_counts_by_hand() -> None:
    bitmap = np.zeros((8, 8), dtype=bool)
    bitmap[:4, :4] = True
    bitmap[3:5, 6] = True
    np.testing.assert_array_equal(block_counts(bitmap), [[16, 1], [0, 1]])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_letters_have_the_ink_and_the_box_of_digits(split: str) -> None:
    digits = load("digits", "train").images[:, 0]
    letters = load("letters", split).images[:, 0]
    np.testing.assert_array_equal(letters * 16, np.round(letters * 16))
    assert letters.mean() == pytest.approx(digits.mean(), abs=0.01)
    assert letters.std() == pytest.approx(digits.std(), abs=0.01)
    ink, digit_ink = letters.mean(axis=(1, 2)), digits.mean(axis=(1, 2))
    assert ink.std() == pytest.approx(digit_ink.std(), abs=0.006)
    assert (letters == 0).mean() == pytest.approx((digits == 0).mean(), abs=0.03)
    assert (letters == 1).mean() == pytest.approx((digits == 1).mean(), abs=0.03)
    for axis, missing in ((2, 0), (1, 2)):  # rows in use, columns in use
        used = (letters.sum(axis=axis) > 0).sum(axis=1)
        assert used.min() >= 8 - missing - 1
        assert used.mean() == pytest.approx((digits.sum(axis=axis) > 0).sum(axis=1).mean(), abs=0.3)


def test_each_letter_looks_like_itself() -> None:
    """A nearest-mean classifier fitted on the test letters recognizes the validation letters."""
    letters = manifest("letters").options["letters"]
    test, validation = (
        load("letters", split).images.reshape(-1, 64) for split in ("test", "validation")
    )
    means = np.stack([test[i :: len(letters)].mean(axis=0) for i in range(len(letters))])
    distance = ((validation[:, None] - means) ** 2).sum(axis=2)
    accuracy = (distance.argmin(axis=1) == np.arange(len(validation)) % len(letters)).mean()
    assert accuracy > 0.9


def test_letters_are_upright() -> None:
    images = rendered_letters("test", letters="LT", counts={"test": 40}, seed=0).images[:, 0]
    foot, bar = images[0::2], images[1::2]
    assert (foot[:, 6:].sum(axis=(1, 2)) > foot[:, :2].sum(axis=(1, 2))).all()
    assert (bar[:, :2].sum(axis=(1, 2)) > bar[:, 6:].sum(axis=(1, 2))).all()


def test_letters_without_freetype(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import features

    monkeypatch.setattr(features, "check", lambda _: False)
    with pytest.raises(UserError, match="without FreeType") as caught:
        load_split(manifest("letters"), "test")
    assert "'letters', split 'test'" in caught.value.message
    assert "pip install" in caught.value.hint
