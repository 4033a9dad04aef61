"""Networks for small images whose parameters have the names of published checkpoints.

OpenOOD v1.5 (Zhang et al. 2023) publishes weights of `resnet18_32x32`, and takes those of WRN-40-2;
Y. Idelbayev's CIFAR-10 networks are those of He et al. 2016, section 4.2, with their own shortcuts
(option A). The mathematics is that of `oodbench.models.resnet` but for these shortcuts and for the
place of the rectifiers in a wide network; only the names differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.models.classifier import Network

Shortcut = Literal["projection", "padding"]


def _convolution(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False)


def _initialize(network: nn.Module) -> None:
    """N(0, sqrt(2 / (size^2 out_channels))) for convolutions (He et al. 2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class PaddedShortcut(nn.Module):
    """Every second pixel, and as many channels of zeros before as after (option A).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, an even number more.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.added = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Shape [B, out_channels, H / 2, W / 2], rounded up."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))


class PublishedBlock(nn.Module):
    """Two 3x3 convolutions; rectifiers after the first and after the sum."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _convolution(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        # Modules, and one for each call: detectors look at what they give.
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != channels:
            self.shortcut = (
                PaddedShortcut(in_channels, channels)
                if shortcut == "padding"
                else nn.Sequential(
                    _convolution(in_channels, channels, 1, stride), nn.BatchNorm2d(channels)
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """Post-activation residual block."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        activation: Tensor = self.relu2(residual + self.shortcut(x))
        return activation


class _NamedHead(Network):
    """A network whose last layer has the name of the checkpoint.

    Args:
        head_name: name of the last layer.
    """

    def __init__(self, head_name: str) -> None:
        super().__init__()
        self._head_name = head_name

    # A property and no sub-module: a layer that is registered twice is stored twice.
    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """The last layer."""
        return self.get_submodule(self._head_name)


class PublishedResNet(_NamedHead):
    """Stem, layers of basic blocks (stride 2 from the second on), global average pool, last layer.

    Args:
        blocks: number of blocks of each layer.
        widths: channels of each layer; the stem has the first layer's.
        shortcut: where the size changes: "projection" (a 1x1 convolution) or "padding" (option A).
        head_name: name of the last layer.
        make_head: makes the last layer for a number of features.
        in_channels: channels of the images.
    """

    def __init__(
        self,
        *,
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        shortcut: Shortcut,
        head_name: str,
        make_head: Callable[[int], nn.Module],
        in_channels: int,
    ) -> None:
        super().__init__(head_name)
        self.conv1 = _convolution(in_channels, widths[0], 3)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        layers = tuple(f"layer{index + 1}" for index in range(len(blocks)))
        self.tap_names = ("relu", *layers)
        channels = widths[0]
        for index, (name, depth, width) in enumerate(zip(layers, blocks, widths, strict=True)):
            layer = nn.Sequential()
            for block in range(depth):
                stride = 2 if block == 0 and index > 0 else 1
                layer.append(PublishedBlock(channels, width, stride, shortcut))
                channels = width
            self.add_module(name, layer)
        self.add_module(head_name, make_head(channels))
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C], for normalized images [B, in_channels, H, W]."""
        x = self.relu(self.bn1(self.conv1(images)))
        for layer in self.tap_names[1:]:
            x = self.get_submodule(layer)(x)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


class WideBlock(nn.Module):
    """BN, rectifier, 3x3 convolution, twice; a projection sees the first rectifier's output."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = _convolution(in_channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv2 = _convolution(channels, channels, 3)
        self.convShortcut = (
            None if in_channels == channels else _convolution(in_channels, channels, 1, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pre-activation residual block."""
        activated = self.relu1(self.bn1(x))
        residual: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(activated))))
        if self.convShortcut is None:
            return x + residual
        shortcut: Tensor = self.convShortcut(activated)
        return shortcut + residual


class WideLayer(nn.Module):
    """Blocks of one width."""

    def __init__(self, depth: int, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(
                WideBlock(channels if block else in_channels, channels, 1 if block else stride)
                for block in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Output of the last block."""
        activation: Tensor = self.layer(x)
        return activation


class PublishedWideResNet(_NamedHead):
    """WRN of Zagoruyko and Komodakis 2016 for small images, without dropout.

    Taps are the raw outputs of the stem and of the first two blocks, and the last rectifier's.

    Args:
        depth: 6n + 4.
        widening: factor of the widths 16, 32 and 64.
        make_head: makes the last layer for a number of features.
        in_channels: channels of the images.
    """

    tap_names = ("conv1", "block1", "block2", "relu")

    def __init__(
        self, *, depth: int, widening: int, make_head: Callable[[int], nn.Module], in_channels: int
    ) -> None:
        super().__init__("fc")
        blocks = (depth - 4) // 6
        widths = [16 * widening, 32 * widening, 64 * widening]
        self.conv1 = _convolution(in_channels, 16, 3)
        self.block1 = WideLayer(blocks, 16, widths[0], 1)
        self.block2 = WideLayer(blocks, widths[0], widths[1], 2)
        self.block3 = WideLayer(blocks, widths[1], widths[2], 2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU()
        self.fc = make_head(widths[2])
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C], for normalized images [B, in_channels, H, W]."""
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        logits: Tensor = self.fc(self.relu(self.bn1(x)).mean(dim=(2, 3)))
        return logits
