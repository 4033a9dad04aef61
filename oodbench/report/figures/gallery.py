"""Which figures a run or a suite has, by file name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from oodbench.files import write_atomic
from oodbench.report.leaderboard import TNR, LeaderboardData
from oodbench.report.training_curves import accuracy_curves, histories
from oodbench.report.writers.html import PageFigure
from oodbench.specs import SuiteSpec

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from oodbench.report.figures.confusable_images import Images
    from oodbench.report.figures.score_plots import Scores
    from oodbench.report.seed_means import Estimate
    from oodbench.storage.records import TrainingRecord
    from oodbench.storage.suite_directory import MemberRecords

TEST_ACCURACY, ALPHA = "test-accuracy", "alpha"
ROC, SCORES, COST, CONFUSABLE = "roc", "scores", "quality-cost", "confusable-images"

CAPTIONS: Mapping[str, str] = MappingProxyType(
    {
        TEST_ACCURACY: "Test accuracy after each epoch of the training.",
        ALPHA: "Detection and test accuracy for each alpha of the loss.",
        ROC: "ROC curves of ID against each OOD set. Circles mark FPR95: the OOD images that are "
        "accepted where 95 % of the ID images are.",
        SCORES: "Histograms of the scores; heights have a square-root scale, and the outer bins "
        "have all scores beyond. The dashed line is the threshold.",
        COST: "Mean AUROC against the time per image. The line joins the methods that no other "
        "method beats in both; vertical lines are the intervals of the tables.",
        CONFUSABLE: "The OOD images with the highest scores of the best method, and the ID images "
        "with its lowest. Under an OOD image: share of the ID images with a lower score; under an "
        "ID image: share of all OOD images with a higher one.",
    }
)
"""Figure -> what it shows."""

_HIGHLIGHTED = 5
"""Methods that are named in a figure of many, beside the reference of the costs."""
_FEW = 7
"""Number of methods up to which all are named: there are so many colors."""


@dataclass(frozen=True, slots=True)
class StoredScores:
    """Scores of one seed, and what is known of their images.

    Attributes:
        scores: method -> data set -> scores; "id" has those of all images that count as ID.
        heading: names what was evaluated.
        seed: the seed, where there are several.
        validation: method -> scores of ID validation images, where they are stored.
        images: gives images of a data set, where they are at hand.
    """

    scores: Mapping[str, Scores]
    heading: str
    seed: int | None = None
    validation: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    images: Images | None = None


def of_run(
    models: Mapping[str, Mapping[str, Any]],
    board: LeaderboardData,
    training: Sequence[TrainingRecord],
    stored: StoredScores | None,
) -> dict[str, Figure]:
    """The figures of a run.

    Args:
        models: specification of each model of the benchmark, by name.
        board: the leaderboard of the run.
        training: its training records; a figure of the test accuracy needs it for two epochs.
        stored: the scores of one seed; None if there are none.

    Returns:
        `test-accuracy`, `alpha` (if the models differ in alpha only), `quality-cost` and the others
        of `of_scores`, as far as the records have the values.
    """
    from oodbench.report.figures import drawing

    title = board.benchmark
    found = {}
    curves = accuracy_curves(histories(training))
    if curves:
        panel = drawing.Panel(f"Trained on {board.id_dataset}", 0, 0, curves)
        found[TEST_ACCURACY] = drawing.accuracy([panel], title)
    alphas = alphas_of(models)
    detection = _detection_by_alpha(board, alphas)
    accuracy = _accuracy_by_alpha(board, alphas)
    if detection and accuracy:
        lines = [drawing.AlphaLine(label, points) for label, points in detection.items()]
        found[ALPHA] = drawing.alpha(lines, drawing.AlphaLine("", accuracy), title)
    if stored is not None:
        return found | of_scores(board, stored)
    return found | _of_costs(board, highlighted(board, [row.method for row in board.rows]), title)


def of_scores(board: LeaderboardData, stored: StoredScores) -> dict[str, Figure]:
    """The figures of the scores of one seed.

    Args:
        board: the leaderboard.
        stored: the scores.

    Returns:
        `roc`; `scores`; `quality-cost`, if the costs of two methods are known; and
        `confusable-images` of the best method, if images are at hand.
    """
    from oodbench.report.figures import confusable_images, score_plots

    found: dict[str, Figure] = {}
    named = highlighted(board, stored.scores)
    heading = stored.heading + (f", seed {stored.seed}" if stored.seed is not None else "")
    sets = [each.name for each in board.ood_sets]
    if named:
        found[ROC] = score_plots.roc_curves(stored.scores, named, heading, sets)
        shown = {
            name: {each: values for each, values in stored.scores[name].items() if each not in sets}
            | {each: stored.scores[name][each] for each in sets}
            for name in named
        }
        of = f"{heading}, {len(named)} of {len(stored.scores)} methods"
        found[SCORES] = score_plots.score_histograms(
            shown,
            heading if len(named) == len(stored.scores) else of,
            board.id_dataset,
            stored.validation,
        )
    found |= _of_costs(board, named, stored.heading)
    if named and stored.images is not None:
        drawn = confusable_images.confusable_images(
            stored.scores[named[0]], stored.images, named[0], heading, sets
        )
        if drawn is not None:
            found[CONFUSABLE] = drawn
    return found


def _of_costs(board: LeaderboardData, named: Sequence[str], heading: str) -> dict[str, Figure]:
    """`quality-cost`, if the costs of two methods are known."""
    from oodbench.report.figures import cost_plot

    if len(cost_plot.points(board)) < 2:
        return {}
    return {COST: cost_plot.quality_against_cost(board, named, heading)}


def highlighted(board: LeaderboardData, methods: Collection[str]) -> list[str]:
    """The methods that figures name: all of a few, else the best and the reference of the costs.

    Args:
        board: the leaderboard.
        methods: those with scores.
    """
    ranked = [row for row in board.rows if row.method in methods and not row.oracle]
    if len(ranked) <= _FEW:
        return [row.method for row in ranked]
    best = ranked[:_HIGHLIGHTED]
    reference = [
        row
        for row in ranked[_HIGHLIGHTED:]
        if row.cost is not None and row.cost.values["relative_to_baseline"] == 1.0
    ]
    return [row.method for row in (*best, *reference[:1])]


def of_suite(suite: SuiteSpec, members: Sequence[MemberRecords]) -> dict[str, Figure]:
    """The figures of a suite: `test-accuracy`, networks in rows and ID sets in columns."""
    from oodbench.report.figures import drawing

    rows = list(dict.fromkeys(member.network for member in suite.members.values()))
    columns = list(dict.fromkeys(member.id for member in suite.members.values()))
    panels = []
    for each in members:
        place = suite.members[each.member]
        curves = accuracy_curves(histories(each.training))
        if curves:
            panels.append(
                drawing.Panel(
                    f"{place.network}, {place.id}",
                    rows.index(place.network),
                    columns.index(place.id),
                    curves,
                )
            )
    return {TEST_ACCURACY: drawing.accuracy(panels, suite.name)} if panels else {}


def alphas_of(models: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The alpha of each model if the models of a benchmark differ in alpha only; otherwise empty.

    Args:
        models: specification of each model, by name.
    """
    alphas, others = {}, []
    for name, model in models.items():
        options = dict(model.get("loss_options", {}))
        if "alpha" not in options:
            return {}
        alphas[name] = float(options.pop("alpha"))
        others.append({**model, "loss_options": options})
    alike = all(other == others[0] for other in others)
    return alphas if alike and len(set(alphas.values())) == len(alphas) > 1 else {}


