"""Simultaneous confidence intervals of paired differences to the best of several methods.

The question is which methods are shown to be worse than the best one of a column. Three things make
this harder than a comparison of two methods:

1. *The best one is chosen among many, on the same data.* This is a multiple comparison with the
   best (Hsu, Annals of Statistics 1984; Hsu, Multiple Comparisons, 1996). A method is shown not to
   be the best if the one that looks best is ahead of it by more than a critical value, which allows
   for all other methods. The best one need not be known in advance: if method i truly is the best,
   every other method is at most as good, and the probability that any of the k - 1 others is ahead
   of i by more than the critical value is at most 1 - level. This holds for the chosen one, too.
   Hsu's critical value is that of a one-sided test. Here it is that of a two-sided test, so the
   truly best method is missing from the marked ones with at most half that probability, and two
   equally good methods are told apart no more often than the level allows. The values are quantiles
   of the studentized maximum modulus of k - 1 differences, which hold for any correlation of the
   differences (Sidak, Journal of the American Statistical Association 1967).
2. *There are two sources of error*, as in `report.estimates`: the sampling of the test images, and
   the variation between training runs. Their half-widths are added in quadrature.
3. *There are few training runs.* Two or three seeds hardly determine a variance, and with Student's
   t of one or two degrees of freedom no difference among many methods would be significant. The
   differences of all methods together are more informative, because their variances over seeds are
   nearly proportional to their variances from the sampling of the test images. The ratio of the two
   is therefore moderated by an empirical Bayes estimate (Smyth, Statistical Applications in
   Genetics and Molecular Biology 2004): the ratios are draws from a scaled inverse chi-square
   distribution, whose location and degrees of freedom are fitted to the logarithms of the ratios of
   all differences, and each variance is replaced by its mean given the data. The more the ratios
   differ, the less they are moderated.

`scripts/simulations/ties.py` counts how often the marks are wrong, and how often they miss a
difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Simultaneous confidence level of all intervals of a column."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean paired difference with its simultaneous confidence interval.

    Attributes:
        mean: mean over seeds.
        low: lower end.
        high: upper end.
        image_error: standard error of the mean from the sampling of the test images.
        seed_error: standard error of the mean from the variation between training runs, moderated;
            0 if it is unknown, as with one seed.
        degrees_of_freedom: degrees of freedom of `seed_error`; 0 if it is unknown.
        image_critical: factor of `image_error` in the half-width.
        seed_critical: factor of `seed_error` in the half-width.
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
    """Intervals with a simultaneous confidence level of `LEVEL`.

    Args:
        differences: for each method but the best, its difference to the best one for each seed; the
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
    """Variances over seeds, each moderated by the variances of the other methods.

    Args:
        spreads: variance over seeds, shape [N].
        image: variance from the sampling of the images, shape [N].
        freedom: seeds - 1, shape [N].

    Returns:
        The moderated variances, and their degrees of freedom: at most the sum of all.
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
    else:  # the ratios differ no more than by chance
        prior, moderated = math.inf, math.exp(location) * image
    # Without a sampling error there is no scale for the prior: keep the variance as it is.
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
    """The `LEVEL` quantile of the largest |t| of comparisons that share one variance estimate.

    This is the studentized maximum modulus; for one comparison, the quantile of |t|.

    Args:
        comparisons: number of comparisons, at least 1.
        degrees_of_freedom: shape [N]; may be infinite, and less than 1 counts as 1.

    Returns:
        Critical values of a difference over its standard error, shape [N], within 0.1 %.
    """
    inverse, logs = _critical_table(comparisons)
    found: Array = np.exp(np.interp(1 / np.maximum(degrees_of_freedom, 1.0), inverse, logs))
    return found


@lru_cache(maxsize=64)
def _critical_table(comparisons: int) -> tuple[Array, Array]:
    """1 / degrees of freedom, ascending, and logarithms of the critical values."""
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
