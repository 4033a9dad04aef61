"""Mahalanobis++ (Mueller & Hein, ICML 2025)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, LayerwiseDetector, register
from oodbench.numerics.bank import directions
from oodbench.numerics.functional import squared_distances
from oodbench.numerics.input_checks import labels_of
from oodbench.numerics.statistics.moments import ClassMoments, require_variation


@register(
    "mahalanobis_plus",
    label="MDS++",
    title="Mahalanobis distance of features of length 1",
    paper="Mahalanobis++: Improving OOD Detection via Feature Normalization",
    authors=("Maximilian Mueller", "Matthias Hein"),
    venue="ICML",
    year=2025,
    url="https://arxiv.org/abs/2505.18032",
    code="https://github.com/mueller-mp/maha-norm",
    needs=("features", "labels", "fit"),
    layerwise=True,
)
class MahalanobisPlus(LayerwiseDetector):
    """-min_c (q - mu_c)^T Sigma^+ (q - mu_c), with q = f / ||f||.

    Means and covariance are those of the training images' q. Sigma is the maximum-likelihood
    within-class covariance, shared by the classes. Paper and authors' code agree. The authors take
    scikit-learn's pseudo-inverse of Sigma, with a cutoff of its own; here directions in which q
    does not vary, up to rounding, are left out. A feature of length 0 stays 0.
    """

    def fit_features(self, batches: Batches) -> None:
        """Class means and tied covariance of the directions q, in one pass.

        Raises:
            ValueError: if a class has no image, or q does not vary within the classes.
        """
        moments = batches.shared(ClassMoments, batches.num_classes, of="directions")
        for outputs in batches:
            batches.once(moments.update, directions(outputs.features), labels_of(outputs))
        self.gaussian = batches.once(moments.tied_gaussian)
        require_variation(self.gaussian)

    def score_features(self, features: Tensor) -> Tensor:
        """Minus the squared distance to the nearest class, shape [B]."""
        white = self.gaussian.white(directions(features))
        return -squared_distances(white, self.gaussian.white_means).amin(dim=1)
