"""What the engine asks of a network, and the wrapper that normalises its input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oodbench.detector import Head
from oodbench.losses import DistanceHead


class Network(nn.Module):
    """A network that names its taps and its last layer.

    Attributes:
        tap_names: names of the sub-modules whose output is a tap, in order.
        head: the last layer; its input are the penultimate features.
        opaque_head: whether the last layer computes something else than its type says.
        channels_last_taps: taps whose maps come as [B, H, W, D].
    """

    tap_names: tuple[str, ...]
    head: nn.Module
    opaque_head: bool = False
    channels_last_taps: frozenset[str] = frozenset()

    @property
    def tap_modules(self) -> dict[str, nn.Module]:
        """Name -> module whose output is the tap, in order."""
        return {name: self.get_submodule(name) for name in self.tap_names}


class Classifier(nn.Module):
    """A network together with the normalisation it was trained with.

    Images come in [0, 1], so that step sizes are in pixel units whatever the normalisation is; mean
    and standard deviation are stored with the weights.

    Args:
        network: maps normalised images to logits.
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

    def describe_head(self) -> Head:
        """A copy of the last layer, as detectors see it: prototypes as stored, of any length."""
        layer = self.network.head
        if self.network.opaque_head:
            return Head("other")
        if isinstance(layer, nn.Linear):
            bias = None if layer.bias is None else layer.bias.detach().clone()
            return Head("linear", layer.weight.detach().clone(), bias)
        if isinstance(layer, DistanceHead):
            return Head("dismax", layer.prototypes.detach().clone())
        return Head("other")

    def normalised(self, images: Tensor) -> Tensor:
        """What the network sees of images [B, channels, H, W] in [0, 1]."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C], for images [B, channels, H, W] in [0, 1]."""
        logits: Tensor = self.network(self.normalised(images))
        return logits
