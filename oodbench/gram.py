"""Row sums of Gram matrices of any order, without the matrices (Sastry & Oore 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**19
"""Activations worked on at a time: their powers stay in the processor's cache."""


def gram_row_sums(activation: Tensor, powers: int) -> Tensor:
    """Row sums of (F^p F^pT)^(1/p) for p = 1 .. powers, at least float32.

    F is the activation of an image as a matrix of channels and places, F^p its element-wise power;
    the root, of the row sum, keeps the sign: sign(r) |r|^(1/p). A row sum is F^p (F^pT 1), which
    takes as many products as F has elements and no matrix of channels by channels. The activation
    is divided by its image's largest one, which is exact algebra (a row sum is homogeneous of
    degree 2p, its root of degree 2), so that no power overflows.

    Args:
        activation: shape [B, D], [B, tokens, D] or [B, D, ...]: as in `Outputs.tap_maps`.
        powers: the highest order.

    Returns:
        Shape [B, powers, D].
    """
    if activation.ndim == 3:
        activation = activation.transpose(1, 2)
    images = max(1, BLOCK // max(1, activation[:1].numel()))
    return torch.cat([_row_sums(block, powers) for block in activation.detach().split(images)])


def _row_sums(activation: Tensor, powers: int) -> Tensor:
    precision = torch.promote_types(activation.dtype, torch.float32)
    channels = activation[:, :, None] if activation.ndim == 2 else activation.flatten(2)
    largest = torch.maximum(
        channels.amax(dim=(1, 2), keepdim=True), -channels.amin(dim=(1, 2), keepdim=True)
    )
    largest = largest.to(precision)
    unit = channels.new_empty(channels.shape, dtype=precision)  # contiguous, whatever the map is
    torch.div(channels, largest.where(largest > 0, 1.0), out=unit)
    power, sums = unit, unit.new_empty(len(unit), powers, unit.shape[1])
    for index in range(powers):
        if index == 1:
            power = unit.square()
        elif index > 1:
            power *= unit
        rows = power.sum(dim=1, keepdim=True) @ power.transpose(1, 2)
        sums[:, index] = rows.squeeze(1)
    exponents = 1 / torch.arange(1, powers + 1, dtype=precision, device=sums.device)[:, None]
    return sums.sign() * sums.abs() ** exponents * largest.square()
