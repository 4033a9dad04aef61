"""Gradients that detectors ask for: with respect to the images, or to feature layers.

The graph is that of the forward pass that all detectors share: a loss costs one backward pass, or
the part of one down to the first feature layer, and a perturbation one forward pass without a graph
for each step size. The gradient that perturbs does not depend on the step size.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Protocol

import torch
from torch import Tensor

from oodbench.detector import Detector, Outputs, PerturbingDetector
from oodbench.engine.passes.capture import FEATURES, LOGITS, Activation
from oodbench.engine.passes.contract import (
    DetectorError,
    checked_gradient,
    checked_losses,
    checked_reduction,
    checked_step,
    checked_taps,
    named,
)
from oodbench.models.classifier import Network

_GRADIENTS = frozenset({"input_gradient", "input_gradients", "tap_gradients"})
_NOT_YET = frozenset({"perturbed"})
"""Needs whose values are there after the gradients."""


def takes_gradients(needs: Set[str]) -> bool:
    """Whether a detector with these needs takes gradients."""
    return bool(needs & _GRADIENTS)


def differentiates(detector: Detector) -> bool:
    """Whether scoring takes a gradient: a step of zero would not use it."""
    shown = detector.info.needs & {"input_gradients", "tap_gradients"}
    return bool(shown) or step_size(detector) != 0


def differentiates_to_fit(detector: Detector) -> bool:
    """Whether fitting takes a gradient."""
    needs = detector.info.needs
    return "tap_gradients" in needs or ("perturbed" in needs and step_size(detector) != 0)


def step_size(detector: Detector) -> float:
    """The `epsilon` of a perturbing detector; 0 for the others."""
    return float(detector.epsilon) if isinstance(detector, PerturbingDetector) else 0.0


# --- with respect to the images ------------------------------------------------------------------


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
    given = outputs.replaced(labels=None).copied(detector.info.needs - _NOT_YET)
    losses = checked_losses(
        detector, method, getattr(detector, method)(given), len(outputs), places
    )
    return {
        name: checked_gradient(detector, method, name, gradient)
        for name, gradient in input_gradients(losses, images).items()
    }


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


class Runner(Protocol):
    """What computes outputs of moved images."""

    def outputs(self, images: Tensor) -> Outputs:
        """Of the whole network."""
        ...

    def activation(self, images: Tensor, tap: str) -> Tensor:
        """A tap, shape [B, D]."""
        ...


def perturbed_outputs(
    runner: Runner,
    detector: PerturbingDetector,
    images: Tensor,
    outputs: Outputs,
    gradients: Mapping[str, Tensor],
    std: Tensor,
) -> Outputs:
    """Outputs after the detector's step, each place from its own moved images.

    Args:
        runner: runs the network; no graph is made.
        detector: makes the step.
        images: shape [B, C, H, W].
        outputs: outputs of `images`.
        gradients: place -> gradient.
        std: of the normalization, shape [1, C, 1, 1] or [1, 1, 1, 1].
    """
    moved, taps = outputs.detach(), dict[str, Tensor]()
    with torch.no_grad():
        for place, gradient in gradients.items():
            still = images.detach()
            step = detector.step(still.clone(), gradient, _broadcast(std, still))
            shifted = checked_step(detector, place, step, still)
            if place == LOGITS:
                moved = runner.outputs(shifted)
            else:
                taps[place] = runner.activation(shifted, place)
    if hasattr(outputs, "taps"):
        moved = moved.replaced(taps={**outputs.detach().taps, **taps})
    return moved


def _broadcast(std: Tensor, images: Tensor) -> Tensor:
    """The standard deviations, with as many axes as the images: these may be series, or vectors."""
    return std.reshape(1, -1, *(1,) * (images.ndim - 2)) if images.ndim > 1 else std.flatten()


# --- with respect to feature layers --------------------------------------------------------------


def differentiated_taps(detector: Detector, network: Network) -> tuple[str, ...]:
    """The taps, or "features", that a detector takes gradients for, with its present parameters.

    Raises:
        DetectorError: if it names something else.
        Exception: whatever the detector raises.
    """
    if "tap_gradients" not in detector.info.needs:
        return ()
    places = [*network.tap_names, *([FEATURES] if network.has_features else [])]
    return checked_taps(detector, detector.choose_taps(places), places)


def tap_gradients(
    detector: Detector,
    outputs: Outputs,
    activations: Mapping[str, Activation],
    chosen: tuple[str, ...],
) -> dict[str, Tensor]:
    """What a detector makes of the gradients of its loss with respect to feature layers.

    Args:
        detector: declares the need "tap_gradients".
        outputs: outputs of the images, with their graph.
        activations: tap, or "features" -> its activation.
        chosen: `differentiated_taps` of the detector.

    Raises:
        DetectorError: if the detector's methods give something else than they must, or the loss
            does not depend on a layer.
    """
    if not chosen:
        return {}
    for name in chosen:
        if name not in activations:
            raise DetectorError(f"'{name}' did not run, or not in the graph of the logits")
    given = outputs.replaced(labels=None).copied(detector.info.needs - _NOT_YET)
    losses = checked_losses(detector, "tap_loss", detector.tap_loss(given), len(outputs), {LOGITS})
    found = torch.autograd.grad(
        losses[LOGITS].sum(),
        [activations[name].edge for name in chosen],
        retain_graph=True,
        allow_unused=True,
    )
    reduced = {}
    with torch.no_grad():
        for name, gradient in zip(chosen, found, strict=True):
            each = activations[name]
            if gradient is None:
                raise DetectorError(
                    f"{named(detector)}: tap_loss does not depend on '{name}', on which the logits "
                    "of this network may not depend either"
                )
            checked_gradient(detector, "tap_loss", name, gradient)
            made = detector.reduce_gradient(name, each.value, each.in_usual_order(gradient))
            reduced[name] = checked_reduction(detector, name, made, len(outputs))
    return reduced
