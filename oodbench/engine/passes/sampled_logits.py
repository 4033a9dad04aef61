"""Several logits for each image: from dropout, members of an ensemble, or rotated images."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Set

import torch
from torch import Tensor

from oodbench.detector import Detector, Outputs
from oodbench.engine.passes.capture import SampledLogits
from oodbench.engine.passes.dropout_passes import DropoutPasses, find_dropout, samples_of
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.errors import UnsuitableError
from oodbench.losses.rotations import ROTATIONS, rotated
from oodbench.models.classifier import Classifier
from oodbench.models.ensemble import find_members

NEEDS = frozenset({"dropout_logits", "member_logits"})
"""Needs of detectors that read `outputs.sampled_logits`."""


def find_sampled(
    classifier: Classifier, images: Tensor, needs: Set[str]
) -> tuple[dict[str, SampledLogits], dict[str, UnsuitableError]]:
    """Where several logits come from.

    Args:
        classifier: in evaluation mode.
        images: a few, shape [B, ...], as the classifier takes them.
        needs: of all detectors.

    Returns:
        Need -> source, and need -> why the network has none.
    """
    found: dict[str, SampledLogits] = {}
    errors: dict[str, UnsuitableError] = {}
    for need in sorted(NEEDS & needs):
        try:
            dropout = need == "dropout_logits"
            found[need] = find_dropout(classifier, images) if dropout else find_members(classifier)
        except UnsuitableError as error:
            errors[need] = error
    return found, errors


def sampled_logits(runner: NetworkRunner, detector: Detector, images: Tensor) -> Tensor | None:
    """Logits that a detector asks for, shape [B, M, C], float64; None if it asks for none.

    Args:
        runner: has just computed the outputs of the images, or they are computed again.
        detector: any.
        images: shape [B, ...].
    """
    needed = NEEDS & detector.info.needs
    if not needed:
        return None
    sources: Mapping[str, SampledLogits] = dict(runner.capture.sampled)
    source = sources[min(needed)]
    during = functools.partial(runner.folding.during, whole=False)
    if isinstance(source, DropoutPasses):
        return source.samples(images, runner.classifier, during, *samples_of(detector))
    return source.logits(images, runner.classifier, during)


def rotation_logits(
    runner: NetworkRunner, detector: Detector, images: Tensor, outputs: Outputs
) -> Tensor | None:
    """Logits of the rotation layer for the images in four orientations, without a graph.

    Args:
        runner: runs the classifier, which has a layer for rotations.
        detector: any.
        images: shape [B, C, H, H].
        outputs: outputs of `images`, the first orientation.

    Returns:
        Shape [B, 4, 4], float64: orientation, logits. None for a detector that does not read them.

    Raises:
        UserError: if the images are not square.
    """
    if "rotations" not in detector.info.needs:
        return None
    layer = runner.classifier.rotation_layer
    assert layer is not None, "checked before the run"
    with torch.no_grad():
        turned = rotated(images.detach()).view(ROTATIONS, *images.shape)[1:]
        features = [outputs.features, *(runner.outputs(part).features for part in turned)]
        return torch.stack([layer(each).double() for each in features], dim=1)
