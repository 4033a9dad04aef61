"""Plans on a machine that lacks images which only the user can provide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from oodbench.data.readers.listed_images import class_folder
from oodbench.data.store.locations import root_folder
from oodbench.planning.plan import Method, Plan, Skip
from oodbench.specs import ClassFoldersSpec, SplitName


def with_images_here(plan: Plan, data_root: str | Path | None) -> Plan:
    """The plan without the splits of the ID set that only the user can provide and that are absent.

    Methods that are fitted on them are skipped. A plan that trains a network on them stays as it
    is: reading them is an error then.

    Args:
        plan: the plan.
        data_root: folder of the data sets; None: the default.
    """
    benchmark, root = plan.benchmark, root_folder(data_root)
    spec = plan.datasets[benchmark.id]
    absent: dict[SplitName, ClassFoldersSpec] = {
        split: folders
        for split, folders in spec.class_folders.items()
        if class_folder(folders, root) is None
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
        whole_id=spec,
        absent={split: (spec.splits[split], absent[split].at_most) for split in absent},
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
    return next((split for split in method.fitted_on().values() if split in absent), None)


def _reason(split: SplitName, folders: ClassFoldersSpec) -> str:
    name = {"train": "training"}.get(split, split)
    first = folders.folders[0]
    return f"no {name} images: the data root has no folder '{first}'"
