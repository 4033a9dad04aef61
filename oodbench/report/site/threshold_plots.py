"""Plots of threshold transfer: accepted test images against the wanted rate, from stored scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from oodbench.metrics.thresholds import percentage, rate_range, threshold_rank, transfer_curve
from oodbench.report.site.plots import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Line,
    Plot,
    Scale,
    Tick,
    path_through,
)

_WIDTH, _HEIGHT = 340, 320
_RATES = tuple(round(1 - 0.5 * 0.002 ** (step / 60), 4) for step in range(61))
"""Wanted rates from 0.5 to 0.999, evenly spaced in the logarithm of the rejected share."""
_LABELED = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
_MOST = 0.9995
"""Rates above it are drawn there: the logarithm of no rejected image is not finite."""

Array = NDArray[np.float64]


def threshold_plots(
    validation: Array, scores: Mapping[str, Array], names: Sequence[str], seed: int
) -> tuple[Plot, ...]:
    """Accepted ID and OOD images against the wanted rate; none if there are too few images.

    Args:
        validation: scores of the ID validation images, shape [n].
        scores: data set -> scores; "id" has those of the ID test images, without csID sets.
        names: the OOD sets to draw, in the order of their colors.
        seed: the seed, for the descriptions.

    Raises:
        ValueError: if scores are missing, empty, not one-dimensional or not finite.
    """
    rates = [rate for rate in _RATES if threshold_rank(validation.size, rate)]
    if len(rates) < 2:
        return ()
    across = Scale(_tail(0.5), _tail(_MOST), LEFT, _WIDTH - RIGHT)
    _, accepted = transfer_curve(validation, scores["id"], rates)
    return (
        _id_plot(rates, accepted, validation.size, across, len(names), seed),
        _ood_plot(rates, validation, {name: scores[name] for name in names}, across, seed),
    )


def _id_plot(
    rates: Sequence[float], accepted: Array, images: int, across: Scale, color: int, seed: int
) -> Plot:
    up = Scale(_tail(0.5), _tail(_MOST), _HEIGHT - BOTTOM, TOP)

    def places(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(across(_tail(r)), up(_tail(v))) for r, v in zip(rates, values, strict=True)]

    ends = [rate_range(images, rate) for rate in rates]
    low, high = places([end[0] for end in ends]), places([end[1] for end in ends])
    diagonal = [(across(_tail(rate)), up(_tail(rate))) for rate in (0.5, _MOST)]
    said = ", ".join(
        f"{_shown(share)} at {percentage(rate)}"
        for rate, share in zip(rates, accepted, strict=True)
        if rate in (0.5, rates[-1]) or rate == min(rates, key=lambda each: abs(each - 0.95))
    )
    return Plot(
        title="ID images accepted",
        description=f"Accepted ID test images against the wanted rate, seed {seed}: {said}. On the "
        "dashed line both are equal; the gray range holds 95% of the draws of validation images.",
        width=_WIDTH,
        height=_HEIGHT,
        x_title="Wanted (%)",
        y_title="ID test images accepted (%)",
        x_ticks=_ticks(across),
        y_ticks=_ticks(up),
        lines=(
            Line(path_through([*low, *high[::-1]]), None, filled=True),
            Line(path_through(diagonal), None, dashed=True),
            Line(path_through(places(accepted.tolist())), color),
        ),
    )


def _ood_plot(
    rates: Sequence[float], validation: Array, tested: Mapping[str, Array], across: Scale, seed: int
) -> Plot:
    up = Scale(0, 100, _HEIGHT - BOTTOM, TOP)
    curves = [transfer_curve(validation, scores, rates)[1] for scores in tested.values()]
    wanted = [across(_tail(rate)) for rate in rates]
    return Plot(
        title="OOD images accepted",
        description=f"Accepted OOD images against the wanted ID rate, seed {seed}, one line for "
        f"each OOD set: {', '.join(tested)}. Lower is better.",
        width=_WIDTH,
        height=_HEIGHT,
        x_title="Wanted ID rate (%)",
        y_title="OOD images accepted (%)",
        x_ticks=_ticks(across),
        y_ticks=up.ticks(6),
        lines=tuple(
            Line(
                path_through([(x, up(100 * y)) for x, y in zip(wanted, shares, strict=True)]),
                number,
            )
            for number, shares in enumerate(curves)
        ),
    )


def _tail(rate: float) -> float:
    """The scale of rates: the negative logarithm of the rejected share."""
    return -math.log10(1 - min(max(rate, 0.5), _MOST))


def _ticks(scale: Scale) -> tuple[Tick, ...]:
    return tuple(Tick(scale(_tail(rate)), f"{100 * rate:g}") for rate in _LABELED)


def _shown(share: float) -> str:
    return f"{100 * share:.1f} %"
