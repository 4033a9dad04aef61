"""Notes below the tables of a leaderboard: the definition and the limits of each number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set

from oodbench.errors import counted, listed
from oodbench.report.leaderboard import ORACLE_LABEL, RANKED_BY, SHOWN, LeaderboardData
from oodbench.report.seed_means import FEWEST_SEEDS, LEVEL
from oodbench.report.tables.document import TIED_SIGN
from oodbench.report.tables.values import BASELINE_SIGN, SPREAD_SIGN


def notes(board: LeaderboardData, best: str) -> tuple[str, ...]:
    """All notes of a leaderboard.

    Args:
        board: the leaderboard.
        best: how the format shows the best value of a column, in words.
    """
    found: list[str] = []
    if board.rows:
        found += _quality_notes(board, best)
    published = dict.fromkeys(row.model for row in board.rows if row.weights)
    if published:
        found.append(
            f"Weights of a checkpoint, not trained by this run: {', '.join(published)}. Seed k is "
            "the k-th checkpoint, counted from 0."
        )
    if any(row.untuned for row in board.rows):
        found.append(untuned_note((row.detector, row.untuned) for row in board.rows))
    found += tuning_notes(board)
    if any(row.oracle for row in board.rows):
        found.append(
            f"{ORACLE_LABEL[0].upper()}{ORACLE_LABEL[1:]}. These methods use data that are unknown "
            "in practice: they are ranked separately and never marked as best."
        )
    found += cost_notes(board)
    return tuple(found)


def left_out_note(detectors: Sequence[str]) -> str:
    """How to run the detectors that a benchmark's default leaves out.

    Args:
        detectors: their names; those that cannot run on its models are not among them.
    """
    many = counted(len(detectors), "more detector")
    return (
        f"{many} can run here, left out by default: --methods all runs all, or name them "
        "(`oodbench list detectors`); --resume adds them to a run."
    )


def tuning_notes(board: LeaderboardData) -> Iterator[str]:
    """Which data, other than usual, methods were tuned and fitted on."""
    for ood in dict.fromkeys(row.tuning_ood for row in board.rows if row.tuning_ood):
        yield (
            f"OOD validation ({ood}): tuned to the largest AUROC of the ID validation images "
            f"against the validation images of {ood}. One setting serves all OOD sets. A detector "
            "that trains a model of its own is trained on half of these images and selected on the "
            "other half."
        )
        same = {each for row in board.rows if row.tuning_ood == ood for each in row.same_source}
        if same:
            yield same_source_note(ood, [name for name, *_ in board.ood_sets if name in same])
    yield from fit_split_notes((row.detector, row.fit_split) for row in board.rows)


def same_source_note(ood: str, sets: Sequence[str]) -> str:
    """That methods are tuned and tested on images of one source.

    Args:
        ood: OOD set whose validation images methods are tuned on.
        sets: OOD sets of the same source.
    """
    return (
        f"The validation images of {ood} and the test images of {listed(sets)} are of the same "
        "source. There, methods that are tuned on these validation images have an advantage."
    )


def fit_split_notes(fitted: Iterable[tuple[str, str | None]]) -> Iterator[str]:
    """Which detectors are not fitted on the training images.

    Args:
        fitted: detectors, each with the other split that it is fitted on, if there is one.
    """
    detectors: dict[str, dict[str, None]] = {}
    for name, split in fitted:
        if split:
            detectors.setdefault(split, {})[name] = None
    for split, names in detectors.items():
        yield (
            f"Fitted on the {split} images of the ID set, not on its training images: "
            f"{', '.join(names)}."
        )


def _quality_notes(board: LeaderboardData, best: str) -> list[str]:
    means = [row.entries.get((RANKED_BY, board.column("mean"))) for row in board.rows]
    seeds = {entry.estimate.seeds for entry in means if entry is not None}
    found = [
        "Higher scores mean more in-distribution. ID is the positive class unless a metric says "
        "otherwise. Methods are ranked by AUROC, averaged over OOD sets and seeds."
    ]
    found.append(
        "FPR95: share of OOD images accepted at the highest threshold that accepts at least "
        f"{LEVEL:.0%} of the ID images (ID is the positive class). It equals 100 % minus TNR@95TPR."
        + (
            f" {SHOWN['fpr95_ood_positive'].short_title} is another metric: the share of ID images "
            "rejected at the lowest threshold that rejects at least 95% of the OOD images."
            if "fpr95_ood_positive" in board.metrics
            else ""
        )
    )
    found += _interval_notes(seeds)
    found += mark_notes(board, best)
    if len(board.ood_sets) > 1:
        found.append(
            "Worst set: the OOD set on which the AUROC of the method, mean over seeds, is lowest."
        )
    if any(not row.complete for row in board.rows):
        found.append(
            "A method with (k/n seeds) after its name has fewer seeds than the others: its mean is "
            "over fewer training runs. A method with (sets missing) has no mean over the OOD sets."
        )
    return found


def _interval_notes(seeds: Set[int]) -> Iterator[str]:
    """How an interval is made with these numbers of seeds."""
    if max(seeds, default=1) >= FEWEST_SEEDS:
        yield (
            f"{SPREAD_SIGN} is the standard deviation over seeds, with seeds - 1 degrees of "
            "freedom."
        )
    if seeds - {2}:
        images = (
            f"The {LEVEL:.0%} interval is the confidence interval of the mean. It has two parts, "
            "combined in quadrature on each side: (a) the sampling of the test images, as the "
            "bootstrap half-width averaged over seeds and OOD sets (it does not shrink with their "
            "number, because seeds share all test images and OOD sets share the ID images); "
        )
        if seeds - {1, 2}:
            yield images + (
                "(b) the variation between seeds, as Student's t interval of the mean, which is "
                "wide with few seeds. Ends are clipped to 0 and 100%."
                + (" Methods with one seed have (a) only." if 1 in seeds else "")
            )
        else:
            yield images + (
                "(b) the variation between seeds, which one seed cannot show. These intervals have "
                "(a) only: they do not cover the difference between training runs."
            )
    if 2 in seeds:
        yield "2 seeds: no interval over seeds; both values are shown in its place."


def mark_notes(board: LeaderboardData, best: str) -> Iterator[str]:
    """Explanation of the marks of a board; empty without marks."""
    ranked = [row for row in board.rows if not row.oracle]
    if len(ranked) < 2:
        return
    if not board.tested:
        without = [run.label for run in board.runs if not run.scores]
        lacking = f" ({listed(without)} has none)" if len(without) == 1 else ""
        yield (
            f"Best of its column: {best}. Ties are not shown: differences cannot be tested without "
            f"scores{lacking}."
        )
        return
    yield f"Best of its column: {best}. {ties_note(len(ranked), len(board.seeds))}"


def ties_note(methods: int, seeds: int) -> str:
    """Explanation of ties.

    Args:
        methods: number of methods that are compared.
        seeds: number of seeds, the most of any method.
    """
    text = (
        f"{TIED_SIGN} after a value: tied with the best. The two methods are compared on the same "
        f"images{' and seeds' if seeds > 1 else ''}, and are tied unless the {LEVEL:.0%} interval "
        "of their paired difference lies entirely above 0. The interval is computed for normal "
        "quantiles (probits) of the metric, on bootstrap resamples that all methods share, and is "
        f"corrected for comparing {methods} methods with a best one that is chosen by the same "
        "data (multiple comparisons with the best). A tie does not prove that two methods are "
        "equal. "
    )
    if seeds == 1:
        return text + (
            "Each model was trained once, so the interval covers only the sampling of the test "
            "images: another training run may change the order."
        )
    text += (
        "The interval covers the sampling of the test images and the variation of the difference "
        f"between seeds. {seeds} seeds estimate this variation poorly, so it is estimated together "
        "with that of the other methods (empirical Bayes)."
    )
    if seeds == 2:
        text += (
            f" With 2 seeds, even a large difference may be marked {TIED_SIGN}: run more seeds to "
            "tell such methods apart."
        )
    return text


def untuned_note(untuned: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Which search spaces were not tuned.

    Args:
        untuned: detectors, each with the parameters that kept their defaults.
    """
    each = {f"{name} ({', '.join(names)})": None for name, names in untuned if names}
    return (
        f"Search space not tuned: {', '.join(sorted(each))}. These detectors use their default "
        "parameters; --tune NAMES or --tune all tunes them."
    )


def cost_notes(board: LeaderboardData) -> Iterator[str]:
    """How costs were measured; nothing if there are none."""
    costs = [row.cost for row in board.rows if row.cost is not None]
    if not costs:
        return
    devices = sorted({device for cost in costs for device in cost.devices})
    yield (
        f"Costs were measured on {', '.join(devices)}. Times per image are medians over "
        "repetitions. All costs are means over seeds, except memory, which is the maximum. Forward "
        "and backward passes are counted; a pass through a part of the network counts as its "
        "share. "
        f"Time ({BASELINE_SIGN} baseline) is the time per image of a batch divided by that of the "
        "benchmark's reference method. FLOPs count a multiply-add as 2. Seeds may differ: a method "
        "tuned to a step of 0 needs no gradient."
        + (
            " Runs are timed on their own machines: compare the time relative to the baseline, "
            "which each run measures itself; absolute times of different runs are not comparable."
            if board.runs
            else " Times on different devices are not comparable."
            if len(devices) > 1
            else ""
        )
    )
    yield (
        "Requirements are the columns of Table 1 of the DisMax paper. For tuned methods that "
        "perturb the input, the chosen step of each seed is shown; a step of 0 means no "
        "perturbation."
    )
