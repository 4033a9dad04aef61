"""A plan, drawn for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from oodbench import plan_workload as workload
from oodbench.errors import counted
from oodbench.plan import Pass, Plan
from oodbench.plan_workload import Work
from oodbench.suite import Suite

_NUMBERS = ("images", "FLOPs", "trainings", "trained on", "swept")
_ESTIMATES = (
    "FLOPs are estimates: convolutions alone, 2 for each multiply-add, training 3 forwards for "
    "each image; ? where those of a network are not known. What is in the cache is not trained "
    "again."
)


def renderables(plan: Plan) -> list[RenderableType]:
    """What a run would do: trainings, passes and who shares them, skips, and how much it is."""
    return [*_plan(plan), Text(_amount(plan)), Text(_ESTIMATES)]


def suite_renderables(suite: Suite, plans: Mapping[str, Plan]) -> list[RenderableType]:
    """What a run of a suite would do: the plan of each benchmark, and the sum."""
    parts: list[RenderableType] = []
    for plan in plans.values():
        parts += [*_plan(plan), Text()]
    spec = suite.spec
    heading = f"Suite '{spec.name}' (version {spec.version}): {len(plans)} benchmarks"
    parts += [Text(heading, style="bold"), _members(plans), Text()]
    if spec.training:
        changes = ", ".join(f"{key}: {value}" for key, value in spec.training.items())
        parts.append(Text(f"The suite changes the training of every model ({changes})."))
    return [*parts, Text(_ESTIMATES)]


def _plan(plan: Plan) -> list[RenderableType]:
    benchmark = plan.benchmark
    heading = (
        f"Plan of benchmark '{benchmark.name}' (version {benchmark.version}): "
        f"{counted(len(plan.methods), 'method')}, {counted(len(plan.models), 'model')}, "
        f"{counted(len(plan.seeds), 'seed')}"
    )
    tables = [_trainings(plan), _passes(plan), *([_skips(plan)] if plan.skips else [])]
    return [
        Text(heading, style="bold"),
        Text(),
        *(part for each in tables for part in (each, Text())),
    ]


def _table(title: str, *columns: str) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="italic",
        show_edge=False,
        pad_edge=False,
        header_style="",
    )
    for column in columns:
        number = column in _NUMBERS or column.startswith("FLOPs")
        table.add_column(
            column, justify="right" if number else "left", no_wrap=number or column == "benchmark"
        )
    return table


def _trainings(plan: Plan) -> Table:
    seeds = ", ".join(map(str, plan.seeds))
    each = f"for seed {seeds}" if len(plan.seeds) == 1 else f"for each of the seeds {seeds}"
    table = _table(
        f"Models (trained unless in the cache, {each})",
        *("model", "network", "head", "recipe", "images", "FLOPs"),
    )
    for name in plan.models:
        model = plan.benchmark.models[name]
        recipe = model.training
        work = workload.training(plan, name)
        named = f"{recipe.recipe}: " if recipe.recipe else ""
        table.add_row(
            name,
            model.network,
            model.head,
            f"{named}{recipe.epochs} epochs, batch {recipe.batch_size}, {recipe.schedule} "
            f"{recipe.learning_rate:g}",
            *_numbers(work),
        )
    return table


def _passes(plan: Plan) -> Table:
    """One row for the passes that are alike but for their data."""
    alike: dict[tuple[Any, ...], list[Pass]] = {}
    for planned in plan.passes:
        kind = (planned.model, planned.purpose, planned.methods, planned.split, planned.forwards)
        alike.setdefault(kind, []).append(planned)
    table = _table(
        "Passes (for each seed)",
        *("model", "to", "data", "methods", "sweeps", "images", "FLOPs"),
    )
    for (model, purpose, methods, split, forwards), passes in alike.items():
        # The model stands at the beginning of the row.
        names = ", ".join(method.removeprefix(f"{model}+") for method in methods)
        table.add_row(
            model,
            purpose,
            f"{', '.join(planned.dataset for planned in passes)} ({split})",
            names,
            forwards.replace(f"{model}+", "") + ("; all taps" if passes[0].taps else ""),
            *_numbers(workload.total(workload.sweep(plan, planned) for planned in passes)),
        )
    return table


def _skips(plan: Plan) -> Table:
    table = _table("Skipped", "method", "reason")
    for skip in plan.skips:
        table.add_row(skip.method, skip.reason)
    return table


def _members(plans: Mapping[str, Plan]) -> Table:
    """One row for each benchmark, of all seeds, and the sum."""
    table = _table(
        "In all, over all seeds (images are counted once for each epoch, and for each sweep)",
        *("benchmark", "ID", "OOD", "trainings", "trained on", "FLOPs ", "swept", "FLOPs"),
    )
    for name, plan in plans.items():
        table.add_row(
            name,
            plan.benchmark.id,
            ", ".join(plan.benchmark.ood_groups),
            str(len(plan.models) * len(plan.seeds)),
            *_numbers(workload.trainings(plan)),
            *_numbers(workload.sweeps(plan)),
        )
    table.add_section()
    table.add_row(
        "sum",
        "",
        "",
        str(sum(len(plan.models) * len(plan.seeds) for plan in plans.values())),
        *_numbers(workload.total(workload.trainings(plan) for plan in plans.values())),
        *_numbers(workload.total(workload.sweeps(plan) for plan in plans.values())),
    )
    return table


# --- words and numbers -------------------------------------------------------------------------


def _amount(plan: Plan) -> str:
    trained, swept = workload.trainings(plan), workload.sweeps(plan)
    count = len(plan.models) * len(plan.seeds)
    return (
        f"In all: {count} trainings over {trained.images:,} images ({_flops(trained)}FLOPs), then "
        f"sweeps over {swept.images:,} images ({_flops(swept)}FLOPs with tuning and gradients)."
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
