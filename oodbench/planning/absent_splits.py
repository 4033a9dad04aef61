"""Plans on a machine that lacks images which only the user can provide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from oodbench.planning.plan import FITTED_ON, Method, Plan, Skip
from oodbench.specs import ClassFoldersSpec, SplitName


def without_absent(plan: Plan, is_there: Callable[[ClassFoldersSpec], bool]) -> Plan:
    """The plan without the splits of the ID set that are a folder of the user's and not there.

    Methods that are fitted on them are skipped. A plan that trains a network on them stays as it
    is: reading them is an error then.

    Args:
        plan: the plan.
        is_there: whether a folder of such a split is on this machine.
    """
    benchmark = plan.benchmark
    spec = plan.datasets[benchmark.id]
    absent: dict[SplitName, ClassFoldersSpec] = {
        split: folders for split, folders in spec.class_folders.items() if not is_there(folders)
    }
    trains = any(benchmark.models[model].training is not None for model in plan.models)
    if not absent or (trains and "train" in absent):
        return plan
    reasons = {
        method.name: _reason(split, absent[split])
        for method in plan.methods
        if (split := _absent_split(method, absent)) is not None
    }
    return replace(
        plan,
        datasets={**plan.datasets, benchmark.id: spec.without(absent)},
        absent={split: spec.splits[split] for split in absent},
        methods=tuple(method for method in plan.methods if method.name not in reasons),
        skips=(
            *plan.skips,
            *(
                Skip(m.name, m.model, m.detector.name, reasons[m.name], m.asked_for)
                for m in plan.methods
                if m.name in reasons
            ),
        ),
    )


def _absent_split(method: Method, absent: dict[SplitName, ClassFoldersSpec]) -> SplitName | None:
    used = (split for need, split in FITTED_ON.items() if need in method.detector.needs)
    return next((split for split in used if split in absent), None)


def _reason(split: SplitName, folders: ClassFoldersSpec) -> str:
    name = {"train": "training"}.get(split, split)
    first = folders.folders[0]
    return f"no {name} images: the data root has no folder '{first}'"
