"""Search for nearest neighbors in a bank, which is a bounded sample of training features.

The search goes through the blocks of the sample. scikit-learn's `NearestNeighbors` would copy the
bank to the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

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


def _search(queries: Tensor, bank: RowSample, k: int) -> tuple[Tensor, Tensor]:
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
            k: number of the neighbor, from 1.

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
