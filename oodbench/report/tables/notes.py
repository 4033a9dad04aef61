"""Notes below the tables of a leaderboard: how each number was made, and what it does not say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set

from oodbench.report.estimates import FEWEST_SEEDS, LEVEL
from oodbench.report.leaderboard import ORACLE_LABEL, RANKED_BY, SHOWN, LeaderboardData
from oodbench.report.tables.document import TIED_SIGN
from oodbench.report.tables.values import BASELINE_SIGN, SPREAD_SIGN


def notes(board: LeaderboardData, best: str) -> tuple[str, ...]:
    """Footnotes, in plain words: how each number was made, and what it does not say."""
    found: list[str] = []
    if board.rows:
        found += _quality_notes(board, best)
    if any(row.untuned for row in board.rows):
        found.append(untuned_note((row.detector, row.untuned) for row in board.rows))
    if any(row.oracle for row in board.rows):
        found.append(
            f"{ORACLE_LABEL[0].upper()}{ORACLE_LABEL[1:]}. Such methods saw what they should not "
            "have known; they have their own ranking and are never marked as best."
        )
    found += cost_notes(board)
    return tuple(found)


def _quality_notes(board: LeaderboardData, best: str) -> list[str]:
    means = [row.entries.get((RANKED_BY, board.column("mean"))) for row in board.rows]
    seeds = {entry.estimate.seeds for entry in means if entry is not None}
    found = [
        "Higher scores mean more in-distribution; ID is the positive class unless a metric says "
        "otherwise. Methods are ranked by mean AUROC over the OOD sets, averaged over seeds."
    ]
    found.append(
        f"FPR95: the share of OOD images that are accepted where at least {LEVEL:.0%} of the ID "
        "images are (ID is the positive class): 100 % minus TNR@95TPR."
        + (
            f" {SHOWN['fpr95_ood_positive'].short_title} is another metric: the share of ID images "
            "that are rejected where at least 95% of the OOD images are."
            if "fpr95_ood_positive" in board.metrics
            else ""
        )
    )
    found += _interval_notes(seeds)
    found += mark_notes(board, best)
    found.append("Worst set: the OOD set on which the method does worst, averaged over seeds.")
    if any(not row.complete for row in board.rows):
        found.append(
            "A method with seeds in brackets has fewer than the others: its mean is over other "
            "training runs than theirs. A method with sets missing has no mean over the sets."
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
            f"The {LEVEL:.0%} interval is that of the mean. It combines, in quadrature and on each "
            "side, (a) the sampling of the test images: the bootstrap half-width, averaged over "
            "seeds and OOD sets, not shrunk, because all share test images; "
        )
        if seeds - {1, 2}:
            yield images + (
                "(b) the spread over seeds: Student's t interval of the mean. With few seeds (b) "
                "is wide, as it should be. Ends are clipped to 0 and 100%."
                + (" Methods with one seed have (a) alone." if 1 in seeds else "")
            )
        else:
            yield images + (
                "(b) the spread over seeds, which one seed cannot show: these intervals have (a) "
                "alone, and say nothing of what another training run would give."
            )
    if 2 in seeds:
        yield "2 seeds: no interval over seeds; the values of both stand in its place."


def mark_notes(board: LeaderboardData, best: str) -> Iterator[str]:
    """What the marks of a board say; nothing where nothing is marked."""
    ranked = [row for row in board.rows if not row.oracle]
    if len(ranked) < 2:
        return
    if not board.tested:
        yield (
            f"Best of its column: {best}. Which methods are tied with it is not known: differences "
            "cannot be tested without scores."
        )
        return
    yield f"Best of its column: {best}. {ties_note(len(ranked), len(board.seeds))}"


def ties_note(methods: int, seeds: int) -> str:
    """What a tie is, in words, and what it does not say.

    Args:
        methods: number of methods that are compared.
        seeds: number of seeds, the most of any method.
    """
    text = (
        f"{TIED_SIGN} after a value: tied with the best. The two are compared on the same images"
        f"{' and the same seeds' if seeds > 1 else ''}; they are tied if the {LEVEL:.0%} interval "
        "of their paired difference, on bootstrap resamples that all methods share and on the "
        "scale of normal quantiles (probits), reaches 0. The "
        f"intervals are corrected for {methods} methods, of which the best one is chosen by the "
        "same data (multiple comparisons with the best). A tie is no proof that two methods are "
        "equal. "
    )
    if seeds == 1:
        return text + (
            "Each model was trained once, so the sampling of the test images alone counts: another "
            "training may give another order."
        )
    text += (
        "The interval has the sampling of the test images and the spread of the difference over "
        f"seeds; {seeds} seeds say little of that spread, so it is moderated by that of the other "
        "methods' differences."
    )
    if seeds == 2:
        text += (
            f" With 2 seeds this spread is hardly known: even a large difference may be marked "
            f"{TIED_SIGN}. Run more seeds to tell such methods apart."
        )
    return text


def untuned_note(untuned: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Which search spaces were not swept.

    Args:
        untuned: detectors, each with the parameters that were left at their defaults.
    """
    each = {f"{name} ({', '.join(names)})": None for name, names in untuned if names}
    return (
        f"Search space not tuned: {', '.join(sorted(each))}. These run with their defaults; "
        "--tune NAMES, or --tune all, chooses values."
    )


def cost_notes(board: LeaderboardData) -> Iterator[str]:
    """How costs were measured; nothing if there are none."""
    costs = [row.cost for row in board.rows if row.cost is not None]
    if not costs:
        return
    devices = sorted({device for cost in costs for device in cost.devices})
    yield (
        f"Costs were measured on {', '.join(devices)}: means over seeds (of medians "
        "over repetitions), memory the largest. A method tuned to a step of zero needs no "
        "gradient, so seeds may differ. Forwards and backwards are counted; part of a network "
        f"counts as its share. Time ({BASELINE_SIGN} baseline) is the time of an "
        "image in a batch over that of the benchmark's reference method. FLOPs count a "
        "multiply-add as 2."
        + (" Times on different devices are not comparable." if len(devices) > 1 else "")
    )
    yield (
        "Requirements are the columns of Table 1 of the DisMax paper. Where a method that perturbs "
        "its input was tuned, the steps that it chose stand beside it, one for each seed: a step "
        "of 0 is no perturbation."
    )
