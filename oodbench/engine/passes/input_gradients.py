"""Gradients for the input: to perturb it, or for a detector to look at.

The graph is that of the forward pass that all detectors share: a loss costs one backward pass, and
a perturbation one forward pass without a graph for each step size. The gradient that perturbs does
not depend on the step size.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

import torch
from torch import Tensor

from oodbench.detector import Detector, Outputs, PerturbingDetector
from oodbench.engine.passes.capture import LOGITS
from oodbench.engine.passes.contract import checked_gradient, checked_losses
from oodbench.engine.passes.runner import NetworkRunner


def takes_gradients(needs: Set[str]) -> bool:
    """Whether a detector with these needs takes gradients for its input."""
    return bool(needs & {"input_gradient", "input_gradients"})


def differentiates(detector: Detector) -> bool:
    """Whether scoring takes a gradient: a step of zero would not use it."""
    return "input_gradients" in detector.info.needs or step_size(detector) != 0


def step_size(detector: Detector) -> float:
    """The `epsilon` of a perturbing detector, in units of a [0, 1] pixel; 0 for the others."""
    return float(detector.epsilon) if isinstance(detector, PerturbingDetector) else 0.0


def differentiated(
    runner: NetworkRunner, detector: Detector, images: Tensor, outputs: Outputs
) -> Outputs:
    """What a detector that takes gradients sees of a batch.

    Args:
        runner: runs the network.
        detector: declares the need "input_gradient" or "input_gradients".
        images: shape [B, C, H, W], requiring a gradient.
        outputs: outputs of `images`, with their graph.

    Raises:
        DetectorError: if the detector's losses are not as they must be.
    """
    view, shown = outputs.detach(), shown_gradients(detector, outputs, images)
    if isinstance(detector, PerturbingDetector) and step_size(detector) != 0:
        gradients = gradients_of(detector, outputs, images)
        view = perturbed_outputs(runner, detector, images, outputs, gradients)
    return replace(view, input_gradients=shown)


def gradients_of(detector: Detector, outputs: Outputs, images: Tensor) -> dict[str, Tensor]:
    """Gradients that perturb the input; they do not depend on the step size.

    Args:
        detector: declares the need "input_gradient".
        outputs: outputs of `images`, with their graph.
        images: shape [B, C, H, W], requiring a gradient.
    """
    places = {LOGITS, *(outputs.taps if "taps" in detector.info.needs else ())}
    return _gradients(detector, "perturbation_losses", outputs, images, places)


def shown_gradients(detector: Detector, outputs: Outputs, images: Tensor) -> dict[str, Tensor]:
    """Gradients that `score` looks at; empty for a detector without the need "input_gradients".

    Args:
        detector: any.
        outputs: outputs of `images`, with their graph.
        images: shape [B, C, H, W], requiring a gradient.
    """
    if "input_gradients" not in detector.info.needs:
        return {}
    return _gradients(detector, "gradient_losses", outputs, images, None)


def _gradients(
    detector: Detector, method: str, outputs: Outputs, images: Tensor, places: Set[str] | None
) -> dict[str, Tensor]:
    # A copy, as everything that a detector gets: what it does in place reaches no other.
    given = outputs.copied(detector.info.needs)
    losses = checked_losses(
        detector, method, getattr(detector, method)(given), len(outputs), places
    )
    return {
        name: checked_gradient(detector, method, name, gradient)
        for name, gradient in input_gradients(losses, images).items()
    }


def perturbed_outputs(
    runner: NetworkRunner,
    detector: Detector,
    images: Tensor,
    outputs: Outputs,
    gradients: Mapping[str, Tensor],
) -> Outputs:
    """Outputs of x' = x - epsilon sign(gradient), each place from its own perturbed images.

    With a step of zero nothing is computed: they are the clean outputs. Images are not clamped.

    Args:
        runner: runs the network; no graph is made.
        detector: has the step size.
        images: shape [B, C, H, W].
        outputs: outputs of `images`.
        gradients: place -> gradient.
    """
    epsilon = step_size(detector)
    if epsilon == 0 or not isinstance(detector, PerturbingDetector):
        return outputs.detach()
    moved = outputs.detach()
    with torch.no_grad():
        for place, gradient in gradients.items():
            step = epsilon * step_sign(gradient, detector.sign_zero)
            shifted = images.detach() - step
            if place == LOGITS:
                moved = replace(runner.outputs(shifted, outputs.labels), taps=moved.taps)
            else:
                tap = runner.activation(shifted, place)
                moved = replace(moved, taps={**moved.taps, place: tap})
    return moved


def input_gradients(losses: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor | None]:
    """Gradient of each per-image loss with respect to the images, one backward pass each.

    Losses are summed, not averaged: the gradient of an image does not depend on its batch.

    Args:
        losses: place -> loss, shape [B], with a graph that leads to `images`.
        images: shape [B, C, H, W], requiring a gradient. The graph is kept.

    Returns:
        place -> gradient, shape [B, C, H, W]; None if the loss does not depend on the images.
    """
    gradients = {}
    for place, loss in losses.items():
        # Not torch.autograd.grad, which cannot be called under torch's FLOP counter.
        loss.sum().backward(inputs=[images], retain_graph=True)
        gradients[place], images.grad = images.grad, None
    return gradients


def step_sign(gradient: Tensor, sign_zero: str) -> Tensor:
    """Sign of a gradient; a zero counts as +1 ("plus", the published code's way) or as 0."""
    if sign_zero == "plus":
        return torch.where(gradient >= 0, 1.0, -1.0).to(gradient.dtype)
    return gradient.sign()
