"""Making a plan from a benchmark and a catalog: no tensor, no file of images, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from oodbench.argument_checks import MOST_SEEDS, whole_number
from oodbench.errors import UserError, counted, did_you_mean, see_list
from oodbench.models.registry import (
    AUXILIARY_HINT,
    HEADS,
    NETWORKS,
    auxiliary_problem,
    is_callable_name,
    library_of,
)
from oodbench.planning.data_checks import check_data
from oodbench.planning.methods.aliases import named_method, with_detector_names
from oodbench.planning.methods.detector_settings import (
    Refuses,
    check_settings,
    check_tried,
    key_place,
    parameters_error,
    tried_arguments,
    with_settings,
)
from oodbench.planning.methods.method_obstacles import cannot_run, has_no_images
from oodbench.planning.methods.method_selection import (
    benchmark_methods,
    check_known,
    declaration,
    default_methods,
    reference_method,
    selected_methods,
)
from oodbench.planning.plan import Method, Plan, Skip
from oodbench.planning.published_numbers import published_averages
from oodbench.plugins.catalog import Catalog, DetectorStatus, aliases
from oodbench.specs import BenchmarkSpec, DatasetSpec

DEFAULT_SEEDS = 3
EVERYTHING = "all"
"""In the place of names of methods: all methods of the benchmark, not its default."""


def make_plan(
    benchmark: BenchmarkSpec,
    catalog: Catalog,
    statuses: Mapping[str, DetectorStatus],
    *,
    seeds: int | None = None,
    methods: Sequence[str] | None = None,
    refusal: Refuses = lambda detector, arguments: None,
) -> Plan:
    """The plan of a run.

    Args:
        benchmark: its specification.
        catalog: gives the manifests of data sets.
        statuses: every detector with its declaration or its error.
        seeds: number of seeds, 0 .. seeds - 1; None: 3, or as many as every model has published
            checkpoints.
        methods: names of methods or detectors to run; ["all"] for all of the benchmark; None for
            its default.
        refusal: gives the reason why a detector cannot be made with some arguments, or None;
            called for methods that can run on their model.

    Raises:
        UserError: if a name is unknown, or "all" is one of several; two methods have one name; a
            detector that was asked for is broken; a loss does not take an option; the reference
            needs more than the logits; a data set lacks a split that is needed; or a model has
            fewer checkpoints than `seeds`.
    """
    if seeds is not None:
        whole_number("seeds", seeds, 1, MOST_SEEDS)
    other_names = aliases(statuses)
    benchmark = with_detector_names(benchmark, other_names)
    everything = methods is not None and list(methods) == [EVERYTHING]
    if methods is not None and EVERYTHING in methods and not everything:
        raise UserError(f"methods: '{EVERYTHING}' stands alone, without names.")
    if methods is not None:
        methods = [named_method(name, benchmark, other_names) for name in methods]
    for name, model in benchmark.models.items():
        if not is_callable_name(model.network) and library_of(model.network) is None:
            check_known(f"models.{name}.network", model.network, NETWORKS, benchmark, "models")
        check_known(f"models.{name}.head", model.head, HEADS, benchmark)
        for option in model.loss_options:
            options = HEADS[model.head].loss_options
            check_known(f"models.{name}.loss_options", option, options, benchmark)
        problem = auxiliary_problem(model)
        if problem is not None:
            raise UserError(
                f"{key_place(benchmark, 'models', name)}: {problem}.",
                AUXILIARY_HINT,
            )
    if benchmark.tuning.detectors != "all":
        for name in benchmark.tuning.detectors:
            check_known("tuning.detectors", name, statuses, benchmark, "detectors")
    for name in benchmark.default_detectors if benchmark.default_detectors != "all" else ():
        check_known("default_detectors", name, statuses, benchmark, "detectors")
    check_settings(benchmark, statuses)
    candidates, skips = benchmark_methods(benchmark, statuses)
    reference = reference_method(benchmark, statuses)
    if reference is not None:
        reference = with_settings(reference, benchmark)
    rest: list[Method] = []
    if methods is None:
        plugins = {name for name in statuses if catalog.is_plugin(name)}
        candidates, skips, rest = default_methods(candidates, skips, benchmark, plugins)
    elif not everything:
        candidates, skips = selected_methods(methods, candidates, skips, benchmark, statuses)
    candidates = [with_settings(method, benchmark) for method in candidates]
    splits = _dataset(benchmark, catalog, benchmark.id).splits
    candidates = [method.with_layers(splits) for method in candidates]
    _check_tuned(benchmark, candidates, statuses)
    candidates = [_tuned(method, benchmark, catalog) for method in candidates]
    rest = [_tuned(method, benchmark, catalog) for method in rest]
    runnable = []
    for method in candidates:
        reason = cannot_run(method, benchmark) or has_no_images(method, benchmark, splits)
        reason = reason or _refused(method, benchmark, refusal)
        if reason is None:
            runnable.append(method)
        else:
            skips.append(_skip(method, reason))
    auxiliary = (dataset for dataset, _ in benchmark.auxiliary_splits)
    names = dict.fromkeys((*benchmark.names, benchmark.tuning_ood, *auxiliary))
    datasets = {name: _dataset(benchmark, catalog, name) for name in names if name is not None}
    check_data(benchmark, datasets, runnable)
    return Plan(
        benchmark=benchmark,
        datasets=datasets,
        seeds=tuple(range(_seeds(benchmark, runnable, seeds))),
        methods=tuple(runnable),
        skips=tuple(skips),
        reference=reference,
        published=published_averages(benchmark, catalog),
        left_out=_left_out(rest, runnable, benchmark),
    )


def _left_out(
    rest: Sequence[Method], methods: Sequence[Method], benchmark: BenchmarkSpec
) -> tuple[str, ...]:
    """Detectors of the methods that the default leaves out, if they can run."""
    able = dict.fromkeys(m.detector.name for m in rest if cannot_run(m, benchmark) is None)
    there = {method.detector.name for method in methods}
    return tuple(name for name in able if name not in there)


def _seeds(benchmark: BenchmarkSpec, methods: Sequence[Method], seeds: int | None) -> int:
    """Number of seeds: every model with published checkpoints has one for each."""
    limits = {
        name: most
        for name in dict.fromkeys(method.model for method in methods)
        if (most := benchmark.models[name].most_seeds) is not None
    }
    if seeds is None:
        return min([DEFAULT_SEEDS, *limits.values()])
    for name, most in limits.items():
        if seeds > most:
            raise UserError(
                f"seeds: {counted(seeds, 'seed')} need as many checkpoints, and models.{name} of "
                f"benchmark '{benchmark.name}' has {counted(most, 'checkpoint')}.",
                f"Run --seeds {most}, or add checkpoints to the model.",
            )
    return seeds


def _refused(method: Method, benchmark: BenchmarkSpec, refusal: Refuses) -> str | None:
    """Why a method's detector cannot be made, or None.

    Raises:
        UserError: if the method was asked for, or the benchmark gives arguments that the detector
            does not take.
    """
    detector = method.detector.name
    found = refusal(detector, method.arguments)
    if found is None:
        tried = [refusal(detector, arguments) for arguments in tried_arguments(method)]
        check_tried(method, benchmark, tried)
        return None
    if method.asked_for or method.defaults:
        raise parameters_error(method, benchmark, found)
    return found[0].rstrip(".")


def _tunable(method: Method) -> bool:
    return bool("calibration" in method.detector.needs or method.search_space)


def _tuned(method: Method, benchmark: BenchmarkSpec, catalog: Catalog) -> Method:
    """The method with its tuning protocol."""
    if not _tunable(method):
        return method
    named = benchmark.methods.get(method.name)
    protocol = benchmark.tuning.protocol_for(
        method.detector.name,
        plugin=catalog.is_plugin(method.detector.name),
        own=None if named is None else named.tuning,
    )
    ood = benchmark.tuning.ood if protocol == "ood_validation" else None
    return replace(method, tuned_on=protocol, tuning_ood=ood)


def _check_tuned(
    benchmark: BenchmarkSpec, methods: Sequence[Method], statuses: Mapping[str, DetectorStatus]
) -> None:
    """Check that the detectors named by `--tune` exist and have something to tune."""
    tune = benchmark.tuning.tune
    if tune is None or tune == "none":
        return
    own = {spec.tuning for spec in benchmark.methods.values()} - {None, "none"}
    if benchmark.tuning.protocol == "none" and not own:
        raise UserError(
            f"tune: benchmark '{benchmark.name}' has no protocol to tune by "
            "(tuning.protocol: none).",
            "Leave out tune, or give the benchmark a protocol.",
        )
    for name in tune if tune != "all" else ():
        info = declaration(name, statuses, "tune", benchmark)
        if not info.search_space and "calibration" not in info.needs:
            raise UserError(
                f"tune: detector '{name}' has no search space: there is nothing to tune.",
                "Name detectors with a search space, or all, or none.",
            )
        mine = [method for method in methods if method.detector.name == name]
        if not any(_tunable(method) for method in mine):
            fixed = "its parameters are given" if mine else "no method of this run has it"
            raise UserError(f"tune: '{name}' has nothing to tune: {fixed}.")


def _skip(method: Method, reason: str) -> Skip:
    return Skip(method.name, method.model, method.detector.name, reason, method.asked_for)


def _dataset(benchmark: BenchmarkSpec, catalog: Catalog, name: str) -> DatasetSpec:
    """The manifest of a data set of the benchmark."""
    known = catalog.entries["dataset"]
    if name == benchmark.tuning_ood and benchmark.manifest(name) not in known:
        raise UserError(
            f"{key_place(benchmark, 'tuning', 'ood')}: there is no data set '{name}'.",
            did_you_mean(name, [*known, *benchmark.names], see_list("datasets")),
        )
    if name in benchmark.datasets:
        check_known(f"datasets.{name}", benchmark.manifest(name), known, benchmark, "datasets")
    return benchmark.decoded(catalog.dataset(benchmark.manifest(name)))
