"""A plan, drawn for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from oodbench.errors import counted
from oodbench.planning import workload as workload
from oodbench.planning.plan import Pass, Plan
from oodbench.planning.suite import Suite
from oodbench.planning.workload import Work
from oodbench.report.tables.document import Cell, Heading, Section, Table
from oodbench.report.tables.notes import untuned_note
from oodbench.report.writers.terminal import paragraph, table_renderables

_NUMBERS = ("images", "FLOPs", "trainings", "trained on", "training FLOPs", "swept", "pass FLOPs")
_IMPORTANCE = {"model": 9, "to": 9, "data": 7, "methods": 7, "method": 9, "reason": 9, "passes": 6}
_IMPORTANCE |= {"benchmark": 9, "FLOPs": 8, "training FLOPs": 8, "pass FLOPs": 8}
_IMPORTANCE |= {"images": 7, "trained on": 7, "swept": 7, "ID": 6}
"""Of columns, for `Heading`; 5 of the others."""

_ESTIMATES = (
    "FLOPs are estimates: convolutions alone, 2 for each multiply-add, training 3 forwards for "
    "each image; ? where those of a network are not known. What is in the cache is not trained "
    "again."
)


def renderables(plan: Plan, width: int) -> list[RenderableType]:
    """What a run would do: trainings, passes and who shares them, skips, and how much it is.

    Args:
        plan: the plan.
        width: characters a line may have.
    """
    return [*_plan(plan, width), paragraph(_amount(plan), width), paragraph(_ESTIMATES, width)]


def suite_renderables(suite: Suite, plans: Mapping[str, Plan], width: int) -> list[RenderableType]:
    """What a run of a suite would do: the plan of each benchmark, and the sum.

    Args:
        suite: the suite.
        plans: the plan of each benchmark.
        width: characters a line may have.
    """
    parts: list[RenderableType] = []
    for plan in plans.values():
        parts += [*_plan(plan, width), Text()]
    spec = suite.spec
    heading = f"Suite '{spec.name}' (version {spec.version}): {counted(len(plans), 'benchmark')}"
    parts += [paragraph(heading, width, style="bold")]
    parts += [*table_renderables(_members(plans), width), Text()]
    if spec.training:
        changes = ", ".join(f"{key}: {value}" for key, value in spec.training.items())
        said = f"The suite changes the training of every model ({changes})."
        parts.append(paragraph(said, width))
    return [*parts, paragraph(_ESTIMATES, width)]


def _plan(plan: Plan, width: int) -> list[RenderableType]:
    benchmark = plan.benchmark
    heading = (
        f"Plan of benchmark '{benchmark.name}' (version {benchmark.version}): "
        f"{counted(len(plan.methods), 'method')}, {counted(len(plan.models), 'model')}, "
        f"{counted(len(plan.seeds), 'seed')}"
    )
    tables = [_trainings(plan), _passes(plan), *([_skips(plan)] if plan.skips else [])]
    untuned = [(method.detector.name, method.untuned) for method in plan.methods if method.untuned]
    notes = [paragraph(untuned_note(untuned), width), Text()] if untuned else []
    return [
        paragraph(heading, width, style="bold"),
        Text(),
        *(part for each in tables for part in (*table_renderables(each, width), Text())),
        *notes,
    ]


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    headings = tuple(
        Heading(name, name, text=name not in _NUMBERS, importance=_IMPORTANCE.get(name, 5))
        for name in columns
    )
    return Table(title, headings, (Section("", tuple(tuple(map(Cell, row)) for row in rows)),))


def _trainings(plan: Plan) -> Table:
    seeds = ", ".join(map(str, plan.seeds))
    each = f"for seed {seeds}" if len(plan.seeds) == 1 else f"for each of the seeds {seeds}"
    rows = []
    for name in plan.models:
        model = plan.benchmark.models[name]
        recipe = model.training
        named = f"{recipe.recipe}: " if recipe.recipe else ""
        rows.append(
            (
                name,
                model.network,
                model.head,
                f"{named}{counted(recipe.epochs, 'epoch')}, batch {recipe.batch_size}, "
                f"{recipe.schedule} {recipe.learning_rate:g}",
                *_numbers(workload.training(plan, name)),
            )
        )
    return _table(
        f"Models (trained unless in the cache, {each})",
        ("model", "network", "head", "recipe", "images", "FLOPs"),
        rows,
    )


def _passes(plan: Plan) -> Table:
    """One row for the passes that are alike but for their data."""
    alike: dict[tuple[Any, ...], list[Pass]] = {}
    for planned in plan.passes:
        kind = (planned.model, planned.purpose, planned.methods, planned.split, planned.forwards)
        alike.setdefault(kind, []).append(planned)
    rows = []
    for (model, purpose, methods, split, forwards), passes in alike.items():
        # The model stands at the beginning of the row.
        names = ", ".join(method.removeprefix(f"{model}+") for method in methods)
        rows.append(
            (
                model,
                purpose,
                f"{', '.join(planned.dataset for planned in passes)} ({split})",
                names,
                forwards.replace(f"{model}+", "") + ("; all taps" if passes[0].taps else ""),
                *_numbers(workload.total(workload.this_pass(plan, planned) for planned in passes)),
            )
        )
    return _table(
        "Passes (for each seed)",
        ("model", "to", "data", "methods", "passes", "images", "FLOPs"),
        rows,
    )


def _skips(plan: Plan) -> Table:
    rows = [(skip.method, skip.reason) for skip in plan.skips]
    return _table("Skipped", ("method", "reason"), rows)


def _members(plans: Mapping[str, Plan]) -> Table:
    """One row for each benchmark, of all seeds, and the sum."""

    def work(parts: Iterable[Plan]) -> tuple[str, ...]:
        chosen = list(parts)
        count = sum(len(plan.models) * len(plan.seeds) for plan in chosen)
        trained = workload.total(workload.trainings(plan) for plan in chosen)
        swept = workload.total(workload.passes(plan) for plan in chosen)
        return str(count), *_numbers(trained), *_numbers(swept)

    rows = [
        (name, plan.benchmark.id, ", ".join(plan.benchmark.ood_groups), *work([plan]))
        for name, plan in plans.items()
    ]
    return _table(
        "In all, over all seeds (images are counted once for each epoch, and for each pass)",
        ("benchmark", "ID", "OOD", *_NUMBERS[2:]),
        [*rows, ("sum", "", "", *work(plans.values()))],
    )


# --- words and numbers -------------------------------------------------------------------------


def _amount(plan: Plan) -> str:
    trained, swept = workload.trainings(plan), workload.passes(plan)
    count = len(plan.models) * len(plan.seeds)
    return (
        f"In all: {counted(count, 'training')} over {counted(trained.images, 'image')} "
        f"({_flops(trained)}FLOPs), then passes over {counted(swept.images, 'image')} "
        f"({_flops(swept)}FLOPs with tuning and gradients)."
    )


def _numbers(work: Work) -> tuple[str, str]:
    return f"{work.images:,}", _flops(work).strip()


def _flops(work: Work) -> str:
    """Three digits and a prefix, or a question mark; a space after it."""
    if work.flops is None:
        return "? "
    value = work.flops
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if value < 999.5 or prefix == "E":
            break
        value /= 1000
    return f"{value:.3g} {prefix}"
