"""Figure of the images that a method confuses: OOD images it accepts, ID images it rejects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from oodbench.report.differences import id_scores
from oodbench.report.figures.canvas import PAGE_WIDTH, RULE, SOFT, TEXT, new_figure, plain, title
from oodbench.report.figures.score_plots import Scores

Images = Callable[[str, Sequence[int]], NDArray[Any] | None]
"""Data set ("id" or an OOD set) and indices -> images [N, C, H, W], in [0, 1] or of type uint8;
None if they are not at hand."""

COLUMNS = 8
"""Images of a row."""


def confusable_images(
    scores: Scores, images: Images, method: str, heading: str, sets: Sequence[str]
) -> Figure | None:
    """The OOD images of each set with the highest scores, and the ID images with the lowest.

    Under an OOD image is the share of ID test images with a lower score, and under an ID image the
    share of all OOD images with a higher score: both are 0 % if the method does not confuse them.

    Args:
        scores: of the method.
        images: gives the images.
        method: its name.
        heading: title above the figure.
        sets: the OOD sets, in order.

    Returns:
        The figure; None if no images are at hand.
    """
    rows: list[tuple[str, str, NDArray[Any], Sequence[float]]] = []
    for ood in sets:
        known, ours = id_scores(scores, ood), scores[ood]
        chosen = np.argsort(-ours, kind="stable")[:COLUMNS]
        found = images(ood, chosen.tolist())
        if found is not None:
            shares = [float((known < score).mean()) for score in ours[chosen]]
            rows.append((ood, "most accepted;\nID images below:", found, shares))
    known = id_scores(scores, sets[0])
    chosen = np.argsort(known, kind="stable")[:COLUMNS]
    found = images("id", chosen.tolist())
    if found is not None:
        pooled = np.concatenate([scores[ood] for ood in sets])
        shares = [float((pooled > score).mean()) for score in known[chosen]]
        rows.append(("ID", "most rejected;\nOOD images above:", found, shares))
    if not rows:
        return None
    return _drawn(rows, f"{heading}: images that {method} confuses")


def _drawn(rows: Sequence[tuple[str, str, NDArray[Any], Sequence[float]]], text: str) -> Figure:
    """Rows of name, words, images and shares."""
    width = PAGE_WIDTH / (COLUMNS + 1.7)
    figure = new_figure(PAGE_WIDTH, (width + 0.22) * len(rows) + 0.4)
    plots = figure.subplots(
        len(rows), COLUMNS + 1, squeeze=False, width_ratios=[1.7, *[1] * COLUMNS]
    )
    for (name, words, images, shares), line in zip(rows, plots, strict=True):
        for axes in line:
            plain(axes)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
            axes.set_visible(False)
        line[0].set_visible(True)
        line[0].spines[:].set_visible(False)
        line[0].text(0, 0.95, name, fontsize=9, color=TEXT, va="top", fontweight="bold")
        line[0].text(0, 0.62, words, fontsize=7.5, color=SOFT, va="top")
        for axes, image, share in zip(line[1:], images, shares, strict=False):
            axes.set_visible(True)
            axes.spines[:].set_visible(True)
            axes.spines[:].set_color(RULE)
            axes.imshow(_pixels(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xlabel(_percent(share), fontsize=7.5, color=TEXT, labelpad=2)
    title(figure, text)
    return figure


def _percent(share: float) -> str:
    """In percent, with a decimal where the whole number would be 0 or 100 and the share is not."""
    rounded = f"{100 * share:.0f}"
    return f"{100 * share:.1f} %" if rounded in ("0", "100") and 0 < share < 1 else f"{rounded} %"


def _pixels(image: NDArray[Any]) -> NDArray[np.float64]:
    """An image [C, H, W] as it is drawn: [H, W] or [H, W, 3] in [0, 1].

    Images outside [0, 1], such as normalized ones, are stretched to it.
    """
    values = image.astype(np.float64) / (255 if image.dtype == np.uint8 else 1)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        values = (values - low) / ((high - low) or 1.0)
    if len(values) == 3:
        return np.moveaxis(values, 0, 2)
    found: NDArray[np.float64] = values.mean(axis=0)
    return found
