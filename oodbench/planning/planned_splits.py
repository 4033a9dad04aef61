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
        role: "ID train", "ID validation", "ID test", "csID", "near-OOD", ..., "validation OOD".
        dataset: name of the data set in the benchmark.
        manifest: name of its manifest.
        split: the split.
        images: number of images that the benchmark uses.
    """

    role: str
    dataset: str
    manifest: str
    split: SplitName
    images: int


def planned_splits(plan: Plan) -> tuple[PlannedSplit, ...]:
    """All splits of the ID set, then the test splits, then the OOD images for tuning."""
    return tuple(_splits(plan))


def _splits(plan: Plan) -> Iterator[PlannedSplit]:
    benchmark = plan.benchmark

    def split(role: str, dataset: str, name: SplitName) -> PlannedSplit:
        spec = plan.datasets[dataset]
        return PlannedSplit(role, dataset, spec.name, name, benchmark.images_of(spec, name))

    for name in plan.datasets[benchmark.id].splits:
        yield split(f"ID {name}", benchmark.id, name)
    for dataset in benchmark.csid:
        yield split("csID", dataset, "test")
    for dataset, group in benchmark.ood_groups.items():
        yield split(f"{group}-OOD", dataset, "test")
    oracles = any(method.tuned_on == "ood_oracle" for method in plan.methods)
    for dataset in benchmark.ood_groups if oracles else ():
        yield split("validation OOD", dataset, benchmark.tuning.split)
