"""Relative Mahalanobis distance (Ren et al., 2021)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, LayerwiseDetector, register
from oodbench.numerics.functional import squared_distances
from oodbench.numerics.input_checks import labels_of
from oodbench.numerics.statistics.moments import ClassMoments, require_variation


@register(
    "relative_mahalanobis",
    label="RMDS",
    title="Mahalanobis distance relative to that of all training features",
    aliases=("rmds",),
    paper="A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection",
    authors=(
        "Jie Ren",
        "Stanislav Fort",
        "Jeremiah Liu",
        "Abhijit Guha Roy",
        "Shreyas Padhy",
        "Balaji Lakshminarayanan",
    ),
    venue="arXiv",
    year=2021,
    url="https://arxiv.org/abs/2106.09022",
    needs=("features", "labels", "fit"),
    layerwise=True,
)
class RelativeMahalanobis(LayerwiseDetector):
    """-min_k (d_k - d_0), with squared Mahalanobis distances d (section 2 of the paper).

    d_k is taken with the mean of class k and the within-class covariance that the classes share,
    d_0 with the mean and the covariance of all training features. Both covariances are the
    maximum-likelihood ones. Directions in which features do not vary within the classes are left
    out of both distances: in d_0 alone they would make distant images count as in-distribution.
    """

    def fit_features(self, batches: Batches) -> None:
        """Both Gaussian models, in one pass.

        Raises:
            ValueError: if a class has no image, or features do not vary within the classes.
        """
        moments = batches.shared(ClassMoments, batches.num_classes)
        for outputs in batches:
            batches.once(moments.update, outputs.features, labels_of(outputs))
        self.classes = batches.once(moments.tied_gaussian)
        require_variation(self.classes)
        self.background = self.classes.white_background(moments.counts)
        require_variation(self.background)  # finds its axes now, not when it first scores

    def score_features(self, features: Tensor) -> Tensor:
        """Minus the smallest relative squared distance, shape [B]."""
        white = self.classes.white(features)
        nearest = squared_distances(white, self.classes.white_means).amin(dim=1)
        return -2 * self.background.class_scores(white).squeeze(dim=1) - nearest
