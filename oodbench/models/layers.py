"""Every convolution and activation function of a network, in the order in which they run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.models.activations import activation_of, axis_by_sides, usual_axis
from oodbench.models.adapted_network import AdaptedNetwork
from oodbench.models.classifier import Classifier, Network
from oodbench.models.hooks import watched

_CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_ACTIVATIONS = ("elu", "gelu", "silu", "swish", "mish", "tanh", "sigmoid", "softplus", "activation")
"""What the names of activation functions have in them or end in: relu, leakyrelu, hardswish ..."""
_NO_ACTIVATIONS = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)


@dataclass(frozen=True, slots=True)
class Layer:
    """One call of a module whose output detectors with the need "layers" may look at.

    Attributes:
        name: the module's, as in the user's own model, and from its second call in a forward pass
            on with "#2", "#3" ...
        module: name of the module within the network.
        call: which of its calls in a forward pass, counted from 0.
        axis: axis of the channels, where it is not the usual one (`oodbench.models.activations`).
        convolution: whether it is a convolution.
    """

    name: str
    module: str
    call: int = 0
    axis: int | None = None
    convolution: bool = False


def find_layers(classifier: Classifier, images: Tensor) -> tuple[Layer, ...]:
    """The convolutions and activation functions that run in a forward pass of a few images.

    An activation function counts if it is a module: calls of `torch.nn.functional` cannot be
    observed. A module that runs several times counts each time. The last layer does not count, and
    neither does an output without an entry for each image.

    Args:
        classifier: in evaluation mode.
        images: a few, shape [B, channels, H, W], as the classifier takes them.

    Returns:
        In the order of the calls.
    """
    network, found, calls = classifier.network, list[Layer](), Counter[str]()
    inside = "module." if isinstance(network, AdaptedNetwork) else ""

    def record(name: str, module: nn.Module, inputs: Any, given: Any) -> None:
        output = activation_of(given, len(images))
        call = calls[name]
        calls[name] += 1
        if output is None:
            return
        convolution = isinstance(module, _CONVOLUTIONS)
        axis = 1 if convolution else _axis(output, images, found)
        if axis == usual_axis(output):
            axis = None
        label = name.removeprefix(inside) + (f"#{call + 1}" if call else "")
        found.append(Layer(label, name, call, axis, convolution))

    def counts(name: str, module: nn.Module) -> bool:
        return bool(name) and module is not network.head and _counts(module)

    with watched(network, record, counts), torch.no_grad():
        classifier(images)
    return tuple(found)


def taps_of(network: Network) -> tuple[Layer, ...]:
    """The feature layers of a network, in order."""
    names = {id(module): name for name, module in network.named_modules()}
    return tuple(
        Layer(tap, names[id(module)], axis=network.channel_axes.get(tap))
        for tap, module in network.tap_modules.items()
    )


def _counts(module: nn.Module) -> bool:
    """Whether a module is a convolution or an activation function."""
    if isinstance(module, _NO_ACTIVATIONS):
        return False
    if isinstance(module, _CONVOLUTIONS):
        return True
    if any(True for _ in module.children()) or any(p.ndim > 1 for p in module.parameters()):
        return False
    name = type(module).__name__.lower()
    known = type(module).__module__ == nn.ReLU.__module__ and hasattr(nn, type(module).__name__)
    return known or any(part in name for part in (*_ACTIVATIONS, "relu"))


def _axis(output: Tensor, images: Tensor, before: list[Layer]) -> int | None:
    """The axis of an activation function's channels; None where it is the usual one."""
    if output.ndim == 3:  # tokens, or a series on which a convolution ran before
        series = images.ndim == 3 and any(layer.convolution for layer in before)
        return 1 if series else 2
    if output.ndim != 4 or images.ndim != 4:
        return None
    return 3 if axis_by_sides(output, (images.shape[2], images.shape[3])) == 3 else 1
