"""What the results of a plan depend on: its images and its detectors, and their checksums."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from oodbench.data.decoding_choice import is_large
from oodbench.data.loaded_splits import LoadedSplits, declared_checksum
from oodbench.errors import UserError
from oodbench.files import digest, expanded
from oodbench.planning.plan import Method, Plan
from oodbench.planning.workload import reads_of
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.imported_files import source_digest
from oodbench.progress import Reporter
from oodbench.specs import SplitName
from oodbench.storage.same_work import IN_NO_FILE, Work


def data_of(plan: Plan, data_root: Path | None, say: Reporter) -> LoadedSplits:
    """The images of a plan's benchmark."""
    benchmark = plan.benchmark
    return LoadedSplits(
        plan.datasets,
        data_root,
        say,
        benchmark.most_images,
        reads=reads_of(plan),
        batch_size=benchmark.evaluation.batch_size,
    )


def work_of(plan: Plan, catalog: Catalog, data: LoadedSplits) -> Work:
    """What the results of a plan depend on.

    Raises:
        UserError: if data are missing or damaged.
    """
    names = sorted({method.detector.name for method in plan.methods})
    detectors = {
        name: _with_files(
            detector_checksum(catalog, name),
            [method for method in plan.methods if method.detector.name == name],
        )
        for name in names
    }
    fitted_on: dict[str, dict[str, str]] = {}
    for name, split in sorted(reads_of(plan)):
        if split != "test" and data.is_large(name, split):
            fitted_on.setdefault(name, {})[split] = data.checksum(name, split)
    return Work(plan.benchmark, data_checksums(plan, data), detectors, fitted_on)


def _with_files(checksum: str, methods: Sequence[Method]) -> str:
    """The checksum of a detector with the files that its parameters name, such as word lists."""
    given = [value for each in methods for value in {**each.defaults, **each.parameters}.values()]
    contents = []
    for text in sorted({value for value in given if isinstance(value, str)}):
        with contextlib.suppress(OSError, ValueError, UserError):  # a text that is no path
            contents.append(expanded(text).read_bytes())
    return digest(checksum, *contents) if contents and checksum != IN_NO_FILE else checksum


def detector_checksum(catalog: Catalog, name: str) -> str:
    """Checksum of a detector's source and of the helper files that it imports."""
    entry = catalog.entry("detector", name)
    return source_digest(entry.path) if entry.cls is None else IN_NO_FILE


def data_checksums(plan: Plan, data: LoadedSplits) -> dict[str, dict[str, str]]:
    """Checksums of all data of a plan's benchmark, whichever methods are run.

    All splits of the ID set, the test splits of the others, the split of the OOD set that methods
    are tuned on, and auxiliary images, by data set and split. Files of large splits that only some
    methods read are not opened (`Work.fitted_on`), and need not be there: a run can be resumed once
    they are.
    """
    benchmark = plan.benchmark
    used = {(name, "test") for name in benchmark.names}
    used |= {(benchmark.id, split) for split in plan.datasets[benchmark.id].splits}
    used.add((benchmark.tuning_ood or benchmark.id, benchmark.tuning.split))
    used |= {*benchmark.auxiliary_splits}

    found: dict[str, dict[str, str]] = {
        name: {
            split: split_checksum(data, name, split)
            for split in spec.splits
            if (name, split) in used
        }
        for name, spec in plan.datasets.items()
    }
    if plan.whole_id is not None:
        found[benchmark.id] |= {
            split: declared_checksum(plan.whole_id, split, benchmark.most_images)
            for split in plan.absent
            if is_large(plan.whole_id, split)
        }
    return found


def split_checksum(data: LoadedSplits, name: str, split: SplitName) -> str:
    """The checksum of a split in `Checksums.data`."""
    if split != "test" and data.is_large(name, split):
        return data.declared(name, split)
    return data.checksum(name, split)
