"""A plan, drawn for a terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from oodbench.plan import Pass, Plan


def renderables(plan: Plan) -> list[RenderableType]:
    """What a run would do: trainings, passes and who shares them, skips."""
    benchmark, seeds = plan.benchmark, len(plan.seeds)
    images = sum(planned.images for planned in plan.passes if planned.purpose != "tune")
    return [
        f"Plan of benchmark '{benchmark.name}' (version {benchmark.version}): "
        f"{len(plan.methods)} methods, {len(plan.models)} models, {seeds} seeds",
        _trainings(plan),
        _passes(plan),
        f"Shared sweeps over {images} images for each seed, {images * seeds} in all, "
        "before tuning and input gradients.",
        *([_skips(plan)] if plan.skips else []),
    ]


def _table(title: str, *columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column == "images" else "left")
    return table


def _trainings(plan: Plan) -> Table:
    table = _table("Models (trained unless in the cache)", "model", "network", "head", "recipe")
    for name in plan.models:
        model = plan.benchmark.models[name]
        recipe = model.training
        table.add_row(
            name,
            model.network,
            model.head,
            f"{recipe.epochs} epochs, batch {recipe.batch_size}, {recipe.schedule} "
            f"{recipe.learning_rate:g}, seeds {', '.join(map(str, plan.seeds))}",
        )
    return table


def _passes(plan: Plan) -> Table:
    """One row for the passes that are alike but for their data."""
    alike: dict[tuple[Any, ...], list[Pass]] = {}
    for planned in plan.passes:
        kind = (planned.model, planned.purpose, planned.methods, planned.split, planned.forwards)
        alike.setdefault(kind, []).append(planned)
    table = _table("Passes (for each seed)", "model", "to", "data", "images", "methods", "sweeps")
    for (model, purpose, methods, split, forwards), passes in alike.items():
        table.add_row(
            model,
            purpose,
            f"{', '.join(planned.dataset for planned in passes)} ({split})",
            str(sum(planned.images for planned in passes)),
            ", ".join(methods),
            forwards + ("; all taps" if passes[0].taps else ""),
        )
    return table


def _skips(plan: Plan) -> Table:
    table = _table("Skipped", "method", "reason")
    for skip in plan.skips:
        table.add_row(skip.method, skip.reason)
    return table
