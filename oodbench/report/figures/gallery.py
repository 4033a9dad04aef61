"""Which figures a run or a suite has, by file name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.report.leaderboard import TNR, LeaderboardData
from oodbench.report.training_curves import accuracy_curves, histories
from oodbench.specs import SuiteSpec

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from oodbench.report.seed_means import Estimate
    from oodbench.storage.records import TrainingRecord
    from oodbench.storage.suite_directory import MemberRecords

TEST_ACCURACY, ALPHA, SCORES = "test-accuracy", "alpha", "scores"


def of_run(
    models: Mapping[str, Mapping[str, Any]],
    board: LeaderboardData,
    training: Sequence[TrainingRecord],
    scores: Mapping[str, Mapping[str, NDArray[np.float64]]],
    seed: int,
) -> dict[str, Figure]:
    """The figures of a run.

    Args:
        models: specification of each model of the benchmark, by name.
        board: the leaderboard of the run.
        training: its training records; a figure of the test accuracy needs it for two epochs.
        scores: method -> data set -> scores of one seed.
        seed: this seed.

    Returns:
        `test-accuracy`, `alpha` (if the models differ in alpha only) and `scores`, as far as the
        records have the values.
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
    if scores:
        found[SCORES] = drawing.score_histograms(scores, f"{title}, seed {seed}", board.id_dataset)
    return found


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
    from oodbench.report.figures import drawing

    paths = []
    for name, figure in drawn.items():
        paths.append(folder / f"{name}.png")
        drawing.save(figure, paths[-1])
    return paths
