"""What a run is made with, in its description: plan, checksums, versions, the machine."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from oodbench.data.listed_files import used_files, used_places
from oodbench.data.store.checkpoint_files import CheckpointFiles
from oodbench.data.store.fetching import unverified_files as stored_unverified_files
from oodbench.data.store.locations import StoredFiles, root_folder
from oodbench.planning.plan import Method, Plan
from oodbench.plugins.catalog import Catalog
from oodbench.process import process_settings
from oodbench.storage.run_description import (
    Checksums,
    DescribedFile,
    DescribedMethod,
    DescribedPublication,
    Environment,
    RunDescription,
    RunStatus,
)
from oodbench.storage.same_work import Work
from oodbench.training.distributed import device_name
from oodbench.training.precision import has_bfloat16
from oodbench.training.trained_models import ModelStore
from oodbench.version import __version__, source_revision


def merged(
    before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """Data set -> split -> checksum, of an earlier command and of this one."""
    return {
        name: {**before.get(name, {}), **now.get(name, {})}
        for name in dict.fromkeys([*before, *now])
    }


def description(
    plan: Plan,
    work: Work,
    catalog: Catalog,
    machine: Environment,
    data_root: Path | None,
    before: RunDescription,
) -> RunDescription:
    """The description of a run that has no results yet.

    Args:
        plan: plan of the run.
        work: what its results depend on.
        catalog: gives the plug-ins.
        machine: where the run computes.
        data_root: folder of the data sets that do not come built in.
        before: the description of the run that is resumed; its seeds and methods stay.
    """
    planned = {method.name for method in plan.methods}
    methods = [
        *(described_method(method, plan.same_source) for method in plan.methods),
        *(method for method in before.methods if method.name not in planned),
    ]
    tried = {*(method.detector for method in methods), *(skip.detector for skip in plan.skips)}
    return RunDescription(
        run_id=work.run_id,
        command=shlex.join(["oodbench", *sys.argv[1:]]),
        benchmark=plan.benchmark.model_dump(mode="json"),
        published=plan.published,
        seeds=sorted({*plan.seeds, *before.seeds}),
        methods=methods,
        skipped={skip.method: skip.reason for skip in plan.skips},
        left_out=sorted({*plan.left_out, *before.left_out} - tried),
        data_root=None if data_root is None else str(data_root),
        plugins=plugins_of(catalog),
        versions=versions(),
        environment=machine,
        checksums=Checksums(
            data={name: dict(splits) for name, splits in work.data.items()},
            fitted_on=merged(before.checksums.fitted_on, work.fitted_on),
            detectors={**before.checksums.detectors, **work.detectors},
        ),
    )


def described_method(method: Method, same_source: Sequence[str] = ()) -> DescribedMethod:
    """A method of a run.

    Args:
        method: the method.
        same_source: `Plan.same_source`.
    """
    return DescribedMethod(
        name=method.name,
        model=method.model,
        detector=method.detector.name,
        tuned_on=method.tuned_on,
        untuned=list(method.untuned),
        fit_split=method.other_fit_split or "",
        tuning_ood=method.tuning_ood or "",
        same_source=list(same_source) if method.tuning_ood else [],
        reference=method.detector.reference,
        url=method.detector.url,
    )


def published(
    plan: Plan,
    models: ModelStore,
    data_root: Path | None,
    before: RunDescription,
    status: RunStatus,
) -> dict[str, Any]:
    """What `RunDescription` says about published weights, and about files and images.

    Args:
        plan: plan of the run.
        models: of the run, which has read the weights.
        data_root: folder of the data sets; None: the default.
        before: the description of the run that is resumed.
        status: of the run; files are described when it has ended, as all are there then.
    """
    return {
        "published_weights": described_publications(models, before),
        "unverified_files": unverified_files(plan, data_root) if status != "running" else [],
        "data_notes": data_notes(plan, data_root) if status != "running" else {},
    }


def described_publications(
    models: ModelStore, before: RunDescription
) -> dict[str, DescribedPublication]:
    """Where published weights come from, as `RunDescription.published_weights`.

    Args:
        models: of the run, which has read them.
        before: the description of the run that is resumed; its other seeds stay.
    """
    return before.published_weights | {
        f"{model}/seed{seed}": DescribedPublication(
            source=found.source,
            sha256=found.sha256,
            taken=list(found.taken),
            mean=list(found.preprocessing.mean),
            std=list(found.preprocessing.std),
            size=None if found.preprocessing.size is None else list(found.preprocessing.size),
            resize=found.preprocessing.resize,
        )
        for (model, seed), found in sorted(models.publications.items())
    }


def data_notes(plan: Plan, data_root: Path | None) -> dict[str, str]:
    """Notes of manifests, and how images differ from those that lists were made for, by data set.

    Args:
        plan: plan of the run.
        data_root: folder of the data sets; None: the default.
    """
    root = root_folder(data_root)
    return {
        name: note
        for name, spec in plan.datasets.items()
        for note in (spec.note, *(place.note for place in used_places(spec, root)))
        if note is not None
    }


def unverified_files(plan: Plan, data_root: Path | None) -> list[DescribedFile]:
    """Files without a published checksum, of the data sets and of the models of a benchmark.

    Args:
        plan: plan of the run.
        data_root: folder of the data sets; None: the default.
    """
    root = root_folder(data_root)
    owners: list[tuple[str, StoredFiles]] = []
    for name, spec in plan.datasets.items():
        owners += [(name, each) for each in (used_files(spec, root) if spec.lists else [spec])]
    for name, model in plan.benchmark.models.items():
        owners += [(name, CheckpointFiles(each)) for each in model.checkpoint if each.files]
    found: dict[tuple[str, str], DescribedFile] = {}
    for owner, files in owners:
        for file, record in stored_unverified_files(files, root).items():
            found[owner, file.name] = DescribedFile(
                of=owner,
                name=file.name,
                sha256="" if record is None else record.sha256,
                source="" if record is None else record.source,
                fetched_at="" if record is None else record.fetched_at,
                reason=file.unverified or "",
            )
    return list(found.values())


def plugins_of(catalog: Catalog) -> list[str]:
    """Folders of plug-ins, then "class ..." for classes that are in no folder."""
    return [
        *(_shown(folder) for folder in catalog.plugins),
        *(f"class {cls.__module__}.{cls.__qualname__}" for cls in catalog.classes),
    ]


def _shown(folder: Path) -> str:
    """A folder, relative to the working directory if it lies below it."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def environment(device: torch.device, threads: int | None = None, workers: int = 1) -> Environment:
    """The machine and the process.

    Args:
        device: where the run computes.
        threads: torch's number of threads for each worker; None: that of this process.
        workers: number of workers.
    """
    return Environment(
        platform=platform.platform(),
        processor=platform.machine(),
        threads=torch.get_num_threads() if threads is None else threads,
        workers=workers,
        device=device_name(device),
        bfloat16=has_bfloat16(device),
        process=process_settings(),
    )


def versions() -> dict[str, str]:
    """Versions of oodbench, Python and the packages that results depend on."""
    packages: Sequence[str] = ("torch", "numpy", "scikit-learn", "scipy", "pillow")
    revision = source_revision()
    return {
        "oodbench": __version__,
        **({"oodbench_revision": revision} if revision else {}),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
