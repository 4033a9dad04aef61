"""The command `oodbench fit`."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.display import console, reporter
from oodbench.cli.parameters import DataRoot, Device, Plugins, given_path
from oodbench.errors import ExitCode, UserError, counted

if TYPE_CHECKING:
    from oodbench.deploy.fitted_detector import FittedDetector
    from oodbench.deploy.refitting import RefittedMethod
    from oodbench.progress import Reporter
    from oodbench.report.tables.document import Document

_SAMPLE = 64
"""Number of ID test images whose scores are compared with those of the run."""

_TOLERANCE = 1e-3
"""Largest difference of these scores, relative to their standard deviation: on another device, or
with another number of threads, sums are rounded otherwise."""


def fit(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            parser=given_path,
            help="A run directory of `oodbench run` or `oodbench evaluate`.",
        ),
    ],
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="A method of the run, or a detector that only one of its methods has.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", parser=given_path, metavar="ARTIFACT", help="Folder to save it in."),
    ],
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="K", min=0, help="Seed of the model. Default: the first of the run."
        ),
    ] = None,
    accept: Annotated[
        float,
        typer.Option(
            "--accept",
            metavar="RATE",
            help="Share of the ID images that the threshold accepts, set on the ID validation "
            "images.",
        ),
    ] = 0.95,
    ood: Annotated[
        str | None,
        typer.Option(
            "--ood",
            metavar="NAME",
            help="For a method that was tuned on each OOD set: the set whose detector is fitted.",
        ),
    ] = None,
    device: Device = "auto",
    plugins: Plugins = None,
    data_root: DataRoot = None,
) -> None:
    """Fit a method of a finished run again, set its threshold, and save it.

    It is fitted on the model and the data of the run, with the values that the run tuned.
    """
    if not 0 < accept < 1:
        raise UserError(
            f"--accept: expected a share above 0 and below 1, such as 0.95, not {accept:g}."
        )
    from oodbench.process import prepare_process

    prepare_process()  # before torch is loaded
    from oodbench.deploy.artifact.artifact_writing import check_folder
    from oodbench.deploy.finished_method import find_method
    from oodbench.deploy.refitting import refit
    from oodbench.engine.device import find_device
    from oodbench.storage.changed_files import changed_files
    from oodbench.storage.run_directory import RunDirectory

    found = find_method(run, method, seed=seed, ood=ood)
    place = find_device(device)
    check_folder(out)
    progress = reporter()
    with progress.work(4):
        again = refit(
            found,
            device=place,
            plugins=plugins or (),
            data_root=data_root,
            accept=accept,
            say=progress,
        )
        if changed := RunDirectory(run).changed():
            progress.warn(changed_files(run, changed))
        with _warnings_to(progress):
            fitted = _with_threshold(again, accept, progress)
        _check_scores(again, fitted, progress)
        fitted.save(out)
    _show(again, fitted)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    output = console()
    again_with = shlex.join(["oodbench", "score", str(out), "FOLDER"])
    for line in (f"Artifact: {out} ({size:.1f} MB)", f"Score new images: {again_with}"):
        output.print(line, markup=False, highlight=False, soft_wrap=True)
    if fitted.threshold is None:
        raise typer.Exit(ExitCode.INCOMPLETE)


@contextmanager
def _warnings_to(progress: Reporter) -> Iterator[None]:
    """Python warnings go to the progress reporter."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(each.message) for each in said):
        progress.warn(text)


def _with_threshold(again: RefittedMethod, accept: float, progress: Reporter) -> FittedDetector:
    """The fitted detector, with a threshold if there are ID validation images."""
    from oodbench.deploy.deployed_model import Preparation
    from oodbench.deploy.fitted_detector import FittedDetector

    benchmark, method = again.plan.benchmark, again.method
    images = again.plan.datasets[benchmark.id]
    fitted = FittedDetector.of_classifier(
        again.found.name,
        again.detector,
        again.classifier,
        benchmark.models[method.model],
        Preparation(images.shape, images.resize),
        num_classes=again.data.num_classes(benchmark.id),
        classes=images.classes,
    )
    for note in again.notes:
        progress.warn(note)
    validation = again.validation
    if validation is None:
        progress.warn(
            f"'{benchmark.id}' has no validation images: the detector has no threshold. Set one "
            "in Python with calibrate(), on ID images that it was not fitted on."
        )
        return fitted
    progress.stage("threshold")
    fitted.calibrate(validation, accept)
    fitted.threshold_set_on = validation.name
    if again.uses_validation:
        fitted.uses_validation = True
        progress.warn(
            f"The detector was {again.uses_validation} the images that the threshold is set on: it "
            "accepts fewer other ID images than the threshold says. Below, see the test images."
        )
    progress.done(f"threshold: {counted(validation.size, 'ID validation image')}")
    return fitted


