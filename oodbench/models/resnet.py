"""Residual networks for small images (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from oodbench.models.classifier import Network


def _convolution(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: 1x1 convolution and BN where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, out_channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _convolution(out_channels, out_channels, 3)
        self.bn2 = nn.BatchNorm2d(out_channels)
        # Modules, and one for each call: detectors read their outputs.
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else nn.Sequential(
                _convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Post-activation residual block."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        activation: Tensor = self.relu2(residual + self.shortcut(x))
        return activation


class ResNet(Network):
    """Stem, stages of basic blocks (stride 2 from the second on), global average pool, head.

    Args:
        blocks: number of blocks of each stage.
        widths: channels of each stage; the stem has the first stage's.
        make_head: makes the last layer for a number of features.
        in_channels: channels of the images.
    """

    head: nn.Module

    def __init__(
        self,
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        make_head: Callable[[int], nn.Module],
        in_channels: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(in_channels, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.tap_names = ("stem", *(f"stage{index + 1}" for index in range(len(blocks))))
        channels = widths[0]
        for index, (depth, width) in enumerate(zip(blocks, widths, strict=True)):
            stage = nn.Sequential()
            for block in range(depth):
                stride = 2 if block == 0 and index > 0 else 1
                stage.append(BasicBlock(channels, width, stride))
                channels = width
            self.add_module(f"stage{index + 1}", stage)
        self.head = make_head(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C], for normalized images [B, in_channels, H, W]."""
        x = images
        for tap in self.tap_names:
            x = self.get_submodule(tap)(x)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def small_resnet(
    *, blocks_per_stage: int, make_head: Callable[[int], nn.Module], in_channels: int
) -> ResNet:
    """The 6n+2-layer networks of He et al. 2016, section 4.2 (with projection shortcuts)."""
    return ResNet((blocks_per_stage,) * 3, (16, 32, 64), make_head, in_channels)


def large_resnet(
    *, blocks: tuple[int, ...], make_head: Callable[[int], nn.Module], in_channels: int
) -> ResNet:
    """The networks of He et al. 2016, table 1, with a stem for small images.

    The stem is one 3x3 convolution of stride 1 without pooling, as Lee et al. 2018 and others use
    them on CIFAR.
    """
    return ResNet(blocks, (64, 128, 256, 512), make_head, in_channels)
