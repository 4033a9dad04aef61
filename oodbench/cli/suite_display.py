"""The plan of a suite, for a terminal: what its benchmarks share is said once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from rich.console import RenderableType
from rich.text import Text

from oodbench.cli.plan_display import (
    ESTIMATES,
    MODEL_COLUMNS,
    SUMS,
    alike_passes,
    forwards_of,
    methods_of,
    model_rows,
    named_methods,
    notes_of,
    skipped,
    table_of,
    work_cells,
)
from oodbench.errors import counted, listed
from oodbench.planning import workload
from oodbench.planning.plan import Plan
from oodbench.planning.planned_splits import planned_splits
from oodbench.planning.suite_plan import Suite
from oodbench.planning.workload import Pass
from oodbench.report.tables.document import Table
from oodbench.report.writers.terminal import paragraph, table_renderables

_IN = "benchmarks"
"""Title of the column with the benchmarks that have a row."""
_SHOWN = 3
"""Benchmarks that such a cell names."""

_FEW = 6
"""Methods of a pass that are named; the plan of one benchmark names all."""
_SPLITS = ("train", "validation", "test")

Plans = Mapping[str, Plan]
"""The plan of each benchmark, by its name."""

Row = TypeVar("Row", str, tuple[str, ...])


def suite_renderables(suite: Suite, plans: Plans, width: int) -> list[RenderableType]:
    """What a run of a suite would do.

    The estimate of each benchmark and the sum; then data sets, models, passes and skips, each once,
    with the benchmarks that have it.

    Args:
        suite: the suite.
        plans: the plan of each benchmark.
        width: characters a line may have.
    """
    spec = suite.spec
    heading = f"Plan of suite '{spec.name}' (version {spec.version}): "
    heading += f"{counted(len(plans), 'benchmark')}, {_seeds(plans)}"
    trained = any(workload.training_count(plan) for plan in plans.values())
    models = "Models (trained unless in the cache)" if trained else "Models"
    tables = [
        _members(plans),
        _data(plans),
        _shared(models, MODEL_COLUMNS, plans, model_rows),
        _shared("Passes over data", ("model", "to", "data", "methods", "passes"), plans, _passes),
        _shared("Skipped", ("method", "reason"), plans, _skips),
    ]
    said = [_where(line, names, plans) for line, names in _alike(plans, notes_of).items()]
    if spec.training:
        changes = ", ".join(f"{key}: {value}" for key, value in spec.training.items())
        said.append(f"The suite changes the training of every model ({changes}).")
    elif plans:
        said.append(f"`oodbench run {next(iter(plans))} --dry-run` shows one benchmark in full.")
    return [
        paragraph(heading, width, style="bold"),
        *(paragraph(line, width) for line in _methods(plans)),
        Text(),
        *(
            part
            for each in tables
            if each.sections[0].rows
            for part in (*table_renderables(each, width), Text())
        ),
        *(part for note in said for part in (paragraph(note, width), Text())),
        paragraph(ESTIMATES, width),
    ]


def _methods(plans: Plans) -> list[str]:
    """The methods of each model if all benchmarks have the same ones, else their numbers."""
    alike = _alike(plans, lambda plan: named_methods(plan, 1))
    if all(len(names) == len(plans) for names in alike.values()):
        return list(alike)
    counts = _alike(
        plans,
        lambda plan: [
            f"{counted(len(plan.methods_of(model)), 'method')} on {model}." for model in plan.models
        ],
    )
    return [_where(line, names, plans) for line, names in counts.items()]


def _seeds(plans: Plans) -> str:
    counts = sorted({len(plan.seeds) for plan in plans.values()})
    return counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def _alike(plans: Plans, rows: Callable[[Plan], Iterable[Row]]) -> dict[Row, list[str]]:
    """Each row of the plans -> the benchmarks that have it."""
    found: dict[Row, list[str]] = {}
    for name, plan in plans.items():
        for row in dict.fromkeys(rows(plan)):
            found.setdefault(row, []).append(name)
    return found


def _where(line: str, names: Sequence[str], plans: Plans) -> str:
    """A line, with the benchmarks that it is about if they are not all."""
    return line if len(names) == len(plans) else f"{listed(names, _SHOWN)}: {line}"


def _shared(
    title: str,
    columns: Sequence[str],
    plans: Plans,
    rows: Callable[[Plan], Iterable[tuple[str, ...]]],
) -> Table:
    """Each row once; with a column of the benchmarks that have it, if one is not in all."""
    found = _alike(plans, rows)
    if all(len(names) == len(plans) for names in found.values()):
        return table_of(title, columns, found)
    return table_of(
        title,
        (*columns, _IN),
        (
            (*row, "all" if len(names) == len(plans) else listed(names, _SHOWN))
            for row, names in found.items()
        ),
    )


def _data(plans: Plans) -> Table:
    """One row for each data set, with its splits; manifests where one has another name."""
    splits: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for plan in plans.values():
        for each in planned_splits(plan):
            images = f"{'up to ' if each.at_most else ''}{each.images:,}"
            images += " (not here)" if each.absent else ""
            mine = splits.setdefault((each.dataset, each.manifest), {})
            mine.setdefault(each.split, {})[images] = None
    renamed = any(dataset != manifest for dataset, manifest in splits)
    rows = [
        (
            dataset,
            *((manifest,) if renamed else ()),
            ", ".join(f"{each} {' or '.join(mine[each])}" for each in _SPLITS if each in mine),
        )
        for (dataset, manifest), mine in splits.items()
    ]
    return table_of("Data", ("data set", *(("manifest",) if renamed else ()), "splits"), rows)


def _passes(plan: Plan) -> Iterable[tuple[str, ...]]:
    """The passes, with the roles of their data sets in the place of the names."""
    for passes in alike_passes(plan):
        first = passes[0]
        roles = dict.fromkeys(_role(plan, each.dataset) for each in passes)
        yield (
            first.model,
            first.purpose,
            f"{' and '.join(roles)} {first.split}",
            _few(plan, first),
            forwards_of(first, _SHOWN),
        )


def _few(plan: Plan, planned: Pass) -> str:
    """The methods of a pass, or their number if they are many."""
    count, every = len(planned.methods), len(plan.methods_of(planned.model))
    if count <= _FEW:
        return methods_of(plan, planned)
    return f"all {count} methods" if count == every else f"{count} of {every} methods"


def _skips(plan: Plan) -> list[tuple[str, ...]]:
    return [(listed(names, _SHOWN), reason) for reason, names in skipped(plan).items()]


def _role(plan: Plan, dataset: str) -> str:
    if dataset == plan.benchmark.id:
        return "ID"
    return "csID" if dataset in plan.benchmark.csid else "OOD"


def _members(plans: Plans) -> Table:
    """One row for each benchmark, of all seeds, and the sum."""

    def work(parts: Iterable[Plan]) -> tuple[str, ...]:
        chosen = list(parts)
        count = sum(workload.training_count(plan) for plan in chosen)
        trained = workload.total(workload.all_trainings(plan) for plan in chosen)
        passed = workload.total(workload.all_passes(plan) for plan in chosen)
        return str(count), *work_cells(trained), *work_cells(passed)

    rows = [
        (name, plan.benchmark.id, ", ".join(plan.benchmark.ood_groups), *work([plan]))
        for name, plan in plans.items()
    ]
    return table_of(
        "Estimate over all seeds (images are counted once for each epoch, and for each pass)",
        ("benchmark", "ID", "OOD", *SUMS),
        [*rows, ("sum", "", "", *work(plans.values()))],
    )
