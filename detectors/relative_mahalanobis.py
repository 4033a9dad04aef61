"""Relative Mahalanobis distance (Ren et al., 2021)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.statistics import ClassMoments, TiedGaussian


@register(
    "relative_mahalanobis",
    label="RMDS",
    title="Mahalanobis distance relative to that of all training features",
    venue="arXiv",
    year=2021,
    url="https://arxiv.org/abs/2106.09022",
    needs=("features", "labels", "fit"),
)
class RelativeMahalanobis(Detector):
    """-min_k (d_k - d_0), with squared Mahalanobis distances d (section 2 of the paper).

    d_k is taken with the mean of class k and the within-class covariance that the classes share,
    d_0 with the mean and the covariance of all training features. Both covariances are the
    maximum-likelihood ones, and both inverses leave out directions without variance.
    """

    def __init__(self) -> None:
        self.classes: TiedGaussian | None = None
        self.background: TiedGaussian | None = None

    def fit(self, batches: Batches) -> None:
        """Both Gaussian models, in one sweep."""
        moments = ClassMoments(batches.num_classes)
        for outputs in batches:
            assert outputs.labels is not None
            moments.update(outputs.features, outputs.labels)
        self.classes, self.background = moments.tied_gaussian(), moments.total_gaussian()

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the smallest relative squared distance, shape [B]."""
        if self.classes is None or self.background is None:
            raise ValueError("RMDS has no Gaussians yet: call fit first")
        # The Gaussians give -d / 2.
        nearest = self.classes.class_scores(outputs.features).amax(dim=1)
        return 2 * (nearest - self.background.class_scores(outputs.features).squeeze(dim=1))
