"""Figures of runs and suites, drawn with matplotlib without a display.

`pyplot` is not used: it would keep figures in memory and choose a window system. Each function
returns a figure made from records or scores only; `save` writes it. The colors are safe for
color-blind readers (Okabe and Ito), and lines are labeled at their ends.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from oodbench.files import write_atomic
from oodbench.report.training_curves import Curve

if TYPE_CHECKING:
    from oodbench.report.seed_means import Estimate

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Blue, vermilion, green, purple, orange, sky blue, black."""

_GREY, _RULE = "#5b6270", "#d9dce1"
_DOTS_PER_INCH = 150
_LINE = 0.19
"""Inches between two labels, one below the other."""
_BINS = 60
"""Largest number of bins; fewer images have fewer bins."""


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


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, atomically.

    Raises:
        UserError: if the file cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_atomic(path, content.getvalue())


def accuracy(panels: Sequence[Panel], title: str) -> Figure:
    """Test accuracy after each epoch, mean and range over seeds: Figure 5 of the DisMax paper.

    The lowest values of the early epochs are cut off, so that the last epochs are visible.
    """
    rows = 1 + max(panel.row for panel in panels)
    columns = 1 + max(panel.column for panel in panels)
    # A single plot is larger; a single column is wide enough for the title.
    height = 4.0 if len(panels) == 1 else 2.8
    figure, grid = _grid(rows, columns, width=7.5 if columns == 1 else 4.2, height=height)
    for panel in panels:
        axes = grid[panel.row][panel.column]
        axes.set_visible(True)
        axes.set_title(panel.title, loc="left", fontsize=10)
        for curve, color in zip(panel.curves, _colors(), strict=False):
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
    figure.suptitle(
        f"{title}: test accuracy during training{about}", x=0.01, ha="left", fontsize=11
    )
    return figure


def alpha(detection: Sequence[AlphaLine], accuracy: AlphaLine, title: str) -> Figure:
    """TNR at 95 % TPR and test accuracy for each alpha: Figure 2 of the DisMax paper.

    Several lines are shifted sideways a little, so that their intervals do not overlap.

    Args:
        detection: a named line for each detector and OOD set.
        accuracy: the test accuracy of the classifiers.
        title: title above the figure.
    """
    figure, ((left, right),) = _grid(1, 2, width=4.6 if len(detection) == 1 else 5.8, height=3.4)
    only = f", {detection[0].label}" if len(detection) == 1 else ""
    for axes, lines, name in (
        (left, detection, f"TNR at 95 % TPR (%){only}"),
        (right, [accuracy], "Test accuracy (%)"),
    ):
        axes.set_visible(True)
        axes.set_title(name, loc="left", fontsize=10)
        for index, (line, color) in enumerate(zip(lines, _colors(), strict=False)):
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
    figure.suptitle(f"{title}: {about}", x=0.01, ha="left", fontsize=11)
    return figure


def score_histograms(
    scores: Mapping[str, Mapping[str, NDArray[np.float64]]], title: str, id_name: str
) -> Figure:
    """Histograms of the scores of ID and OOD images, one plot for each method.

    For the methods MaxProb and Entropy on SoftMax and DisMax networks, these are Figures 4 and 6 of
    the DisMax paper. Heights have a square-root scale, because one bin often holds nearly all ID
    images and would flatten all others.

    Args:
        scores: method -> data set -> scores; "id" has those of the ID test images.
        title: title above the figure.
        id_name: name of the ID data set.
    """
    columns = min(3, len(scores))
    rows = math.ceil(len(scores) / columns)
    figure, grid = _grid(rows, columns, width=max(3.6, 8 / columns), height=2.3)
    for index, (method, by_set) in enumerate(scores.items()):
        axes = grid[index // columns][index % columns]
        axes.set_visible(True)
        axes.set_title(method, loc="left", fontsize=10)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        _histograms(axes, by_set)
        if index + columns >= len(scores):
            axes.set_xlabel("Score (higher: more in-distribution)", fontsize=9)
    figure.suptitle(f"{title}: scores", x=0.01, ha="left", fontsize=11)
    names = [name for name in next(iter(scores.values())) if name != "id"]
    _legend(figure, f"{id_name} (ID)", names)
    return figure


# --- parts -------------------------------------------------------------------------------------


def _grid(
    rows: int, columns: int, *, width: float, height: float
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with plots of this size in inches, all hidden at first."""
    figure = Figure(
        figsize=(width * columns, height * rows + 0.5), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_GREY)
        axes.tick_params(colors=_GREY, labelsize=9)
        axes.grid(axis="y", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, [list(row) for row in grid]


def _colors() -> list[str]:
    """More colors than any figure needs; they repeat after seven."""
    return list(COLORS) * 10


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
    step = _LINE * _DOTS_PER_INCH / axes.bbox.height
    places: list[tuple[float, str, str]] = sorted(
        ((value - low) / (high - low), text, color)
        for (text, value), color in zip(ends, _colors(), strict=False)
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


def _histograms(axes: Axes, by_set: Mapping[str, NDArray[np.float64]]) -> None:
    """Draw ID filled and each OOD set as an outline; the outer bins include all values beyond."""
    everything = np.concatenate(list(by_set.values()))
    low, high = np.quantile(everything, (0.005, 0.995))
    if low == high:
        low, high = low - 0.5, high + 0.5
    fewest = min(map(len, by_set.values()))
    edges = np.linspace(low, high, min(_BINS, max(10, math.isqrt(fewest))) + 1)

    def shares(values: NDArray[np.float64]) -> NDArray[Any]:
        counts, _ = np.histogram(np.clip(values, low, high), edges)
        return counts / len(values)

    axes.stairs(shares(by_set["id"]), edges, fill=True, color=_GREY, alpha=0.35)
    others = (values for name, values in by_set.items() if name != "id")
    for values, color in zip(others, _colors(), strict=False):
        axes.stairs(shares(values), edges, color=color, linewidth=1.2)
    axes.axvline(float(np.quantile(by_set["id"], 0.05)), color=_GREY, linestyle="--", linewidth=0.9)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yscale("function", functions=(np.sqrt, np.square))
    axes.set_ylim(bottom=0)


def _legend(figure: Figure, id_name: str, ood_names: Sequence[str]) -> None:
    """Add the common legend of the plots of scores, below them."""
    handles: list[Artist] = [
        Patch(color=_GREY, alpha=0.35, label=id_name),
        *(
            Line2D([], [], color=color, linewidth=1.6, label=name)
            for name, color in zip(ood_names, _colors(), strict=False)
        ),
        Line2D([], [], color=_GREY, linestyle="--", label="95 % of the ID images score higher"),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        handlelength=1.6,
        columnspacing=1.4,
    )
