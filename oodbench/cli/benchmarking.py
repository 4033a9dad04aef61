"""The commands `oodbench run` and `oodbench train`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oodbench.cli import missing_data
from oodbench.cli.display import console, finish, reporter, say
from oodbench.cli.parameters import (
    Address,
    Benchmark,
    DataRoot,
    Device,
    DryRun,
    Executor,
    JobOptions,
    Methods,
    Plugins,
    Seeds,
    ShardImages,
    Workers,
    given_path,
)
from oodbench.errors import ExitCode, InterruptedRun, UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from oodbench.planning.overrides import Overrides
    from oodbench.plugins.catalog import Catalog
    from oodbench.results import Run, SuiteRun


_UNREAD = "Images and weights are not read by --dry-run: a run checks them before it begins."


def run(
    benchmark: Benchmark = "digits",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=given_path,
            metavar="DIR",
            help="Run directory. Default: runs/<benchmark>-<time>.",
        ),
    ] = None,
    methods: Methods = None,
    seeds: Seeds = None,
    device: Device = "auto",
    plugins: Plugins = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue a run: finished work is not done again."),
    ] = False,
    data_root: DataRoot = None,
    tune: Annotated[
        str | None,
        typer.Option(
            "--tune",
            metavar="NAMES|all|none",
            help="Detectors to tune, instead of those that the benchmark tunes.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", min=1, help="For a first try: at most N images a split."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs", metavar="N", min=1, help="For a first try: train for at most N epochs."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="A,B|all",
            help="Metrics on request: aurc, oscr, acceptance, ece ... (docs/reference/metrics.md).",
        ),
    ] = None,
    workers: Workers = None,
    executor: Executor = "local",
    address: Address = None,
    submitit_option: JobOptions = None,
    shard_images: ShardImages = None,
    dry_run: DryRun = False,
) -> None:
    """Train what is not trained yet, score every method, print the leaderboards.

    A suite runs several benchmarks and compares them with published tables.
    """
    from oodbench import api, argument_checks
    from oodbench.data.store.download import OfflineError
    from oodbench.data.store.locations import root_folder
    from oodbench.planning.executor_options import ExecutorOptions, job_options
    from oodbench.planning.overrides import Overrides
    from oodbench.plugins.catalog import Catalog
    from oodbench.report.writers.terminal import paragraph

    output = console()
    jobs = job_options(submitit_option or ())
    chosen = ExecutorOptions.read(executor, address, workers, jobs, shard_images)
    catalog = Catalog(plugins or ())
    overrides = Overrides.read(tune, limit, epochs, () if metrics is None else metrics)
    if dry_run:
        argument_checks.device_name(device)
        parts = _planned(
            catalog,
            benchmark,
            seeds,
            _names(methods),
            overrides,
            data_root,
            shard_images,
            output.width,
        )
        parts += _missing(catalog, benchmark, data_root, output.width)
        parts.append(paragraph(_UNREAD, output.width))
        for part in parts:
            output.print(part)
        return
    options: dict[str, Any] = {
        "out": out,
        "methods": _names(methods),
        "seeds": seeds,
        "device": device,
        "plugins": plugins or (),
        "data_root": data_root,
        "resume": resume,
        "tune": tune,
        "limit": limit,
        "epochs": epochs,
        "metrics": () if metrics is None else metrics,
        "workers": workers,
        "executor": executor,
        "address": address,
        "submitit_options": chosen.jobs,
        "shard_images": shard_images,
        "progress": reporter(),
    }
    done: Run | SuiteRun
    try:
        if catalog.is_suite(benchmark):
            done = api.run_suite(benchmark, say=say, **options)
        else:
            done = api.run(benchmark, **options)
    except InterruptedRun as stop:
        again = _again(benchmark, stop.folder, methods, seeds, device, plugins, data_root)
        for option, value in (
            *(("--tune", tune), ("--limit", limit)),
            *(("--epochs", epochs), ("--metrics", metrics)),
        ):
            again += f" {option} {shlex.quote(str(value))}" if value is not None else ""
        again = " ".join([again, *map(shlex.quote, chosen.words)])
        say(f"Interrupted. What is finished is stored; continue with:\n  {again}")
        raise typer.Exit(ExitCode.INCOMPLETE) from None
    except OfflineError as error:
        from oodbench.planning.needed_files import needed_files

        needed, root = needed_files(catalog, benchmark), root_folder(data_root)
        if len(needed.missing(root)) < 2:
            raise
        raise missing_data.incomplete([error], needed, [benchmark], root) from error
    finish(done, output)


def train(
    benchmark: Annotated[
        str, typer.Argument(metavar="[BENCHMARK]", help="A name, or a YAML file.")
    ] = "digits",
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Only this model.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", metavar="N", min=1, help="Number of seeds: 0 .. N-1. Default: 3."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="K", min=0, help="Only this seed.")
    ] = None,
    device: Device = "auto",
    plugins: Plugins = None,
    data_root: DataRoot = None,
) -> None:
    """Train the models of a benchmark and keep their checkpoints in the cache.

    With several GPUs: torchrun --nproc-per-node N -m oodbench train BENCHMARK.
    """
    if seed is not None and seeds is not None:
        raise UserError(
            "--seed trains one seed and --seeds the first N: give one of them.",
            f"--seed {seed} trains seed {seed} alone.",
        )
    from oodbench.process import prepare_process

    prepare_process()  # before torch is loaded
    from oodbench import argument_checks
    from oodbench.engine.device import find_device
    from oodbench.plugins.catalog import Catalog
    from oodbench.progress import Silent
    from oodbench.training import distributed
    from oodbench.training.trained_models import train_models

    if seed is None:
        chosen = range(
            argument_checks.whole_number("seeds", seeds or 3, 1, argument_checks.MOST_SEEDS)
        )
    else:
        argument_checks.whole_number("seed", seed, 0, argument_checks.MOST_SEEDS - 1)
        chosen = range(seed, seed + 1)
    catalog = Catalog(plugins or ())
    spec = catalog.benchmark(benchmark)
    for name, each in spec.models.items():
        if each.training is None and model in (None, name):
            say(f"{name}: weights of a checkpoint, nothing to train.")
    place = distributed.local_device(find_device(device))
    with distributed.group(place) as group:
        trained = train_models(
            spec,
            catalog,
            model=model,
            seeds=chosen,
            device=place,
            say=reporter() if group.leads else Silent(),
            data_root=data_root,
        )
    for name, path in trained.items() if group.leads else ():
        print(f"{name}  {path}")


def _planned(
    catalog: Catalog,
    benchmark: str,
    seeds: int | None,
    methods: list[str] | None,
    overrides: Overrides,
    data_root: Path | None,
    shard_images: int | None,
    width: int,
) -> list[RenderableType]:
    """What a run of a benchmark or of a suite would do."""
    from oodbench import api
    from oodbench.cli.plan_display import renderables
    from oodbench.cli.suite_display import suite_renderables
    from oodbench.planning.absent_splits import with_images_here
    from oodbench.planning.suite_plan import load_suite, plan_suite

    statuses = catalog.checked_detectors()
    if not catalog.is_suite(benchmark):
        plan = api.plan_run(
            catalog, benchmark, statuses, seeds=seeds, methods=methods, overrides=overrides
        )
        api.check_parameters(plan, catalog)
        plan = replace(with_images_here(plan, data_root), shard_images=shard_images)
        return renderables(plan, width)
    suite = load_suite(catalog, benchmark).changed(overrides)
    plans = plan_suite(catalog, suite, statuses, seeds=seeds, methods=methods)
    for member in plans.values():
        api.check_parameters(member, catalog)
    plans = {
        name: replace(with_images_here(plan, data_root), shard_images=shard_images)
        for name, plan in plans.items()
    }
    return suite_renderables(suite, plans, width)


def _missing(
    catalog: Catalog, benchmark: str, data_root: Path | None, width: int
) -> list[RenderableType]:
    """What is not on this machine; nothing for benchmarks that need no files."""
    from oodbench.cli.plan_display import missing_renderables
    from oodbench.data.store.locations import root_folder
    from oodbench.planning.needed_files import needed_files  # imports torchvision

    root = root_folder(data_root)
    return missing_renderables(
        needed_files(catalog, benchmark).missing(root), root, benchmark, width
    )


def _names(methods: str | None) -> list[str] | None:
    if methods is None:
        return None
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if not names:
        raise UserError("--methods: expected names separated by commas.")
    return names


def _again(benchmark: str, folder: Path, *options: Any) -> str:
    """The command that continues a run."""
    methods, seeds, device, plugins, data_root = options
    words = ["oodbench", "run", benchmark, "--resume", "--out", str(folder)]
    words += ["--methods", methods] if methods else []
    words += ["--seeds", str(seeds)] if seeds is not None else []
    words += ["--device", device] if device != "auto" else []
    for plugin in plugins or ():
        words += ["--plugins", str(plugin)]
    words += ["--data-root", str(data_root)] if data_root else []
    return shlex.join(words)
