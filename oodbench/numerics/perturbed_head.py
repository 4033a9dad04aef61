"""Random copies of a linear last layer, and the logits that they give, in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from oodbench.detector import Head
from oodbench.numerics.batch_parts import row_slices

SINGLE_PRECISION_FROM = 2**14
"""Logits of an image from which they are computed in float32, if the features are: rounding moves
one of them to another bin in about 1e-5 of the cases, and one is at most 6e-5 of a histogram."""

ROWS = 512
"""Images whose logits are computed at a time."""

GRID, LARGEST = 32, 127
"""Entries of the vectors are multiples of 1 / GRID; LARGEST is the largest multiple."""

BLOCK = 2**21
"""Logits, or entries of the noise, in a block: 16 MiB in float64."""


class PerturbedHead:
    """r copies of the rows w_c of a linear layer, each moved by delta ||w_c|| in a direction.

    The directions are those of standard Gaussian vectors, drawn once; the bias is the same in all
    copies. Directions are kept, as int8, and not the copies' weights: they serve every delta.
    (When the vectors are drawn, their entries are rounded to multiples of 1/32, those beyond 127/32
    to that. What follows is exact.)

    Args:
        head: a linear layer with weights of shape [C, D].
        copies: r.
        seed: seed of the directions.

    Raises:
        ValueError: if the layer is not linear.
    """

    def __init__(self, head: Head, copies: int, seed: int) -> None:
        weight = head.linear_weight
        self.head = head
        generator = torch.Generator().manual_seed(seed)
        self._noise = torch.empty(copies, *weight.shape, dtype=torch.int8, device=weight.device)
        self._steps = weight.new_empty(copies, len(weight), dtype=torch.float64)
        lengths = weight.double().norm(dim=1)
        for noise, steps in zip(self._noise, self._steps, strict=True):
            drawn = torch.randn(weight.shape, generator=generator)
            noise.copy_(drawn.mul_(GRID).round_().clamp_(-LARGEST, LARGEST))
            steps.copy_(lengths / noise.double().norm(dim=1).clamp_min(1e-8))

    def logits(self, features: Tensor, distance: float) -> Iterator[tuple[slice, Tensor]]:
        """Logits of the copies, block by block.

        Args:
            features: shape [B, D].
            distance: delta.

        Yields:
            Rows of the batch, and their logits in some of the copies, shape [rows, copies, C].
            Float64; float32 if the features are and an image has at least `SINGLE_PRECISION_FROM`.
        """
        copies, classes, dimension = self._noise.shape
        many = copies * classes >= SINGLE_PRECISION_FROM
        dtype = features.dtype if many and features.dtype == torch.float32 else torch.float64
        for rows in row_slices(features, ROWS):
            values = features[rows].to(dtype)
            plain = self.head.logits(features[rows].double()).to(dtype)
            step = copies  # in an exported graph, which is for batches of any size
            if not torch.compiler.is_exporting():
                step = max(1, BLOCK // (classes * max(len(values), dimension)))
            for first in range(0, copies, step):
                some = slice(first, first + step)
                noise = self._noise[some].flatten(0, 1).to(dtype)
                moved = (values @ noise.T).view(len(values), -1, classes)
                moved *= (distance * self._steps[some]).to(dtype)
                yield rows, moved.add_(plain[:, None])
