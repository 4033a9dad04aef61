"""Whether thresholds of ID validation images transfer: guarantee and intervals on real scores.

Networks are trained on the benchmark `digits`. The scores of its validation and test images, which
no network was trained on and no detector was fitted on, are split at random many times. In each
split, a threshold is set on some of the images, the validation images. The share of all others that
it accepts is the truth. Test images are drawn from these, with replacement; the interval of their
share should cover the truth.

    python scripts/simulations/threshold_transfer.py [SPLITS]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import oodbench
from oodbench.metrics import acceptance, conformal_threshold
from oodbench.storage.run_directory import RunDirectory

METHODS = ("SoftMax+MSP", "SoftMax+Energy", "SoftMax+KNN", "SoftMax+MDS", "SoftMax+GEN")
SEEDS = 2
VALIDATION, TEST = 300, 300
"""Images of each split."""
RATES = (0.9, 0.95, 0.99)

Array = NDArray[np.float64]
Rule = Callable[[Array, float], float]


@dataclass(frozen=True)
class Found:
    """Splits of the scores of one method and seed, for one wanted rate.

    Attributes:
        guaranteed: the mean acceptance rate that conformal thresholds guarantee.
        rates: the true acceptance rate in each split.
        covered: share of the splits whose interval of Clopper and Pearson has the true rate.
        wilson: the same for Wilson's.
    """

    guaranteed: float
    rates: Array
    covered: float
    wilson: float

    @property
    def mean(self) -> float:
        """Mean of the true rates."""
        return float(self.rates.mean())

    @property
    def error(self) -> float:
        """Its standard error."""
        return float(self.rates.std(ddof=1) / np.sqrt(self.rates.size))


def conformal(scores: Array, accept: float) -> float:
    """The rule of oodbench."""
    return conformal_threshold(scores, accept).value


def simulate(
    pool: Array,
    accept: float,
    splits: int,
    *,
    validation: int = VALIDATION,
    test: int = TEST,
    rule: Rule = conformal,
    seed: int = 0,
) -> Found:
    """Split the scores of exchangeable images many times.

    Args:
        pool: scores of ID images, shape [N].
        accept: wanted rate.
        splits: number of splits.
        validation: number of validation images of each.
        test: number of test images of each.
        rule: sets a threshold.
        seed: of the splits.
    """
    generator = np.random.default_rng(seed)
    rates, covered = np.empty(splits), np.zeros(2)
    for split in range(splits):
        shuffled = generator.permutation(pool)
        others = shuffled[validation:]
        threshold = rule(shuffled[:validation], accept)
        truth = rates[split] = float((others >= threshold).mean())
        drawn = generator.choice(others, test)
        for number, interval in enumerate(("clopper-pearson", "wilson")):
            found = acceptance(drawn, threshold, interval=interval)  # type: ignore[arg-type]
            covered[number] += found.low <= truth <= found.high
    guaranteed = conformal_threshold(pool[:validation], accept).guaranteed
    return Found(guaranteed, rates, *(covered / splits).tolist())


def pools() -> Iterable[tuple[str, Array]]:
    """Scores of ID images that nothing was fitted on, by method and seed; then rounded ones."""
    with tempfile.TemporaryDirectory() as folder:
        run = oodbench.run(
            "digits", out=Path(folder) / "run", methods=METHODS, seeds=SEEDS, metrics="acceptance"
        )
        directory = RunDirectory(run.folder)
        for method in METHODS:
            for seed in range(SEEDS):
                key = method, seed
                test, validation = directory.read_scores(key), directory.read_validation(key)
                pool = np.concatenate([test["id"], validation["id"]])
                yield f"{method}, seed {seed}", pool
        yield f"{METHODS[1]}, rounded", np.round(np.concatenate([test["id"], validation["id"]]), 1)


def main() -> None:
    """Print a line for each method, seed and wanted rate."""
    splits = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(
        f"{splits} splits into {VALIDATION} validation images and others, of which {TEST} test "
        "images are drawn.\nMean: accepted share of all others, with its standard error and its "
        "deviation from split to split.\nThen how often the 95 % intervals cover this share.\n"
    )
    print(
        f"{'':28}{'distinct':>9}{'wanted':>8}{'guaranteed':>12}{'mean':>8}{'error':>7}"
        f"{'deviation':>11}{'Clopper-P.':>12}{'Wilson':>8}"
    )
    lines: list[Found] = []
    untied: list[float] = []
    for name, pool in pools():
        values = np.unique(pool).size
        about, distinct = name, f"{values}/{pool.size}"
        for accept in RATES:
            found = simulate(pool, accept, splits, seed=len(lines))
            lines.append(found)
            if values == pool.size:
                untied.append((found.mean - found.guaranteed) / found.error)
            print(
                f"{about:28}{distinct:>9}{accept:8.2f}{100 * found.guaranteed:11.2f}%"
                f"{100 * found.mean:7.2f}%{100 * found.error:6.2f}%"
                f"{100 * found.rates.std(ddof=1):10.2f}%{100 * found.covered:11.1f}%"
                f"{100 * found.wilson:7.1f}%",
                flush=True,
            )
            about = distinct = ""
    print(
        f"\nIntervals of all lines: Clopper and Pearson {100 * _mean(lines, 'covered'):.1f} %, "
        f"Wilson {100 * _mean(lines, 'wilson'):.1f} %.\nWithout equal scores, means differ from "
        f"the guaranteed rate by {min(untied):.1f} to {max(untied):.1f} standard errors (mean "
        f"{np.mean(untied):.2f})."
    )


def _mean(found: list[Found], field: str) -> float:
    return float(np.mean([getattr(each, field) for each in found]))


if __name__ == "__main__":
    main()
