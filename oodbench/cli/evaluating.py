"""The command `oodbench evaluate`: a user's models on folders of images."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oodbench.cli.display import console, finish, reporter, say
from oodbench.cli.evaluation_options import Texts, by_name, names, read_request, taps_by_model
from oodbench.cli.evaluation_preview import look_at_images, show_plan
from oodbench.cli.parameters import (
    Address,
    Device,
    DryRun,
    Executor,
    JobOptions,
    Plugins,
    ShardImages,
    Workers,
    given_path,
)
from oodbench.errors import ExitCode, InterruptedRun, UserError

if TYPE_CHECKING:
    from oodbench.planning.executor_options import ExecutorOptions
    from oodbench.specs import EvaluationRequest

_ADDED = {"methods", "metrics"}
"""Options that add to an evaluation that is resumed."""


def _option(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text)


def evaluate(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE.yaml]", parser=given_path, help="Options in a file."),
    ] = None,
    model: Annotated[
        Texts,
        _option(
            "--model",
            "[NAME=]NETWORK",
            "torchvision:NAME, timm:NAME, hf:PATH, open_clip:NAME/TAG, a name of `list models`, "
            "module:callable or FILE.py:callable; repeatable.",
        ),
    ] = None,
    checkpoint: Annotated[
        Texts, _option("--checkpoint", "[NAME=]FILE", "Weights of the model.")
    ] = None,
    weights: Annotated[
        Texts, _option("--weights", "[NAME=]WEIGHTS", "Weights of torchvision by name.")
    ] = None,
    id_: Annotated[
        str | None,
        _option("--id", "[NAME=]DIR", "ID test images: a folder for each class, or a list."),
    ] = None,
    ood: Annotated[
        Texts, _option("--ood", "GROUP/NAME=DIR", "OOD images, as near/birds=DIR; repeatable.")
    ] = None,
    fit: Annotated[
        str | None, _option("--fit", "DIR", "ID images that detectors are fitted on.")
    ] = None,
    validation: Annotated[
        str | None,
        _option("--validation", "DIR", "ID images for tuning and thresholds. Default: of --fit."),
    ] = None,
    csid: Annotated[
        Texts, _option("--csid", "NAME=DIR", "ID classes with covariate shift; repeatable.")
    ] = None,
    methods: Annotated[
        str | None, _option("--methods", "A,B|all", "Detectors. Default: a few of each kind.")
    ] = None,
    tune: Annotated[
        str | None, _option("--tune", "A,B|all", "Detectors to tune. Default: none.")
    ] = None,
    metrics: Annotated[
        str | None,
        _option("--metrics", "A,B|all", "Metrics on request (docs/reference/metrics.md)."),
    ] = None,
    transform: Annotated[
        str | None,
        _option(
            "--transform",
            "model|imagenet|SIZE|YAML",
            "How images are prepared. Default: as the model says.",
        ),
    ] = None,
    normalization: Annotated[
        Texts,
        _option("--normalization", "MEAN/STD", "For pixels in [0, 1]; imagenet, none, or numbers."),
    ] = None,
    classes: Annotated[
        str | None,
        _option("--classes", "FILE|folders", "Class names in the order of the model's outputs."),
    ] = None,
    head: Annotated[Texts, _option("--head", "NAME", "Last layer. Default: softmax.")] = None,
    taps: Annotated[Texts, _option("--taps", "A,B", "Feature layers. Default: found.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", min=1, help="Default: 64.")
    ] = None,
    device: Device = "auto",
    plugins: Plugins = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=given_path,
            metavar="DIR",
            help="Run directory. Default: runs/evaluation-<time>.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an evaluation; needs no other option.")
    ] = False,
    workers: Workers = None,
    executor: Executor = "local",
    address: Address = None,
    submitit_option: JobOptions = None,
    shard_images: ShardImages = None,
    dry_run: DryRun = False,
) -> None:
    """Evaluate detectors on your own model and folders of images.

    Makes a benchmark of them in the folder content/ of the run directory, and runs it: reports,
    comparisons and `oodbench run --plugins RUN/content NAME` work as for any benchmark.
    """
    from oodbench.planning.executor_options import ExecutorOptions, job_options
    from oodbench.process import prepare_process

    prepare_process()  # before torch is loaded
    jobs = job_options(submitit_option or ())
    place = ExecutorOptions.read(executor, address, workers, jobs, shard_images)
    given = {
        "model": model,
        "checkpoint": checkpoint,
        "weights": weights,
        "id": id_,
        "ood": by_name("--ood", ood, "near/birds=DIR"),
        "fit": fit,
        "validation": validation,
        "csid": by_name("--csid", csid, "NAME=DIR"),
        "methods": names(methods),
        "tune": names(tune, "all", "none"),
        "metrics": metrics,
        "transform": transform,
        "normalization": normalization,
        "classes": classes,
        "head": head,
        "taps": taps_by_model(taps),
        "batch_size": batch_size,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if resume and file is None and not given.keys() - _ADDED:
        _carry_on(out, plugins, device, place, given, dry_run=dry_run)
        return
    if resume and file is None and not given.keys() & {"id", "ood"}:
        others = ", ".join(f"--{key.replace('_', '-')}" for key in given if key not in _ADDED)
        raise UserError(
            f"--resume continues with the options that the evaluation began with: {others} cannot "
            "be changed.",
            "Leave it out, or start another evaluation in another folder with --out.",
        )
    request, folder = read_request(file, given)
    _begin(request, folder, plugins, device, place, out, resume=resume, dry_run=dry_run)


def _begin(
    request: EvaluationRequest,
    folder: Path,
    plugins: list[Path] | None,
    device: str,
    executor: ExecutorOptions,
    out: Path | None,
    *,
    resume: bool,
    dry_run: bool,
) -> None:
    """Make the content, show the plan, look at a few images, and run."""
    from oodbench import api, argument_checks
    from oodbench.plugins.catalog import Catalog
    from oodbench.storage.locks import CONTENT, check_vacant, held
    from oodbench.storage.run_directory import RunDirectory
    from oodbench.storage.run_places import new_folder
    from oodbench.user_benchmark.begun_evaluation import check_same
    from oodbench.user_benchmark.benchmark_content import FOLDERS_AS_THEY_ARE, evaluation_content

    argument_checks.device_name(device)
    if out is not None and out.is_dir():
        check_vacant(out)
        if RunDirectory(out).exists() and not resume:
            raise UserError(
                f"{out} holds a run already.",
                "Continue it with --resume, or choose another folder with --out.",
            )
    content = evaluation_content(request, Catalog(plugins or ()), folder)
    if resume and out is not None and RunDirectory(out).exists():
        check_same(content, out)
    with tempfile.TemporaryDirectory() as temporary:
        content.write(Path(temporary))
        catalog = Catalog([*(plugins or ()), Path(temporary)])
        plan = api.plan_run(
            catalog, content.name, catalog.imported_detectors(), seeds=None, methods=None
        )
        plan = replace(plan, shard_images=executor.shard_images)
        show_plan(plan, content.notes, dry_run=dry_run)
        if dry_run:
            api.check_parameters(plan, catalog)
        as_they_are = request.classes == FOLDERS_AS_THEY_ARE
        look_at_images(plan, device, as_they_are=as_they_are, dry_run=dry_run)
        if dry_run:
            return
    place = out or new_folder(content.name)
    with held(place):
        content.write(place / CONTENT)  # again, if it was lost
    _run(content.name, place, plugins, device, executor, None, (), resume=resume)


def _carry_on(
    out: Path | None,
    plugins: list[Path] | None,
    device: str,
    executor: ExecutorOptions,
    given: dict[str, Any],
    *,
    dry_run: bool,
) -> None:
    """Resume an evaluation from the content of its run directory."""
    from oodbench import api
    from oodbench.plugins.catalog import Catalog
    from oodbench.storage.locks import CONTENT
    from oodbench.user_benchmark.begun_evaluation import begun_folder, begun_name

    folder = begun_folder(out)
    name = begun_name(folder)
    methods = given.get("methods")
    methods = [methods] if isinstance(methods, str) else methods
    if dry_run:
        catalog = Catalog([*(plugins or ()), folder / CONTENT])
        plan = api.plan_run(
            catalog, name, catalog.imported_detectors(), seeds=None, methods=methods
        )
        show_plan(replace(plan, shard_images=executor.shard_images), (), dry_run=True)
        return
    _run(name, folder, plugins, device, executor, methods, given.get("metrics", ()), resume=True)


def _run(
    name: str,
    folder: Path,
    plugins: list[Path] | None,
    device: str,
    executor: ExecutorOptions,
    methods: list[str] | None,
    metrics: Any,
    *,
    resume: bool,
) -> None:
    """Run the benchmark in the content of a run directory."""
    from oodbench import api
    from oodbench.storage.locks import CONTENT

    try:
        done = api.run(
            name,
            out=folder,
            methods=methods,
            device=device,
            plugins=[*(plugins or ()), folder / CONTENT],
            resume=resume,
            metrics=metrics,
            executor=executor.name,
            address=executor.address,
            workers=executor.workers,
            submitit_options=executor.jobs,
            shard_images=executor.shard_images,
            progress=reporter(),
        )
    except InterruptedRun as stop:
        words = ["oodbench", "evaluate", "--resume", "--out", str(stop.folder)]
        words += ["--device", device] if device != "auto" else []
        words += executor.words
        for plugin in plugins or ():
            words += ["--plugins", str(plugin)]
        words += ["--methods", ",".join(methods)] if methods else []
        words += ["--metrics", metrics] if metrics else []
        say(f"Interrupted. What is finished is stored; continue with:\n  {shlex.join(words)}")
        raise typer.Exit(ExitCode.INCOMPLETE) from None
    finish(done, console())
