"""Mahalanobis with feature ensemble and logistic regression (Lee et al., NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from oodbench import Batches, Outputs, PerturbingDetector, register
from oodbench.number_checks import not_negative
from oodbench.numerics.input_checks import labels_of
from oodbench.numerics.likelihood.regression import LogisticModel, fit_logistic_regression
from oodbench.numerics.statistics.moments import ClassMoments, require_variation


@register(
    "mahalanobis",
    label="Mahalanobis",
    title="Mahalanobis distance, feature ensemble, logistic regression",
    aliases=("mds_ensemble",),
    paper=(
        "A Simple Unified Framework for Detecting Out-of-Distribution Samples and "
        "Adversarial Attacks"
    ),
    authors=("Kimin Lee", "Kibok Lee", "Honglak Lee", "Jinwoo Shin"),
    venue="NeurIPS",
    year=2018,
    url="https://arxiv.org/abs/1807.03888",
    code="https://github.com/pokaxpoka/deep_Mahalanobis_detector",
    needs=("taps", "labels", "fit", "input_gradient", "calibration"),
    search_space={"epsilon": (0.0, 0.01, 0.005, 0.002, 0.0014, 0.001, 0.0005)},
)
class Mahalanobis(PerturbingDetector):
    """Weighted sum, over all taps, of the confidence under class-conditional Gaussians.

    M_l(x) = max_c -1/2 (f_l(x') - mu_lc)^T Sigma_l^+ (f_l(x') - mu_lc), where x' is the image moved
    by epsilon to increase M_l itself, tap by tap. A logistic regression on (M_1 .. M_L) separates
    the ID images of the tuning data from its negatives.

    Args:
        epsilon: step size in units of a [0, 1] pixel, shared by all taps; not clamped.
        sign_zero: sign of a zero gradient: "plus" (as the published code) or "zero".
        standardize: scale the M_l to unit variance before the regression (the paper does not).
    """

    def __init__(
        self,
        epsilon: float = 0.0,
        sign_zero: Literal["plus", "zero"] = "plus",
        standardize: bool = False,
    ) -> None:
        self.epsilon = not_negative("epsilon", epsilon)
        self.sign_zero = sign_zero
        self.standardize = standardize
        self.regression: LogisticModel | None = None

    def fit(self, batches: Batches) -> None:
        """Class means and tied covariance of every tap, in one pass.

        Raises:
            ValueError: if a class has no image, or no tap varies within the classes.
        """
        moments: dict[str, ClassMoments] = {}
        for outputs in batches:
            for tap, features in outputs.taps.items():
                tap_moments = moments.setdefault(tap, ClassMoments(batches.num_classes))
                tap_moments.update(features, labels_of(outputs))
        self.gaussians = {tap: gathered.tied_gaussian() for tap, gathered in moments.items()}
        require_variation(*self.gaussians.values())

    def confidences(self, outputs: Outputs) -> dict[str, Tensor]:
        """M_l of every tap, each of shape [B]."""
        return {
            tap: gaussian.class_scores(outputs.taps[tap]).amax(dim=1)
            for tap, gaussian in self.gaussians.items()
        }

    def perturbation_losses(self, outputs: Outputs) -> Mapping[str, Tensor]:
        """-M_l for every tap: the class is the one that is nearest before the step."""
        return {tap: -confidence for tap, confidence in self.confidences(outputs).items()}

    def calibrate(self, positives: Outputs, negatives: Outputs) -> None:
        """Logistic regression with label 1 for the negatives, as in the published code."""
        self.regression = fit_logistic_regression(
            torch.stack(list(self.confidences(positives).values()), dim=1),
            torch.stack(list(self.confidences(negatives).values()), dim=1),
            standardize=self.standardize,
        )

    def score(self, outputs: Outputs) -> Tensor:
        """Minus the log-odds of being a negative, shape [B]; the plain sum if not calibrated.

        The published score is minus the probability, which has the same order and runs into ties.
        """
        features = torch.stack(list(self.confidences(outputs).values()), dim=1)
        if self.regression is None:
            return features.sum(dim=1)
        return -self.regression.log_odds(features)
