"""The page as one file: style, histogram and small images are part of it; light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import ChoiceLoader, PackageLoader
from numpy.typing import NDArray
from PIL import Image

from oodbench.errors import counted, visible
from oodbench.metrics.thresholds import percentage
from oodbench.report.score_page.score_log import ScoreLog
from oodbench.report.score_page.selection import SHOWN, groups
from oodbench.report.site.plots import BOTTOM, LEFT, RIGHT, TOP, Line, Plot, Scale, path_through
from oodbench.report.site.rendering import site_environment

_SIDE = 160
"""Longest side of a small image, in pixels; smaller images are enlarged by the browser."""

_SHARP = 64
"""Images up to this side are shown pixel by pixel."""

_WIDTH, _HEIGHT, _BINS = 560, 230, 60
_LISTED = 50
"""Most skipped files that are listed."""

Pixels = Callable[[str], NDArray[np.uint8] | None]
"""Takes a path and gives the image as the model sees it, [C, H, W]; None if it is gone."""


@dataclass(frozen=True, slots=True)
class Card:
    """An image on the page.

    Attributes:
        name: of the file.
        path: of the file.
        source: the image as a data address; "" if the file is gone.
        sharp: whether it is shown pixel by pixel.
        score, prediction, truth: as texts.
        decision: "accept", "reject" or "".
        wrong: whether the decision is known to be wrong.
        misclassified: whether the prediction is known to be wrong.
    """

    name: str
    path: str
    source: str
    sharp: bool
    score: str
    prediction: str
    truth: str
    decision: str
    wrong: bool
    misclassified: bool


def render(log: ScoreLog, pixels: Pixels) -> str:
    """The page.

    Args:
        log: what was scored.
        pixels: reads the images that are shown.
    """
    made: dict[int, Card] = {}

    def card(index: int) -> Card:
        if index not in made:
            made[index] = _card(log, index, pixels)
        return made[index]

    limit = log.threshold
    environment = site_environment()
    own = PackageLoader("oodbench.report.score_page")
    environment.loader = ChoiceLoader([own, PackageLoader("oodbench.report.site")])
    style = files("oodbench.report.site") / "assets" / "site.css"
    text = environment.get_template("page.html").render(
        style=style.read_text(encoding="utf-8"),
        title=visible(log.method),
        summary=log.summary(),
        threshold="none"
        if limit is None
        else f"{limit.value:.6g}, set on {counted(limit.images, 'ID image')} to accept "
        f"{percentage(limit.accept)}",
        warning=None if limit is None else limit.warning,
        histogram=histogram(log) if log.scored.any() else None,
        groups=[(group, [card(index) for index in group.indices]) for group in groups(log)],
        most=SHOWN,
        skipped=[(visible(path), reason) for path, reason in log.unreadable[:_LISTED]],
        skipped_too=max(0, len(log.unreadable) - _LISTED),
    )
    # ASCII, so that the page is the same in any encoding.
    return text.encode("ascii", "xmlcharrefreplace").decode()


def _card(log: ScoreLog, index: int, pixels: Pixels) -> Card:
    path, score = log.paths[index], float(log.scores[index])
    image = pixels(path)
    accepted = bool(log.accepted[index])
    judged = (log.outside if accepted else log.inside)[index]
    return Card(
        name=visible(Path(path).name),
        path=visible(path),
        source="" if image is None else _small(image),
        sharp=image is not None and max(image.shape[1:]) <= _SHARP,
        score=f"{score:.4g}",
        prediction=visible(log.class_name(int(log.predictions[index]))),
        truth=visible(log.truth_of(index)),
        decision="" if log.threshold is None else "accept" if accepted else "reject",
        wrong=bool(log.threshold is not None and judged),
        misclassified=bool(log.misclassified[index]),
    )


def _small(pixels: NDArray[np.uint8]) -> str:
    """A data address with a small copy of an image [C, H, W]."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())
    image.thumbnail((_SIDE, _SIDE))
    content, form = io.BytesIO(), "PNG" if max(image.size) <= _SHARP else "JPEG"
    image.save(content, form, quality=82)
    encoded = base64.b64encode(content.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{encoded}"


def histogram(log: ScoreLog) -> Plot:
    """The histogram of all scores, or of those of ID and of OOD images; the threshold is dashed.

    The outer bins include the scores beyond: a few extreme ones would make all others one bin.
    """
    scores = log.scores[log.scored]
    value = None if log.threshold is None else log.threshold.value
    low, high = map(float, np.quantile(scores, (0.002, 0.998)))
    if value is not None and np.isfinite(value):
        low, high = min(low, value), max(high, value)
    margin = 0.02 * (high - low) or max(1e-3 * abs(high), 1e-6)
    low, high = low - margin, high + margin
    edges = np.linspace(low, high, min(_BINS, max(10, int(np.sqrt(len(scores))) * 2)) + 1)

    def shares(of: NDArray[np.bool_]) -> list[float]:
        counts, _ = np.histogram(np.clip(log.scores[of], low, high), edges)
        return [float(count) / max(1, counts.sum()) for count in counts]

    apart = bool((log.scored & log.outside).any())
    parts = [shares(log.scored & ~log.outside)] + ([shares(log.scored & log.outside)] * apart)
    across = Scale(low, high, LEFT, _WIDTH - RIGHT)
    up = Scale(0, 100 * max(max(part) for part in parts) * 1.05, _HEIGHT - BOTTOM, TOP)
    lines = [Line(_stairs(parts[0], edges, across, up), None, filled=True)]
    lines += [Line(_stairs(part, edges, across, up), 1) for part in parts[1:]]
    if value is not None and np.isfinite(value):
        place = across(value)
        guide = path_through([(place, TOP), (place, _HEIGHT - BOTTOM)])
        lines.append(Line(guide, None, dashed=True))
    sets = "ID and of OOD images" if apart else "all images"
    return Plot(
        title="Scores"
        + (": ID gray, OOD orange" if apart else "")
        + ("; the dashed line is the threshold" if value is not None else ""),
        description=f"Histogram of the scores of {sets}; median {np.median(scores):.4g}.",
        width=_WIDTH,
        height=_HEIGHT,
        x_title="Score (higher: more in-distribution)",
        y_title="Images (%)",
        x_ticks=across.ticks(7),
        y_ticks=up.ticks(5),
        lines=tuple(lines),
    )


def _stairs(
    shares: Sequence[float],
    edges: NDArray[np.float64],
    across: Scale,
    up: Scale,
) -> str:
    corners = [(across(float(edges[0])), up(0))]
    for share, left, right in zip(shares, edges[:-1], edges[1:], strict=True):
        corners += [(across(float(left)), up(100 * share)), (across(float(right)), up(100 * share))]
    return path_through([*corners, (across(float(edges[-1])), up(0))])
