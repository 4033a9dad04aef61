"""SSD: distance to the nearest cluster of unlabeled images (Sehwag, Chiang & Mittal, ICLR 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from oodbench import Batches, LayerwiseDetector, register
from oodbench.layerwise import Combine
from oodbench.number_checks import positive
from oodbench.numerics.bank import DirectionBank, directions
from oodbench.numerics.input_checks import at_least
from oodbench.numerics.statistics.clusters import k_means
from oodbench.numerics.statistics.own_covariances import OwnGaussians


@register(
    "ssd",
    label="SSD",
    title="Mahalanobis distance to the nearest cluster of the training images",
    paper="SSD: A Unified Framework for Self-Supervised Outlier Detection",
    authors=("Vikash Sehwag", "Mung Chiang", "Prateek Mittal"),
    venue="ICLR",
    year=2021,
    url="https://arxiv.org/abs/2103.12051",
    code="https://github.com/inspire-group/SSD",
    needs=("features", "fit"),
    layerwise=True,
)
class SSD(LayerwiseDetector):
    """-min_m (q - mu_m)^T Sigma_m^+ (q - mu_m), with q = f / ||f|| and clusters m of k-means.

    Labels are not used. The authors train without labels too, and take one cluster, their default
    and the one here. Their code scales each dimension of q to unit variance first: this has no
    effect on a Mahalanobis distance, but on the clusters; here, as in the paper, it does not. It
    takes the labels as clusters for networks that are trained with them: that is `gmm` and
    `mahalanobis_plus`.

    With several clusters, Sigma_m is drawn to the covariance within all clusters, which counts as
    `prior` images (see `OwnGaussians`). A cluster with fewer images than dimensions has no variance
    in some directions; a pseudo-inverse, as in the authors' code, gives distance 0 there, so that
    images far away would count as in-distribution. With one cluster this makes no difference.

    Args:
        clusters: number of clusters.
        prior: weight of the common covariance, in images; None for the number of directions in
            which q varies within the clusters and two more.
        bank_size: the largest number of training images that the clusters are fitted on, a random
            sample if there are more; dropped after `fit`.
        layers: feature layers to use in the place of the penultimate features.
        combine: how the scores of several layers are combined.
    """

    def __init__(
        self,
        clusters: int = 1,
        prior: float | None = None,
        bank_size: int = 50_000,
        layers: str | Sequence[str] | None = None,
        combine: Combine = "mean",
    ) -> None:
        super().__init__(layers, combine)
        self.clusters = at_least("clusters", clusters, 1)
        self.prior = None if prior is None else positive("prior", prior)
        self.bank_size = at_least("bank_size", bank_size, 1)

    def fit_features(self, batches: Batches) -> None:
        """Sample the training images in one pass; clusters and covariances of the sample.

        Raises:
            ValueError: if there are fewer images than clusters, or q does not vary within them.
        """
        bank = batches.shared(DirectionBank, self.bank_size)
        for outputs in batches:
            batches.once(bank.add, outputs.features)
        clusters = k_means(bank, len(bank), self.clusters)
        self.gaussians = OwnGaussians.of(bank, clusters, self.prior)

    def score_features(self, features: Tensor) -> Tensor:
        """Minus the squared distance to the nearest cluster, shape [B]."""
        return -self.gaussians.squared_distances(directions(features)).amin(dim=1)
