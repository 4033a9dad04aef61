"""A detector fitted and scored by the engine, on the small network."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oodbench.data import ImageArray
from oodbench.detector import Detector, Outputs
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.input_gradients import differentiated
from oodbench.engine.passes.layer_readers import layer_readers
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.replacement import kept_taps
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import pass_outputs, score_split
from oodbench.models.classifier import Classifier
from oodbench.models.feature_map import find_map
from oodbench.testing.small_network import CLASSES, small_classifier, small_images
from oodbench.testing.subject import Subject

METHOD = "M"
FITTING = 600  # images; the largest k of a search space of a built-in detector is 500


def engine_scores(
    subject: Subject,
    settings: Mapping[int, Mapping[str, Any]],
    classifier: Classifier | None = None,
) -> dict[int, Tensor]:
    """Scores of 100 test images with several settings, after all that the detector learns from.

    Args:
        subject: the detector.
        settings: key -> attributes that are set after the fit, as tuning does.
        classifier: default: the small one for the detector.

    Returns:
        key -> scores, shape [100], float64; without settings for which the detector raises a
        `ValueError`, as tuning does without them.

    Raises:
        Exception: whatever the detector or the engine raises.
    """
    needs, detector = subject.needs, subject.new()
    classifier = classifier or small_classifier(subject.network.kind)
    runner = _runner(classifier, detector)
    with runner.attached():
        for need in ("fit", "validation"):
            if need in needs:
                images = small_images(FITTING, seed=1 if need == "fit" else 2)
                outcome = fit_together(
                    {METHOD: detector},
                    functools.partial(pass_outputs, runner, images),
                    CLASSES,
                    validation=need == "validation",
                )[METHOD]
                if outcome.error is not None:
                    raise outcome.error
        candidates = {}
        for key, changed in settings.items():
            candidate = candidates[METHOD, str(key)] = detector.with_parameters(**changed)
            if "calibration" in needs:
                data = small_images(50, seed=3)
                inverted = ImageArray(1 - data.images, data.labels)
                sides = [_seen(runner, candidate, side) for side in (data, inverted)]
                with torch.no_grad():
                    candidate.calibrate(*(side.copied(needs) for side in sides))
        test = small_images(100, seed=4)
        result = score_split(runner, test, candidates, dataset="test", check_batches=True)
    for error in result.errors.values():
        if not isinstance(error, ValueError) or not result.scores:
            raise error
    scored = {key: result.scores.get((METHOD, str(key))) for key in settings}
    return {key: torch.from_numpy(each) for key, each in scored.items() if each is not None}


def _runner(classifier: Classifier, detector: Detector) -> NetworkRunner:
    """Runs the network and captures what the detector declares."""
    few = torch.from_numpy(small_images(4, seed=0).images)
    with evaluating(classifier):
        name = find_map(classifier, few)
    readers, errors = layer_readers(classifier, {METHOD: detector}, few)
    kept, refusals = kept_taps(classifier.network, {METHOD: detector})
    for error in (*errors.values(), *refusals.values()):
        raise error
    capture = Capture.of(detector.info.needs, name, readers, kept)
    return NetworkRunner(classifier, batch_size=64, capture=capture)


def _seen(runner: NetworkRunner, detector: Detector, data: ImageArray) -> Outputs:
    """Outputs of a split, with the gradients that a detector looks at."""
    if "input_gradients" not in detector.info.needs:
        return Outputs.concatenate(list(pass_outputs(runner, data)))
    parts = []
    for images, _ in runner.batches(data):
        with torch.enable_grad():
            images = images.requires_grad_()
            still = detector.with_parameters(epsilon=0.0)
            parts.append(differentiated(runner, still, images, runner.outputs(images)))
    return Outputs.concatenate(parts)
