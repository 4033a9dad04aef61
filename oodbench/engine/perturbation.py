"""Input perturbation: one gradient for all step sizes, one sweep without a graph for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from oodbench.detector import Detector, Outputs
from oodbench.engine.network import LOGITS, NetworkRunner, input_gradients
from oodbench.plan import Method


def uses_input_gradient(method: Method) -> bool:
    """Whether the method's detector perturbs its input."""
    return "input_gradient" in method.detector.needs


def step_size(detector: Detector) -> float:
    """The detector's `epsilon`, in units of a [0, 1] pixel."""
    return float(detector.epsilon)  # type: ignore[attr-defined]


def gradients_of(detector: Detector, outputs: Outputs, images: Tensor) -> dict[str, Tensor]:
    """Gradients of the detector's losses; they do not depend on its step size.

    Args:
        detector: declares the need "input_gradient".
        outputs: of `images`, with their graph.
        images: shape [B, C, H, W], requiring a gradient.
    """
    return input_gradients(detector.perturbation_losses(outputs), images)


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
        detector: has `epsilon` and `sign_zero`.
        images: shape [B, C, H, W].
        outputs: of `images`.
        gradients: place -> gradient.
    """
    epsilon = step_size(detector)
    if epsilon == 0:
        return outputs.detach()
    moved = outputs.detach()
    with torch.no_grad():
        for place, gradient in gradients.items():
            step = epsilon * step_sign(gradient, getattr(detector, "sign_zero", "plus"))
            shifted = images.detach() - step
            if place == LOGITS:
                moved = replace(runner.outputs(shifted, outputs.labels), taps=moved.taps)
            else:
                tap = runner.activation(shifted, place)
                moved = replace(moved, taps={**moved.taps, place: tap})
    return moved


def step_sign(gradient: Tensor, sign_zero: str) -> Tensor:
    """Sign of a gradient; a zero counts as +1 ("plus", the published code's way) or as 0."""
    if sign_zero == "plus":
        return torch.where(gradient >= 0, 1.0, -1.0).to(gradient.dtype)
    return gradient.sign()
