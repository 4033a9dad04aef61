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
    takes as many products as F has elements and no matrix of channels by channels. Each channel is
    divided by its largest activation m_i, so that no power overflows and none of a weak channel
    vanishes; with M the largest m, the root of a row sum is
    m_i M (sum_x u_ix^p sum_j (m_j / M)^p u_jx^p)^(1/p), which is exact algebra.

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
        channels.amax(dim=2, keepdim=True), -channels.amin(dim=2, keepdim=True)
    ).to(precision)
    unit = channels.new_empty(channels.shape, dtype=precision)  # contiguous, whatever the map is
    torch.div(channels, largest.where(largest > 0, 1.0), out=unit)
    scale = largest.amax(dim=1, keepdim=True)
    share = (largest / scale.where(scale > 0, 1.0)).transpose(1, 2)
    power, sums = unit, unit.new_empty(len(unit), powers, unit.shape[1])
    for index in range(powers):
        if index == 1:
            power = unit.square()
        elif index > 1:
            power *= unit
        rows = (share ** (index + 1) @ power) @ power.transpose(1, 2)
        sums[:, index] = rows.squeeze(1)
    exponents = 1 / torch.arange(1, powers + 1, dtype=precision, device=sums.device)[:, None]
    return sums.sign() * sums.abs() ** exponents * (largest * scale).transpose(1, 2)
