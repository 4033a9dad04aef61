"""One detector fitted on a user's own model: `oodbench.fit`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch

from oodbench import argument_checks
from oodbench.deploy.fitted_detector import FittedDetector
from oodbench.deploy.model_arguments import device_for, module_of, normalization_of
from oodbench.deploy.restoration import reproducible
from oodbench.detector import Detector
from oodbench.engine.passes.image_sources import ID
from oodbench.engine.reasons import reason_of
from oodbench.errors import UserError, sentence
from oodbench.models.structure.logits_entry import Output
from oodbench.models.structure.model_call import Inputs
from oodbench.models.structure.user_network import model_name
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import Plugin, checked_plugins
from oodbench.process import prepare_process
from oodbench.progress import ProgressArgument, reporter_of
from oodbench.user_data.dataloader import LoadedImages
from oodbench.user_model.data_sets import OOD_DATA, DataSets
from oodbench.user_model.evaluate_arguments import check_seed
from oodbench.user_model.fitted_methods import deployed_model, fitted_method
from oodbench.user_model.model_adaptation import taken_over
from oodbench.user_model.requested_detectors import (
    FITTED_AGAIN,
    detectors_of,
    methods_of,
    requested_detectors,
)
from oodbench.user_model.session import NoDetectorError, Session


def fit(
    model: Any,
    detector: str | Detector,
    *,
    fit_data: Any = None,
    validation_data: Any = None,
    ood_validation_data: Any = None,
    taps: Literal["auto"] | Sequence[str] = "auto",
    head: str | None = None,
    features: Any = None,
    output: Output = None,
    inputs: Inputs = None,
    normalization: Any = None,
    num_classes: int | None = None,
    tune: bool = False,
    plugins: Plugin | Sequence[Plugin] = (),
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: ProgressArgument = "auto",
) -> FittedDetector:
    """Fit one detector on your own trained classifier, to score images with it and to save it.

    `oodbench.evaluate` finds which detector to take; its result has all of them fitted
    (`result.fitted`). The model comes back as it was. A detector that is neither fitted nor tuned
    needs images, too: the model is tried on a few.

    Args:
        model: maps images [B, channels, H, W], or other inputs [B, ...], to logits [B, C].
        detector: a name of `oodbench list detectors`, or an instance, which is copied.
        fit_data: images that the model was trained on, with labels, best without augmentation.
        validation_data: labeled ID images that the model was not trained on. Those that a detector
            is fitted, calibrated or tuned on are not for its threshold.
        ood_validation_data: OOD images to tune on, in the place of attacked images.
        taps: as of `oodbench.evaluate`.
        head: as of `oodbench.evaluate`.
        features: as of `oodbench.evaluate`.
        output: as of `oodbench.evaluate`.
        inputs: as of `oodbench.evaluate`.
        normalization: mean and standard deviation per channel; images are then in [0, 1].
        num_classes: C, compared with the model's; default: the model's.
        tune: search the hyperparameters, as `tune` of `oodbench.evaluate` does.
        plugins: folders of detectors besides the built-in ones, and classes.
        device: as of `oodbench.evaluate`.
        seed: seeds tuning and the global random generators; their state is restored afterwards.
        progress: as of `oodbench.evaluate`.

    Returns:
        The fitted detector; `score`, `calibrate`, `predict`, `save`.

    Raises:
        UserError: an argument, an image or a label is not valid, or the detector cannot run on the
            model or fails.
    """
    prepare_process()
    say = reporter_of(progress)
    module = module_of(model)
    argument_checks.truth("tune", tune)
    check_seed(seed)
    if num_classes is not None:
        argument_checks.whole_number("num_classes", num_classes, 1)
    if not isinstance(detector, str | Detector):
        raise UserError(
            f"detector: expected a name or an instance, not {detector!r}.",
            FITTED_AGAIN
            if isinstance(detector, FittedDetector)
            else "oodbench.evaluate takes several.",
        )
    catalog = Catalog(tuple(checked_plugins("plugins", plugins)))
    on_ood = ood_validation_data is not None
    asked, _ = requested_detectors(detector, catalog, "all" if tune else "none", on_ood=on_ood)
    place, scaling = device_for(device, module), normalization_of(normalization)
    with say.work(1), ExitStack() as stack:
        say.stage("reading the first images")
        stack.enter_context(reproducible(seed, place))
        data = _data_sets(fit_data, validation_data, ood_validation_data)
        stack.callback(data.close)
        for source in data.all:
            source.in_unit_range = scaling is not None
            source.first()
        say.stage(model_name(module))
        options = {
            "taps": taps,
            "head": head,
            "features": features,
            "output": output,
            "inputs": inputs,
        }
        own = stack.enter_context(
            taken_over(module, data, options, num_classes, scaling, place, reads_layers=True)
        )
        try:
            session = Session(
                own.classifier,
                methods_of(asked, model_name(module), prefix=""),
                detectors_of(asked, catalog, prefix=""),
                data,
                own.num_classes,
                attackable=scaling is not None,
                seed=seed,
                report=say.detail,
            )
        except NoDetectorError as error:
            label, why = next(iter(error.skipped.items()))
            raise UserError(f"Detector '{label}' cannot run: {why}.") from error
        session.run(score=False)
        (label,) = session.results
        result = session.results[label]
        if result.error is not None:
            raise UserError(
                sentence(f"Detector '{label}' cannot be fitted: {reason_of(result.error)}")
            ) from result.error
        deployed = deployed_model(module, own.classifier, place, data)
        fitted = fitted_method(label, session, deployed, data)
        fitted.notes += tuple(own.notes)
        say.done(f"{label}, fitted on {model_name(module)}")
    for text in dict.fromkeys(session.warnings):
        warnings.warn(text, stacklevel=2)
    return fitted


def _data_sets(fit_data: Any, validation_data: Any, ood_validation_data: Any) -> DataSets:
    """The images; the first of the ID sets that are given is the one that the model is tried on."""

    def loaded(given: Any, name: str, *, labeled: bool = True) -> LoadedImages | None:
        return None if given is None else LoadedImages(given, name, labeled=labeled)

    fit, validation = loaded(fit_data, "fit_data"), loaded(validation_data, "validation_data")
    first = validation if fit is None else fit
    if first is None:
        raise UserError(
            "fit_data is missing.",
            "Give the images that the model was trained on; a detector that is not fitted needs a "
            "few of them, or validation_data, to try the model on.",
        )
    return DataSets(
        {ID: first}, fit, validation, loaded(ood_validation_data, OOD_DATA, labeled=False)
    )
