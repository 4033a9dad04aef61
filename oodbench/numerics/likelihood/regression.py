"""The logistic regression of the Mahalanobis detector (Lee et al. 2018), by Newton's method.

Lee et al. use scikit-learn's `LogisticRegressionCV` with its defaults: ten strengths of an L2
penalty, chosen by accuracy in stratified five-fold cross-validation, then a fit on all images. This
module does the same, with two differences. It solves all folds and strengths at once, which makes
the search fast enough for every step size of every model. It finds the optimum; scikit-learn's
default solver (lbfgs) stops at a relative distance of about 1e-3 from it on unscaled inputs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

Array = NDArray[np.float64]

FOLDS = 5
INVERSE_PENALTIES: Array = np.logspace(-4, 4, 10)
"""Candidate values of C, those of `LogisticRegressionCV(Cs=10)`."""


@dataclass(frozen=True)
class LogisticModel:
    """Log-odds w^T m + b.

    Attributes:
        weight: shape [L], float64.
        bias: a float.
        inverse_penalty: the C that cross-validation chose.
    """

    weight: Tensor
    bias: float
    inverse_penalty: float

    def log_odds(self, features: Tensor) -> Tensor:
        """Log-odds of class 1 for features of shape [B, L]; shape [B].

        Computed as a product and a sum: the result of a matrix product for an image may depend on
        the number of images in its batch.
        """
        return (features * self.weight).sum(dim=1) + self.bias


def fit_logistic_regression(
    positives: Tensor, negatives: Tensor, *, standardize: bool
) -> LogisticModel:
    """Fit with the penalty chosen by cross-validation.

    Args:
        positives: features of in-distribution images (label 0), shape [N, L].
        negatives: features of adversarial or out-of-distribution images (label 1), shape [M, L].
        standardize: whether the penalty acts on features of unit variance; Lee et al. do not scale.

    Raises:
        ValueError: if one of the two sets has fewer than five images.
    """
    if min(len(positives), len(negatives)) < FOLDS:
        raise ValueError(
            f"a logistic regression needs at least {FOLDS} images of each kind, "
            f"not {len(positives)} and {len(negatives)}"
        )
    features = torch.cat([positives, negatives]).double().cpu().numpy()
    labels = np.repeat([0.0, 1.0], [len(positives), len(negatives)])
    # Newton's method is well conditioned in standardized coordinates; the penalty is converted, so
    # that it acts on the original weights.
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale == 0] = 1.0
    design = np.column_stack([(features - mean) / scale, np.ones(len(labels))])
    penalty = np.append(np.ones_like(scale) if standardize else scale**-2, 0.0)

    chosen = _best_inverse_penalty(design, labels, penalty)
    solution = _solve(design, labels, np.ones((1, len(labels))), np.array([chosen]), penalty)[0]
    weight = solution[:-1] / scale
    return LogisticModel(
        torch.from_numpy(weight).to(positives.device),
        float(solution[-1] - weight @ mean),
        float(chosen),
    )


def _best_inverse_penalty(design: Array, labels: Array, penalty: Array) -> float:
    """The C with the highest mean accuracy over the folds; the smallest of equally good values."""
    folds = stratified_folds(labels)
    validation = np.repeat(folds == np.arange(FOLDS)[:, None], len(INVERSE_PENALTIES), axis=0)
    strengths = np.tile(INVERSE_PENALTIES, FOLDS)
    solutions = _solve(design, labels, (~validation).astype(np.float64), strengths, penalty)
    right = (solutions @ design.T > 0) == (labels > 0)
    accuracy = (right & validation).sum(axis=1) / validation.sum(axis=1)
    by_strength = accuracy.reshape(FOLDS, len(INVERSE_PENALTIES)).mean(axis=0)
    return float(INVERSE_PENALTIES[np.argmax(by_strength)])


def stratified_folds(labels: Array) -> NDArray[np.int64]:
    """The fold of each sample, as in scikit-learn's `StratifiedKFold` without shuffling.

    Args:
        labels: 0 or 1, shape [N], all of one class before the other.
    """
    # Dealing the sorted labels round gives each fold its number of each class; a class then fills
    # its folds in order.
    sizes = np.array([[np.sum(labels[fold::FOLDS] == k) for fold in range(FOLDS)] for k in (0, 1)])
    folds = np.empty(len(labels), dtype=np.int64)
    for k in (0, 1):
        folds[labels == k] = np.repeat(np.arange(FOLDS), sizes[k])
    return folds


def _solve(design: Array, labels: Array, weights: Array, strengths: Array, penalty: Array) -> Array:
    """Minimize C sum_n w_n log-loss_n + 1/2 sum_i penalty_i u_i^2, for P problems at once.

    Args:
        design: shape [N, K].
        labels: 0 or 1, shape [N].
        weights: weights of the samples in each problem, shape [P, N].
        strengths: C of each problem, shape [P].
        penalty: penalty of each coefficient, shape [K].

    Returns:
        Coefficients, shape [P, K].
    """
    size = design.shape[1]
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    # Divided by C, so that the size of the gradient does not depend on it.
    ridge = penalty / strengths[:, None]

    def losses(solutions: Array) -> Array:
        margins = solutions @ design.T
        log_losses = np.logaddexp(0, margins) - labels * margins
        total: Array = (weights * log_losses).sum(axis=1)
        total += 0.5 * (ridge * solutions**2).sum(axis=1)
        return total

    solutions = np.zeros((len(strengths), size))
    current = losses(solutions)
    for _ in range(100):
        probabilities = expit(solutions @ design.T)
        gradients = (weights * (probabilities - labels)) @ design + ridge * solutions
        curvatures = (weights * probabilities * (1 - probabilities)) @ products
        hessians = curvatures.reshape(-1, size, size)
        hessians[:, np.arange(size), np.arange(size)] += ridge + 1e-12
        steps = np.linalg.solve(hessians, gradients[:, :, None])[:, :, 0]
        decrements = (steps * gradients).sum(axis=1)
        if np.all(decrements <= 1e-10 * (1 + current)):
            # Newton's method squares the error: this last step brings it to rounding.
            final: Array = solutions - steps
            return final
        lengths = np.ones(len(strengths))
        for _ in range(30):  # halve the steps that do not decrease the loss
            tried = losses(solutions - lengths[:, None] * steps)
            worse = tried > current * (1 + 1e-14) - 1e-4 * lengths * decrements
            if not worse.any():
                break
            lengths[worse] /= 2
        solutions = solutions - lengths[:, None] * steps
        current = losses(solutions)
    warnings.warn("the logistic regression did not converge in 100 steps", stacklevel=2)
    return solutions
