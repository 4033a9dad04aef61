"""The plan of a benchmark and the estimate of its work, for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import RenderableType
from rich.text import Text

from oodbench.cli.missing_data import total
from oodbench.data.missing_files import MissingFile
from oodbench.errors import counted, listed
from oodbench.planning import workload
from oodbench.planning.plan import Plan
from oodbench.planning.planned_splits import planned_splits
from oodbench.planning.shards import shards_of
from oodbench.planning.workload import Pass, Work
from oodbench.report.tables.document import Cell, Heading, Section, Table
from oodbench.report.tables.notes import (
    fit_split_notes,
    left_out_note,
    same_source_note,
    untuned_note,
)
from oodbench.report.tables.values import metric_title
from oodbench.report.writers.terminal import paragraph, table_renderables
from oodbench.specs import ModelSpec

SUMS = ("trainings", "trained on", "training FLOPs", "passed over", "pass FLOPs")
"""Columns of what a whole benchmark takes."""
_NUMBERS = ("images", "FLOPs", "MB", *SUMS)
_IMPORTANCE = {"model": 9, "to": 9, "data": 7, "methods": 7, "method": 9, "reason": 9, "passes": 6}
_IMPORTANCE |= {"benchmark": 9, "FLOPs": 8, "training FLOPs": 8, "pass FLOPs": 8}
_IMPORTANCE |= {
    "images": 7,
    "trained on": 7,
    "benchmarks": 8,
    "passed over": 7,
    "ID": 6,
    "data set": 9,
    "splits": 9,
}
"""Of columns, for `Heading`; 5 of the others."""

_MANY = 12
"""Methods of a model that are named once, above the tables."""

ESTIMATES = (
    "Models, methods and skips are what the run does. Images and FLOPs are estimates: convolutions "
    "alone, 2 for each multiply-add, training 3 forward passes for each image; ? where those of a "
    "network are not known. Models in the cache are not trained again; measuring costs is not "
    "counted."
)
"""What the numbers of a plan are."""


def renderables(plan: Plan, width: int) -> list[RenderableType]:
    """What a run would do: models, methods, skips; and the estimate of its passes and operations.

    Args:
        plan: the plan.
        width: characters a line may have.
    """
    return [*_plan(plan, width), paragraph(_amount(plan), width), paragraph(ESTIMATES, width)]


def missing_renderables(
    missing: Sequence[MissingFile], root: Path, name: str, width: int
) -> list[RenderableType]:
    """What a run would download, and what the user has to provide; empty if all is here.

    Args:
        missing: files and folders that are not in the data root.
        root: the data root.
        name: what needs them, as the user named it.
        width: characters a line may have.
    """
    if not missing:
        return []
    rows = []
    for (place, source), files in _grouped(missing, root).items():
        sizes = [file.size for file in files]
        known = sum(size for size in sizes if size is not None)
        many = f" ({len(files)} lists)" if len(files) > 1 else ""
        rows.append((place + many, f"{known / 1e6:,.1f}" if None not in sizes else "?", source))
    told = [total(missing, root)] if any(file.urls for file in missing) else []
    told.append(f"A run downloads files that have a source, as `oodbench data fetch {name}` does.")
    table = table_of(f"Not in the data root {root}", ("missing", "MB", "source"), rows)
    return [Text(), *table_renderables(table, width), *(paragraph(each, width) for each in told)]


def _grouped(
    missing: Sequence[MissingFile], root: Path
) -> dict[tuple[str, str], list[MissingFile]]:
    """Place and source -> files; the lists of one folder are together."""
    found: dict[tuple[str, str], list[MissingFile]] = {}
    for file in missing:
        source = urlsplit(file.urls[0]).hostname if file.urls else None
        place = file.target.relative_to(root) if file.target.is_relative_to(root) else file.target
        shown = f"{place.parent.as_posix()}/*.txt" if place.suffix == ".txt" else place.as_posix()
        key = shown, source or f"to be provided: {file.what}"
        found.setdefault(key, []).append(file)
    return found


def _plan(plan: Plan, width: int) -> list[RenderableType]:
    benchmark = plan.benchmark
    heading = (
        f"Plan of benchmark '{benchmark.name}' (version {benchmark.version}): "
        f"{counted(len(plan.methods), 'method')}, {counted(len(plan.models), 'model')}, "
        f"{counted(len(plan.seeds), 'seed')}"
    )
    tables = [_data(plan)]
    tables += [_trainings(plan), _passes(plan)] if plan.methods else []
    tables += [_skips(plan)] if plan.skips else []
    return [
        paragraph(heading, width, style="bold"),
        *(paragraph(line, width) for line in named_methods(plan)),
        Text(),
        *(part for each in tables for part in (*table_renderables(each, width), Text())),
        *(part for note in notes_of(plan) for part in (paragraph(note, width), Text())),
    ]


def named_methods(plan: Plan, least: int = _MANY + 1) -> list[str]:
    """The methods of each model with at least so many, in one sentence."""
    return [
        f"Methods on {model}: "
        f"{', '.join(m.name.removeprefix(f'{model}+') for m in plan.methods_of(model))}."
        for model in plan.models
        if len(plan.methods_of(model)) >= least
    ]


def notes_of(plan: Plan) -> list[str]:
    """What is left out, not tuned, tested in shards or on request, or fitted on another split."""
    untuned = [(method.detector.name, method.untuned) for method in plan.methods if method.untuned]
    said = [left_out_note(plan.left_out)] if plan.left_out else []
    said += [untuned_note(untuned)] if untuned else []
    said += [_shards(plan)] if plan.shard_images is not None else []
    titles = [metric_title(name) for name in plan.benchmark.metrics]
    said += [f"Metrics on request: {', '.join(titles)}."] if titles else []
    tuned_on = dict.fromkeys(m.tuning_ood for m in plan.methods if m.tuning_ood is not None)
    if plan.same_source:
        said += [same_source_note(ood, plan.same_source) for ood in tuned_on]
    return [*said, *fit_split_notes((m.detector.name, m.other_fit_split) for m in plan.methods)]


def table_of(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of texts; columns are named, and known to hold words or numbers, by `columns`."""
    headings = tuple(
        Heading(
            name,
            name,
            text=name not in _NUMBERS,
            importance=_IMPORTANCE.get(name, 5),
            width=24 if name in ("benchmark", "benchmarks") else 16,
        )
        for name in columns
    )
    return Table(title, headings, (Section("", tuple(tuple(map(Cell, row)) for row in rows)),))


