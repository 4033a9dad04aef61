"""Densely connected networks for small images (Huang et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from oodbench.models.classifier import Network


def _convolution(in_channels: int, out_channels: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)


class Bottleneck(nn.Module):
    """BN-ReLU-1x1 to 4k channels, BN-ReLU-3x3 to k; the k channels are put behind the input's."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _convolution(in_channels, 4 * growth, 1)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = _convolution(4 * growth, growth, 3)
        # Modules, and one for each call: detectors read their outputs.
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Input and new channels, shape [B, in_channels + k, H, W]."""
        new = self.conv2(self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x))))))
        return torch.cat([x, new], dim=1)


class Transition(nn.Sequential):
    """BN-ReLU-1x1 to half the channels, mean over 2x2 pixels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            _convolution(in_channels, in_channels // 2, 1),
            nn.AvgPool2d(2),
        )


class DenseNet(Network):
    """DenseNet-BC: stem, dense blocks with transitions between them, BN-ReLU, global mean, head.

    Taps are the raw output of the stem, that of each transition, and that of the last BN-ReLU, as
    Lee et al. 2018 have them in their code (their text says the end of every block).

    Args:
        depth: number of layers; three blocks share all but four, two to a bottleneck.
        growth: k, the channels that a bottleneck adds.
        make_head: makes the last layer for a number of features.
        in_channels: channels of the images, which have at least 4x4 pixels.
    """

    head: nn.Module

    def __init__(
        self, depth: int, growth: int, make_head: Callable[[int], nn.Module], in_channels: int
    ) -> None:
        super().__init__()
        channels = 2 * growth
        self.stem = _convolution(in_channels, channels, 3)
        self.tap_names = ("stem", "transition1", "transition2", "norm")
        for index in range(1, 4):
            block = nn.Sequential()
            for _ in range((depth - 4) // 6):
                block.append(Bottleneck(channels, growth))
                channels += growth
            self.add_module(f"block{index}", block)
            if index < 3:
                self.add_module(f"transition{index}", Transition(channels))
                channels //= 2
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.head = make_head(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # N(0, sqrt(2 / (size^2 out_channels))), the rule of Huang et al.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C], for normalized images [B, in_channels, H, W]."""
        x = self.stem(images)
        for part in ("block1", "transition1", "block2", "transition2", "block3"):
            x = self.get_submodule(part)(x)
        logits: Tensor = self.head(self.norm(x).mean(dim=(2, 3)))
        return logits


def densenet(
    *, depth: int, growth: int, make_head: Callable[[int], nn.Module], in_channels: int
) -> DenseNet:
    """The DenseNet-BC for CIFAR of Huang et al. 2017, table 2; compression 1/2, no dropout."""
    return DenseNet(depth, growth, make_head, in_channels)
