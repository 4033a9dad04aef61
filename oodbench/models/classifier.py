"""The interface of networks, and the wrapper that normalizes their input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from oodbench.detector import Head, Language
from oodbench.losses import DistanceHead, RotPredHead, T2FNormHead

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_last_layer(layer: nn.Module) -> bool:
    """Whether a layer may be a classifier's last: linear, a 1x1 convolution, or distances."""
    return isinstance(layer, nn.Linear | DistanceHead) or _is_pointwise(layer)


def _is_pointwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that computes each place from that place alone."""
    if not isinstance(layer, _CONVOLUTIONS):
        return False
    return set(layer.kernel_size) == {1} and layer.groups == 1


def linear_weight(layer: nn.Module) -> Tensor:
    """A copy of the weights W of logits = W f + b in evaluation mode, shape [C, D], detached.

    Args:
        layer: linear, or a 1x1 convolution.
    """
    if isinstance(layer, T2FNormHead):
        return layer.evaluation_weight
    # A layer may make its weight of other parameters, as weight normalization does.
    weight: Tensor = getattr(layer, "weight")  # noqa: B009
    return weight.detach().clone().flatten(1)


def vectors(value: Tensor, layer: nn.Module) -> Tensor:
    """The input or output of a layer, averaged over places: one vector for each image, [B, D].

    Args:
        value: shape [B, D] or with places: [B, ..., D] for a linear or distance layer and for
            tokens [B, T, D], else [B, D, ...], as in layers on series (Conv1d).
        layer: the layer.
    """
    if value.ndim < 3:
        return value
    if channels_axis(value, layer) == 1:
        return value.flatten(2).mean(dim=2)
    return value.flatten(1, -2).mean(dim=1)


def channels_axis(value: Tensor, layer: nn.Module) -> int:
    """The axis of the channels in the input or output of a layer."""
    on_series = type(layer).__name__.endswith("1d") or value.shape[-1] == 1
    if isinstance(layer, nn.Linear | DistanceHead) or (value.ndim == 3 and not on_series):
        return value.ndim - 1
    return 1


def first_tensor(values: Any) -> Any:
    """The first tensor in the input or output of a module: itself, or in a tuple or a mapping."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, dict):
        values = tuple(values.values())
    if isinstance(values, tuple | list):
        return next((value for value in values if isinstance(value, Tensor)), None)
    return None


class Network(nn.Module):
    """A network that names its taps and its last layer.

    Attributes:
        tap_names: names of the sub-modules whose output is a tap, in order.
        head: the last layer; None if it is not known.
        features_module: the module whose output, averaged over places, is the penultimate
            features; None if they are the input of the last layer.
        opaque_head: whether the logits differ from what the last layer's weights give.
        channel_axes: tap -> axis of its channels, where it is not the usual one
            (`oodbench.models.activations`).
        names_taps: whether it names its taps; False: they are to be found by running it.
        language: text features of the classes and the text encoder; None if there are none.
        has_local_features: whether `watch_local_features` gives features of patches.
        features_apart: whether the features take a pass of their own.
    """

    tap_names: tuple[str, ...]
    head: nn.Module | None
    features_module: nn.Module | None = None
    opaque_head: bool = False
    channel_axes: Mapping[str, int] = MappingProxyType({})
    names_taps: bool = True
    language: Language | None = None
    has_local_features: bool = False
    features_apart: bool = False

    @property
    def tap_modules(self) -> dict[str, nn.Module]:
        """Name -> module whose output is the tap, in order."""
        return {name: self.get_submodule(name) for name in self.tap_names}

    @property
    def has_features(self) -> bool:
        """Whether the penultimate features are known."""
        return self.head is not None or self.features_module is not None

    def watch_features(
        self,
        take: Callable[[Tensor], None],
        whole: Callable[[Tensor, int], None] | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[RemovableHandle]:
        """Call `take` with the penultimate features [B, D] in each forward pass.

        Args:
            take: gets the features.
            whole: gets them as the network gives them, before the average over places, and the axis
                of their channels.
            wanted: whether features are wanted of the present pass; if not, they may be left out.

        Returns:
            Handles of the hooks, to be removed; empty if the features are not known.
        """
        module, head = self.features_module, self.head

        def give(value: Any, layer: nn.Module) -> None:
            if isinstance(value, Tensor):
                take(vectors(value, layer))
                if whole is not None:
                    whole(value, channels_axis(value, layer))

        if module is not None:

            def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
                give(first_tensor(output), layer)

            return [module.register_forward_hook(hook)]
        if head is not None:

            def pre_hook(layer: nn.Module, inputs: Any, named: Any) -> None:
                give(first_tensor((*inputs, *named.values())), layer)

            return [head.register_forward_pre_hook(pre_hook, with_kwargs=True)]
        return []

    def watch_local_features(self, take: Callable[[Tensor], None]) -> list[RemovableHandle]:
        """Call `take` with features of patches [B, P, D] in each forward pass.

        Returns:
            Handles, to be removed; empty without `has_local_features`.
        """
        return []


class Classifier(nn.Module):
    """A network together with the normalization it was trained with.

    Images come in [0, 1], so that step sizes are in pixel units whatever the normalization is; mean
    and standard deviation are stored with the weights.

    Args:
        network: maps normalized images to logits.
        mean: per channel, in [0, 1] units.
        std: per channel, in [0, 1] units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    @property
    def taps(self) -> dict[str, nn.Module]:
        """Name -> module whose output is the tap, in order."""
        return self.network.tap_modules

    @property
    def dtype(self) -> torch.dtype:
        """Floating type the images are converted to."""
        return self.mean.dtype

    @property
    def rotation_layer(self) -> nn.Module | None:
        """The second layer, which tells by how much an image is rotated, [B, D] -> [B, 4]."""
        head = self.network.head
        return head.rotations if isinstance(head, RotPredHead) else None

    def describe_head(self) -> Head:
        """A copy of the last layer, as detectors see it: prototypes as stored, of any length."""
        layer = self.network.head
        if layer is None or self.network.opaque_head:
            return Head("other")
        if isinstance(layer, nn.Linear) or _is_pointwise(layer):
            assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
            bias = None if layer.bias is None else layer.bias.detach().clone()
            return Head("linear", linear_weight(layer), bias, self.rotation_layer is not None)
        if isinstance(layer, DistanceHead):
            return Head("dismax", layer.prototypes.detach().clone())
        return Head("other")

    def normalized(self, images: Tensor) -> Tensor:
        """Normalized images, the input of the network, of images [B, channels, H, W] in [0, 1]."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C], for images [B, channels, H, W] in [0, 1]."""
        logits: Tensor = self.network(self.normalized(images))
        return logits