def _data(plan: Plan) -> Table:
    """One row for each split; manifests where one has another name than its data set."""
    splits = planned_splits(plan)
    renamed = any(each.dataset != each.manifest for each in splits)
    columns = ("role", "data set", *(("manifest",) if renamed else ()), "images")
    rows = [
        (
            f"{each.role} (not here)" if each.absent else each.role,
            each.dataset,
            *((each.manifest,) if renamed else ()),
            f"{'up to ' if each.at_most else ''}{each.images:,}",
        )
        for each in splits
    ]
    return table_of("Data", columns, rows)


MODEL_COLUMNS = ("model", "network", "head", "recipe")


def model_rows(plan: Plan) -> list[tuple[str, ...]]:
    """A row of `MODEL_COLUMNS` for each model."""
    models = [(name, plan.benchmark.models[name]) for name in plan.models]
    return [
        (name, model.network, model.head, recipe_of(model, len(plan.seeds)))
        for name, model in models
    ]


def _trainings(plan: Plan) -> Table:
    seeds = ", ".join(map(str, plan.seeds))
    each = f"for seed {seeds}" if len(plan.seeds) == 1 else f"for each of the seeds {seeds}"
    rows = []
    for row in model_rows(plan):
        work = ("", "")
        if plan.benchmark.models[row[0]].training is not None:
            work = work_cells(workload.training_work(plan, row[0]))
        rows.append((*row, *work))
    trained = any(plan.benchmark.models[name].training is not None for name in plan.models)
    return table_of(
        f"Models (trained unless in the cache, {each})" if trained else f"Models ({each})",
        (*MODEL_COLUMNS, "images", "FLOPs"),
        rows,
    )


def recipe_of(model: ModelSpec, seeds: int) -> str:
    """How a model is trained, or its published weights, one checkpoint for each seed."""
    if model.weights is not None:
        return f"no training: weights {model.weights}"
    if model.training is None:
        used = model.checkpoint if model.ensemble else model.checkpoint[:seeds]
        names = listed(dict.fromkeys(each.path or each.file_name for each in used), 2)
        return f"no training: {'ensemble of ' if model.ensemble else ''}{names}"
    recipe = model.training
    named = f"{recipe.recipe}: " if recipe.recipe else ""
    return (
        f"{named}{counted(recipe.epochs, 'epoch')}, batch {recipe.batch_size}, "
        f"{recipe.schedule} {recipe.learning_rate:g}"
    )


