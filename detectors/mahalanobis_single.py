"""Mahalanobis distance of the penultimate features (Lee et al., NeurIPS 2018)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Detector, Outputs, register
from oodbench.detector import Batches
from oodbench.numerics.moments import ClassMoments, TiedGaussian, require_variation


@register(
    "mahalanobis_single",
    label="MDS",
    title="Mahalanobis distance of the penultimate features",
    venue="NeurIPS",
    year=2018,
    url="https://arxiv.org/abs/1807.03888",
    needs=("features", "labels", "fit"),
)
class MahalanobisSingle(Detector):
    """M(x) = max_c -1/2 (f - mu_c)^T Sigma^+ (f - mu_c) (equation 2, halved).

    The paper's score of one layer, the last, without its input preprocessing, feature ensemble and
    regression: what the field's tables call MDS. `mahalanobis` is the whole method. Sigma is the
    maximum-likelihood within-class covariance, shared by the classes; its pseudo-inverse leaves out
    directions in which the training features do not vary.
    """

    def __init__(self) -> None:
        self.gaussian: TiedGaussian | None = None

    def fit(self, batches: Batches) -> None:
        """Class means and tied covariance, in one pass.

        Raises:
            ValueError: if a class has no image, or features do not vary within the classes.
        """
        moments = batches.shared(ClassMoments, batches.num_classes)
        for outputs in batches:
            assert outputs.labels is not None
            batches.once(moments.update, outputs.features, outputs.labels)
        self.gaussian = batches.once(moments.tied_gaussian)
        require_variation(self.gaussian)

    def score(self, outputs: Outputs) -> Tensor:
        """Minus half the squared distance to the nearest class, shape [B]."""
        if self.gaussian is None:
            raise ValueError("MDS has no Gaussians yet: call fit first")
        return self.gaussian.class_scores(outputs.features).amax(dim=1)
