"""A bounded sample of training features, and a search for nearest neighbors in it.

A bank is kept in blocks that are never joined: filling it takes no more memory than its rows, and a
search goes through the blocks. scikit-learn's `NearestNeighbors` would copy the bank to the CPU.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 4096
"""Rows of a block; one block's products are in memory at a time."""

QUERIES = 1024
"""Queries that are searched for at a time."""


def directions(features: Tensor) -> Tensor:
    """Features over their length, shape [B, D], at least float32; a zero vector stays zero.

    Args:
        features: shape [B, D], any floating type.
    """
    unit = F.normalize(features.detach().double(), dim=1)
    return unit.to(torch.promote_types(features.dtype, torch.float32))


class FeatureBank:
    """Rows of a stream: all of them, in order, or a uniform sample if there are too many.

    Reservoir sampling (Vitter 1985, algorithm R): row t of the stream, counted from 0, takes the
    place of a random row with probability capacity / (t + 1). There is one random number for each
    row, so what is kept does not depend on how the rows are cut into batches.

    Args:
        capacity: the largest number of rows kept.
        seed: of the sample.

    Raises:
        ValueError: if the capacity is not positive.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"a bank must hold at least one row, not {capacity}")
        self.capacity = capacity
        self.seen = 0
        self._generator = np.random.default_rng(seed)
        self._blocks: list[Tensor] = []

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, rows: Tensor) -> None:
        """Add rows to the stream.

        Args:
            rows: shape [B, D], always of one width, type and device; they are copied.
        """
        filled = len(self)
        fitting = min(len(rows), self.capacity - filled)
        self._store(torch.arange(filled, filled + fitting), rows[:fitting])
        late = len(rows) - fitting
        if late:
            ordinals = self.seen + fitting + np.arange(late)
            places = (self._generator.random(late) * (ordinals + 1)).astype(np.int64)
            # A row may take the place that an earlier one of the same batch took: the last stays.
            taken = {
                place: fitting + row
                for row, place in enumerate(places.tolist())
                if place < self.capacity
            }
            chosen = torch.tensor(list(taken.values()), dtype=torch.int64, device=rows.device)
            self._store(torch.tensor(list(taken), dtype=torch.int64), rows[chosen])
        self.seen += len(rows)

    def _store(self, places: Tensor, rows: Tensor) -> None:
        numbers = places // BLOCK
        for number in numbers.unique().tolist():
            if number == len(self._blocks):
                size = min(BLOCK, self.capacity - number * BLOCK)
                self._blocks.append(rows.new_empty(size, rows.shape[1], requires_grad=False))
            here = numbers == number
            inside = (places[here] % BLOCK).to(rows.device)
            self._blocks[number][inside] = rows.detach()[here.to(rows.device)]

    @property
    def blocks(self) -> list[Tensor]:
        """The rows, cut into parts of at most `BLOCK` rows; views, not copies."""
        starts = range(0, len(self), BLOCK)
        return [
            block[: len(self) - start]
            for start, block in zip(starts, self._blocks[: len(starts)], strict=True)
        ]

    def gather(self, indices: Tensor) -> Tensor:
        """Rows by number, shape [B, D].

        Args:
            indices: numbers of rows, 0 .. len - 1, shape [B], int64.
        """
        rows = self._blocks[0].new_empty(len(indices), self._blocks[0].shape[1])
        numbers = indices // BLOCK
        for number in numbers.unique().tolist():
            here = numbers == number
            rows[here] = self._blocks[number][indices[here] % BLOCK]
        return rows


def top_k_products(queries: Tensor, bank: FeatureBank, k: int) -> tuple[Tensor, Tensor]:
    """The k largest inner products of each query with the rows of a bank.

    Args:
        queries: shape [B, D], of the bank's type and device.
        bank: rows of width D.
        k: how many.

    Returns:
        Products and numbers of their rows, both of shape [B, k], the largest first.

    Raises:
        ValueError: if the bank has fewer than k rows, or k is not positive.
    """
    if not len(bank):
        raise ValueError("the bank is empty: fit on training images first")
    if not 1 <= k <= len(bank):
        raise ValueError(
            f"k = {k} neighbors of a bank of {len(bank)} training images: "
            f"choose k from 1 to {len(bank)}, or fit on more images"
        )
    found = [_search(part, bank, k) for part in queries.split(QUERIES)]
    products, rows = zip(*found, strict=True)
    return torch.cat(products), torch.cat(rows)


def _search(queries: Tensor, bank: FeatureBank, k: int) -> tuple[Tensor, Tensor]:
    products = queries.new_empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    start = 0
    for block in bank.blocks:
        best, places = (queries @ block.T).topk(min(k, len(block)), dim=1)
        products = torch.cat([products, best], dim=1)
        rows = torch.cat([rows, places + start], dim=1)
        products, order = products.topk(min(k, products.shape[1]), dim=1)
        rows = rows.gather(1, order)
        start += len(block)
    return products, rows


class DirectionBank:
    """Directions f / ||f|| of training features, and distances to the k-th nearest of them.

    The nearest directions are found from products of float32 vectors, taken from the mean direction
    o of the first batch: where all directions are nearly the same, as those of deep networks may
    be, products of the directions themselves would differ by less than their rounding.

    Args:
        capacity: the largest number of directions kept, a random sample if there are more.
    """

    def __init__(self, capacity: int) -> None:
        self._rows = FeatureBank(capacity)
        self._origin: Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, features: Tensor) -> None:
        """Add the directions of a batch.

        Args:
            features: shape [B, D].
        """
        rows = directions(features)
        if self._origin is None:
            self._origin = rows.mean(dim=0)
        rows -= self._origin
        # Each direction r from o, followed by -||r||^2 / 2: see `kth_distances`.
        self._rows.add(torch.cat([rows, -rows.square().sum(dim=1, keepdim=True) / 2], dim=1))

    def kth_distances(self, features: Tensor, k: int) -> Tensor:
        """Euclidean distance of each direction to the k-th nearest in the bank, shape [B], float64.

        Args:
            features: shape [B, D].
            k: which neighbor, from 1.

        Raises:
            ValueError: if the bank has fewer than k directions.
        """
        queries = directions(features)
        if self._origin is not None:
            queries -= self._origin
        # q r - ||r||^2 / 2 orders like minus the distance, also where r is zero.
        extended = torch.cat([queries, torch.ones_like(queries[:, :1])], dim=1)
        _, rows = top_k_products(extended, self._rows, k)
        # A distance from the product would cancel for near neighbors.
        neighbors = self._rows.gather(rows[:, -1])[:, :-1]
        distances: Tensor = (queries.double() - neighbors.double()).norm(dim=1)
        return distances
