"""SIRC: against its formula, and where the formula leaves floating point."""

from __future__ import annotations

import numpy as np
import pytest

from oodbench import metrics


@pytest.mark.parametrize("maximum", [1.0, 0.0])
def test_sirc_is_the_formula_in_logarithms(maximum: float) -> None:
    generator = np.random.default_rng(0)
    s1, s2 = maximum - generator.random(200), generator.normal(5, 2, size=200)
    id_s2 = generator.normal(6, 1.5, size=100)
    mean = sum(id_s2) / 100
    std = (sum((each - mean) ** 2 for each in id_s2) / 100) ** 0.5
    a, b = mean - 3 * std, 1 / std
    expected = [-(maximum - x) * (1 + np.exp(-b * (y - a))) for x, y in zip(s1, s2, strict=True)]
    found = metrics.sirc(s1, s2, id_s2, maximum)
    assert found.dtype == np.float64
    np.testing.assert_allclose(-np.exp(-found), expected, rtol=1e-12)


def test_usual_second_scores_leave_the_order_and_low_ones_change_it() -> None:
    id_s2 = np.random.default_rng(0).normal(10, 1, size=1000)
    assert np.diff(metrics.sirc([0.5, 0.7, 0.9], [10, 11, 10], id_s2)).min() > 0
    low = metrics.sirc([0.7, 0.9], [10, -20], id_s2)
    assert low[1] < low[0]


def test_saturated_and_extreme_scores_stay_finite_and_ordered() -> None:
    id_s2 = [0.0, 1.0, 2.0]
    scores = metrics.sirc([1.0, 1.0, 1 - 2**-53, 0.9], [1.0, 0.0, 100.0, -1e6], id_s2)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()


@pytest.mark.parametrize(
    ("first", "second", "id_second", "message"),
    [
        ([0.5, 1.5], [0, 0], [0, 1], r"^first\[1\] is 1.5, above first_maximum = 1.0$"),
        ([0.5], [0, 0], [0, 1], "^first has 1 scores and second has 2; expected as many$"),
        ([0.5], [0], [3, 3], "^all values of id_second are equal; their standard deviation is 0$"),
        ([0.5], [np.nan], [0, 1], r"^second\[0\] is nan"),
        ([], [], [0, 1], "^first is empty$"),
    ],
)
def test_bad_input_is_named(
    first: list[float], second: list[float], id_second: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.sirc(first, second, id_second)
