"""Plots as geometry: paths and ticks in pixels, which a template puts into an SVG image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from oodbench.report.site.score_curves import Points, ScoreCurves

LEFT, RIGHT, TOP, BOTTOM = 44, 16, 8, 40
"""Margins of a plot."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of an axis: its place in pixels and its label."""

    place: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line or, with `filled`, an area.

    Attributes:
        path: its path in the syntax of SVG.
        color: number of its color, from 0; None for the neutral color of the ID images.
        filled: whether the area below it is filled.
        dashed: whether it is a guide, not data.
    """

    path: str
    color: int | None
    filled: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """A point with its interval, in pixels, and the text that describes it; a ring if `hollow`."""

    x: float
    y: float
    low: float
    high: float
    text: str
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot.

    Attributes:
        title: title above it.
        description: what it shows, in words, for readers who do not see it.
        width: in pixels.
        height: in pixels.
        x_title: title of the horizontal axis.
        y_title: title of the vertical axis.
        x_ticks: ticks of the horizontal axis.
        y_ticks: ticks of the vertical axis.
        lines: areas and lines, from back to front.
        points: points, in front of the lines.
    """

    title: str
    description: str
    width: int
    height: int
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    points: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """Linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int) -> tuple[Tick, ...]:
        """Ticks at round values, at most so many."""
        step = _round_step((self.high - self.low) / max(1, most - 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        decimals = max(0, -math.floor(math.log10(step)))
        plain = decimals <= 6 and max(abs(self.low), abs(self.high)) < 1e7
        form = f".{decimals}f" if plain else ".10g"
        return tuple(Tick(self(n * step), f"{n * step:{form}}") for n in range(first, last + 1))


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(each * power for each in (1, 2, 5, 10) if each * power >= least * (1 - 1e-9))


def curve_plots(curves: ScoreCurves) -> tuple[Plot, Plot, Plot]:
    """The ROC curves, and the precision-recall curves with ID and with OOD as positive class."""
    names = ", ".join(each.name for each in curves.sets)
    about = f"of the scores of seed {curves.seed}, one line for each OOD set: {names}."

    def plot(title: str, x: str, y: str, lines: Sequence[Points], guide: bool) -> Plot:
        width, height = 340, 320
        across = Scale(0, 100, LEFT, width - RIGHT)
        up = Scale(0, 100, height - BOTTOM, TOP)
        drawn = [
            Line(path_through([(across(100 * a), up(100 * b)) for a, b in points]), number)
            for number, points in enumerate(lines)
        ]
        if guide:
            drawn.insert(
                0, Line(path_through([(LEFT, up(95)), (width - RIGHT, up(95))]), None, dashed=True)
            )
        description = f"{title} {about} The values are in the table of this section."
        ticks = across.ticks(6), up.ticks(6)
        return Plot(title, description, width, height, x, y, *ticks, tuple(drawn))

    return (
        plot(
            "ROC curves",
            "OOD images accepted (%)",
            "ID images accepted (%)",
            [each.roc for each in curves.sets],
            guide=True,
        ),
        plot(
            "Precision and recall, ID positive",
            "Recall (%)",
            "Precision (%)",
            [each.precision_in for each in curves.sets],
            guide=False,
        ),
        plot(
            "Precision and recall, OOD positive",
            "Recall (%)",
            "Precision (%)",
            [each.precision_out for each in curves.sets],
            guide=False,
        ),
    )


def histogram_plots(curves: ScoreCurves, id_name: str) -> tuple[Plot, ...]:
    """The histogram of the ID images with that of each OOD set.

    Heights have a square-root scale, because one bin often holds nearly all ID images.
    """
    width, height = 340, 200
    across = Scale(curves.low, curves.high, LEFT, width - RIGHT)
    highest = max(max(each) for each in (curves.id_shares, *(s.shares for s in curves.sets)))
    root = Scale(0, math.sqrt(highest), height - BOTTOM, TOP)
    percents = [p for p in (1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0) if p <= 100 * highest]
    ticks: list[Tick] = []
    for percent in (0.0, *(percents or [100 * highest])):
        place = root(math.sqrt(percent / 100))
        if not ticks or ticks[-1].place - place >= 14:
            ticks.append(Tick(place, f"{percent:.3g}"))
    x_ticks = across.ticks(5)
    threshold = across(min(max(curves.threshold, curves.low), curves.high))
    limit = Line(path_through([(threshold, TOP), (threshold, height - BOTTOM)]), None, dashed=True)

    def stairs(shares: Sequence[float]) -> str:
        step = (curves.high - curves.low) / len(shares)
        corners = [(across(curves.low), root(0))]
        for index, share in enumerate(shares):
            up = root(math.sqrt(share))
            corners += [
                (across(curves.low + index * step), up),
                (across(curves.low + (index + 1) * step), up),
            ]
        return path_through([*corners, (across(curves.high), root(0))])

    background = Line(stairs(curves.id_shares), None, filled=True)
    return tuple(
        Plot(
            title=each.name,
            description=f"Histogram of the scores of seed {curves.seed}. Median of {id_name} (ID): "
            f"{curves.id_median:.4g}; median of {each.name} (OOD): {each.median:.4g}. 95% of the "
            f"ID images score {curves.threshold:.4g} or higher.",
            width=width,
            height=height,
            x_title="Score (higher: more in-distribution)",
            y_title="Images (%)",
            x_ticks=x_ticks,
            y_ticks=tuple(ticks),
            lines=(background, Line(stairs(each.shares), number), limit),
        )
        for number, each in enumerate(curves.sets)
    )


@dataclass(frozen=True, slots=True)
class Dated:
    """A value of one run: percent, with the ends of its interval if it has one.

    Attributes:
        label: date of the run.
        value: the value.
        low: lower end of its interval.
        high: upper end.
        joined: whether it is comparable with the value before it.
        text: the value in words.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    joined: bool
    text: str


