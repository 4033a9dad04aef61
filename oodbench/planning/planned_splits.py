"""The splits of data sets that a plan is about: their roles and numbers of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from oodbench.planning.plan import Plan
from oodbench.specs import SplitName


@dataclass(frozen=True, slots=True)
class PlannedSplit:
    """A split of a data set in a benchmark.

    Attributes:
        role: "ID train", "ID validation", "ID test", "csID", "near-OOD", ..., "validation OOD",
            "auxiliary".
        dataset: name of the data set in the benchmark.
        manifest: name of its manifest.
        split: the split.
        images: number of images that the benchmark uses.
        at_most: whether the number is an upper bound: the exact one is not published.
        absent: whether it is not on this machine, and no method uses it.
    """

    role: str
    dataset: str
    manifest: str
    split: SplitName
    images: int
    at_most: bool = False
    absent: bool = False


def planned_splits(plan: Plan) -> tuple[PlannedSplit, ...]:
    """All splits of the ID set, then the test splits, then the OOD images for tuning."""
    return tuple(_splits(plan))


def _splits(plan: Plan) -> Iterator[PlannedSplit]:
    benchmark = plan.benchmark

    def split(role: str, dataset: str, name: SplitName) -> PlannedSplit:
        spec = plan.datasets[dataset]
        images = benchmark.images_of(spec, name)
        at_most = name in spec.class_folders and spec.class_folders[name].at_most
        return PlannedSplit(role, dataset, spec.name, name, images, at_most)

    manifest = plan.datasets[benchmark.id].name
    for name, (images, at_most) in plan.absent.items():
        yield PlannedSplit(f"ID {name}", benchmark.id, manifest, name, images, at_most, absent=True)
    for name in plan.datasets[benchmark.id].splits:
        yield split(f"ID {name}", benchmark.id, name)
    for dataset in benchmark.csid:
        yield split("csID", dataset, "test")
    for dataset, group in benchmark.ood_groups.items():
        yield split(f"{group}-OOD", dataset, "test")
    protocols = {method.tuned_on for method in plan.methods}
    tuned = [*benchmark.ood_groups] if "ood_oracle" in protocols else []
    if "ood_validation" in protocols and benchmark.tuning_ood is not None:
        tuned.append(benchmark.tuning_ood)
    for dataset in dict.fromkeys(tuned):
        yield split("validation OOD", dataset, benchmark.tuning.split)
    for dataset, name in benchmark.auxiliary_splits:
        yield split("auxiliary", dataset, name)
