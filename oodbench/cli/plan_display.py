"""A plan and the estimate of its work, for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from oodbench.planning.suite_plan import Suite
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

_SUMS = ("trainings", "trained on", "training FLOPs", "passed over", "pass FLOPs")
_NUMBERS = ("images", "FLOPs", "MB", *_SUMS)
_IMPORTANCE = {"model": 9, "to": 9, "data": 7, "methods": 7, "method": 9, "reason": 9, "passes": 6}
_IMPORTANCE |= {"benchmark": 9, "FLOPs": 8, "training FLOPs": 8, "pass FLOPs": 8}
_IMPORTANCE |= {"images": 7, "trained on": 7, "passed over": 7, "ID": 6}
"""Of columns, for `Heading`; 5 of the others."""

_MANY = 12
"""Methods of a model that are named once, above the tables."""

_ESTIMATES = (
    "Models, methods and skips are what the run does. Images and FLOPs are estimates: convolutions "
    "alone, 2 for each multiply-add, training 3 forward passes for each image; ? where those of a "
    "network are not known. Models in the cache are not trained again; measuring costs is not "
    "counted."
)


def renderables(plan: Plan, width: int) -> list[RenderableType]:
    """What a run would do: models, methods, skips; and the estimate of its passes and operations.

    Args:
        plan: the plan.
        width: characters a line may have.
    """
    return [*_plan(plan, width), paragraph(_amount(plan), width), paragraph(_ESTIMATES, width)]


def suite_renderables(suite: Suite, plans: Mapping[str, Plan], width: int) -> list[RenderableType]:
    """What a run of a suite would do: plan and estimate of each benchmark, and the sum.

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
        note = f"The suite changes the training of every model ({changes})."
        parts.append(paragraph(note, width))
    return [*parts, paragraph(_ESTIMATES, width)]


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
    table = _table(f"Not in the data root {root}", ("missing", "MB", "source"), rows)
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
    untuned = [(method.detector.name, method.untuned) for method in plan.methods if method.untuned]
    said = [left_out_note(plan.left_out)] if plan.left_out else []
    said += [untuned_note(untuned)] if untuned else []
    said += [_shards(plan)] if plan.shard_images is not None else []
    titles = [metric_title(name) for name in benchmark.metrics]
    said += [f"Metrics on request: {', '.join(titles)}."] if titles else []
    tuned_on = dict.fromkeys(m.tuning_ood for m in plan.methods if m.tuning_ood is not None)
    if plan.same_source:
        said += [same_source_note(ood, plan.same_source) for ood in tuned_on]
    said += fit_split_notes((m.detector.name, m.other_fit_split) for m in plan.methods)
    notes = [part for note in said for part in (paragraph(note, width), Text())]
    named = [
        f"{model}: {', '.join(m.name.removeprefix(f'{model}+') for m in plan.methods_of(model))}."
        for model in plan.models
        if len(plan.methods_of(model)) > _MANY
    ]
    return [
        paragraph(heading, width, style="bold"),
        *(paragraph(f"Methods on {names}", width) for names in named),
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
    return _table("Data", columns, rows)


def _trainings(plan: Plan) -> Table:
    seeds = ", ".join(map(str, plan.seeds))
    each = f"for seed {seeds}" if len(plan.seeds) == 1 else f"for each of the seeds {seeds}"
    rows = []
    for name in plan.models:
        model = plan.benchmark.models[name]
        work = ("", "")
        if model.training is not None:
            work = _numbers(workload.training_work(plan, name))
        rows.append((name, model.network, model.head, _recipe(model, len(plan.seeds)), *work))
    trained = any(plan.benchmark.models[name].training is not None for name in plan.models)
    return _table(
        f"Models (trained unless in the cache, {each})" if trained else f"Models ({each})",
        ("model", "network", "head", "recipe", "images", "FLOPs"),
        rows,
    )


def _recipe(model: ModelSpec, seeds: int) -> str:
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


def _passes(plan: Plan) -> Table:
    """One row for the passes that differ in their data alone."""
    alike: dict[tuple[str, ...], list[Pass]] = {}
    for each in workload.passes_of(plan):
        kind = (each.model, each.purpose, each.split, *each.methods)
        alike.setdefault(kind, []).append(each)
    rows = []
    for passes in alike.values():
        first = passes[0]
        rows.append(
            (
                first.model,
                first.purpose,
                f"{', '.join(each.dataset for each in passes)} ({first.split})",
                _named(plan, first),
                _forwards(first),
                *_numbers(workload.total(workload.pass_work(plan, each) for each in passes)),
            )
        )
    return _table(
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


def _named(plan: Plan, planned: Pass) -> str:
    """Names of the methods of a pass, or their number if they are all of a model with many."""
    count = len(planned.methods)
    everything = count == len(plan.methods_of(planned.model)) and count > _MANY
    return f"all {count} methods" if everything else _short(planned, planned.methods)


def _short(planned: Pass, methods: Iterable[str]) -> str:
    """Names of methods without their model, which stands at the beginning of the row."""
    return ", ".join(method.removeprefix(f"{planned.model}+") for method in methods)


def _forwards(planned: Pass) -> str:
    """Passes of the network over each image of a pass over data, in words."""
    layers = ["all feature layers"] if planned.taps else []
    if planned.purpose == "tune":
        many = len(planned.methods) > 1
        return "; ".join(["a grid for each" if many else "its grid", *layers])
    own = []
    if planned.purpose == "score" and planned.gradients:
        own.append(f"+ gradients: {_short(planned, planned.gradients)}")
    if planned.purpose == "score" and planned.replacing:
        own.append(f"+ replaced layers: {_short(planned, planned.replacing)}")
    if planned.purpose == "score" and planned.rotating:
        own.append(f"+ 3 of rotated images: {_short(planned, planned.rotating)}")
    return "; ".join(["1 forward pass", *own, *layers])


def _skips(plan: Plan) -> Table:
    """One row for each reason."""
    methods: dict[str, list[str]] = {}
    for skip in plan.skips:
        methods.setdefault(skip.reason, []).append(skip.method)
    rows = [(", ".join(names), reason) for reason, names in methods.items()]
    return _table("Skipped", ("method", "reason"), rows)


def _members(plans: Mapping[str, Plan]) -> Table:
    """One row for each benchmark, of all seeds, and the sum."""

    def work(parts: Iterable[Plan]) -> tuple[str, ...]:
        chosen = list(parts)
        count = sum(workload.training_count(plan) for plan in chosen)
        trained = workload.total(workload.all_trainings(plan) for plan in chosen)
        passed = workload.total(workload.all_passes(plan) for plan in chosen)
        return str(count), *_numbers(trained), *_numbers(passed)

    rows = [
        (name, plan.benchmark.id, ", ".join(plan.benchmark.ood_groups), *work([plan]))
        for name, plan in plans.items()
    ]
    return _table(
        "Estimate over all seeds (images are counted once for each epoch, and for each pass)",
        ("benchmark", "ID", "OOD", *_SUMS),
        [*rows, ("sum", "", "", *work(plans.values()))],
    )


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
