"""p-values, intervals and Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from oodbench.run_comparison.evidence import Evidence, holm


def evidence(difference: float, error: float, **changes: float) -> Evidence:
    known = {"difference": difference, "below": error, "above": error, "images": 100}
    return Evidence(**(known | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("z", [-6.0, -1.0, 0.3, 2.0])
def test_without_spread_the_test_is_normal(z: float) -> None:
    found = evidence(0.01 * z, 0.01)
    assert found.p_value() == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)
    half = stats.norm.ppf(0.975) * 0.01
    assert found.interval() == pytest.approx((0.01 * z - half, 0.01 * z + half))


def test_with_spread_alone_it_is_the_paired_t_test() -> None:
    base, head = np.random.default_rng(0).standard_normal((2, 5))
    differences = head - base
    found = evidence(float(differences.mean()), 0.0, spread=float(stats.sem(differences)), seeds=5)
    expected = stats.ttest_rel(head, base)
    assert found.p_value() == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))


@pytest.mark.parametrize("difference", [-0.05, 0.02, 0.2])
def test_the_interval_at_the_p_value_reaches_zero(difference: float) -> None:
    found = evidence(difference, 0.02, spread=0.015, seeds=3)
    p = found.p_value()
    normal, student = stats.norm.isf(p / 2) * 0.02, stats.t.isf(p / 2, 2) * 0.015
    assert np.hypot(normal, student) == pytest.approx(abs(difference), rel=1e-6)


def test_an_interval_that_is_not_symmetric() -> None:
    """A drop is tested by the upper error, a rise by the lower one."""
    drop = Evidence(difference=-0.1, below=1.0, above=0.05, images=9)
    rise = Evidence(difference=0.1, below=0.05, above=1.0, images=9)
    expected = 2 * stats.norm.sf(2)
    assert drop.p_value() == rise.p_value() == pytest.approx(expected)


def test_no_difference_has_p_1() -> None:
    assert evidence(0.0, 0.0).p_value() == evidence(0.0, 0.1).p_value() == 1.0


def test_without_any_error_it_is_the_sign_test() -> None:
    assert evidence(-1.0, 0.0, images=2).p_value() == 0.5
    assert evidence(-1.0, 0.0, images=11).p_value() == 2.0**-10
    assert 0 < evidence(-1.0, 0.0, images=10**6).p_value() < 1e-300


def test_extreme_differences_with_spread() -> None:
    assert 0 < evidence(0.5, 1e-9, spread=1e-12, seeds=3).p_value() < 1e-12


def test_holm_by_hand() -> None:
    """0.01 * 4, then 0.02 * 3, then max(0.06, 0.03 * 2), then 0.9."""
    found = holm({"a": 0.03, "b": 0.01, "c": 0.9, "d": 0.02})
    assert found == pytest.approx({"b": 0.04, "d": 0.06, "a": 0.06, "c": 0.9})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_against_its_definition() -> None:
    """Step down: reject in order while p <= level / (number of those left)."""
    p_values = dict(enumerate(np.random.default_rng(0).uniform(0, 0.05, 40)))
    found = holm(p_values)
    for level in (0.01, 0.05, 0.2, 0.5):
        rejected = set()
        for place, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
            if p > level / (len(p_values) - place):
                break
            rejected.add(key)
        assert {key for key, p in found.items() if p <= level} == rejected
