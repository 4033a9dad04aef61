"""Mahalanobis distance of the penultimate features (Lee et al., NeurIPS 2018)."""

from __future__ import annotations

from torch import Tensor

from oodbench import Batches, LayerwiseDetector, register
from oodbench.numerics.input_checks import labels_of
from oodbench.numerics.statistics.moments import ClassMoments, require_variation


@register(
    "mahalanobis_single",
    label="MDS",
    title="Mahalanobis distance of the penultimate features",
    aliases=("mds",),
    paper=(
        "A Simple Unified Framework for Detecting Out-of-Distribution Samples and "
        "Adversarial Attacks"
    ),
    authors=("Kimin Lee", "Kibok Lee", "Honglak Lee", "Jinwoo Shin"),
    venue="NeurIPS",
    year=2018,
    url="https://arxiv.org/abs/1807.03888",
    code="https://github.com/pokaxpoka/deep_Mahalanobis_detector",
    needs=("features", "labels", "fit"),
    layerwise=True,
)
class MahalanobisSingle(LayerwiseDetector):
    """M(x) = max_c -1/2 (f - mu_c)^T Sigma^+ (f - mu_c) (equation 2, halved).

    The paper's score of one layer, the last, without its input preprocessing, feature ensemble and
    regression; the field's tables call it MDS. `mahalanobis` is the whole method. Sigma is the
    maximum-likelihood within-class covariance, shared by the classes; its pseudo-inverse leaves out
    directions in which the training features do not vary.
    """

    def fit_features(self, batches: Batches) -> None:
        """Class means and tied covariance, in one pass.

        Raises:
            ValueError: if a class has no image, or features do not vary within the classes.
        """
        moments = batches.shared(ClassMoments, batches.num_classes)
        for outputs in batches:
            batches.once(moments.update, outputs.features, labels_of(outputs))
        self.gaussian = batches.once(moments.tied_gaussian)
        require_variation(self.gaussian)

    def score_features(self, features: Tensor) -> Tensor:
        """Minus half the squared distance to the nearest class, shape [B]."""
        return self.gaussian.class_scores(features).amax(dim=1)
