"""Figures of scores, quality against cost, and confusable images, by looking into the figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from oodbench import metrics
from oodbench.metrics.thresholds import conformal_threshold
from oodbench.report import Leaderboard
from oodbench.report.figures import canvas, cost_plot, gallery, score_plots
from oodbench.report.figures.confusable_images import confusable_images
from oodbench.report.figures.gallery import StoredScores
from oodbench.report.leaderboard import FPR, RANKED_BY, Row

SETS = ["near", "far"]

Scores = dict[str, dict[str, NDArray[np.float64]]]


def scores(methods: int | Sequence[str] = 4) -> Scores:
    generator = np.random.default_rng(0)
    names = [f"method {i}" for i in range(methods)] if isinstance(methods, int) else methods
    return {
        name: {
            "id": generator.normal(2, 1, 500),
            "near": generator.normal(1, 1, 300),
            "far": generator.normal(0, 1, 300),
        }
        for name in names
    }


def shown(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible() and axes.axison]


def labels(figure: Figure) -> list[str]:
    inside = [axes.get_legend() for axes in figure.axes]
    (found,) = [*figure.legends, *(each for each in inside if each is not None)]
    return [text.get_text() for text in found.get_texts()]


# --- ROC curves -----------------------------------------------------------------------------------


def test_roc_curves_go_through_the_metrics_of_the_scores() -> None:
    given = scores(2)
    drawn = shown(score_plots.roc_curves(given, [*given], "run", SETS))
    assert [axes.get_title(loc="left") for axes in drawn] == SETS
    for axes, ood in zip(drawn, SETS, strict=True):
        curves = [line for line in axes.lines if len(line.get_xdata()) > 10]  # type: ignore[arg-type]
        marks = [line for line in axes.lines if line.get_marker() == "o"]
        for method, curve, mark in zip(reversed(given), curves, marks, strict=True):
            pair = given[method]["id"], given[method][ood]
            x, y = (np.asarray(part) / 100 for part in curve.get_data())
            assert np.trapezoid(y, x) == pytest.approx(metrics.auroc(*pair), abs=0.004)
            expected = 1 - metrics.tnr_at_95_tpr(*pair)
            assert np.asarray(mark.get_xdata())[0] == pytest.approx(100 * expected)
            assert np.asarray(mark.get_ydata())[0] == 95


@pytest.mark.parametrize("sets", [1, 2, 3, 5])
def test_labels_of_neighboring_axes_are_apart(sets: int) -> None:
    names = [f"far {index}" for index in range(sets)]
    given = {"M": {"id": np.arange(50.0), **{name: np.arange(40.0) for name in names}}}
    figure = score_plots.roc_curves(given, ["M"], "run", names)
    figure.draw_without_rendering()
    boxes = [axes.xaxis.label.get_window_extent() for axes in shown(figure) if axes.get_xlabel()]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])


@pytest.mark.parametrize("sets", [2, 3, 6])
def test_square_plots_fill_the_width_beside_a_legend_below(sets: int) -> None:
    names = [f"set{number}" for number in range(sets)]
    values = next(iter(scores(1).values()))
    by_set = {"id": values["id"]} | dict.fromkeys(names, values["id"] - 1)
    figure = score_plots.roc_curves({"A": by_set, "B": by_set}, ["A", "B"], "run", names)
    figure.draw_without_rendering()
    plots = [axes.get_position() for axes in shown(figure)]
    assert min(box.x0 for box in plots) < 0.14
    assert max(box.x1 for box in plots) > 0.95


def test_of_many_methods_few_are_in_color() -> None:
    given = scores(12)
    figure = score_plots.roc_curves(given, ["method 3", "method 0"], "run", SETS)
    gray = [line for line in shown(figure)[0].lines if line.get_color() == canvas.MUTED]
    assert len(gray) == 10 + 1, "and the line of chance"
    assert labels(figure)[:3] == ["method 3", "method 0", "10 other methods"]


# --- histograms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("methods", [1, 2, 5])
def test_scores_have_a_plot_for_each_method(methods: int) -> None:
    given = scores(methods)
    figure = score_plots.score_histograms(given, "run, seed 0", "digits")
    drawn = shown(figure)
    assert [axes.get_title(loc="left") for axes in drawn] == [*given]
    assert labels(figure) == ["digits (ID)", "near", "far", "accepts 95 % of ID test images"]
    for axes, by_set in zip(drawn, given.values(), strict=True):
        (threshold,) = axes.lines
        place = np.asarray(threshold.get_xdata())[0]
        assert np.count_nonzero(by_set["id"] >= place) == 475
        assert np.count_nonzero(by_set["id"] > place) == 474, "the highest that accepts 95 %"


def test_the_threshold_is_of_validation_images_if_all_methods_have_their_scores() -> None:
    given, validation = scores(2), {"method 0": np.arange(99.0) / 50}
    some = score_plots.score_histograms(given, "run", "id", validation)
    assert "test images" in labels(some)[-1]
    assert labels(some)[0] == "ID"
    validation["method 1"] = validation["method 0"]
    figure = score_plots.score_histograms(given, "run", "id", validation)
    assert labels(figure)[-1] == "accepts 95 % of ID validation images"
    for axes in shown(figure):
        (line,) = axes.lines
        expected = conformal_threshold(validation["method 0"], 0.95).value
        assert np.asarray(line.get_xdata())[0] == expected


def test_every_image_is_in_a_bin() -> None:
    (axes,) = shown(score_plots.score_histograms(scores(1), "run", "digits"))
    outlines = [patch for patch in axes.patches if hasattr(patch, "get_data")]
    assert len(outlines) == 3
    for outline in outlines:
        assert outline.get_data().values.sum() == pytest.approx(1.0)


def test_constant_scores_are_drawn() -> None:
    same = {"M": {"id": np.ones(10), "far": np.ones(10)}}
    assert shown(score_plots.score_histograms(same, "run", "digits"))
    assert shown(score_plots.roc_curves(same, ["M"], "run", ["far"]))


# --- quality against cost -------------------------------------------------------------------------


def interval(row: Row) -> tuple[float, float]:
    """A relative time less and plus half the range of its repetitions."""
    assert row.cost is not None
    time, scatter = (row.cost.values[n] or 0.0 for n in ("relative_to_baseline", "time_scatter"))
    return time * (1 - scatter / 2), time * (1 + scatter / 2)


def test_of_methods_that_are_equally_fast_the_best_is_on_the_line(board: Leaderboard) -> None:
    def timed(row: Row, time: float, scatter: float | None) -> Row:
        assert row.cost is not None
        values = {**row.cost.values, "relative_to_baseline": time, "time_scatter": scatter}
        return replace(row, cost=replace(row.cost, values=values))

    mean = board.column("mean")
    rows = sorted(cost_plot.points(board), key=lambda r: r.entries[RANKED_BY, mean].estimate.mean)
    worse, better = rows[0], rows[-1]
    for scatter, expected in ((0.02, [worse, better]), (0.1, [better]), (None, [worse, better])):
        found = cost_plot.frontier([timed(worse, 1.0, scatter), timed(better, 1.05, scatter)])
        assert [row.method for row in found] == [row.method for row in expected]


def test_the_line_joins_the_methods_that_none_beats_in_both(board: Leaderboard) -> None:
    rows = cost_plot.points(board)
    assert len(rows) > 2
    ends = {r.method: interval(r) for r in rows}
    times = {r.method: r.cost.values["relative_to_baseline"] or 0.0 for r in rows if r.cost}
    means = {r.method: r.entries[RANKED_BY, board.column("mean")].estimate.mean for r in rows}
    best = {row.method for row in cost_plot.frontier(rows)}
    for one in means:
        beaten = any(
            (ends[other][0] <= ends[one][1] and means[other] > means[one])
            or (times[other] < times[one] and means[other] >= means[one])
            for other in means
        )
        assert beaten == (one not in best), one
    (axes,) = shown(cost_plot.quality_against_cost(board, [], "run"))
    assert axes.get_xscale() == "log"
    assert {text.get_text() for text in axes.texts} <= best
    low, high = axes.get_ylim()
    assert low < 100 * min(means.values()) <= 100 * max(means.values()) < high


def test_names_cover_neither_points_nor_names(board: Leaderboard) -> None:
    methods = [row.method for row in cost_plot.points(board)]
    (axes,) = shown(figure := cost_plot.quality_against_cost(board, methods, "run"))
    assert len(axes.texts) > 2
    figure.draw_without_rendering()
    boxes = [text.get_tightbbox() for text in axes.texts if text.arrow_patch is None]  # type: ignore[attr-defined]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])  # type: ignore[union-attr,arg-type]


# --- confusable images ----------------------------------------------------------------------------


def test_confusable_images_are_those_with_the_extreme_scores() -> None:
    by_set, asked = scores(1)["method 0"], dict[str, list[int]]()

    def images(name: str, indices: Sequence[int]) -> NDArray[Any] | None:
        asked[name] = list(indices)
        return None if name == "far" else np.full((len(indices), 3, 4, 4), 200, dtype=np.uint8)

    figure = confusable_images(by_set, images, "M", "run", SETS)
    assert figure is not None
    assert asked["near"] == np.argsort(-by_set["near"])[:8].tolist()
    assert asked["id"] == np.argsort(by_set["id"])[:8].tolist()
    pictures = [axes for axes in shown(figure) if axes.images]
    assert len(pictures) == 16, "none of a set that is not at hand"
    assert pictures[0].images[0].get_array().max() == pytest.approx(200 / 255)  # type: ignore[union-attr]
    share = 100 * (by_set["id"] < by_set["near"].max()).mean()
    assert float(pictures[0].get_xlabel().split()[0]) == pytest.approx(share, abs=0.5)
    assert confusable_images(by_set, lambda name, indices: None, "M", "run", SETS) is None


# --- which figures there are, and how a page shows them -------------------------------------------


def test_figures_of_a_board(board: Leaderboard) -> None:
    methods = [row.method for row in board.rows]
    sets = [each.name for each in board.ood_sets]
    one = scores(["x"])["x"]
    by_set: Mapping[str, NDArray[np.float64]] = {"id": one["id"], **dict.fromkeys(sets, one["far"])}
    stored = StoredScores(scores=dict.fromkeys(methods, by_set), heading="run", seed=0)
    found = gallery.of_scores(board, stored)
    assert [*found] == ["roc", "scores", "quality-cost"]
    assert found["roc"].get_suptitle() == "run, seed 0: ROC curves"
    title = found["quality-cost"].get_suptitle()
    assert title == "run: quality against cost", "quality and cost are means over the seeds"
    assert FPR in board.metrics
    page = board.to_html({"quality-cost": found["quality-cost"]})
    assert page.count("<svg") == 1
    assert gallery.CAPTIONS["quality-cost"] in page
    assert "<svg" not in board.to_html()
    identities = re.findall(r'id="([^"]+)"', page)
    assert len(identities) == len(set(identities))
    assert "var(--c0, #0072b2)" in page
    assert "#1c1e21" not in page.split("<svg")[1].replace("var(--text, #1c1e21)", "")
    for other in ("src=", "<script", "url(http", "@import"):
        assert other not in page


def test_a_notebook_shows_a_figure_at_its_size() -> None:
    figure = score_plots.score_histograms(scores(3), "run", "digits")
    content, size = figure._repr_png_()  # type: ignore[operator]
    assert content.startswith(b"\x89PNG")
    assert size == {"width": round(7.0 * 120)}


def test_highlighted_are_the_best_and_the_reference(board: Leaderboard) -> None:
    few = [row.method for row in board.rows if not row.oracle][:7]
    assert gallery.highlighted(board, few) == few
    other = next(row for row in board.rows if row.cost is not None and not row.oracle)
    assert other.cost is not None
    values = {**other.cost.values, "relative_to_baseline": 1.0}
    reference = replace(other, method="MSP", cost=replace(other.cost, values=values))
    copies = [replace(other, method=f"copy {number}") for number in range(9)]
    many = replace(board, rows=(*copies, reference))
    named = gallery.highlighted(many, [row.method for row in many.rows])
    assert named == [*(f"copy {number}" for number in range(5)), reference.method]
