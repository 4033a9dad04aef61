"""Relative Mahalanobis++ (Mueller & Hein, ICML 2025)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, LayerwiseDetector, register
from oodbench.numerics.bank import directions
from oodbench.numerics.functional import squared_distances
from oodbench.numerics.input_checks import labels_of
from oodbench.numerics.statistics.moments import ClassMoments, require_variation


@register(
    "relative_mahalanobis_plus",
    label="RMDS++",
    title="Relative Mahalanobis distance of features of length 1",
    paper="Mahalanobis++: Improving OOD Detection via Feature Normalization",
    authors=("Maximilian Mueller", "Matthias Hein"),
    venue="ICML",
    year=2025,
    url="https://arxiv.org/abs/2505.18032",
    code="https://github.com/mueller-mp/maha-norm",
    needs=("features", "labels", "fit"),
    layerwise=True,
)
class RelativeMahalanobisPlus(LayerwiseDetector):
    """-min_c (d_c - d_0), with squared Mahalanobis distances d of q = f / ||f||.

    d_c is taken with the mean of class c and the within-class covariance that the classes share,
    d_0 with the mean and the covariance of all training images' q. Paper and authors' code agree.
    As in `relative_mahalanobis`, directions in which q does not vary within the classes are left
    out of both distances. A feature of length 0 stays 0.
    """

    def fit_features(self, batches: Batches) -> None:
        """Both Gaussian models of the directions q, in one pass.

        Raises:
            ValueError: if a class has no image, or q does not vary within the classes.
        """
        moments = batches.shared(ClassMoments, batches.num_classes, of="directions")
        for outputs in batches:
            batches.once(moments.update, directions(outputs.features), labels_of(outputs))
        self.classes = batches.once(moments.tied_gaussian)
        require_variation(self.classes)
        self.background = self.classes.white_background(moments.counts)
        require_variation(self.background)  # finds its axes now, not when it first scores

    def score_features(self, features: Tensor) -> Tensor:
        """Minus the smallest relative squared distance, shape [B]."""
        white = self.classes.white(directions(features))
        nearest = squared_distances(white, self.classes.white_means).amin(dim=1)
        return -2 * self.background.class_scores(white).squeeze(dim=1) - nearest
