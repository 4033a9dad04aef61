"""Random augmentation of training images, for a whole batch at once on its device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.specs import AugmentSpec


@dataclass(frozen=True, slots=True)
class Draws:
    """The random choices for a batch of B images.

    They are drawn for the whole batch, so that processes that share a batch make the same choices
    as a single process.

    Attributes:
        shifts: rows and columns of each crop in the padded image, shape [2, B]; None: no crop.
        flips: whether each image is flipped, shape [B]; None: no flips.
    """

    shifts: Tensor | None
    flips: Tensor | None

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(
            None if self.shifts is None else self.shifts[:, rows],
            None if self.flips is None else self.flips[rows],
        )


def draw(spec: AugmentSpec, count: int, generator: torch.Generator) -> Draws:
    """Random choices for `count` images.

    Args:
        spec: the augmentation of the recipe.
        count: B.
        generator: on the CPU, so that every device sees the same choices.
    """
    shifts = flips = None
    if spec.crop_padding:
        shifts = torch.randint(0, 2 * spec.crop_padding + 1, (2, count), generator=generator)
    if spec.horizontal_flip:
        flips = torch.rand(count, generator=generator) < 0.5
    return Draws(shifts, flips)


def augment(images: Tensor, spec: AugmentSpec, draws: Draws) -> Tensor:
    """Random crop after zero padding, and horizontal flip.

    Args:
        images: shape [B, C, H, W], any type.
        spec: the augmentation of the recipe.
        draws: the random choices for these images.

    Returns:
        Shape [B, C, H, W], the same type, in channels_last order if cropped or flipped.
    """
    height, width = images.shape[-2:]
    device = images.device
    if draws.shifts is not None:
        padded = F.pad(images, (spec.crop_padding,) * 4).permute(0, 2, 3, 1).contiguous()
        top, left = draws.shifts.to(device)
        rows = top[:, None] + torch.arange(height, device=device)
        columns = left[:, None] + torch.arange(width, device=device)
        batch = torch.arange(len(images), device=device)[:, None, None]
        images = padded[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if draws.flips is not None:
        flips = draws.flips.to(device)
        images = torch.where(flips[:, None, None, None], images.flip(-1), images)
    return images
