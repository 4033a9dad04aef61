"""Feature layers whose output a detector replaces: the logits of the network with it.

Each replacement takes the part of a forward pass after the layer: feature layers up to it return
their output of the shared forward pass. A layer that gives a tuple, or whose output the network has
changed in place since, runs again; the logits are the same.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from oodbench.detector import Detector, Outputs
from oodbench.engine.passes.contract import checked_replacement, checked_taps
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.passes.sampled_logits import rotation_logits, sampled_logits
from oodbench.models.classifier import Network


def replaced_taps(detector: Detector, network: Network) -> tuple[str, ...]:
    """The taps that a detector replaces, with its present parameters.

    Raises:
        DetectorError: if it names something else.
        Exception: whatever the detector raises.
    """
    if "replaced_logits" not in detector.info.needs:
        return ()
    return checked_taps(detector, detector.choose_taps(network.tap_names), network.tap_names)


def own_logits(
    runner: NetworkRunner, detector: Detector, images: Tensor, outputs: Outputs
) -> dict[str, Any]:
    """Logits of a detector's own passes: replaced taps, several for each image, rotated images."""
    return {
        "replaced_logits": replaced_logits(runner, detector, images),
        "sampled_logits": sampled_logits(runner, detector, images),
        "rotation_logits": rotation_logits(runner, detector, images, outputs),
    }


def replaced_logits(runner: NetworkRunner, detector: Detector, images: Tensor) -> dict[str, Tensor]:
    """Tap -> logits [B, C] of the network with the detector's replacement of it; without a graph.

    Args:
        runner: runs the network.
        detector: any.
        images: shape [B, C, H, W].
    """

    def change(tap: str, activation: Tensor) -> Tensor:
        shape = activation.shape  # before the detector may do anything in place
        return checked_replacement(detector, tap, detector.replace_tap(tap, activation), shape)

    return {
        tap: runner.resumed(images, tap, functools.partial(change, tap))
        for tap in replaced_taps(detector, runner.classifier.network)
    }
