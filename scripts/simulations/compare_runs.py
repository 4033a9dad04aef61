"""How often a comparison of two runs raises a false alarm, and how often it finds a true drop.

Two runs of the same methods are simulated, with known AUROC: images that are hard for every
method, images that are hard for one method, and a part of each score that is of the run alone. The
verdicts are those of `oodbench compare`, with all OOD sets, groups and means, AUROC and FPR95, at
the default level. An alarm is one verdict "better" or "worse", or more, in a comparison without a
true difference.

    python scripts/simulations/compare_runs.py [PAIRS]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench import metrics
from oodbench.bootstrap import SharedResamples, percentile_interval
from oodbench.run_comparison.changes import RunComparison, Verdict
from oodbench.run_comparison.comparison import compare_runs
from oodbench.storage.records import QualityRecord
from oodbench.storage.run_description import Checksums, RunDescription
from oodbench.storage.stored_run import StoredRun

AUROCS = (0.90, 0.80, 0.95, 0.98, 0.995)
"""True AUROC of each method."""

GROUPS = {"letters": "near", "textures": "far", "noise": "far"}
"""OOD set -> group."""

COMMON, OWN = 0.6, 0.2
"""Of the variance of a score: what comes from the image, and from image and method."""

Array = NDArray[np.float64]
Arrays = Mapping[tuple[str, int], Mapping[str, Array]]


@dataclass(frozen=True)
class SimulatedRun(StoredRun):
    """A run in memory.

    Attributes:
        arrays: method and seed -> scores; empty for a run of records alone.
    """

    arrays: Arrays = field(default_factory=dict)

    def has_scores(self, method: str, seed: int) -> bool:
        return (method, seed) in self.arrays

    def scores(self, method: str, seed: int) -> dict[str, Array] | None:
        found = self.arrays.get((method, seed))
        return None if found is None else dict(found)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a pair of runs is like.

    Attributes:
        images: number of ID test images, and of images of each OOD set.
        seeds: number of seeds.
        of_the_run: share of a score's variance that is of the run alone.
        other_images: whether the head has images of its own, drawn from the same populations.
        other_networks: standard deviation over trainings of the distance between ID and OOD
            scores; 0 if both runs have the same networks.
        drop: what the first method truly loses, as a fraction of AUROC.
        records: whether there are records alone, without scores.
        metrics: names of the metrics.
    """

    images: int = 300
    seeds: int = 1
    of_the_run: float = 0.1
    other_images: bool = False
    other_networks: float = 0.0
    drop: float = 0.0
    records: bool = False
    metrics: tuple[str, ...] | None = None


def simulate(setting: Setting, generator: np.random.Generator) -> tuple[StoredRun, StoredRun]:
    """A base and a head."""
    images = _Images(setting, generator)
    base = _run(setting, images, generator, [0.0] * len(AUROCS), "base")
    if setting.other_images:
        images = _Images(setting, generator)
    drops = [setting.drop] + [0.0] * (len(AUROCS) - 1)
    return base, _run(setting, images, generator, drops, "head")


class _Images:
    """What scores of images have in common, in both runs."""

    def __init__(self, setting: Setting, generator: np.random.Generator) -> None:
        names, size = ("id", *GROUPS), setting.images
        own = 1 - COMMON - setting.of_the_run
        common = {name: math.sqrt(COMMON) * generator.standard_normal(size) for name in names}
        self.parts = {
            (method, seed, name): common[name] + math.sqrt(own) * generator.standard_normal(size)
            for method in range(len(AUROCS))
            for seed in range(setting.seeds)
            for name in names
        }


def _run(
    setting: Setting,
    images: _Images,
    generator: np.random.Generator,
    drops: Sequence[float],
    side: str,
) -> StoredRun:
    from scipy.special import ndtri

    spread = setting.other_networks
    arrays: dict[tuple[str, int], dict[str, Array]] = {}
    for index, auroc in enumerate(AUROCS):
        distance = math.sqrt(2 + spread**2) * float(ndtri(auroc - drops[index]))
        for seed in range(setting.seeds):
            ahead = distance + spread * generator.standard_normal()
            arrays[f"method {index}", seed] = {
                name: images.parts[index, seed, name]
                + math.sqrt(setting.of_the_run) * generator.standard_normal(setting.images)
                + (ahead if name == "id" else 0.0)
                for name in ("id", *GROUPS)
            }
    weights = side if spread else "both"
    seeds = range(setting.seeds)
    return SimulatedRun(
        folder=Path(side),
        records=tuple(_records(arrays, setting)),
        costs=(),
        description=RunDescription(
            status="complete",
            checksums=Checksums(checkpoints={f"model/seed{seed}": weights for seed in seeds}),
        ),
        arrays={} if setting.records else arrays,
    )


