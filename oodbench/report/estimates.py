"""From one value a seed to a mean with its spread and its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from oodbench.report.differences import mean_of_sets

LEVEL = 0.95
"""Confidence level of the intervals: that of the bootstrap intervals in the records."""

FEWEST_SEEDS = 3
"""Fewer give no interval over seeds: Student's t with one degree of freedom says nothing."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one seed gave on one OOD set: a fraction in [0, 1], its bootstrap interval if any."""

    value: float
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds; fractions in [0, 1].

    Attributes:
        mean: mean over seeds.
        std: standard deviation over seeds, with seeds - 1 degrees of freedom; None for one seed.
        ci_low: lower end of the confidence interval of the mean; None if the records have none, and
            with two seeds.
        ci_high: upper end.
        seeds: number of seeds.
        by_seed: the value of each seed.
    """

    mean: float
    std: float | None
    ci_low: float | None
    ci_high: float | None
    seeds: int
    by_seed: Mapping[int, float] = field(default_factory=dict)


def estimate(by_set: Sequence[Mapping[int, Measurement]]) -> Estimate | None:
    """Mean over seeds of the mean over OOD sets.

    Two things make a mean uncertain, and the interval has both:

    (a) The test images are a sample. The records have a bootstrap interval for each seed. All
        seeds are tested on the same images, so these errors do not average out: the half-width is
        the mean over seeds, not that mean over sqrt(S). The sets share the ID images, so likewise
        the half-width of a mean over sets is the mean of the sets' half-widths. Both are
        conservative: they are exact if the errors are perfectly correlated.
    (b) Another training run gives another model. With S seeds of standard deviation s, the
        half-width is Student's interval of a mean, t(S - 1) * s / sqrt(S). One seed says nothing
        about this, and the interval then has (a) alone. Two say next to nothing (t is 12.7): there
        is no interval, and reports show the two values.

    The two are independent, so their half-widths are added in quadrature, on the lower and on the
    upper side separately: bootstrap intervals near 1 are lopsided. Ends are clipped to [0, 1].

    Args:
        by_set: for each OOD set, the measurement of each seed. Only seeds that have every set
            count; a mean over fewer sets would not be comparable.

    Returns:
        The estimate; None if no seed has every set.
    """
    by_seed = mean_of_sets([{s: each.value for s, each in seen.items()} for seen in by_set])
    if not by_seed:
        return None
    seeds, values = list(by_seed), list(by_seed.values())
    mean = fmean(values)
    std = stdev(values) if len(values) > 1 else None
    if 1 < len(seeds) < FEWEST_SEEDS:
        return Estimate(mean, std, None, None, len(seeds), by_seed)
    spread = 0.0 if std is None else _spread(std, len(values))
    measured = [[seen[seed] for seed in seeds] for seen in by_set]
    below = _mean_half_width([[(m.ci_low, m.value) for m in seen] for seen in measured])
    above = _mean_half_width([[(m.value, m.ci_high) for m in seen] for seen in measured])
    return Estimate(
        mean=mean,
        std=std,
        ci_low=None if below is None else max(0.0, mean - math.hypot(below, spread)),
        ci_high=None if above is None else min(1.0, mean + math.hypot(above, spread)),
        seeds=len(seeds),
        by_seed=by_seed,
    )


def of_runs(by_seed: Mapping[int, float], *, ceiling: float = math.inf) -> Estimate | None:
    """Mean over seeds of a value that is recorded without the error of its sampling.

    Of the two sources of uncertainty of `estimate` the interval has (b) alone; with fewer than
    three seeds there is none.

    Args:
        by_seed: the value of each seed, not negative.
        ceiling: the largest value possible, which the interval does not pass.

    Returns:
        The estimate; None without seeds.
    """
    if not by_seed:
        return None
    values = list(by_seed.values())
    mean = fmean(values)
    std = stdev(values) if len(values) > 1 else None
    if std is None or len(values) < FEWEST_SEEDS:
        return Estimate(mean, std, None, None, len(values), dict(by_seed))
    half = _spread(std, len(values))
    low, high = max(0.0, mean - half), min(ceiling, mean + half)
    return Estimate(mean, std, low, high, len(values), dict(by_seed))


def _spread(std: float, seeds: int) -> float:
    """Half-width of Student's interval of a mean over seeds."""
    return _t_quantile(seeds - 1) * std / math.sqrt(seeds)


def _mean_half_width(
    by_set: Iterable[Sequence[tuple[float | None, float | None]]],
) -> float | None:
    """Mean over sets of the distance from the mean lower to the mean upper end of each pair.

    None if an end is missing. A percentile interval may leave its own value outside, by a little:
    the width on that side is then 0.
    """
    widths = []
    for pairs in by_set:
        distances = [
            upper - lower for lower, upper in pairs if lower is not None and upper is not None
        ]
        if len(distances) < len(pairs):
            return None
        widths.append(max(0.0, fmean(distances)))
    return fmean(widths)


def _t_quantile(degrees: int) -> float:
    """The (1 + LEVEL) / 2 quantile of Student's t."""
    # scipy.stats has the same function and takes a second to import.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + LEVEL) / 2))
