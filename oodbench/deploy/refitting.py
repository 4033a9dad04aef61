"""A method of a finished run, fitted again on the run's model and data with its tuned values."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from oodbench.data.loaded_splits import LoadedSplits
from oodbench.deploy.artifact.described_model import check_storable
from oodbench.deploy.finished_method import FinishedMethod
from oodbench.detector import Detector
from oodbench.engine.device import full_precision
from oodbench.engine.method_results import plain_value
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.engine.passes.image_sources import ID, EvaluationData, SplitImages
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.reasons import reason_of
from oodbench.engine.recording.planned_work import data_of, detector_checksum, split_checksum
from oodbench.errors import UserError, counted
from oodbench.metrics.thresholds import images_needed, percentage, threshold_rank
from oodbench.models.classifier import Classifier
from oodbench.planning.absent_splits import with_images_here
from oodbench.planning.plan import Method, Plan
from oodbench.planning.planner import make_plan
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Reporter
from oodbench.specs import BenchmarkSpec, SplitName
from oodbench.storage.locks import CONTENT
from oodbench.training.state import tensors_digest
from oodbench.training.trained_models import ModelStore

VALIDATION: SplitName = "validation"
"""The split of the ID set that thresholds are set on."""


@dataclass(frozen=True, eq=False)
class RefittedMethod:
    """A method that was fitted again.

    Attributes:
        found: as it is in the run.
        plan: of this method alone.
        method: the method in the plan.
        catalog: gave the detector.
        classifier: the run's model, on the device, in evaluation mode.
        detector: fitted, tuned and calibrated.
        data: the images of the benchmark.
        notes: remarks of fitting and tuning.
    """

    found: FinishedMethod
    plan: Plan
    method: Method
    catalog: Catalog
    classifier: Classifier
    detector: Detector
    data: LoadedSplits
    notes: tuple[str, ...]

    @property
    def validation(self) -> SplitImages | None:
        """The ID validation images; None if the ID set has none."""
        return self._images(VALIDATION)

    @property
    def test(self) -> SplitImages:
        """The ID test images."""
        found = self._images("test")
        assert found is not None  # checked by the planner
        return found

    @property
    def uses_validation(self) -> str:
        """How the detector has used the ID validation images: "fitted on", "tuned on" or ""."""
        if VALIDATION in self.method.fitted_on().values():
            return "fitted on"
        tuned = self.found.description.benchmark.get("tuning", {})
        on = tuned.get("split", VALIDATION) == VALIDATION
        return "tuned on" if self.method.tuned_on != "none" and on else ""

    def _images(self, split: SplitName) -> SplitImages | None:
        dataset = self.plan.benchmark.id
        if split not in self.plan.datasets[dataset].splits:
            return None
        load = functools.partial(self.data.images, dataset, split)
        return SplitImages(f"the {split} images of '{dataset}'", load)


def refit(
    found: FinishedMethod,
    *,
    device: torch.device,
    plugins: Sequence[Path] = (),
    data_root: Path | None = None,
    accept: float | None = None,
    say: Reporter,
) -> RefittedMethod:
    """Fit a method of a run again, to be saved: on its model and data, with the values it tuned.

    Args:
        found: the method.
        device: where to compute.
        plugins: folders of plug-ins besides those of the run.
        data_root: folder of the data sets; None: that of the run.
        accept: share of ID images that a threshold will be set to accept; None: no threshold.
        say: progress reporter.

    Raises:
        UserError: if model or data are not those of the run, are not on this machine, or cannot be
            saved, there are too few validation images for the threshold, or the detector fails.
    """
    held = found.description
    catalog = _catalog(found, plugins)
    root = data_root or (None if held.data_root is None else Path(held.data_root))
    say.stage(f"{found.name} of {found.folder}")
    plan = with_images_here(_plan(found, catalog), root)
    method = plan.methods[0]
    check_storable(plan.benchmark.models[method.model])
    data = data_of(plan, root, say)
    _check_data(found, plan, method, data)
    if accept is not None and VALIDATION in plan.datasets[plan.benchmark.id].splits:
        _check_accept(accept, len(data.images(plan.benchmark.id, VALIDATION)))
    source = detector_checksum(catalog, method.detector.name)
    if held.checksums.detectors.get(method.detector.name) != source:
        say.warn(f"The source of '{method.detector.name}' is not that of the run.")
    classifier = _classifier(found, plan, method, data, device, say)
    say.done(f"the model and the data of {found.folder}: {method.model}, seed {found.seed}")
    say.stage(f"fitting {found.name}")
    with full_precision(device):
        detector, notes = _fitted(found, plan, method, catalog, data, classifier, say)
    say.done(f"{found.name} fitted on {plan.benchmark.id}")
    return RefittedMethod(found, plan, method, catalog, classifier, detector, data, notes)


def _catalog(found: FinishedMethod, plugins: Sequence[Path]) -> Catalog:
    """The content of the run: its plug-ins, those that are given, and its own folder."""
    own = found.folder / CONTENT
    folders = [*plugins, *([own] if own.is_dir() else [])]
    for name in found.description.plugins:
        if Path(name).is_dir():
            folders.append(Path(name))
        elif not name.startswith("class ") and not folders:
            raise UserError(
                f"The folder of plug-ins of the run, {name}, is not there.",
                "Give the place that it has now with --plugins, or go to the folder that the run "
                "was started in.",
            )
    return Catalog(list(dict.fromkeys(folder.resolve() for folder in folders)))


def _plan(found: FinishedMethod, catalog: Catalog) -> Plan:
    """The plan of the method alone, with the run's benchmark."""
    try:
        benchmark = BenchmarkSpec.model_validate(found.description.benchmark)
    except ValidationError:
        raise UserError(
            f"{found.folder} has a saved evaluation, or the benchmark of another version: its "
            "model cannot be made again.",
            "In Python, `result.fitted[name].save(folder)` saves a detector of an evaluation.",
        ) from None
    entry = catalog.entries["benchmark"].get(benchmark.name)
    if entry is not None:
        benchmark.read_from(entry.path)  # files of checkpoints lie beside it
    plan = make_plan(benchmark, catalog, catalog.detectors, methods=[found.name])
    if not plan.methods:
        reason = plan.skips[0].reason if plan.skips else "the benchmark has no such method now"
        raise UserError(f"'{found.name}' cannot be fitted: {reason}.")
    return plan


