"""Deep nearest neighbors (Sun et al., ICML 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.numerics.bank import FeatureBank, directions, top_k_products


@register(
    "knn",
    label="KNN",
    title="Distance to the k-th nearest training image",
    venue="ICML",
    year=2022,
    url="https://arxiv.org/abs/2204.06507",
    needs=("features", "fit"),
    # The paper's grid as far as small training sets allow it: 1000, 3000 and 5000 are left out.
    search_space={"k": (1, 10, 20, 50, 100, 200, 500)},
)
class NearestNeighbors(Detector):
    """-|| q - q_(k) ||, with q = f / ||f|| and q_(k) the k-th nearest of the training images' q.

    Which one that is follows from products of float32 features, taken from the mean direction of
    the first training images: where all directions are nearly the same, as those of deep networks
    may be, products of the directions themselves would differ by less than their rounding.

    Args:
        k: which neighbor; 50 is the paper's for CIFAR-10 (200 for CIFAR-100, 1000 for ImageNet).
        bank_size: the largest number of training images kept, a random sample if there are more.
    """

    def __init__(self, k: int = 50, bank_size: int = 50_000) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        self.k = k
        self.bank_size = bank_size
        self.bank = FeatureBank(bank_size)
        self.origin: Tensor | None = None

    def fit(self, batches: Batches) -> None:
        """The directions r of the training features from o, each followed by -||r||^2 / 2."""
        self.bank, self.origin = FeatureBank(self.bank_size), None
        for outputs in batches:
            rows = directions(outputs.features)
            if self.origin is None:
                self.origin = rows.mean(dim=0)
            rows -= self.origin
            self.bank.add(torch.cat([rows, -rows.square().sum(dim=1, keepdim=True) / 2], dim=1))

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the distance to the k-th neighbor, shape [B]."""
        queries = directions(outputs.features)
        if self.origin is not None:
            queries -= self.origin
        # q r - ||r||^2 / 2 orders like minus the distance, also where r is zero.
        extended = torch.cat([queries, torch.ones_like(queries[:, :1])], dim=1)
        _, rows = top_k_products(extended, self.bank, self.k)
        # A distance from the product would cancel for near neighbors.
        neighbors = self.bank.gather(rows[:, -1])[:, :-1]
        distances: Tensor = (queries.double() - neighbors.double()).norm(dim=1)
        return -distances
