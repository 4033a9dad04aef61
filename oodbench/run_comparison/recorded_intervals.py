"""Differences of one method between two runs, from recorded values and intervals alone.

Without scores the correlation of the two runs is unknown. It is taken as 0, which is conservative:
two runs are tested on the same images, so it is positive. The interval of the difference is made of
the two intervals (Zou & Donner, Statistics in Medicine 2008): its lower end lies below the
difference by the root of the sum of the squared distances from the head to its lower end and from
the base to its upper end; its upper end likewise.

As in `report.seed_means`, distances are averaged over seeds and OOD sets: all share test images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from oodbench.report.seed_means import Measurement

Pairs = Mapping[int, tuple[Measurement, Measurement]]
"""Seed -> what the base and the head recorded."""

_NORMAL = 1.959963984540054
"""Half-width of a recorded interval, of level 0.95, over the standard error."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Standard errors of a difference from the test images, for the two ends of its interval."""

    below: float
    above: float


def errors(sets: Sequence[Pairs]) -> Errors | None:
    """Errors of the mean difference over seeds and OOD sets from the sampling of the images.

    None if a record has no interval.
    """
    measured = [pair for each in sets for pair in each.values()]
    ends = [_distances(each) for pair in measured for each in pair]
    known = [each for each in ends if each is not None]
    if len(known) < len(ends):
        return None
    (base_low, base_high), (head_low, head_high) = (
        tuple(fmean(each[end] for each in known[side::2]) for end in (0, 1)) for side in (0, 1)
    )
    return Errors(
        math.hypot(head_low, base_high) / _NORMAL, math.hypot(head_high, base_low) / _NORMAL
    )


def identical(sets: Sequence[Pairs]) -> bool:
    """Whether both runs recorded the same values and intervals."""
    return all(base == head for each in sets for base, head in each.values())


def by_seed(sets: Sequence[Pairs]) -> dict[int, tuple[float, float]]:
    """Seed -> means over OOD sets of the values of both sides."""
    return {
        seed: (
            fmean(each[seed][0].value for each in sets),
            fmean(each[seed][1].value for each in sets),
        )
        for seed in sets[0]
    }


def _distances(found: Measurement) -> tuple[float, float] | None:
    """From a value down to its lower and up to its upper end; a percentile interval may miss it."""
    if found.ci_low is None or found.ci_high is None:
        return None
    return max(0.0, found.value - found.ci_low), max(0.0, found.ci_high - found.value)