def history_plot(title: str, y_title: str, values: Sequence[Dated], width: int = 460) -> Plot:
    """A value over several runs, oldest first, evenly spaced; comparable ones are joined."""
    height = 240
    ends = [end for v in values for end in (v.value, v.low, v.high) if end is not None]
    margin = max(0.5, 0.08 * (max(ends) - min(ends)))
    up = Scale(min(ends) - margin, max(ends) + margin, height - BOTTOM, TOP)
    across = Scale(-0.5, len(values) - 0.5, LEFT, width - RIGHT)
    places = [(across(index), up(each.value)) for index, each in enumerate(values)]
    lines = tuple(
        Line(path_through(places[index - 1 : index + 1]), 0)
        for index, each in enumerate(values)
        if index and each.joined
    )
    every = math.ceil(len(values) / max(1, width // 85))
    return Plot(
        title=title,
        description=f"{title}, oldest run first: " + "; ".join(each.text for each in values) + ".",
        width=width,
        height=height,
        x_title="Run",
        y_title=y_title,
        x_ticks=tuple(Tick(across(i), v.label) for i, v in enumerate(values) if i % every == 0),
        y_ticks=tuple(tick for tick in up.ticks(6) if float(tick.label) <= 100),
        lines=lines,
        points=tuple(
            Point(
                x,
                y,
                y if each.low is None else up(each.low),
                y if each.high is None else up(each.high),
                each.text,
            )
            for (x, y), each in zip(places, values, strict=True)
        ),
    )


def path_through(places: Sequence[tuple[float, float]]) -> str:
    """A path through these places, in relative steps: half as long as with absolute places."""
    parts = [f"M{places[0][0]:g} {places[0][1]:g}"]
    for (x, y), (u, v) in pairwise(places):
        across, down = round(u - x, 1), round(v - y, 1)
        if across and down:
            parts.append(f"l{across:g} {down:g}")
        elif across or down:
            parts.append(f"h{across:g}" if across else f"v{down:g}")
    return "".join(parts)
