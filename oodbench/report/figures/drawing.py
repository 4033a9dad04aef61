"""Figures of trainings: test accuracy by epoch, and results by the alpha of a loss.

Lines are labeled at their ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from oodbench.report.figures.canvas import colors, grid, subheading, title
from oodbench.report.training_curves import Curve

if TYPE_CHECKING:
    from oodbench.report.seed_means import Estimate

_LINE = 0.19
"""Inches between two labels, one below the other."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One of several small plots of training curves.

    Attributes:
        title: title above the plot.
        row: row in the figure, 0 at the top.
        column: column in the figure, 0 at the left.
        curves: the curves to draw.
    """

    title: str
    row: int
    column: int
    curves: Sequence[Curve]


@dataclass(frozen=True, slots=True)
class AlphaLine:
    """Measured values for each alpha of the loss.

    Attributes:
        label: name of the line; empty for none.
        points: alpha -> the estimate, fractions.
    """

    label: str
    points: Mapping[float, Estimate]


def accuracy(panels: Sequence[Panel], heading: str) -> Figure:
    """Test accuracy after each epoch, mean and range over seeds: Figure 5 of the DisMax paper.

    The lowest values of the early epochs are cut off, so that the last epochs are visible.
    """
    rows = 1 + max(panel.row for panel in panels)
    columns = 1 + max(panel.column for panel in panels)
    # A single plot is larger; a single column is wide enough for the title.
    height = 4.0 if len(panels) == 1 else 2.8
    figure, plots = grid(rows, columns, width=7.5 if columns == 1 else 4.2, height=height)
    for panel in panels:
        axes = plots[panel.row][panel.column]
        axes.set_visible(True)
        subheading(axes, panel.title)
        for curve, color in zip(panel.curves, colors(), strict=False):
            percent = [100 * value for value in curve.mean]
            axes.plot(curve.epochs, percent, color=color, linewidth=1.4)
            if curve.seeds > 1:
                low, high = ([100 * value for value in end] for end in (curve.low, curve.high))
                axes.fill_between(curve.epochs, low, high, color=color, alpha=0.25, linewidth=0)
        _zoom(axes, panel.curves)
        ends = [(curve.model, 100 * curve.mean[-1]) for curve in panel.curves]
        _label_ends(axes, [(f"{model} {value:.1f}", value) for model, value in ends])
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        lowest = max(other.row for other in panels if other.column == panel.column)
        if panel.row == lowest:
            axes.set_xlabel("Epoch")
        if panel.column == 0:
            axes.set_ylabel("Test accuracy (%)")
    seeds = max((curve.seeds for panel in panels for curve in panel.curves), default=1)
    about = f"; mean and range over {seeds} seeds" if seeds > 1 else ""
    title(figure, f"{heading}: test accuracy during training{about}")
    return figure


def alpha(detection: Sequence[AlphaLine], accuracy: AlphaLine, heading: str) -> Figure:
    """TNR at 95 % TPR and test accuracy for each alpha: Figure 2 of the DisMax paper.

    Several lines are shifted sideways a little, so that their intervals do not overlap.

    Args:
        detection: a named line for each detector and OOD set.
        accuracy: the test accuracy of the classifiers.
        heading: title above the figure.
    """
    figure, ((left, right),) = grid(1, 2, width=4.6 if len(detection) == 1 else 5.8, height=3.4)
    only = f", {detection[0].label}" if len(detection) == 1 else ""
    for axes, lines, name in (
        (left, detection, f"TNR at 95 % TPR (%){only}"),
        (right, [accuracy], "Test accuracy (%)"),
    ):
        axes.set_visible(True)
        subheading(axes, name)
        for index, (line, color) in enumerate(zip(lines, colors(), strict=False)):
            _points(axes, line, color, shift=1.03 ** (2 * index - len(lines) + 1))
        alphas = sorted({each for line in lines for each in line.points})
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(alphas))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("alpha (logarithmic)")
        axes.margins(x=0.08, y=0.12)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -2.0), min(high, 102.0))
        if len(lines) > 1:
            _label_ends(
                axes, [(line.label, 100 * line.points[max(line.points)].mean) for line in lines]
            )
    seeds = {each.seeds for line in (*detection, accuracy) for each in line.points.values()}
    spread = "mean and range over 2 seeds" if seeds == {2} else "mean over seeds, 95 % interval"
    about = f"effect of alpha; {spread}"
    title(figure, f"{heading}: {about}")
    return figure


# --- parts -------------------------------------------------------------------------------------


def _zoom(axes: Axes, curves: Sequence[Curve]) -> None:
    """Limits that show all values after the first tenth of the epochs."""
    last = max((curve.epochs[-1] for curve in curves), default=1)
    shown = [
        100 * value
        for curve in curves
        for epoch, low, high in zip(curve.epochs, curve.low, curve.high, strict=True)
        if epoch > last // 10
        for value in (low, high)
    ]
    if shown:
        margin = max(0.5, 0.05 * (max(shown) - min(shown)))
        axes.set_ylim(max(0.0, min(shown) - margin), min(100.5, max(shown) + margin))
    axes.set_xlim(0, last)


def _label_ends(axes: Axes, ends: Sequence[tuple[str, float]]) -> None:
    """Label each line at its right end; labels that would overlap are moved apart."""
    low, high = axes.get_ylim()
    step = _LINE * axes.figure.dpi / axes.bbox.height
    places: list[tuple[float, str, str]] = sorted(
        ((value - low) / (high - low), text, color)
        for (text, value), color in zip(ends, colors(), strict=False)
    )
    heights = [place[0] for place in places]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + step)
    # Moving labels up made them too high on average: move all down, but not out of the plot.
    excess = (sum(heights) - sum(place[0] for place in places)) / max(1, len(heights))
    top = max(0.0, (heights[-1] if heights else 0.0) - excess - 1.0)
    for height, (_, text, color) in zip(heights, places, strict=True):
        axes.annotate(
            text,
            (1.0, height - excess - top),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def _points(axes: Axes, line: AlphaLine, color: str, *, shift: float) -> None:
    """Draw a line through estimates with their intervals; alphas are multiplied by `shift`."""
    found = [line.points[each] for each in sorted(line.points)]
    alphas = [each * shift for each in sorted(line.points)]
    means = [100 * each.mean for each in found]
    axes.plot(alphas, means, color=color, marker="o", markersize=4.5, linewidth=1.4)
    ends = [
        (100 * (each.mean - low), 100 * (high - each.mean))
        for each, (low, high) in ((each, _bar(each)) for each in found)
    ]
    axes.errorbar(
        alphas,
        means,
        # A percentile interval may exclude its own mean by a little.
        yerr=np.maximum(0.0, np.array(ends).T),
        fmt="none",
        ecolor=color,
        elinewidth=1.0,
        capsize=3,
    )


def _bar(found: Estimate) -> tuple[float, float]:
    """The ends of an interval; for two seeds, their values."""
    if found.ci_low is not None and found.ci_high is not None:
        return found.ci_low, found.ci_high
    values = found.by_seed.values() or (found.mean,)
    return min(values), max(values)
