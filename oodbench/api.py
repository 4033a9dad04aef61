"""Functions for programs: run a benchmark or a suite, open a run, load a detector."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench import argument_checks
from oodbench.errors import UserError
from oodbench.execution import Execution
from oodbench.planning.absent_splits import with_images_here
from oodbench.planning.executor_options import ExecutorOptions
from oodbench.planning.methods.detector_settings import (
    Refusal,
    Refuses,
    check_tried,
    tried_arguments,
)
from oodbench.planning.overrides import Overrides
from oodbench.planning.plan import Plan
from oodbench.planning.planner import make_plan
from oodbench.planning.suite_plan import load_suite, plan_suite
from oodbench.plugins.catalog import Catalog, DetectorStatus
from oodbench.plugins.content_folders import Plugin, checked_plugins
from oodbench.plugins.import_trials import parameter_errors
from oodbench.process import prepare_process
from oodbench.progress import Reporter, Silent
from oodbench.results import Run, SuiteRun
from oodbench.storage.changed_files import changed_files
from oodbench.storage.run_directory import RunDirectory
from oodbench.storage.run_places import place_of_run
from oodbench.storage.stored_run import read_stored_run
from oodbench.storage.suite_directory import SuiteDirectory

if TYPE_CHECKING:
    from oodbench.detector import Detector
    from oodbench.run_comparison.changes import RunComparison

_NOTHING_TO_RESUME = "There is nothing to resume in {folder}: a new run begins there."


def run(
    benchmark: str | Path = "digits",
    *,
    out: str | Path | None = None,
    methods: str | Sequence[str] | None = None,
    seeds: int | None = None,
    device: str = "auto",
    plugins: Sequence[Plugin] = (),
    data_root: str | Path | None = None,
    resume: bool = False,
    tune: str | Sequence[str] | None = None,
    limit: int | None = None,
    epochs: int | None = None,
    metrics: str | Sequence[str] = (),
    workers: int | None = None,
    executor: str = "local",
    address: str | None = None,
    submitit_options: Mapping[str, Any] | None = None,
    shard_images: int | None = None,
    progress: Reporter | None = None,
) -> Run:
    """Run a benchmark, as `oodbench run` does.

    Args:
        benchmark: a name, or the path of a YAML file.
        out: the run directory; default: `runs/<benchmark>-<time>`.
        methods: names of methods or detectors, or "all"; default: those that the benchmark chooses
            (`default_detectors`).
        seeds: number of seeds, 0 .. seeds - 1; None: 3, or as many as every model has published
            checkpoints.
        device: "auto", "cpu", "cuda" or "cuda:i".
        plugins: folders of content besides the built-in one, and classes of detectors that are in
            no folder, such as those of a notebook.
        data_root: folder of data sets that do not come built in; recorded with the run.
        resume: continue the run in `out`; without `out`, the newest run of the benchmark.
        tune: names of the detectors that are tuned, instead of those of the benchmark; or "all",
            or "none".
        limit: for a first try: most images of each split (`oodbench.data.image_selection`).
        epochs: for a first try: most epochs of a training. Results with `limit` or `epochs` are
            not the benchmark's; every report says so, and they never mix with others.
        metrics: metrics on request beside those of the benchmark (`oodbench.metrics.OPTIONAL`), or
            "all".
        workers: how many models and seeds are computed at once, each in a process with its share of
            the cores, or on the next GPU in turn (docs/how-to/several-gpus.md). Default: 1; with
            Ray one for each GPU, or for each node; with submitit all, 100 at most.
        executor: "local"; "ray": on the nodes of a Ray cluster; or "submitit": as jobs of Slurm.
        address: of the cluster, HOST:PORT or "auto"; default: `RAY_ADDRESS`, else a cluster of this
            machine alone.
        submitit_options: options of the jobs: `folder`, `cluster`, and parameters of submitit
            (docs/how-to/slurm.md).
        shard_images: score test sets in parts of so many images, up to whole batches, each by any
            of the workers; a run that was stopped continues at the next part
            (docs/how-to/shards.md).
        progress: progress reporter; default: silent.

    Raises:
        UserError: if an argument is not valid, or names something that does not exist.
    """
    prepare_process()
    chosen = ExecutorOptions.read(executor, address, workers, submitit_options, shard_images)
    plugins, methods, seeds = _checked(
        plugins, methods, seeds, benchmark=benchmark, out=out, data_root=data_root, resume=resume
    )
    catalog, overrides = Catalog(plugins), Overrides.read(tune, limit, epochs, metrics)
    # Misspelt names are found before torch is loaded, which takes seconds.
    plan_run(
        catalog, benchmark, catalog.detectors, seeds=seeds, methods=methods, overrides=overrides
    )
    execution = Execution(
        catalog, device, chosen, resume=resume, data_root=data_root, progress=progress
    )
    plan = plan_run(
        catalog,
        benchmark,
        catalog.imported_detectors(),
        seeds=seeds,
        methods=methods,
        refusal=_refusal(catalog),
        overrides=overrides,
    )
    plan = replace(with_images_here(plan, data_root), shard_images=chosen.shard_images)
    name = overrides.folder_name(catalog.benchmark(str(benchmark)).name)
    with place_of_run(out, name, resume) as folder:
        if resume and not RunDirectory(folder).exists():
            (progress or Silent()).warn(_NOTHING_TO_RESUME.format(folder=folder))
        return execution.run(plan, folder)


def run_suite(
    suite: str | Path = "dismax-paper",
    *,
    out: str | Path | None = None,
    methods: str | Sequence[str] | None = None,
    seeds: int | None = None,
    device: str = "auto",
    plugins: Sequence[Plugin] = (),
    data_root: str | Path | None = None,
    resume: bool = False,
    tune: str | Sequence[str] | None = None,
    limit: int | None = None,
    epochs: int | None = None,
    metrics: str | Sequence[str] = (),
    workers: int | None = None,
    executor: str = "local",
    address: str | None = None,
    submitit_options: Mapping[str, Any] | None = None,
    shard_images: int | None = None,
    progress: Reporter | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> SuiteRun:
    """Run the benchmarks of a suite and compare the results with published numbers.

    As `oodbench run` does with a suite. If a benchmark fails, the others still run.

    Args:
        suite: a name, or the path of a YAML file.
        out: the suite's directory; default: `runs/<suite>-<time>`.
        methods: names of methods or detectors, or "all"; default: those that each benchmark
            chooses (`default_detectors`).
        seeds: number of seeds, 0 .. seeds - 1; None: 3, or as many as every model has published
            checkpoints.
        device: "auto", "cpu", "cuda" or "cuda:i".
        plugins: folders of content besides the built-in one, and classes of detectors that are in
            no folder, such as those of a notebook.
        data_root: folder of data sets that do not come built in; recorded with the runs.
        resume: continue the run in `out`; without `out`, the newest run of the suite.
        tune: names of the detectors that are tuned, instead of those of the benchmark; or "all",
            or "none".
        limit: for a first try: most images of each split (`oodbench.data.image_selection`).
        epochs: for a first try: most epochs of a training. Results with `limit` or `epochs` are
            not the benchmark's; every report says so, and they never mix with others.
        metrics: metrics on request beside those of the benchmark (`oodbench.metrics.OPTIONAL`), or
            "all".
        workers: how many models and seeds are computed at once, each in a process with its share of
            the cores, or on the next GPU in turn (docs/how-to/several-gpus.md). Default: 1; with
            Ray one for each GPU, or for each node; with submitit all, 100 at most.
        executor: "local"; "ray": on the nodes of a Ray cluster; or "submitit": as jobs of Slurm.
        address: of the cluster, HOST:PORT or "auto"; default: `RAY_ADDRESS`, else a cluster of this
            machine alone.
        submitit_options: options of the jobs: `folder`, `cluster`, and parameters of submitit
            (docs/how-to/slurm.md).
        shard_images: score test sets in parts of so many images, up to whole batches, each by any
            of the workers; a run that was stopped continues at the next part
            (docs/how-to/shards.md).
        progress: progress reporter of each benchmark; default: silent.
        say: called with a line before and after each benchmark.

    Raises:
        UserError: if an argument is not valid, or names something that does not exist.
    """
    from oodbench.engine.runs.suite_run import run_members

    prepare_process()
    chosen = ExecutorOptions.read(executor, address, workers, submitit_options, shard_images)
    plugins, methods, seeds = _checked(
        plugins, methods, seeds, suite=suite, out=out, data_root=data_root, resume=resume
    )
    catalog, overrides = Catalog(plugins), Overrides.read(tune, limit, epochs, metrics)
    whole = load_suite(catalog, str(suite))
    loaded = whole.changed(overrides.with_detector_names(catalog.aliases))
    plan_suite(catalog, loaded, catalog.detectors, seeds=seeds, methods=methods)
    execution = Execution(
        catalog, device, chosen, resume=resume, data_root=data_root, progress=progress
    )
    plans = plan_suite(
        catalog,
        loaded,
        catalog.imported_detectors(),
        seeds=seeds,
        methods=methods,
        refusal=_refusal(catalog),
    )
    plans = {
        name: replace(with_images_here(plan, data_root), shard_images=chosen.shard_images)
        for name, plan in plans.items()
    }
    reporter = progress or Silent()
    with place_of_run(out, overrides.folder_name(whole.spec.name), resume) as folder:
        if resume and not SuiteDirectory(folder).exists():
            reporter.warn(_NOTHING_TO_RESUME.format(folder=folder))
        state = run_members(
            loaded,
            plans,
            catalog,
            SuiteDirectory(folder),
            execution.prepare,
            execution.report,
            execution.executor_for(*plans.values()),
            resume=resume,
            request={"seeds": seeds, "methods": None if methods is None else list(methods)},
            say=say,
            progress=reporter,
            data_root=None if data_root is None else Path(data_root),
        )
    failures = tuple(f"{each.name}: {each.reason}" for each in state.members if each.reason)
    return SuiteRun(folder, state.complete, failures)


def open_run(folder: str | Path) -> Run | SuiteRun:
    """The run on disk in a folder, of a benchmark or of a suite.

    Warns if files with results were changed after the run (`Run.changed`).

    Raises:
        UserError: if there is none, or its description is not readable.
    """
    place = Path(folder)
    found = SuiteRun(place) if SuiteDirectory(place).exists() else Run(place)
    if changed := found.changed:
        warnings.warn(changed_files(place, changed), stacklevel=2)
    return found


def _checked(
    plugins: Any, methods: Any, seeds: Any, *, resume: Any, **places: Any
) -> tuple[list[Plugin], list[str] | None, int | None]:
    """Plug-ins, names of methods and number of seeds, checked.

    Raises:
        UserError: if one of them, `resume` or a path has a wrong type.
    """
    argument_checks.truth("resume", resume)
    for name, place in places.items():
        if place is not None or name in ("benchmark", "suite"):
            argument_checks.path(name, place)
    return (
        checked_plugins("plugins", plugins),
        None if methods is None else argument_checks.names("methods", methods),
        None
        if seeds is None
        else argument_checks.whole_number("seeds", seeds, 1, argument_checks.MOST_SEEDS),
    )


def _refusal(catalog: Catalog) -> Refuses:
    """A function that says why a detector cannot be made, before anything is trained."""

    def refusal(detector: str, arguments: Mapping[str, Any]) -> Refusal | None:
        try:
            catalog.load_detector(detector, arguments)
        except UserError as error:
            return error.message, error.hint
        return None

    return refusal


def plan_run(
    catalog: Catalog,
    benchmark: str | Path,
    statuses: Mapping[str, DetectorStatus],
    *,
    seeds: int | None,
    methods: Sequence[str] | None,
    refusal: Refuses = lambda detector, arguments: None,
    overrides: Overrides | None = None,
) -> Plan:
    """The plan of a run; nothing is run.

    Raises:
        UserError: as `oodbench.planning.planner.make_plan`.
    """
    spec = (overrides or Overrides()).of(catalog.benchmark(str(benchmark)))
    return make_plan(spec, catalog, statuses, seeds=seeds, methods=methods, refusal=refusal)


def check_parameters(plan: Plan, catalog: Catalog) -> None:
    """Check that each detector takes its arguments and grid, without importing it in this process.

    For a plan that is only shown; `run` finds the same when it makes the detectors.

    Raises:
        UserError: naming file, line and method.
    """
    trials = [(method, each) for method in plan.methods for each in tried_arguments(method)]
    files = (catalog.entry("detector", method.detector.name).path for method, _ in trials)
    errors = parameter_errors([(file, each) for file, (_, each) in zip(files, trials, strict=True)])
    for method in plan.methods:
        mine = [error for (of, _), error in zip(trials, errors, strict=True) if of is method]
        check_tried(method, plan.benchmark, mine)


def compare(
    base: Run | str | Path,
    head: Run | str | Path,
    *,
    metrics: Sequence[str] | None = None,
    level: float = 0.05,
) -> RunComparison:
    """Compare two runs of a benchmark, as `oodbench compare` does.

    Args:
        base: the run to compare with: a run, its folder, or a folder with its records.
        head: the run that is looked at, likewise.
        metrics: names of metrics; default: AUROC, and FPR95 with ID positive.
        level: probability of one wrong verdict "better" or "worse" or more, over all that is
            compared.

    Returns:
        The differences of every method, metric, OOD set and group, with intervals and verdicts.

    Raises:
        UserError: if there is no run, an argument is not valid, or scores are damaged.
    """
    from oodbench.run_comparison.comparison import compare_runs

    sides = [
        read_stored_run(side.folder if isinstance(side, Run) else argument_checks.path(name, side))
        for name, side in (("base", base), ("head", head))
    ]
    return compare_runs(*sides, metrics=metrics, level=level)


def load_detector(name: str, /, **parameters: Any) -> Detector:
    """A detector by name.

    Args:
        name: a name of `oodbench list detectors`.
        **parameters: arguments of its constructor.

    Raises:
        UserError: if there is no such detector, it is broken, or it does not take a parameter.
    """
    return Catalog().load_detector(name, parameters)
