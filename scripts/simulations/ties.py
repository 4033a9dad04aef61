"""How often a leaderboard calls a method worse than the best wrongly, and what it fails to tell.

Boards of methods with known AUROC are simulated: images that are hard for every method, networks of
each seed that are better or worse for all methods, and methods that differ from seed to seed, some
more than others. The marks are those of `oodbench.report.differences`, as on every leaderboard.

    python scripts/simulations/ties.py [BOARDS]
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.bootstrap import resample_counts
from oodbench.report.differences import differences_to_best
from oodbench.storage.records import QualityRecord

BEHIND = (0.0, 0.0, 0.0, 0.005, 0.01, 0.02, 0.02, 0.03, 0.05, 0.05, 0.10, 0.20)
"""True AUROC that each method is behind the best one, which is the first: three share the top."""

BEST = 0.93
IMAGES = 300
SETS = ("near", "far")
RESAMPLES = 200
SHARED_BY_METHODS = 0.6
"""Of the variance of a score, what comes from the image, whichever the method and the seed."""

OF_THE_METHOD = 0.2
"""Likewise what comes from image and method, whichever the seed; the rest is of the seed too."""

SPREAD = 0.15
"""Median standard deviation over seeds of a method's distance between ID and OOD scores."""

Array = NDArray[np.float64]
Found = dict[tuple[str, int, str], tuple[float, Array]]
"""(method, seed, OOD set) -> AUROC, and its values on the resamples."""


@dataclass
class Counts:
    """Marks that were counted.

    Attributes:
        methods: true difference -> number of methods.
        worse: true difference -> how many of these were called worse than the best.
        boards: number of boards.
        wrong: boards with a method called worse than one that is not better.
        wrong_here: likewise where what is true are the AUROCs of these networks, and not those that
            training another time gives on average.
    """

    methods: dict[float, int] = field(default_factory=lambda: defaultdict(int))
    worse: dict[float, int] = field(default_factory=lambda: defaultdict(int))
    boards: int = 0
    wrong: int = 0
    wrong_here: int = 0

    def rate(self, behind: float) -> float:
        """Share of the methods with a true difference that were called worse."""
        return self.worse[behind] / self.methods[behind]


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _distance(auroc: float, spread: float) -> float:
    """Mean distance of ID and OOD scores of variance 1 that gives an AUROC over all seeds."""
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _phi(middle / math.sqrt(2 + spread**2)) < auroc else (low, middle)
        )
    return low


def _record(method: str, seed: int, ood: str, value: float) -> QualityRecord:
    about: dict[str, Any] = {
        "run_id": "simulated",
        "benchmark": "simulated",
        "benchmark_version": 1,
        "model": "model",
        "loss": "loss",
        "detector": method,
        "detector_params": {},
        "tuned_on": "none",
        "id_dataset": "id",
        "ood_group": None,
        "metric": "auroc",
        "ci_low": None,
        "ci_high": None,
        "n_id": IMAGES,
        "n_ood": IMAGES,
    }
    return QualityRecord(method=method, seed=seed, ood_dataset=ood, value=value, **about)


def board(
    generator: np.random.Generator, seeds: int, behind: Sequence[float] = BEHIND
) -> tuple[Found, dict[str, float], dict[tuple[str, int], float]]:
    """A board: what is measured, the true AUROCs, and those of each network."""
    truth = {f"m{index:02}": BEST - each for index, each in enumerate(behind)}
    counts = {
        name: resample_counts(IMAGES, RESAMPLES, generator).astype(np.float32) / IMAGES
        for name in ("id", *SETS)
    }
    spreads = {name: SPREAD * math.exp(0.5 * generator.standard_normal()) for name in truth}
    common = {name: generator.standard_normal(IMAGES) for name in ("id", *SETS)}
    networks = 0.1 * generator.standard_normal(seeds)
    rest = math.sqrt(1 - SHARED_BY_METHODS - OF_THE_METHOD)
    found: Found = {}
    here = {}
    for method, auroc in truth.items():
        total = math.hypot(spreads[method], 0.1)
        distance = _distance(auroc, total)
        own = {name: generator.standard_normal(IMAGES) for name in common}
        for seed in range(seeds):
            ahead = distance + networks[seed] + spreads[method] * generator.standard_normal()
            here[method, seed] = _phi(ahead / math.sqrt(2))
            scores = {
                name: math.sqrt(SHARED_BY_METHODS) * common[name]
                + math.sqrt(OF_THE_METHOD) * own[name]
                + rest * generator.standard_normal(IMAGES)
                + (ahead if name == "id" else 0.0)
                for name in common
            }
            for ood in SETS:
                won = (scores["id"][:, None] > scores[ood]).astype(np.float32)
                values = np.einsum("ri,ri->r", counts["id"] @ won, counts[ood])
                found[method, seed, ood] = float(won.mean()), values
    return found, truth, here


def count(
    into: Counts,
    found: Found,
    truth: dict[str, float],
    here: dict[tuple[str, int], float],
    seeds: int,
) -> None:
    """Add the marks of a board, in the column of the mean, with its first seeds."""
    records = [
        _record(method, seed, ood, value)
        for (method, seed, ood), (value, _) in found.items()
        if seed < seeds
    ]
    compared = differences_to_best(
        records,
        lambda key: {ood: {"auroc": found[key[0], key[1], ood][1]} for ood in SETS},
    )
    wrong = wrong_here = False

    def mean(method: str) -> float:
        return sum(here[method, seed] for seed in range(seeds)) / seeds

    for each in compared:
        if each.column_kind == "mean":
            difference = round(BEST - truth[each.method], 6)
            into.methods[difference] += 1
            into.worse[difference] += not each.tied
            wrong |= not each.tied and truth[each.best] <= truth[each.method]
            wrong_here |= not each.tied and mean(each.best) <= mean(each.method)
    into.boards += 1
    into.wrong += wrong
    into.wrong_here += wrong_here


def simulate(
    boards: int, seeds: Sequence[int], behind: Sequence[float] = BEHIND, seed: int = 0
) -> dict[int, Counts]:
    """Number of seeds -> the marks of some boards."""
    generator = np.random.default_rng(seed)
    counts = {each: Counts() for each in seeds}
    for _ in range(boards):
        found, truth, here = board(generator, max(seeds), behind)
        for each, into in counts.items():
            count(into, found, truth, here, each)
    return counts


def show(boards: int, behind: Sequence[float]) -> None:
    """Print the rates."""
    sizes = sorted(set(behind))
    print(f"{boards} boards of {len(behind)} methods, {behind.count(0.0)} of them equally best.")
    print("Called worse than the best, in % of methods, by true difference in points:")
    heads = "".join(f"{100 * each:7.1f}" for each in sizes)
    print(f"seeds{heads}   boards with a wrong mark: of training again, of these networks")
    for seeds, counts in simulate(boards, (1, 2, 3, 5), behind).items():
        rates = "".join(f"{100 * counts.rate(each):7.1f}" for each in sizes)
        wrong, here = 100 * counts.wrong / boards, 100 * counts.wrong_here / boards
        print(f"{seeds:5}{rates}   {wrong:.1f} %, {here:.1f} %")


def main() -> None:
    """Print what boards of several kinds give."""
    boards = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for behind in (BEHIND, (0.0,) * 2, (0.0,) * 12):
        show(boards, behind)
    print(
        "At 0.0 the marks are wrong; elsewhere 100 less the rate is the share of differences that "
        "is missed. With one seed the marks speak of these networks alone."
    )


if __name__ == "__main__":
    main()
