"""Row sums of Gram matrices of any order, without the matrices (Sastry & Oore 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from oodbench.numerics.batch_parts import row_slices

BLOCKS = {"cpu": 2**19, "cuda": 2**25}
"""Activations worked on at a time, by the type of device.

On a CPU, the powers of a block stay in the cache. On a GPU, few large operations are faster: two
buffers of 128 MiB hold a block in float32.
"""


MOST_BYTES = 2 * 2**30
"""Largest size of the ranges of one detector."""


def ranges_bytes(row_sums: Mapping[str, Tensor], classes: int) -> dict[str, int]:
    """Bytes that the ranges of each layer take: two row sums for every class.

    Args:
        row_sums: layer -> row sums, shape [B, powers, D].
        classes: C.
    """
    return {
        layer: 2 * classes * sums[0].numel() * sums.element_size()
        for layer, sums in row_sums.items()
    }


def evenly_spaced(layers: Sequence[str], count: int) -> list[str]:
    """`count` layers, evenly spaced and with the last one; all layers if there are fewer."""
    if count >= len(layers):
        return list(layers)
    step = len(layers) / count
    return [layers[round(step * (index + 1)) - 1] for index in range(count)]


def most_that_fit(layers: Sequence[str], sizes: Mapping[str, int]) -> int:
    """The largest number of evenly spaced layers whose ranges take at most `MOST_BYTES`; or 0.

    Args:
        layers: all layers, in order.
        sizes: layer -> bytes of its ranges; choices with other layers are not considered.
    """
    for count in range(len(layers), 0, -1):
        chosen = evenly_spaced(layers, count)
        known = all(layer in sizes for layer in chosen)
        if known and sum(sizes[layer] for layer in chosen) <= MOST_BYTES:
            return count
    return 0


def too_large(sizes: Mapping[str, int], classes: int, instead: str) -> ValueError:
    """The error of ranges that take too much memory.

    Args:
        sizes: bytes of every layer's ranges.
        classes: C.
        instead: a choice that takes less memory, for the message.
    """
    return ValueError(
        f"the ranges of {len(sizes)} layers and {classes} classes would take "
        f"{_gib(sum(sizes.values()))}, more than {_gib(MOST_BYTES)}: take {instead}"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"


def gram_row_sums(activation: Tensor, powers: int) -> Tensor:
    """Row sums of (F^p F^pT)^(1/p) for p = 1 .. powers, at least float32.

    F is the activation of an image as a matrix of channels and places, F^p its element-wise power;
    the root, of the row sum, keeps the sign: sign(r) |r|^(1/p). A row sum is F^p (F^pT 1), which
    takes as many products as F has elements and no matrix of channels by channels. Each channel is
    divided by its largest activation m_i, so that no power overflows, and a weak channel has its
    share of the others; with M the largest m, the root of a row sum is
    m_i M (sum_x u_ix^p sum_j (m_j / M)^p u_jx^p)^(1/p), which is exact algebra.

    Args:
        activation: shape [B, D], [B, tokens, D] or [B, D, ...]: as `Detector.reduce_layer` gets it.
        powers: the highest order.

    Returns:
        Shape [B, powers, D].
    """
    precision = torch.promote_types(activation.dtype, torch.float32)
    if activation.ndim == 3:
        activation = activation.transpose(1, 2)
    channels = activation.detach()
    channels = channels[:, :, None] if channels.ndim == 2 else channels.flatten(2)
    block = BLOCKS.get(channels.device.type, BLOCKS["cpu"])
    images = max(1, block // max(1, channels[:1].numel()))
    parts = [
        _row_sums(channels[rows].to(precision), powers) for rows in row_slices(channels, images)
    ]
    sums, largest = (torch.cat(part) for part in zip(*parts, strict=True))
    exponents = 1 / torch.arange(1, powers + 1, dtype=precision, device=sums.device)[:, None]
    roots = sums.sign() * sums.abs() ** exponents
    return roots * largest * largest.amax(dim=2, keepdim=True)


def _row_sums(channels: Tensor, powers: int) -> tuple[Tensor, Tensor]:
    """Row sums before the root and the scale, and the largest activations, of a block of images.

    Args:
        channels: shape [B, D, places].
        powers: the highest order.

    Returns:
        Shapes [B, powers, D] and [B, 1, D].
    """
    # The places of a channel are adjacent in memory, in any memory format of the map.
    channels = channels.contiguous()
    biggest = torch.maximum(channels.amax(dim=2), -channels.amin(dim=2))
    unit = channels / biggest.where(biggest > 0, 1.0)[:, :, None]
    scale = biggest.amax(dim=1, keepdim=True)
    share = (biggest / scale.where(scale > 0, 1.0))[:, None]
    power_of_unit, shares, sums = unit, share, []
    for order in range(1, powers + 1):
        together = torch.bmm(shares, power_of_unit)
        sums.append(torch.bmm(together, power_of_unit.transpose(1, 2)))
        shares = shares * share
        if order == 1:
            power_of_unit = unit * unit
        elif order < powers:
            power_of_unit *= unit
    return torch.cat(sums, dim=1), biggest[:, None]
