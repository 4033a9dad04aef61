"""Search for nearest neighbors in a bank, which is a bounded sample of training features.

The search goes through the blocks of the sample. scikit-learn's `NearestNeighbors` would copy the
bank to the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.numerics.batch_parts import row_slices
from oodbench.numerics.row_sample import RowSample

QUERIES = 1024
"""Number of queries in one product."""


def directions(features: Tensor) -> Tensor:
    """Features divided by their norm, shape [B, D], at least float32; a zero vector stays zero.

    Args:
        features: shape [B, D], any floating type.
    """
    unit = F.normalize(features.detach().double(), dim=1)
    return unit.to(torch.promote_types(features.dtype, torch.float32))


def top_k_products(queries: Tensor, bank: RowSample, k: int) -> tuple[Tensor, Tensor]:
    """The k largest inner products of each query with the rows of a bank.

    Args:
        queries: shape [B, D], of the bank's type and device.
        bank: rows of width D.
        k: number of products.

    Returns:
        Products and numbers of their rows, both of shape [B, k], the largest first.

    Raises:
        ValueError: if the bank has fewer than k rows, or k is not positive.
    """
    require_neighbors(k, len(bank))
    parts = [queries[rows] for rows in row_slices(queries, QUERIES)]
    found = [top_k((part @ block.T for block in bank.blocks), k) for part in parts]
    products, rows = zip(*found, strict=True)
    return torch.cat(products), torch.cat(rows)


def require_neighbors(k: int, count: int) -> None:
    """Check a number of neighbors.

    Args:
        k: the number.
        count: rows in the bank.

    Raises:
        ValueError: if the bank has fewer than k rows, or k is not positive.
    """
    if not count:
        raise ValueError("the bank is empty: fit on training images first")
    if not 1 <= k <= count:
        raise ValueError(
            f"k = {k} neighbors of a bank of {count} training images: "
            f"choose k from 1 to {count}, or fit on more images"
        )


def top_k(blocks: Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row of a matrix that is given in blocks of columns.

    Args:
        blocks: at least one, of shapes [B, n]; all n together are at least k.
        k: positive.

    Returns:
        Values and numbers of their columns, both of shape [B, k], the largest first.
    """
    values, columns, start = torch.empty(0), torch.empty(0), 0
    for block in blocks:
        best, places = block.topk(min(k, block.shape[1]), dim=1)
        if start:
            best = torch.cat([values, best], dim=1)
            places = torch.cat([columns, places + start], dim=1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            places = places.gather(1, order)
        values, columns, start = best, places, start + block.shape[1]
    return values, columns


class DirectionBank:
    """Directions f / ||f|| of training features, and distances to the k-th nearest of them.

    The search uses products of float32 vectors from the mean direction o of the first batch. The
    directions of a deep network may be nearly equal; products of the directions themselves would
    then differ by less than their rounding.

    Args:
        capacity: the largest number of directions kept, a random sample if there are more.
    """

    def __init__(self, capacity: int) -> None:
        self._rows = RowSample(capacity)
        self._origin: Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the directions.

        Raises:
            ValueError: if the bank is empty.
        """
        if self._origin is None:
            raise ValueError("the bank is empty: fit on training images first")
        return self._origin.dtype

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

    def __iter__(self) -> Iterator[Tensor]:
        """The directions, in blocks of at most 4096, each of shape [n, D]."""
        for block in self._rows.blocks:
            assert self._origin is not None
            yield block[:, :-1] + self._origin

    def cosines(self, features: Tensor) -> Iterator[Tensor]:
        """Cosines of the angles to the directions in the bank, block by block of at most 4096.

        Args:
            features: shape [B, D]; `QUERIES` rows at a time need little memory.

        Yields:
            Shape [B, n] for n directions, in the order of the bank.
        """
        if self._origin is None:
            return
        queries = directions(features)
        # q r = q (r - o) + q o
        offsets = (queries @ self._origin)[:, None]
        for block in self._rows.blocks:
            yield torch.addmm(offsets, queries, block[:, :-1].T)

    def kth_distances(self, features: Tensor, k: int) -> Tensor:
        """Euclidean distance of each direction to the k-th nearest in the bank, shape [B], float64.

        Args:
            features: shape [B, D].
            k: number of the neighbor, from 1.

        Raises:
            ValueError: if the bank has fewer than k directions.
        """
        queries = directions(features)
        if self._origin is not None:
            queries -= self._origin
        # q r - ||r||^2 / 2 orders like minus the distance, also where r is zero.
        extended = torch.cat([queries, torch.ones_like(queries[:, :1])], dim=1)
        # A graph that is exported has the bank in it, once.
        bank = self._rows.joined() if torch.compiler.is_exporting() else self._rows
        _, rows = top_k_products(extended, bank, k)
        # A distance from the product would cancel for near neighbors.
        neighbors = bank.gather(rows[:, -1])[:, :-1]
        distances: Tensor = (queries.double() - neighbors.double()).norm(dim=1)
        return distances
