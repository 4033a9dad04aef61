"""Simulates a grid of cells on 1, 8 and 64 GPUs: hours, what limits them, bytes, memory.

    python scripts/scale/simulate.py [--gpu-tflops N] [--cores N]

A cell is a benchmark, a model and a seed. It fits, tunes and scores on one GPU, with a share of the
node's cores to decode images and to compute intervals; cells go to GPUs that are free, the longest
first. All cells read the same storage. In each step of time, a cell advances as fast as the slowest
of computing, decoding and its share of the storage lets it.

Passes, methods and images are those of the plans of `oodbench run openood`; the large grid is made
of the plan of `openood-imagenet`. Rates and where they are from: `rates.yaml`. Prints the table of
docs/explanation/scale.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from oodbench.planning.plan import Plan
from oodbench.planning.suite_plan import load_suite, plan_suite
from oodbench.planning.workload import forwards_of, passes_of
from oodbench.plugins.catalog import Catalog

GPUS = (1, 8, 64)
LIMITS = ("computing", "decoding", "storage", "intervals")
HOUR = 3600.0
TERA, GIBI = 1e12, 2**30


@dataclass(frozen=True)
class Rates:
    """What the simulation computes with (`rates.yaml`).

    Attributes:
        values: name -> number.
        macs: network -> multiply-adds of a forward pass.
        features: network -> dimension of the features.
    """

    values: Mapping[str, float]
    macs: Mapping[str, float]
    features: Mapping[str, int]

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    @classmethod
    def read(cls, changes: Mapping[str, float]) -> Rates:
        """The committed rates, some of them replaced."""
        content = yaml.safe_load(Path(__file__).with_name("rates.yaml").read_text("utf-8"))
        values = {name: float(each["value"]) for name, each in content["rates"].items()}
        return cls({**values, **changes}, content["macs"], content["features"])


@dataclass(frozen=True)
class Phase:
    """Passes of a cell over images that cost the same.

    Attributes:
        purpose: "fit", "tune", "score" or "intervals".
        images: how many; of intervals: core seconds.
        gpu_seconds: for each image.
        core_seconds: for each image, on one core.
        read: bytes from the storage for each image.
    """

    purpose: str
    images: float
    gpu_seconds: float
    core_seconds: float
    read: float


@dataclass(frozen=True)
class Cell:
    """One model and seed of a benchmark.

    Attributes:
        name: of the benchmark.
        phases: in order.
        memory: bytes of a worker, without the network's activations.
        forwards: forward passes of the whole network, all images.
        written: bytes of scores.
    """

    name: str
    phases: tuple[Phase, ...]
    memory: float
    forwards: float
    written: float

    def seconds(self, cores: float) -> float:
        """Alone on a GPU, with storage that is never busy."""
        return sum(p.images * max(p.gpu_seconds, p.core_seconds / cores) for p in self.phases)


@dataclass(frozen=True)
class DataSize:
    """Images of a cell.

    Attributes:
        file_bytes: of an image file.
        classes: C.
        passes: purpose, images, forward passes for each image.
        pairs: images of each pair of the ID set and an OOD set, which intervals are computed for.
    """

    file_bytes: float
    classes: int
    passes: tuple[tuple[str, int, float], ...]
    pairs: tuple[int, ...]


@dataclass
class _Worker:
    cell: Cell
    phase: int = 0
    left: float = field(default=0.0)

    def __post_init__(self) -> None:
        self.left = self.cell.phases[0].images

    @property
    def now(self) -> Phase:
        return self.cell.phases[self.phase]


@dataclass(frozen=True)
class Outcome:
    """Result of a simulation.

    Attributes:
        hours: until the last cell is done.
        busy: share of the GPUs' time in which they compute.
        limits: what limits -> share of the workers' time.
    """

    hours: float
    busy: float
    limits: Mapping[str, float]


# --- the cells -----------------------------------------------------------------------------------


def data_of(plan: Plan, model: str) -> DataSize:
    """The images of a plan."""
    benchmark = plan.benchmark
    passes = tuple(
        (each.purpose, each.images, forwards_of(plan, each))
        for each in passes_of(plan)
        if each.model == model
    )
    tested = {name: plan.datasets[name].splits["test"] for name in benchmark.names}
    in_distribution = tested[benchmark.id] + sum(tested[name] for name in benchmark.csid)
    height = plan.datasets[benchmark.id].shape[1]
    return DataSize(
        file_bytes=110e3 * min(1.0, (height / 224) ** 2),
        classes=plan.datasets[benchmark.id].num_classes or 0,
        passes=passes,
        pairs=tuple(in_distribution + tested[name] for name in benchmark.ood_groups),
    )


def cell_of(
    name: str, network: str, methods: int, data: DataSize, rates: Rates, *, streams: float = 1.0
) -> Cell:
    """A cell.

    Args:
        name: of its benchmark.
        network: a key of `rates.macs`.
        methods: number of methods.
        data: its images.
        rates: of the machine.
        streams: share of the reading and decoding that this cell does itself; the rest is done
            for it by cells that share a stream of images, or lies in the cache.
    """
    operations, width = 2 * rates.macs[network], rates.features[network]
    size = width / 2048
    own = size * (rates["detector_flops"] + rates["detector_flops_per_class"] * data.classes)
    decoding = rates["decode_core_seconds"] * data.file_bytes / 110e3
    phases = []
    for purpose, images, forwards in data.passes:
        plain = operations / rates["gpu_flops"] + own / rates["gpu_flops"]
        further = operations * (forwards - 1) / rates["gpu_gradient_flops"]
        phases.append(
            Phase(
                purpose,
                images,
                plain + further,
                streams * decoding,
                streams * data.file_bytes,
            )
        )
    compared = methods * sum(data.pairs) * rates["interval_core_seconds"]
    phases.append(Phase("intervals", compared, 0.0, 1.0, 0.0))
    scored = sum(images for purpose, images, _ in data.passes if purpose == "score")
    pairs = data.classes * data.classes
    return Cell(
        name,
        tuple(phases),
        rates["memory"]
        + size * data.classes * rates["memory_per_class"]
        + pairs * rates["memory_per_pair_of_classes"],
        sum(images * forwards for _, images, forwards in data.passes),
        8.0 * methods * scored,
    )


def openood_plans(seeds: int | None = None) -> dict[str, Plan]:
    """Plans of the suite `openood`, without the detector of dropout, which its networks lack."""
    catalog = Catalog()
    statuses = {name: each for name, each in catalog.detectors.items() if name != "mcd"}
    return plan_suite(catalog, load_suite(catalog, "openood"), statuses, seeds=seeds)


def openood_cells(rates: Rates) -> Iterator[tuple[str, list[Cell]]]:
    """Benchmark -> its cells: every model and every checkpoint."""
    for name, plan in openood_plans().items():
        yield (
            name,
            [
                cell_of(
                    name,
                    plan.benchmark.models[model].network,
                    len(plan.methods_of(model)),
                    data_of(plan, model),
                    rates,
                )
                for model in plan.models
                for _ in plan.seeds
            ],
        )


def large_data(rates: Rates) -> tuple[int, DataSize]:
    """Methods and images of the large grid: ImageNet-21k, 20 OOD sets of 50,000 images."""
    plan = openood_plans(seeds=1)["openood-imagenet"]
    data = data_of(plan, plan.models[0])
    forwards = {purpose: each for purpose, _, each in data.passes}
    passes = (
        ("fit", int(rates["large_train_images"]), 1.0),
        ("tune", 2 * 50_000, forwards["tune"]),
        ("score", 21 * 50_000, forwards["score"]),
    )
    classes = int(rates["large_classes"])
    return len(plan.methods), DataSize(data.file_bytes, classes, passes, (100_000,) * 20)


# --- the schedule --------------------------------------------------------------------------------


def simulate(cells: Sequence[Cell], gpus: int, rates: Rates) -> Outcome:
    """Run cells on GPUs, the longest first."""
    cores = rates["cores_per_gpu"]
    waiting = sorted(cells, key=lambda cell: cell.seconds(cores))
    workers = [_Worker(waiting.pop()) for _ in range(min(gpus, len(waiting)))]
    clock = computing = occupied = 0.0
    limits = dict.fromkeys(LIMITS, 0.0)
    while workers:
        speeds, causes = _speeds([each.now for each in workers], gpus, rates)
        step = min(each.left / speed for each, speed in zip(workers, speeds, strict=True))
        clock += step
        occupied += step * len(workers)
        for worker, speed, cause in zip(workers, speeds, causes, strict=True):
            worker.left -= step * speed
            computing += step * speed * worker.now.gpu_seconds
            limits[cause] += step
        for worker in [each for each in workers if each.left <= 1e-9 * each.now.images]:
            worker.phase += 1
            if worker.phase < len(worker.cell.phases):
                worker.left = worker.now.images
                continue
            workers.remove(worker)
            if waiting:
                workers.append(_Worker(waiting.pop()))
    return Outcome(
        clock / HOUR,
        computing / (clock * gpus),
        {name: seconds / occupied for name, seconds in limits.items()},
    )


def _speeds(phases: Sequence[Phase], gpus: int, rates: Rates) -> tuple[list[float], list[str]]:
    """Images a second of each phase, and what limits it; the storage is shared fairly."""
    cores = rates["cores_per_gpu"]
    seconds = [max(each.gpu_seconds, each.core_seconds / cores) for each in phases]
    wanted = [each.read / each_seconds for each, each_seconds in zip(phases, seconds, strict=True)]
    largest = _fair(wanted, rates["storage_bytes"])
    speeds, causes = [], []
    for phase, alone, bytes_wanted in zip(phases, seconds, wanted, strict=True):
        if bytes_wanted > largest:
            speeds.append(largest / phase.read)
            causes.append("storage")
            continue
        speeds.append(1 / alone)
        decoding = phase.core_seconds / cores > phase.gpu_seconds
        name = "intervals" if phase.purpose == "intervals" else "decoding"
        causes.append(name if decoding else "computing")
    return speeds, causes


def _fair(wanted: Sequence[float], available: float) -> float:
    """The largest share such that all shares, cut to it, fit into what is available."""
    left, number = available, len(wanted)
    for each in sorted(wanted):
        if each * number > left:
            return left / number
        left -= each
        number -= 1
    return float("inf")


# --- tables --------------------------------------------------------------------------------------


def hours(value: float) -> str:
    """Hours with two digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def row(name: str, cells: Sequence[Cell], rates: Rates) -> list[str]:
    """A row of the table of grids."""
    outcomes = {gpus: simulate(cells, gpus, rates) for gpus in GPUS}
    last = outcomes[GPUS[-1]]
    cause = max(last.limits, key=lambda each: last.limits[each])
    read = sum(p.images * p.read for cell in cells for p in cell.phases)
    return [
        name,
        f"{len(cells):,}",
        f"{sum(cell.forwards for cell in cells) / 1e6:,.1f}",
        f"{read / TERA:,.2f}" if read < 100 * TERA else f"{read / TERA:,.0f}",
        f"{sum(cell.written for cell in cells) / 1e9:,.1f}",
        f"{max(cell.memory for cell in cells) / GIBI:.1f}",
        *(hours(outcomes[gpus].hours) for gpus in GPUS),
        f"{100 * last.busy:.0f} %",
        f"{cause} ({100 * last.limits[cause]:.0f} %)",
    ]


