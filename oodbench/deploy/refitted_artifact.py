"""A method that was fitted again, to be saved: its threshold, a check with the run, its report."""

from __future__ import annotations

import numpy as np

from oodbench.data import ImageArray
from oodbench.deploy.deployed_model import Preparation
from oodbench.deploy.fitted_detector import FittedDetector
from oodbench.deploy.refitting import RefittedMethod
from oodbench.engine.passes.image_sources import ID, SplitImages
from oodbench.errors import UserError, counted
from oodbench.metrics.thresholds import acceptance, percentage
from oodbench.progress import Reporter
from oodbench.report.tables.document import Cell, Document, Heading, Section, Table

_SAMPLE = 64
"""Number of ID test images whose scores are compared with those of the run."""

_TOLERANCE = 1e-3
"""Largest difference of these scores, relative to their standard deviation: on another device, or
with another number of threads, sums are rounded otherwise."""


def with_threshold(again: RefittedMethod, accept: float, say: Reporter) -> FittedDetector:
    """The fitted detector, with a threshold if there are ID validation images."""
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
        say.warn(note)
    validation = again.validation
    if validation is None:
        say.warn(
            f"'{benchmark.id}' has no validation images: the detector has no threshold. Set one "
            "in Python with calibrate(), on ID images that it was not fitted on."
        )
        return fitted
    say.stage("threshold")
    fitted.calibrate(validation, accept)
    fitted.threshold_set_on = validation.name
    if again.uses_validation:
        fitted.uses_validation = True
        say.warn(
            f"The detector was {again.uses_validation} the images that the threshold is set on: it "
            "accepts fewer other ID images than the threshold says. Below, see the test images."
        )
    say.done(f"threshold: {counted(validation.size, 'ID validation image')}")
    return fitted


def check_scores(again: RefittedMethod, fitted: FittedDetector, say: Reporter) -> None:
    """Warn if the fitted detector scores ID test images other than the run did."""
    say.stage("comparison with the run")
    try:
        stored = again.found.scores()[ID]
    except UserError as error:
        say.warn(f"The scores of the run are not compared: {error.message}")
        return
    first = np.asarray(again.test.first()[0][:_SAMPLE])
    sample = SplitImages("ID test images", lambda: ImageArray(first))
    now, before = fitted.score(sample), stored[: len(first)]
    scatter, worst = float(np.std(stored)), float(np.abs(now - before).max())
    if worst > _TOLERANCE * scatter:
        say.warn(
            f"Scores of the first {len(now)} ID test images differ from those of the run by up to "
            f"{worst:.2g}; all ID scores have a standard deviation of {scatter:.2g}. The detector, "
            "or a library that it uses, is another version."
        )
        return
    same = "equal those" if worst == 0 else f"are those (to {worst:.0e})"
    say.done(f"scores of {counted(len(now), 'ID test image')} {same} of the run")


def document(again: RefittedMethod, fitted: FittedDetector) -> Document:
    """What was fitted, its threshold, and what that accepts of the test images of the run."""
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