def alike_passes(plan: Plan) -> list[list[Pass]]:
    """The passes over data, together where they differ in their data alone."""
    alike: dict[tuple[str, ...], list[Pass]] = {}
    for each in workload.passes_of(plan):
        kind = (each.model, each.purpose, each.split, *each.methods)
        alike.setdefault(kind, []).append(each)
    return list(alike.values())


def _passes(plan: Plan) -> Table:
    """One row for the passes that differ in their data alone."""
    rows = []
    for passes in alike_passes(plan):
        first = passes[0]
        rows.append(
            (
                first.model,
                first.purpose,
                f"{', '.join(each.dataset for each in passes)} ({first.split})",
                methods_of(plan, first),
                forwards_of(first),
                *work_cells(workload.total(workload.pass_work(plan, each) for each in passes)),
            )
        )
    return table_of(
        "Estimate of the passes over data (for each seed)",
        ("model", "to", "data", "methods", "passes", "images", "FLOPs"),
        rows,
    )


def _shards(plan: Plan) -> str:
    """How many shards each set has."""
    shards = shards_of(plan)
    counts = Counter(plan.benchmark.id if each.scored == "id" else each.scored for each in shards)
    most = max((each.stop - each.start for each in shards if each.stop is not None), default=None)
    size = "one set each" if most is None else f"at most {most:,} images"
    sets = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"Each model and seed is scored in {counted(len(shards), 'shard')} of {size}: {sets}."


def methods_of(plan: Plan, planned: Pass) -> str:
    """Names of the methods of a pass, or their number if they are all of a model with many."""
    count = len(planned.methods)
    everything = count == len(plan.methods_of(planned.model)) and count > _MANY
    return f"all {count} methods" if everything else _short(planned, planned.methods)


def _short(planned: Pass, methods: Sequence[str], most: int | None = None) -> str:
    """Methods without their model, which stands at the beginning of the row; many as a number."""
    if most is not None and len(methods) > most:
        return counted(len(methods), "method")
    return ", ".join(method.removeprefix(f"{planned.model}+") for method in methods)


def forwards_of(planned: Pass, most: int | None = None) -> str:
    """Passes of the network over each image of a pass over data, in words.

    Args:
        planned: the pass over data.
        most: how many methods are named; None: all.
    """
    layers = ["all feature layers"] if planned.taps else []
    if planned.purpose == "tune":
        many = len(planned.methods) > 1
        return "; ".join(["a grid for each" if many else "its grid", *layers])
    own = []
    if planned.purpose == "score" and planned.gradients:
        own.append(f"+ gradients: {_short(planned, planned.gradients, most)}")
    if planned.purpose == "score" and planned.replacing:
        own.append(f"+ replaced layers: {_short(planned, planned.replacing, most)}")
    if planned.purpose == "score" and planned.rotating:
        own.append(f"+ 3 of rotated images: {_short(planned, planned.rotating, most)}")
    return "; ".join(["1 forward pass", *own, *layers])


def _skips(plan: Plan) -> Table:
    rows = [(", ".join(names), reason) for reason, names in skipped(plan).items()]
    return table_of("Skipped", ("method", "reason"), rows)


def skipped(plan: Plan) -> dict[str, list[str]]:
    """Why methods are skipped -> their names."""
    methods: dict[str, list[str]] = {}
    for skip in plan.skips:
        methods.setdefault(skip.reason, []).append(skip.method)
    return methods


# --- words and numbers -------------------------------------------------------------------------


def _amount(plan: Plan) -> str:
    trained, passed = workload.all_trainings(plan), workload.all_passes(plan)
    count = workload.training_count(plan)
    if not count:
        return (
            f"Estimate: no training, passes over {counted(passed.images, 'image')} "
            f"({_flops(passed)}FLOPs with tuning and gradients)."
        )
    return (
        f"Estimate: {counted(count, 'training')} over {counted(trained.images, 'image')} "
        f"({_flops(trained)}FLOPs), then passes over {counted(passed.images, 'image')} "
        f"({_flops(passed)}FLOPs with tuning and gradients)."
    )


def work_cells(work: Work) -> tuple[str, str]:
    """Images and operations, with a prefix."""
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