def _check_scores(again: RefittedMethod, fitted: FittedDetector, progress: Reporter) -> None:
    """Warn if the fitted detector scores ID test images other than the run did."""
    import numpy as np

    from oodbench.data import ImageArray
    from oodbench.engine.passes.image_sources import ID, SplitImages

    progress.stage("comparison with the run")
    try:
        stored = again.found.scores()[ID]
    except UserError as error:
        progress.warn(f"The scores of the run are not compared: {error.message}")
        return
    first = np.asarray(again.test.first()[0][:_SAMPLE])
    sample = SplitImages("ID test images", lambda: ImageArray(first))
    now, before = fitted.score(sample), stored[: len(first)]
    scatter, worst = float(np.std(stored)), float(np.abs(now - before).max())
    if worst > _TOLERANCE * scatter:
        progress.warn(
            f"Scores of the first {len(now)} ID test images differ from those of the run by up to "
            f"{worst:.2g}; all ID scores have a standard deviation of {scatter:.2g}. The detector, "
            "or a library that it uses, is another version."
        )
        return
    same = "equal those" if worst == 0 else f"are those (to {worst:.0e})"
    progress.done(f"scores of {counted(len(now), 'ID test image')} {same} of the run")


def _show(again: RefittedMethod, fitted: FittedDetector) -> None:
    """Print parameters, threshold, and what it accepts of the test images of the run."""
    from oodbench.report.writers import terminal

    output = console()
    print(terminal.render_document(document(again, fitted), output.width))


def document(again: RefittedMethod, fitted: FittedDetector) -> Document:
    """What was fitted, its threshold, and what that accepts of the test images of the run."""
    from oodbench.engine.passes.image_sources import ID
    from oodbench.metrics.thresholds import acceptance, percentage
    from oodbench.report.tables.document import Cell, Document, Heading, Section, Table

    found, benchmark = again.found, again.plan.benchmark
    given = {name: value for name, value in found.values.items() if value is not None}
    parameters = ", ".join(f"{name} {value}" for name, value in given.items())
    summary = [
        f"Model {again.method.model}, seed {found.seed}, of {found.folder}"
        + (f"; tuned on {found.ood}" if found.ood is not None else "")
        + (f"; {parameters}" if parameters else "")
    ]
    title, limit = f"{found.name}, fitted on {benchmark.id}", fitted.threshold
    if limit is None:
        return Document(title, (*summary, "No threshold."), (), ())
    summary.append(
        f"Threshold {limit.value:.10g}, set on {counted(limit.images, 'ID validation image')} to "
        f"accept {percentage(limit.accept)} of ID images."
    )
    try:
        scores = found.scores()
    except UserError:
        return Document(title, tuple(summary), (), ())
    groups = {**dict.fromkeys(benchmark.csid, "csID"), **benchmark.ood_groups, ID: "ID"}
    rows = []
    for name in (ID, *benchmark.csid, *benchmark.ood_groups):
        if name in scores:
            done = acceptance(scores[name], limit.value)
            texts = (
                f"{benchmark.id if name == ID else name} ({groups[name]})",
                f"{100 * done.rate:.1f}",
                f"{100 * done.low:.1f} to {100 * done.high:.1f}",
                f"{done.images:,}",
            )
            rows.append(tuple(map(Cell, texts)))
    table = Table(
        "Test images that the threshold accepts",
        (
            Heading("Data set", "Data set", text=True),
            Heading("Accepted (%)", "Accepted (%)"),
            Heading("95% interval", "95% interval"),
            Heading("Images", "Images"),
        ),
        (Section("", tuple(rows)),),
        ("Accepted OOD images are errors; so are rejected ID images.",),
    )
    return Document(title, tuple(summary), (table,), ())