HEADERS = [
    "grid",
    "cells",
    "forward passes (million)",
    "read (TB)",
    "scores (GB)",
    "memory a worker (GiB)",
    *(f"hours, {gpus} GPU{'s' if gpus > 1 else ''}" for gpus in GPUS),
    f"GPUs busy, {GPUS[-1]}",
    "limit there (share of the time)",
]


def table(rates: Rates) -> str:
    """The table of docs/explanation/scale.md, in Markdown."""
    rows, everything = [], []
    for name, cells in openood_cells(rates):
        rows.append(row(name, cells, rates))
        everything += cells
    rows.append(row("openood, all", everything, rates))
    methods, data = large_data(rates)

    def large(name: str, data: DataSize = data, *, streams: float = 1.0, **changes: float) -> None:
        changed = replace(rates, values={**rates.values, **changes})
        cell = cell_of(name, "torchvision:resnet50", methods, data, changed, streams=streams)
        rows.append(row(name, [cell] * int(rates["large_models"]), changed))

    large("1,000 models, ImageNet-21k")
    large("the same, storage of 40 GB a second", storage_bytes=40e9)
    sampled = tuple(
        (purpose, min(images, 1_281_167), forwards) for purpose, images, forwards in data.passes
    )
    large("the same, fitted on 1.28 million images", replace(data, passes=sampled))
    large("that, 8 models share a stream of images", replace(data, passes=sampled), streams=1 / 8)
    return tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu-tflops", type=float, help="replaces the measured rate")
    parser.add_argument("--cores", type=float, help="cores for each GPU")
    options = parser.parse_args()
    changes: dict[str, Any] = {}
    if options.gpu_tflops:
        changes |= dict.fromkeys(("gpu_flops", "gpu_gradient_flops"), options.gpu_tflops * TERA)
    if options.cores:
        changes["cores_per_gpu"] = options.cores
    print(table(Rates.read(changes)))


if __name__ == "__main__":
    main()
