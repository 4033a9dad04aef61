"""Time and memory of detectors on features as large as ImageNet's.

    python scripts/speed/large_features.py [--images 50000] [--features 2048] [--classes 1000]

All detectors that one forward pass is enough for are fitted together, as the engine does it, on
features that are drawn batch by batch and stored nowhere; then each scores. Features are rectified
and have a pattern for each class; maps of 2x2 places have them for their mean. Prints the seconds
and the memory of each detector, and the largest resident size of the process, which is to stay
below 4 GiB for all of them together.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oodbench.process import prepare_process

prepare_process()  # as `oodbench run` does, before torch is loaded

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

import engine_steps
from speed.resident_size import largest_resident, resident

import oodbench
from oodbench.detector import Detector, Head, Outputs, head_obstacle
from oodbench.engine.meters import tensor_bytes
from oodbench.numerics.statistics.gram import gram_row_sums
from oodbench.plugins.catalog import Catalog

GOAL = 4 * 2**30
"""Bytes that the process may take."""

BATCH = 200
ROWS = COLUMNS = 2


def detector_names() -> list[str]:
    """Detectors that one forward pass is enough for, and that run on a linear last layer."""
    return [
        name
        for name, status in Catalog().detectors.items()
        if status.info is not None
        and status.info.shares_forward
        and head_obstacle(status.info.needs, "linear", "this model") is None
    ]


@dataclass(frozen=True)
class Source:
    """Outputs of a network that is not there: the same seed gives the same batch.

    Args:
        features: D.
        classes: C.
    """

    features: int
    classes: int
    head: Head = field(init=False)
    patterns: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        patterns = torch.rand(self.classes, self.features, generator=generator) < 0.05
        weight = patterns.float() - patterns.float().mean(dim=0)
        bias = 0.1 * torch.randn(self.classes, generator=generator)
        object.__setattr__(self, "patterns", patterns)
        object.__setattr__(self, "head", Head("linear", weight, bias))

    def this_pass(self, images: int, seed: int, *, labeled: bool = True) -> Iterator[Outputs]:
        """Batches of a data set; every class has images."""
        for start in range(0, images, BATCH):
            generator = torch.Generator().manual_seed(seed * 2**32 + start)
            count = min(BATCH, images - start)
            labels = torch.arange(start, start + count) % self.classes
            noise = torch.randn(count, self.features, generator=generator)
            features = (noise * 0.5 + 2 * self.patterns[labels]).relu_()
            places = torch.rand(count, self.features, ROWS, COLUMNS, generator=generator)
            places /= places.mean(dim=(2, 3), keepdim=True)
            feature_map = features[:, :, None, None] * places
            yield Outputs(
                self.head.logits(features),
                features,
                {"penultimate": features},
                labels if labeled else None,
                self.head,
                feature_map,
                {"penultimate": feature_map},
                layers={"penultimate": gram_row_sums(feature_map, 10)},
            )


@dataclass
class Measured:
    """What a detector took.

    Attributes:
        fit, score: seconds of its own work.
        kept: bytes of its tensors after fitting.
        grown: bytes by which the largest resident size grew while it scored.
    """

    fit: float = 0.0
    score: float = 0.0
    kept: int = 0
    grown: int = 0


def fit_all(source: Source, detectors: dict[str, Detector], images: int) -> dict[str, float]:
    """Fit detectors together; gives the seconds of each.

    Args:
        source: of outputs.
        detectors: name -> detector.
        images: to fit on; a tenth as many are for validation.
    """
    counts = {"train": images, "validation": images // 10}

    def this_pass(split: str, _: Mapping[str, Detector]) -> Iterator[Outputs]:
        return source.this_pass(counts[split], seed=[*counts].index(split) + 1)

    return engine_steps.fit_all(detectors, this_pass, source.classes)


def measure(source: Source, names: Sequence[str], images: int, scored: int) -> dict[str, Measured]:
    """Fit detectors together and score with each."""
    detectors = {name: oodbench.load_detector(name) for name in names}
    measured = {
        name: Measured(fit=value) for name, value in fit_all(source, detectors, images).items()
    }
    print(f"fitted; the largest resident size is {megabytes(largest_resident())} MiB", flush=True)
    for name, detector in detectors.items():
        own = measured[name]
        own.kept = tensor_bytes(detector)
        before = largest_resident()
        for outputs in source.this_pass(scored, seed=9, labeled=False):
            view = outputs.copied(detector.info.needs)
            started = time.perf_counter()
            with torch.no_grad():
                scores = detector.score(view)
            own.score += time.perf_counter() - started
            assert scores.isfinite().all(), name
        own.grown = largest_resident() - before
    return measured


def megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--score", type=int, default=2000, help="images to score")
    parser.add_argument("--detectors", help="names, separated by commas; default: all")
    options = parser.parse_args()
    names = options.detectors.split(",") if options.detectors else detector_names()
    print(
        f"{len(names)} detectors, {options.images:,} images to fit and {options.images // 10:,} "
        f"for validation, {options.score:,} to score, {options.features} features, "
        f"{options.classes} classes, {torch.get_num_threads()} threads",
        flush=True,
    )
    source = Source(options.features, options.classes)
    for _ in source.this_pass(BATCH, seed=0):
        before = resident()
    started = time.perf_counter()
    measured = measure(source, names, options.images, options.score)
    print(f"\n{'':24}{'fit s':>9}{'score s':>9}{'kept MiB':>10}{'scoring grew by MiB':>21}")
    for name, own in sorted(measured.items(), key=lambda item: -item[1].fit - item[1].score):
        print(
            f"{name:24}{own.fit:9.2f}{own.score:9.2f}{megabytes(own.kept):>10}"
            f"{megabytes(own.grown):>21}"
        )
    fit, score = (sum(getattr(own, part) for own in measured.values()) for part in ("fit", "score"))
    kept = megabytes(sum(own.kept for own in measured.values()))
    print(f"{'together':24}{fit:9.2f}{score:9.2f}{kept:>10}")
    print(
        f"\n{time.perf_counter() - started:.0f} s in all, with the drawing of features\n"
        f"largest resident size {megabytes(largest_resident())} MiB, of which "
        f"{megabytes(before)} before (goal: at most {megabytes(GOAL)})"
    )
    if largest_resident() > GOAL:
        sys.exit(1)


if __name__ == "__main__":
    main()
