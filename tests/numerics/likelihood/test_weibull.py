"""Weibull tails, against scipy and against the likelihood equation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import weibull_min

from oodbench.numerics.likelihood.weibull import (
    TRANSLATION,
    WeibullTails,
    fit_weibull_tails,
    largest_of_classes,
)

Array = NDArray[np.float64]


def samples(count: int, size: int, seed: int = 0, narrowest: float = -2) -> list[Array]:
    """The largest values of gamma distributions of different widths."""
    generator = np.random.default_rng(seed)
    return [
        np.sort(generator.gamma(9, 10.0 ** generator.uniform(narrowest, 2), size=300))[-size:]
        for _ in range(count)
    ]


def fitted(tails: list[Array], translation: float) -> WeibullTails:
    longest = max(map(len, tails))
    padded = np.full((len(tails), longest), np.nan)
    for row, tail in zip(padded, tails, strict=True):
        row[: len(tail)] = tail
    return fit_weibull_tails(torch.from_numpy(padded), translation)


def scale_of(fit: WeibullTails) -> Array:
    scale: Array = fit.translation * np.exp(fit.log_scale.numpy())
    return scale


@pytest.mark.parametrize("translation", [1.0, TRANSLATION])
@pytest.mark.parametrize("size", [2, 5, 20, 100])
def test_fit_is_that_of_scipy(size: int, translation: float) -> None:
    tails = samples(6, size, narrowest=0.5)  # scipy's search stops early in narrower ones
    fit = fitted(tails, translation)
    for row, tail in enumerate(tails):
        moved = tail - tail.min() + translation
        shape, _, scale = weibull_min.fit(moved, floc=0)
        assert fit.shape[row].item() == pytest.approx(shape, rel=2e-3)
        assert scale_of(fit)[row] == pytest.approx(scale, rel=2e-3)
        likelihood = weibull_min.logpdf(moved, fit.shape[row].item(), scale=scale_of(fit)[row])
        of_scipy = weibull_min.logpdf(moved, shape, scale=scale)
        assert likelihood.sum() >= of_scipy.sum() - 1e-7


@pytest.mark.parametrize("translation", [0.01, 1.0, TRANSLATION])
def test_fit_solves_the_likelihood_equation(translation: float) -> None:
    """A root found one class at a time, for tails of different sizes side by side."""
    tails = [tail for size in (2, 3, 20, 60) for tail in samples(3, size, seed=size)]
    tails += [np.array([1.0] * 19 + [50.0]), np.array([1.0] + [50.0] * 19)]
    fit = fitted(tails, translation)
    for row, tail in enumerate(tails):
        logs = np.log1p((tail - tail.min()) / translation)
        below = logs - logs.max()

        def excess(shape: float, below: Array = below) -> float:
            weights = np.exp(shape * below)
            return float((weights * below).sum() / weights.sum() - 1 / shape - below.mean())

        shape = brentq(excess, 0.1 / -below.mean(), 1e3 / -below.mean(), xtol=1e-12, rtol=1e-14)
        log_scale = logs.max() + np.log(np.mean(np.exp(shape * below))) / shape
        assert fit.shape[row].item() == pytest.approx(shape, rel=1e-11)
        assert fit.log_scale[row].item() == pytest.approx(log_scale, rel=1e-11)


def test_recovers_the_parameters_of_a_large_sample() -> None:
    generator = np.random.default_rng(1)
    values = 5 * generator.weibull(3.0, size=200_000)
    # Moving the smallest to itself is no move at all.
    fit = fitted([values], float(values.min()))
    assert fit.shape.item() == pytest.approx(3.0, rel=0.01)
    assert scale_of(fit)[0] == pytest.approx(5.0, rel=0.01)


@pytest.mark.parametrize("translation", [1.0, TRANSLATION])
def test_cdf_is_that_of_scipy(translation: float) -> None:
    tails = samples(4, 20)
    fit = fitted(tails, translation)
    values = np.stack([np.linspace(0, 2 * tail.max(), 50) for tail in tails], axis=1)
    moved = values - np.array([tail.min() for tail in tails]) + translation
    expected = weibull_min.cdf(moved, fit.shape.numpy(), scale=scale_of(fit))
    found = fit.cdf(torch.from_numpy(values)).numpy()
    assert found.shape == (50, 4)
    # scipy raises x / scale, near 1, to a power of thousands: its own rounding.
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
    assert (np.diff(found, axis=0) >= 0).all()


def test_cdf_of_a_value_that_the_translation_does_not_reach() -> None:
    fit = fitted([np.array([5.0, 6.0, 8.0])], 1.0)
    found = fit.cdf(torch.tensor([[-10.0], [3.9], [4.0], [4.1], [1e9]], dtype=torch.float64))
    assert found[:3].flatten().tolist() == [0, 0, 0]
    assert 0 < found[3].item() < 0.01
    assert found[4].item() == 1


@pytest.mark.parametrize("tail", [[3.0], [3.0, 3.0], [3.0] * 7])
def test_equal_values_are_a_step(tail: list[float]) -> None:
    fit = fitted([np.array(tail)], TRANSLATION)
    found = fit.cdf(torch.tensor([[0.0], [2.999], [3.001], [4.0]], dtype=torch.float64))
    assert found.flatten().tolist() == [0, 0, 1, 1]
    assert 0 < fit.cdf(torch.tensor([[3.0]], dtype=torch.float64)).item() < 1


def test_nearly_equal_values() -> None:
    """A spread far below the translation's rounding, which is never added to them."""
    tail = 3 + 1e-13 * np.array([0.0, 1.0, 2.0, 4.0])
    found = fitted([tail], TRANSLATION).cdf(torch.from_numpy(tail)[:, None]).flatten()
    wide = np.array([0.0, 1.0, 2.0, 4.0])
    expected = fitted([wide], TRANSLATION).cdf(torch.from_numpy(wide)[:, None]).flatten()
    np.testing.assert_allclose(found, expected, rtol=1e-2)


def test_nothing_is_near_an_empty_sample() -> None:
    fit = fitted([np.array([1.0, 2.0, 4.0]), np.array([])], TRANSLATION)
    found = fit.cdf(torch.tensor([[0.0, 0.0], [9.0, 9.0]], dtype=torch.float64))
    assert found[:, 1].tolist() == [1, 1]
    alone = fitted([np.array([1.0, 2.0, 4.0])], TRANSLATION)
    assert torch.equal(found[:, :1], alone.cdf(found.new_tensor([[0.0], [9.0]])))


def test_largest_of_classes() -> None:
    generator = np.random.default_rng(0)
    values, classes = generator.normal(size=50), generator.integers(0, 4, size=50)
    classes[classes == 2] = 3
    values[:10] = 0.5  # ties
    found = largest_of_classes(torch.from_numpy(values), torch.from_numpy(classes), 5, 12).numpy()
    assert found.shape == (5, 12)
    for row, c in zip(found, range(5), strict=True):
        expected = sorted(values[classes == c], reverse=True)[:12]
        assert row[: len(expected)].tolist() == expected
        assert np.isnan(row[len(expected) :]).all()
