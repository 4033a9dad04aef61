"""Quantiles of the entries of a tensor, and of a stream, of which a bounded sample is kept."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor


class StreamingQuantiles:
    """Quantiles over the rows of many batches, column by column.

    While they fit, all rows are kept and quantiles are exact. Then rows count as blocks of 2, 4, 8
    .. consecutive ones, and of each block one row is kept, drawn by a hash of its number: a
    stratified sample, in which each row is as likely as any other. It depends on the rows and their
    order alone, not on how they were cut into batches. The rank of a quantile of a sample of N rows
    is right to some 0.5 / sqrt(N).

    Args:
        capacity: rows to keep at most.
        seed: of the hash.

    Raises:
        ValueError: if there is room for fewer than two rows.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        if capacity < 2:
            raise ValueError(f"capacity must be at least 2, not {capacity}")
        self.capacity = capacity
        self.seed = seed
        self.count = 0
        self._level = 0  # one row is kept of every 2 ** level
        self._parts: list[Tensor] = []
        self._sorted: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Add a batch.

        Args:
            rows: shape [N] (values of one distribution) or [N, D] (of D distributions).
        """
        start, self.count = self.count, self.count + len(rows)
        self._sorted = None
        while -(-self.count >> self._level) > self.capacity:  # the number of blocks, rounded up
            self._thin()
        if self._level == 0:
            self._parts.append(rows.detach().clone())
            return
        first, last = start >> self._level, -(-self.count >> self._level)
        places = self._places(torch.arange(first, last, device=rows.device))
        # The row kept of a block that is not whole may have been added already, or be yet to come.
        places = places[(places >= start) & (places < self.count)]
        self._parts.append(rows.detach().index_select(0, places - start))

    @property
    def kept(self) -> Tensor:
        """The rows that are kept, in the order they came, shape [M] or [M, D].

        Raises:
            ValueError: if no row was added.
        """
        if self.count == 0:
            raise ValueError("no values to take a quantile of: fit the detector first")
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        return self._parts[0]

    def quantile(self, fraction: float) -> Tensor:
        """The value below which this fraction of the rows lies, with linear interpolation.

        Args:
            fraction: from 0 (the smallest) to 1 (the largest).

        Returns:
            Shape [] or [D], float64.

        Raises:
            ValueError: if the fraction is outside [0, 1], or no row was added.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"a quantile is of a fraction from 0 to 1, not {fraction}")
        if self._sorted is None:
            self._sorted = _sorted(self.kept)
        position = fraction * (len(self._sorted) - 1)
        below = int(position)
        above = min(below + 1, len(self._sorted) - 1)
        low, high = self._sorted[below].double(), self._sorted[above].double()
        return torch.lerp(low, high, position - below)

    def _thin(self) -> None:
        """Join blocks in pairs and keep the row of one of the two."""
        self._level += 1
        if not self._parts:
            return
        kept = self.kept
        pairs = torch.arange((len(kept) + 1) // 2, device=kept.device)
        chosen = 2 * pairs + self._second(self._level, pairs)
        self._parts = [kept[chosen[chosen < len(kept)]]]

    def _places(self, blocks: Tensor) -> Tensor:
        """Numbers of the rows that are kept of blocks, at the present level."""
        for level in range(self._level, 0, -1):
            blocks = 2 * blocks + self._second(level, blocks)
        return blocks

    def _second(self, level: int, blocks: Tensor) -> Tensor:
        """For each block of a level, 1 if the row kept is in its second half, else 0."""
        mixed = blocks ^ random.Random(f"{self.seed}:{level}").getrandbits(62)
        for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
            mixed = (mixed ^ (mixed >> shift)) * factor  # the mixing of splitmix64
        return (mixed >> 40) & 1


class EntryQuantiles:
    """Quantiles of all entries of one tensor, with linear interpolation, each computed once.

    Args:
        values: any shape.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.cpu().numpy()
        self._found: dict[float, float] = {}

    def quantile(self, fraction: float) -> float:
        """The value below which this fraction of the entries lies.

        Args:
            fraction: from 0 (the smallest) to 1 (the largest).
        """
        if fraction not in self._found:  # torch.quantile takes no more than 16 million values
            self._found[fraction] = float(np.quantile(self._values, fraction))
        return self._found[fraction]


def _sorted(rows: Tensor) -> Tensor:
    if rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.sort(rows.numpy(), axis=0))  # several times faster than torch's
    return rows.sort(dim=0).values