def _records(arrays: Arrays, setting: Setting) -> list[QualityRecord]:
    shared = SharedResamples(300)
    found = []
    for (method, seed), scores in arrays.items():
        for ood, group in GROUPS.items():
            pair = scores["id"], scores[ood]
            resampled = shared.bootstrap("id", pair[0], ood, pair[1]) if setting.records else {}
            for metric, value in metrics.evaluate(*pair).items():
                ends = percentile_interval(resampled[metric]) if resampled else (None, None)
                found.append(
                    QualityRecord(
                        run_id="simulated",
                        benchmark="simulated",
                        benchmark_version=1,
                        method=method,
                        model="model",
                        loss="loss",
                        detector=method,
                        detector_params={},
                        tuned_on="none",
                        seed=seed,
                        id_dataset="id",
                        ood_dataset=ood,
                        ood_group=group,
                        metric=metric,
                        value=value,
                        ci_low=ends[0],
                        ci_high=ends[1],
                        n_id=setting.images,
                        n_ood=setting.images,
                    )
                )
    return found


@dataclass
class Counts:
    """Comparisons that were counted.

    Attributes:
        pairs: number of comparisons.
        alarms: comparisons with a verdict "better" or "worse" of a method without a difference.
        found: comparisons with a verdict "worse" on the mean AUROC of the first method.
        found_on_sets: its verdicts "worse" on the AUROC of single OOD sets.
    """

    pairs: int = 0
    alarms: int = 0
    found: int = 0
    found_on_sets: int = 0

    def add(self, comparison: RunComparison, drop: float) -> None:
        """Count one comparison."""
        self.pairs += 1
        different = {
            each for each in comparison.changes if each.verdict in (Verdict.BETTER, Verdict.WORSE)
        }
        self.alarms += any(not drop or each.method != "method 0" for each in different)
        first = [
            each
            for each in different
            if each.method == "method 0"
            and each.metric == "auroc"
            and each.verdict == Verdict.WORSE
        ]
        self.found += any(each.kind == "mean" for each in first)
        self.found_on_sets += sum(each.kind == "set" for each in first)


def count(setting: Setting, pairs: int, seed: int = 0) -> Counts:
    """Simulate some pairs of runs and count their verdicts."""
    generator = np.random.default_rng(seed)
    counts = Counts()
    for _ in range(pairs):
        base, head = simulate(setting, generator)
        counts.add(compare_runs(base, head, metrics=setting.metrics), setting.drop)
    return counts


def itself(setting: Setting) -> RunComparison:
    """The comparison of a run with itself."""
    base, _ = simulate(setting, np.random.default_rng(0))
    return compare_runs(base, base)


SAME = {
    "same images, same networks": Setting(),
    "likewise, AUROC alone, 1,000 images": Setting(images=1000, metrics=("auroc",)),
    "other images of the same populations": Setting(other_images=True),
    "likewise, records without scores": Setting(other_images=True, records=True),
    "same images, records without scores": Setting(records=True),
    "other networks, 3 seeds, AUROC": Setting(seeds=3, other_networks=0.15, metrics=("auroc",)),
    "other networks, 5 seeds, AUROC": Setting(seeds=5, other_networks=0.15, metrics=("auroc",)),
    "hardly other networks, 3 seeds, AUROC": Setting(
        seeds=3, other_networks=0.03, metrics=("auroc",)
    ),
}
"""Pairs of runs without a true difference."""

LOST = {
    "correlation 0.9": Setting(images=5000, drop=0.01, metrics=("auroc",)),
    "correlation 0.7": Setting(images=5000, drop=0.01, of_the_run=0.3, metrics=("auroc",)),
}
"""Pairs of runs of which one method truly loses a point of AUROC, from 90 %."""


def main() -> None:
    """Print how often verdicts are wrong, and how often they miss a difference."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    found = {each.verdict.value for each in itself(Setting()).changes}
    print(f"A run with itself: {', '.join(found)}.")
    print(
        f"False alarms in {pairs} pairs of runs of {len(AUROCS)} methods on {len(GROUPS)} OOD sets:"
    )
    for name, setting in SAME.items():
        counts = count(setting, pairs)
        print(f"  {name:40}{100 * counts.alarms / pairs:6.1f} %", flush=True)
    pairs = (pairs + 1) // 2
    print(f"A drop of 1 point of AUROC on 5,000 ID and 5,000 OOD images, {pairs} pairs, found:")
    for name, setting in LOST.items():
        counts = count(setting, pairs)
        on_sets = counts.found_on_sets / pairs / len(GROUPS)
        print(
            f"  base and head with {name}: on the mean {100 * counts.found / pairs:.1f} %, on a "
            f"single OOD set {100 * on_sets:.1f} %; alarms for the other methods "
            f"{100 * counts.alarms / pairs:.1f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