def _check_data(found: FinishedMethod, plan: Plan, method: Method, data: LoadedSplits) -> None:
    """Check that the images are those of the run.

    Raises:
        UserError: if they are not.
    """
    name, checksums = plan.benchmark.id, found.description.checksums
    used = {*method.fitted_on().values(), VALIDATION, "test"}
    used |= set() if method.tuned_on == "none" else {plan.benchmark.tuning.split}
    for split in plan.datasets[name].splits:
        if split not in used:
            continue
        listing = checksums.fitted_on.get(name, {}).get(split)  # of a large split
        wanted = listing or checksums.data.get(name, {}).get(split)
        now = data.checksum(name, split) if listing else split_checksum(data, name, split)
        if wanted not in (None, now):
            raise UserError(
                f"The {split} images of '{name}' are not those of {found.folder}: their checksum "
                f"is {now[:16]}, the run has {wanted[:16]}.",
                "Put the images of the run back, or run the benchmark again.",
            )


def _check_accept(accept: float, images: int) -> None:
    """Check that there are enough validation images to set a threshold.

    Raises:
        UserError: if no threshold but minus infinity accepts so many ID images.
    """
    if threshold_rank(images, accept) == 0:
        raise UserError(
            f"--accept {accept:g}: {counted(images, 'ID validation image')} are too few for a "
            f"threshold that accepts {percentage(accept)} of ID images; it would accept every "
            f"image. At least {images_needed(accept):,} are needed.",
            f"Ask for at most --accept {1000 * images // (images + 1) / 1000:g}, or give more "
            "validation images and run the benchmark again.",
        )


