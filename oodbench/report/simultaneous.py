"""Simultaneous confidence intervals of paired differences to the best of several methods.

The question is which methods are shown to be worse than the best one of a column. Three things make
that harder than one comparison of two methods:

1. *The best one is chosen by the same data, among many.* These are multiple comparisons with the
   best (Hsu, Annals of Statistics 1984; Hsu, Multiple Comparisons, 1996): a method is shown not to
   be the best if one that looks best is ahead of it by more than a critical value that allows for
   all the others. The argument needs no best one that is known in advance: if method i truly is the
   best, every other one is at most as good, and none of the k - 1 is ahead of i by more than the
   critical value, except in a share 1 - level of all cases; so none that was chosen is. Hsu's
   critical value is that of a one-sided test. Here it is that of a two-sided one, so that the truly
   best method is missing from those marked in at most half as many cases, and two equally good
   methods are told apart no more often than the level says. The values are quantiles of the
   studentized maximum modulus of k - 1 differences, which hold whatever their correlations (Sidak,
   Journal of the American Statistical Association 1967).
2. *Two sources of error.* The half-width is that of `report.estimates`: one from the sampling of
   the test images, one from training again, added in quadrature.
3. *Few training runs.* The variance over two or three seeds is hardly known, and Student's t of one
   or two degrees of freedom finds no difference at all among many methods. The differences of all
   methods together say more: their variances over seeds are nearly proportional to the variances
   that the sampling of the test images gives them. So that ratio is moderated by an empirical
   Bayes estimate (Smyth, Statistical Applications in Genetics and Molecular Biology 2004): the
   ratios are draws from a scaled inverse chi-square distribution, whose location and degrees of
   freedom are fitted to the logarithms of the ratios of all differences; each variance is then
   replaced by its mean given the data. The more the ratios differ, the less they are moderated.

`scripts/simulations/ties.py` counts how often the marks are wrong, and how much they miss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Confidence level of all intervals of a column together."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean paired difference with its simultaneous confidence interval.

    Attributes:
        mean: mean over seeds.
        low: lower end.
        high: upper end.
        image_error: standard error of the mean from the sampling of the test images.
        seed_error: standard error from training another time, moderated; 0 if nothing is known of
            it, which is so with one seed.
        degrees_of_freedom: of `seed_error`; 0 if nothing is known of it.
        image_critical: what `image_error` is multiplied with.
        seed_critical: what `seed_error` is multiplied with.
    """

    mean: float
    low: float
    high: float
    image_error: float
    seed_error: float
    degrees_of_freedom: float
    image_critical: float
    seed_critical: float


def intervals(
    differences: Sequence[Sequence[float]], image_errors: Sequence[float], methods: int
) -> list[Interval]:
    """Intervals that hold together at `LEVEL`.

    Args:
        differences: for each method but the best, the difference to the best one of each seed; the
            numbers of seeds may differ.
        image_errors: for each of these, the standard error of its mean from the sampling of the
            test images.
        methods: number of methods that were compared, the best one included.

    Returns:
        One interval for each method but the best, in order.

    Raises:
        ValueError: a method has no seed, or `methods` is less than 2.
    """
    if methods < 2 or not all(map(len, differences)):
        raise ValueError("expected at least two methods, with a difference of one seed or more")
    seeds = np.array([len(each) for each in differences])
    means = np.array([math.fsum(each) / len(each) for each in differences])
    spreads = np.array([np.var(each, ddof=1) if len(each) > 1 else 0.0 for each in differences])
    image = np.square(np.asarray(image_errors, dtype=np.float64))
    moderated, freedom = _moderated(spreads, image, seeds - 1)
    seed = moderated / seeds
    normal = critical_values(methods - 1, np.full(len(seeds), np.inf))
    student = critical_values(methods - 1, freedom)
    half = np.sqrt(np.square(normal) * image + np.square(student) * seed)
    return [
        Interval(*map(float, each))
        for each in zip(
            means,
            means - half,
            means + half,
            np.sqrt(image),
            np.sqrt(seed),
            freedom,
            normal,
            student,
            strict=True,
        )
    ]


def _moderated(spreads: Array, image: Array, freedom: NDArray[np.int_]) -> tuple[Array, Array]:
    """Variances over seeds, each moderated by those of the other methods.

    Args:
        spreads: variance over seeds, shape [N].
        image: variance from the sampling of the images, shape [N].
        freedom: seeds - 1, shape [N].

    Returns:
        The moderated variances, and their degrees of freedom: never more than all have together.
    """
    from scipy.special import digamma, polygamma

    own = freedom.astype(np.float64)
    usable = (spreads > 0) & (image > 0)  # so freedom > 0
    if usable.sum() < 2:
        return spreads, own
    halves = own[usable] / 2
    logs = np.log(spreads[usable] / image[usable]) - digamma(halves) + np.log(halves)
    excess = float(np.var(logs, ddof=1) - np.mean(polygamma(1, halves)))
    location = float(np.mean(logs))
    if excess > 0:
        half = _inverse_trigamma(excess)
        prior, ratio = 2 * half, math.exp(location + float(digamma(half)) - math.log(half))
        moderated = (prior * ratio * image + own * spreads) / (prior + own)
    else:  # they differ no more than by chance
        prior, moderated = math.inf, math.exp(location) * image
    # No image sampling error, no scale for the prior: such a difference keeps its own variance.
    known = image > 0
    return (
        np.where(known, moderated, spreads),
        np.where(known, np.minimum(prior + own, own.sum()), own),
    )


def _inverse_trigamma(value: float) -> float:
    """The positive x with trigamma(x) = value, by Newton's method on 1 / trigamma (Smyth 2004)."""
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(50):
        found = float(polygamma(1, x))
        step = found * (1 - found / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-9 * x:
            break
    return x


def critical_values(comparisons: int, degrees_of_freedom: Array) -> Array:
    """The `LEVEL` quantile of the largest |t| of some comparisons that share one variance estimate.

    The studentized maximum modulus; for one comparison the quantile of |t|.

    Args:
        comparisons: number of comparisons, at least 1.
        degrees_of_freedom: infinite included, shape [N]; less than 1 counts as 1.

    Returns:
        Critical values of a difference over its standard error, shape [N]; within 0.1 %.
    """
    inverse, logs = _critical_table(comparisons)
    found: Array = np.exp(np.interp(1 / np.maximum(degrees_of_freedom, 1.0), inverse, logs))
    return found


@lru_cache(maxsize=64)
def _critical_table(comparisons: int) -> tuple[Array, Array]:
    """1 / degrees of freedom, ascending, and the logarithms of the critical values."""
    from scipy.special import gammaincinv, ndtr

    nodes, weights = np.polynomial.legendre.leggauss(200)
    uniform, share = (nodes + 1) / 2, weights / 2
    inverse = np.linspace(0, 1, 129)
    freedom = 1 / inverse[1:, np.newaxis]
    # s of t = z / s: s^2 is a chi-square over its degrees of freedom.
    scale = np.ones((len(inverse), len(uniform)))
    scale[1:] = np.sqrt(2 * gammaincinv(freedom / 2, uniform) / freedom)
    low, high = np.zeros(len(inverse)), np.full(len(inverse), 1e5)
    for _ in range(60):
        middle = (low + high) / 2
        covered = (2 * ndtr(middle[:, np.newaxis] * scale) - 1) ** comparisons @ share
        low, high = np.where(covered < LEVEL, middle, low), np.where(covered < LEVEL, high, middle)
    return inverse, np.log(high)
