"""Deep nearest neighbors (Sun et al., ICML 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from oodbench import Batches, LayerwiseDetector, register
from oodbench.layerwise import Combine
from oodbench.numerics.bank import DirectionBank
from oodbench.numerics.input_checks import at_least


@register(
    "knn",
    label="KNN",
    title="Distance to the k-th nearest training image",
    paper="Out-of-Distribution Detection with Deep Nearest Neighbors",
    authors=("Yiyou Sun", "Yifei Ming", "Xiaojin Zhu", "Yixuan Li"),
    venue="ICML",
    year=2022,
    url="https://arxiv.org/abs/2204.06507",
    code="https://github.com/deeplearning-wisc/knn-ood",
    needs=("features", "fit"),
    # The paper's grid without 1000, 3000 and 5000, which small training sets do not allow.
    search_space={"k": (1, 10, 20, 50, 100, 200, 500)},
    layerwise=True,
)
class NearestNeighbors(LayerwiseDetector):
    """-|| q - q_(k) ||, with q = f / ||f|| and q_(k) the k-th nearest of the training images' q.

    Args:
        k: which neighbor; 50 is the paper's for CIFAR-10 (200 for CIFAR-100, 1000 for ImageNet).
        bank_size: the largest number of training images kept, a random sample if there are more.
        layers: feature layers to use in the place of the penultimate features.
        combine: how the scores of several layers are combined.
    """

    def __init__(
        self,
        k: int = 50,
        bank_size: int = 50_000,
        layers: str | Sequence[str] | None = None,
        combine: Combine = "mean",
    ) -> None:
        super().__init__(layers, combine)
        self.k = at_least("k", k, 1)
        self.bank_size = at_least("bank_size", bank_size, 1)

    def fit_features(self, batches: Batches) -> None:
        """Keep the directions q of the training features."""
        self.bank = batches.shared(DirectionBank, self.bank_size)
        for outputs in batches:
            batches.once(self.bank.add, outputs.features)

    def score_features(self, features: Tensor) -> Tensor:
        """Minus the distance to the k-th neighbor, shape [B]."""
        return -self.bank.kth_distances(features, self.k)