def _classifier(
    found: FinishedMethod,
    plan: Plan,
    method: Method,
    data: LoadedSplits,
    device: torch.device,
    say: Reporter,
) -> Classifier:
    """The model of the run; it is not trained.

    Raises:
        UserError: if its checkpoint is not there, or is another one.
    """
    models = ModelStore(plan.benchmark, data, device, say)
    model, seed = method.model, found.seed
    again = f"oodbench train {plan.benchmark.name} --model {model} --seed {seed}"
    if not models.is_published(model) and not (path := models.key(model, seed).path).exists():
        raise UserError(
            f"The checkpoint of {model}, seed {seed}, is not in the cache: there is no {path}.",
            f"Set OODBENCH_CACHE to the cache of the run, or train it again: `{again}`.",
        )
    classifier = models.trained(model, seed)
    weights = {name: tensor.cpu() for name, tensor in classifier.state_dict().items()}
    now, wanted = (
        tensors_digest(weights),
        found.description.checksums.checkpoints.get(f"{model}/seed{seed}"),
    )
    if wanted is not None and now != wanted:
        raise UserError(
            f"The checkpoint of {model}, seed {seed}, is not that of {found.folder}: the digest of "
            f"its weights is {now[:16]}, the run has {wanted[:16]}.",
            "Set OODBENCH_CACHE to the cache of the run, or run the benchmark again.",
        )
    return classifier


def _fitted(
    found: FinishedMethod,
    plan: Plan,
    method: Method,
    catalog: Catalog,
    data: LoadedSplits,
    classifier: Classifier,
    say: Reporter,
) -> tuple[Detector, tuple[str, ...]]:
    """The fitted detector with the values of the run, and notes."""
    benchmark = plan.benchmark
    setting = _setting(found, method)
    calibrates = "calibration" in method.detector.needs
    # The search for values is over; a detector that trains a model of its own is trained again.
    method = replace(method, grid={name: (value,) for name, value in setting.items()})
    method = method if calibrates else replace(method, tuned_on="none")
    images = EvaluationData.of_benchmark(plan, data.images)
    if found.ood is not None:
        test = {name: images.test[name] for name in (ID, found.ood)}
        images = replace(images, test=test, csid=())
    detector = catalog.load_detector(method.detector.name, method.arguments)
    evaluation = ModelEvaluation(
        NetworkRunner(classifier, batch_size=benchmark.evaluation.batch_size),
        [method],
        {method.name: detector},
        images,
        data.num_classes(benchmark.id),
        tuning=benchmark.tuning,
        seed=found.seed,
        report=say.detail,
    )
    evaluation.prepare()
    evaluation.run(score=False)
    result = evaluation.results[method.name]
    if result.error is not None:
        raise UserError(f"'{found.name}' failed: {reason_of(result.error).rstrip('.')}.")
    fitted = result.detectors[found.ood or images.ood[0]]
    return (fitted if calibrates else fitted.with_parameters(**setting)), tuple(result.notes)


def _setting(found: FinishedMethod, method: Method) -> dict[str, Any]:
    """The values of the search space that the run chose; empty if it tuned nothing.

    Raises:
        UserError: if a value is not in the search space.
    """
    if method.tuned_on == "none":
        return {}
    setting = {}
    for name, values in method.search_space.items():
        wanted = found.values.get(name)
        same = [value for value in values if plain_value(value) == wanted]
        if not same:
            raise UserError(
                f"The run tuned '{name}' of '{found.name}' to {wanted!r}, which its search space "
                "has no longer.",
                "Run the benchmark again.",
            )
        setting[name] = same[0]
    return setting
