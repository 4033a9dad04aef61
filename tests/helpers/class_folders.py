"""Folders of images in classes, and a network that knows them: without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

COLORS = {"blue": 2, "green": 1, "red": 0}
"""Class -> the channel that is bright; in the order of the folders."""

NETWORK = '''
import torch
from torch import nn


def build(order=(2, 1, 0)):
    """Sums the bright channels: class k is bright in channel order[k]."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model[0].weight.copy_(torch.rand(8, 3, 1, 1, generator=generator) / 10)
        model[0].weight[:3, :, 0, 0] += torch.eye(3)
        model[0].bias.zero_()
        model[4].weight.copy_(torch.rand(3, 8, generator=generator) / 10)
        for label, channel in enumerate(order):
            model[4].weight[label, channel] += 5
        model[4].bias.zero_()
    return model


def permuted():
    return build((0, 2, 1))


def no_model():
    return 3


def linear_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 7))
'''


def write_images(folder: Path, count: int, seed: int, channel: int | None = None) -> Path:
    """Images of 8x8 pixels of noise, with one channel brighter."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = generator.integers(0, 90, (8, 8, 3), dtype=np.uint8)
        if channel is not None:
            pixels[:, :, channel] += np.uint8(140)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def write_sets(folder: Path) -> Path:
    """`test`, `fit` and `val` with the three classes, `noise` and `dark` without, `net.py`."""
    for split, count in (("test", 8), ("fit", 30), ("val", 8)):
        for seed, (name, channel) in enumerate(COLORS.items()):
            write_images(folder / split / name, count, 100 * count + seed, channel)
    write_images(folder / "noise", 12, 1)
    write_images(folder / "dark" / "inside", 9, 2)
    (folder / "net.py").write_text(NETWORK)
    spaces: dict[str, object] = {}
    exec(compile(NETWORK, "net.py", "exec"), spaces)
    torch.save(spaces["build"]().state_dict(), folder / "net.pt")  # type: ignore[operator]
    return folder
