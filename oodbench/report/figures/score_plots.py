"""Figures of scores: ROC curves, and histograms with the threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from oodbench.errors import counted
from oodbench.metrics import rank
from oodbench.metrics.roc import ood_above_at_95_tpr, threshold_at_95_tpr
from oodbench.metrics.thresholds import conformal_threshold
from oodbench.report.differences import id_key, id_scores
from oodbench.report.figures.canvas import (
    ID,
    MUTED,
    PAGE_WIDTH,
    SOFT,
    TEXT,
    grid,
    legend,
    legend_in,
    named_styles,
    styles,
    subheading,
    title,
)
from oodbench.report.site.score_curves import histogram_range, thinned

Scores = Mapping[str, NDArray[np.float64]]
"""Data set -> scores; "id" has those of the ID test images."""

ACCEPT = 0.95
"""Share of ID images that the threshold accepts."""

_BINS = 60
"""Largest number of bins; fewer images have fewer bins."""
_MUTED_POINTS = 80
"""Points of the curve of a method that is not highlighted."""


def roc_curves(
    scores: Mapping[str, Scores], highlighted: Sequence[str], heading: str, sets: Sequence[str]
) -> Figure:
    """ID against each OOD set, one plot for each set; FPR95 is marked on the curves.

    Args:
        scores: method -> scores.
        highlighted: the methods in color, at most seven; the others are gray.
        heading: title above the figure.
        sets: the OOD sets, in order.
    """
    columns = min(3, len(sets))
    rows = math.ceil(len(sets) / columns)
    side = {1: 4.2, 2: 3.4}.get(columns, PAGE_WIDTH / 3)
    apart = 0.1 if rows > 1 else 0.0  # room for a title below the ticks of another plot
    figure, plots = grid(rows, columns, width=side, height=side + apart, square=True)
    others = [method for method in scores if method not in highlighted]
    lines = named_styles(len(highlighted))
    for index, ood in enumerate(sets):
        axes = plots[index // columns][index % columns]
        axes.set_visible(True)
        subheading(axes, ood)
        axes.axhline(100 * ACCEPT, color=SOFT, linestyle=(0, (1, 2)), linewidth=0.9)
        axes.plot((0, 100), (0, 100), color=MUTED, linestyle=(0, (4, 3)), linewidth=0.8)
        for method in others:
            axes.plot(*_curve(scores[method], ood, whole=False), color=MUTED, linewidth=0.7)
        for method, (color, dash) in reversed([*zip(highlighted, lines, strict=True)]):
            curve = _curve(scores[method], ood, whole=True)
            axes.plot(*curve, color=color, linestyle=dash, linewidth=1.3)
            axes.plot(
                [100 * _fpr95(scores[method], ood)],
                [100 * ACCEPT],
                color=color,
                marker="o",
                markersize=4,
                markeredgecolor="#ffffff",
                markeredgewidth=0.6,
                clip_on=False,
                zorder=4,
            )
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100.5)
        axes.set_aspect("equal")
        axes.grid(axis="x", color=MUTED, alpha=0.5, linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if index + columns >= len(sets):
            label = "OOD accepted (%)" if columns > 2 else "OOD images accepted (%)"
            axes.set_xlabel(label, fontsize=8.5)
        if index % columns == 0:
            axes.set_ylabel("ID images accepted (%)", fontsize=8.5)
        else:
            axes.tick_params(labelleft=False)
    title(figure, f"{heading}: ROC curves")
    handles: list[Artist] = [
        Line2D([], [], color=color, linestyle=dash, linewidth=1.6, label=method)
        for method, (color, dash) in zip(highlighted, lines, strict=True)
    ]
    if others:
        label = counted(len(others), "other method")
        handles.append(Line2D([], [], color=MUTED, linewidth=1.6, label=label))
    handles.append(
        Line2D(
            *([], []),
            color=SOFT,
            linestyle=(0, (1, 2)),
            linewidth=0.9,
            marker="o",
            markersize=4,
            label="95 % of ID accepted: FPR95",
        )
    )
    _add_legend(figure, plots, handles, len(sets), side)
    return figure


def score_histograms(
    scores: Mapping[str, Scores],
    heading: str,
    id_name: str,
    validation: Mapping[str, NDArray[np.float64]] | None = None,
) -> Figure:
    """Histograms of the scores of ID and OOD images, one plot for each method.

    For the methods MaxProb and Entropy on SoftMax and DisMax networks, these are Figures 4 and 6 of
    the DisMax paper. Heights have a square-root scale, because one bin often holds nearly all ID
    images and would flatten all others. The threshold accepts 95 % of the ID images: of validation
    images where all methods have their scores, else of the test images themselves.

    Args:
        scores: method -> scores.
        heading: title above the figure.
        id_name: name of the ID data set.
        validation: method -> scores of ID validation images, shape [N].
    """
    columns = min(3, len(scores))
    rows = math.ceil(len(scores) / columns)
    width = {1: 5.0, 2: 3.6}.get(columns, PAGE_WIDTH / 3)
    figure, plots = grid(rows, columns, width=width, height=1.9)
    known = validation or {}
    transferred = known.keys() >= scores.keys()
    for index, (method, by_set) in enumerate(scores.items()):
        axes = plots[index // columns][index % columns]
        axes.set_visible(True)
        subheading(axes, method)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        if transferred:
            threshold = conformal_threshold(known[method], ACCEPT).value
        else:
            first = next(name for name in by_set if not _is_id(name))
            threshold = threshold_at_95_tpr(id_scores(by_set, first))
        _histograms(axes, by_set, threshold)
        if index + columns >= len(scores):
            axes.set_xlabel("Score (higher: more ID)", fontsize=8.5)
    title(figure, f"{heading}: scores")
    of = "validation images" if transferred else "test images"
    names = [name for name in next(iter(scores.values())) if not _is_id(name)]
    handles: list[Artist] = [
        Patch(
            color=ID, alpha=0.5, linewidth=0, label="ID" if id_name == "id" else f"{id_name} (ID)"
        ),
        *(
            Line2D([], [], color=color, linestyle=dash, linewidth=1.6, label=name)
            for name, (color, dash) in zip(names, styles(len(names)), strict=True)
        ),
        Line2D(
            *([], []),
            color=TEXT,
            linestyle=(0, (4, 2)),
            linewidth=1.0,
            label=f"accepts 95 % of ID {of}",
        ),
    ]
    _add_legend(figure, plots, handles, len(scores), width)
    return figure


def _add_legend(
    figure: Figure,
    plots: Sequence[Sequence[Axes]],
    handles: Sequence[Artist],
    shown: int,
    width: float,
) -> None:
    """The legend in the last row, if it has room, or below.

    Args:
        figure: the figure.
        plots: all plots, shown or not.
        handles: of the legend.
        shown: number of plots that are shown.
        width: of a plot.
    """
    columns = len(plots[0])
    if shown % columns:
        legend_in(plots[-1][shown % columns], handles)
    else:
        legend(figure, handles, width * columns)


def _is_id(name: str) -> bool:
    return name == "id" or name.startswith(id_key(""))


def _fpr95(scores: Scores, ood: str) -> float:
    counts = rank(id_scores(scores, ood), scores[ood]).counts()
    return float(ood_above_at_95_tpr(counts) / counts.n_ood)


def _curve(scores: Scores, ood: str, *, whole: bool) -> tuple[Sequence[float], Sequence[float]]:
    """OOD and ID images accepted, in percent."""
    counts = rank(id_scores(scores, ood), scores[ood]).counts()
    across, up = 100 * counts.ood_above / counts.n_ood, 100 * counts.id_above / counts.n_id
    if not whole:
        chosen = np.unique(np.linspace(0, len(up) - 1, _MUTED_POINTS).round().astype(int))
        return across[chosen], up[chosen]
    points = thinned(across / 100, up / 100)
    return [100 * x for x, _ in points], [100 * y for _, y in points]


def _histograms(axes: Axes, by_set: Scores, threshold: float) -> None:
    """Draw ID filled and each OOD set as an outline; the outer bins include all values beyond."""
    ood = {name: values for name, values in by_set.items() if not _is_id(name)}
    known = id_scores(by_set, next(iter(ood)))
    low, high = histogram_range(known, np.concatenate([known, *ood.values()]))
    fewest = min(map(len, (known, *ood.values())))
    edges = np.linspace(low, high, min(_BINS, max(10, math.isqrt(fewest))) + 1)

    def shares(values: NDArray[np.float64]) -> NDArray[Any]:
        counts, _ = np.histogram(np.clip(values, low, high), edges)
        return counts / len(values)

    axes.stairs(shares(known), edges, fill=True, color=ID, alpha=0.5, linewidth=0)
    for values, (color, dash) in zip(ood.values(), styles(len(ood)), strict=True):
        axes.stairs(shares(values), edges, color=color, linestyle=dash, linewidth=1.1)
    shown = min(max(threshold, low), high)
    axes.axvline(shown, color=TEXT, linestyle=(0, (4, 2)), linewidth=1.0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlim(low, high)
    axes.set_yscale("function", functions=(np.sqrt, np.square))
    axes.set_ylim(bottom=0)
