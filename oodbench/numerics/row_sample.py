"""A bounded, seeded sample of the rows of a stream: what detectors keep of training images."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 4096
"""Rows of a block; one block's products are in memory at a time."""

NUMBERS = 2**18
"""Rows of a block where a row is one number."""

FEATURE_SAMPLE = 10_000
"""Images in the sample of features that detectors share: `batches.shared(RowSample, ...)`."""


class RowSample:
    """Rows of a stream: all of them, in order, or a uniform sample if there are too many.

    Reservoir sampling (Vitter 1985, algorithm R): row t of the stream, counted from 0, takes the
    place of a random row with probability capacity / (t + 1). There is one random number for each
    row, so the sample does not depend on how the rows are cut into batches.

    Rows are kept in blocks that are never joined: filling a sample takes no more memory than its
    rows.

    Args:
        capacity: the largest number of rows kept.
        seed: seed of the sample.

    Raises:
        ValueError: if the capacity is not positive.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"a sample must hold at least one row, not {capacity}")
        self.capacity = capacity
        self.seen = 0
        self._generator = np.random.default_rng(seed)
        self._blocks: list[Tensor] = []
        self._size = BLOCK

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, rows: Tensor) -> None:
        """Add rows to the stream.

        Args:
            rows: shape [B] or [B, D], always of one width, type and device; they are copied.
        """
        if not self._blocks:
            self._size = BLOCK if rows.ndim > 1 else NUMBERS
        filled = len(self)
        fitting = min(len(rows), self.capacity - filled)
        self._store(np.arange(filled, filled + fitting), rows[:fitting])
        late = len(rows) - fitting
        if late:
            first = self.seen + fitting + 1
            drawn = self._generator.random(late) * np.arange(first, first + late, dtype=np.float64)
            taking = np.flatnonzero(drawn < self.capacity)
            # A row may take the place that an earlier one of the same batch took: the last stays.
            chosen = np.full(self.capacity, -1)
            chosen[drawn[taking].astype(np.int64)] = taking
            taken = np.flatnonzero(chosen >= 0)
            self._store(taken, rows[torch.from_numpy(fitting + chosen[taken]).to(rows.device)])
        self.seen += len(rows)

    def _store(self, places: NDArray[np.int64], rows: Tensor) -> None:
        """Put rows into places, which are in ascending order."""
        if not len(places):
            return
        size, rows = self._size, rows.detach()
        blocks = range(places[0] // size, places[-1] // size + 1)
        cuts = np.searchsorted(places, [number * size for number in (*blocks, blocks.stop)])
        inside = torch.from_numpy(places % size).to(rows.device)
        for number, start, stop in zip(blocks, cuts, cuts[1:], strict=False):
            if number == len(self._blocks):
                count = min(size, self.capacity - number * size)
                new = rows.new_zeros(count, *rows.shape[1:], requires_grad=False)  # it may be saved
                self._blocks.append(new)
            self._blocks[number][inside[start:stop]] = rows[start:stop]

    @property
    def blocks(self) -> list[Tensor]:
        """The rows, cut into parts of at most `BLOCK` rows (`NUMBERS`); views, not copies."""
        starts = range(0, len(self), self._size)
        return [
            block if len(block) <= len(self) - start else block[: len(self) - start]
            for start, block in zip(starts, self._blocks[: len(starts)], strict=True)
        ]

    def joined(self) -> RowSample:
        """The same rows in one block, a copy, to which no rows are added."""
        one = copy.copy(self)
        one._blocks, one._size = [torch.cat(self.blocks)], self.capacity
        return one

    def gather(self, indices: Tensor) -> Tensor:
        """Rows by number, shape [B] or [B, D].

        Args:
            indices: numbers of rows, 0 .. len - 1, shape [B], int64.
        """
        first = self._blocks[0]
        if len(self._blocks) == 1:
            return first[indices]
        rows = first.new_empty(len(indices), *first.shape[1:])
        numbers = indices // self._size
        for number in numbers.unique().tolist():
            here = numbers == number
            rows[here] = self._blocks[number][indices[here] % self._size]
        return rows
