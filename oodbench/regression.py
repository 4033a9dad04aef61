"""The logistic regression of Lee et al. 2018, every option pinned."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class LogisticModel:
    """Log-odds w^T m + b.

    Attributes:
        weight: shape [L], float64.
        bias: a float.
    """

    weight: Tensor
    bias: float

    def log_odds(self, features: Tensor) -> Tensor:
        """Log-odds of class 1 for features of shape [B, L]; shape [B].

        A product and a sum, not a matrix product: the result for an image must not depend on how
        many others are in its batch.
        """
        return (features * self.weight).sum(dim=1) + self.bias


def _accuracy(model: Any, features: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """What scoring="accuracy" computes, without its checks, which took most of the time."""
    predicted = features @ np.ravel(model.coef_) + np.ravel(model.intercept_) > 0
    return float(np.mean(predicted == labels))


def fit_logistic_regression(
    positives: Tensor, negatives: Tensor, *, standardise: bool
) -> LogisticModel:
    """Fit scikit-learn's `LogisticRegressionCV` as Lee et al. 2018 did (protocol: its defaults).

    Ten strengths of an L2 penalty from 1e-4 to 1e4, chosen by accuracy in stratified five-fold
    cross-validation; inputs not scaled unless asked for. Deviation: Newton's method to a tolerance
    of 1e-6 instead of lbfgs to 1e-4, which on unscaled inputs stops about 1e-3 (relative) short of
    the same optimum, or at its hundredth iteration.

    Args:
        positives: features of in-distribution images (label 0), shape [N, L].
        negatives: features of adversarial or out-of-distribution images (label 1), shape [M, L].
        standardise: scale the features to zero mean and unit variance for the fit.

    Raises:
        ValueError: with fewer than five images on a side.
    """
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold

    folds = 5
    if min(len(positives), len(negatives)) < folds:
        raise ValueError(
            f"a logistic regression needs at least {folds} images a side, "
            f"not {len(positives)} and {len(negatives)}"
        )
    features = torch.cat([positives, negatives]).double().cpu().numpy()
    labels = np.repeat([0, 1], [len(positives), len(negatives)])
    shift, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
    if standardise:
        shift, scale = features.mean(axis=0), features.std(axis=0)
        scale[scale == 0] = 1.0
    # scikit-learn 1.8 began to move these two defaults; say what they were.
    later = {"l1_ratios": (0.0,), "use_legacy_attributes": False}
    known = inspect.signature(LogisticRegressionCV).parameters
    model = LogisticRegressionCV(
        Cs=10,
        fit_intercept=True,
        cv=StratifiedKFold(folds),
        dual=False,
        scoring=_accuracy,
        solver="newton-cholesky",
        tol=1e-6,
        max_iter=100,
        class_weight=None,
        refit=True,
        **(later if later.keys() <= known.keys() else {}),
    )
    model.fit((features - shift) / scale, labels)
    weight = np.ravel(model.coef_) / scale
    return LogisticModel(
        torch.from_numpy(weight).to(positives.device),
        float(np.ravel(model.intercept_)[0] - weight @ shift),
    )
