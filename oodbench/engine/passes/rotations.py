"""Rotated images: what a second head says of their rotation, in passes of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.detector import Detector, Outputs
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.losses import RotPredHead
from oodbench.losses.rotation_prediction import ROTATIONS, rotated


def rotation_logits(
    runner: NetworkRunner, detector: Detector, images: Tensor, outputs: Outputs
) -> Tensor | None:
    """Logits of the rotation head for the images in four orientations, without a graph.

    Args:
        runner: runs the network, whose head has a second layer for rotations.
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
    head = runner.classifier.network.head
    assert isinstance(head, RotPredHead), "checked before the run"
    with torch.no_grad():
        turned = rotated(images.detach()).chunk(ROTATIONS)[1:]
        features = [outputs.features, *(runner.outputs(part).features for part in turned)]
        return torch.stack([head.rotations(each).double() for each in features], dim=1)
