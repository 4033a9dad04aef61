"""A user's network with its normalization, in its own type and memory format."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from oodbench.models.classifier import Classifier, Network

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


Scaling = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, a number per channel in each."""


def reorder(module: nn.Module) -> None:
    """Put the weights of convolutions in channels_last order, which is faster."""
    for part in module.modules():
        # Only torch's own layers: subclasses may depend on the order of their weights.
        if type(part) not in _CONVOLUTIONS:
            continue
        weight = part._parameters.get("weight")  # none if it is made of others in each pass
        if weight is not None:
            weight.data = weight.data.to(memory_format=torch.channels_last)


def type_of(module: nn.Module) -> torch.dtype:
    """The floating type of a module's first parameter, or buffer; float32 if it has neither."""
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


class UserClassifier(Classifier):
    """A user's network with its normalization, run in its own type and memory format.

    Images come in float32, or float64 for a float64 network: in half precision the steps of input
    perturbation would be lost.

    Args:
        network: maps normalized images to logits.
        normalization: mean and standard deviation per channel; None: images come normalized.
        dtype: the network's.
        device: where it is.
        channels_last: whether it takes images in that order.
    """

    def __init__(
        self,
        network: Network,
        normalization: tuple[Sequence[float], Sequence[float]] | None,
        *,
        dtype: torch.dtype,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        mean, std = normalization or ((0.0,), (1.0,))
        super().__init__(network, mean, std)
        precision = torch.promote_types(dtype, torch.float32)
        self.mean = torch.tensor(mean, dtype=precision, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, dtype=precision, device=device).view(1, -1, 1, 1)
        self.normalization = normalization
        self._dtype = dtype
        self.channels_last = channels_last

    def normalized(self, images: Tensor) -> Tensor:
        """The input of the network for images [B, channels, ...]; whole numbers are copied."""
        # A copy in any case: a network's first layer may work in place.
        if self.normalization is None:
            images = images.clone()
        elif images.ndim == 4:
            images = super().normalized(images)
        else:
            shape = (1, -1, *[1] * (images.ndim - 2))
            images = (images - self.mean.view(shape)) / self.std.view(shape)
        if not images.is_floating_point():
            return images
        channels_last = self.channels_last and images.ndim == 4
        order = torch.channels_last if channels_last else torch.contiguous_format
        return images.to(self._dtype).contiguous(memory_format=order)