def _detection_by_alpha(
    board: LeaderboardData, alphas: Mapping[str, float]
) -> dict[str, dict[float, Estimate]]:
    """Name of a detector and an OOD set -> alpha -> TNR at 95 % TPR."""
    found: dict[str, dict[float, Estimate]] = {}
    for row in board.rows:
        for column in board.columns:
            if column.kind == "set" and row.model in alphas and (TNR, column) in row.entries:
                name = row.method.removeprefix(f"{row.model}+")
                points = found.setdefault(f"{name} against {column.name}", {})
                points[alphas[row.model]] = row.entries[TNR, column].estimate
    return dict(sorted(found.items()))


def _accuracy_by_alpha(
    board: LeaderboardData, alphas: Mapping[str, float]
) -> dict[float, Estimate]:
    return {
        alphas[row.model]: row.id_accuracy
        for row in board.rows
        if row.model in alphas and row.id_accuracy is not None
    }


def save_all(drawn: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures as `<name>.png`.

    Returns:
        The files, in order.

    Raises:
        UserError: if one cannot be written.
    """
    from oodbench.report.figures import canvas

    paths = []
    for name, figure in drawn.items():
        paths.append(folder / f"{name}.png")
        write_atomic(paths[-1], canvas.png(figure))
    return paths


def for_page(drawn: Mapping[str, Figure]) -> list[PageFigure]:
    """Figures as parts of a page, with their captions."""
    if not drawn:
        return []
    from oodbench.report.figures import canvas

    return [PageFigure(canvas.svg(each, name), CAPTIONS[name]) for name, each in drawn.items()]
