"""Streaming statistics and the logistic regression, against scikit-learn and scipy."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.covariance import EmpiricalCovariance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from oodbench.numerics.functional import max_probability, negative_entropy, squared_distances
from oodbench.numerics.likelihood.regression import fit_logistic_regression
from oodbench.numerics.statistics.moments import ClassMoments, TiedGaussian

Array = NDArray[np.float64]

DIMENSION = 7
CLASSES = 4


def labeled_features(count: int = 500, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    labels[:CLASSES] = torch.arange(CLASSES)
    mixing = torch.randn(DIMENSION, DIMENSION, generator=generator, dtype=torch.float64)
    centers = 3 * torch.randn(CLASSES, DIMENSION, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, DIMENSION, generator=generator, dtype=torch.float64)
    return centers[labels] + noise @ mixing + offset, labels


def gathered(
    features: Tensor, labels: Tensor, sizes: tuple[int, ...] = (), classes: int = CLASSES
) -> TiedGaussian:
    """Statistics of batches of the given sizes, the last of which takes what is left."""
    moments = ClassMoments(classes)
    bounds = [0, *np.cumsum(sizes), len(features)]
    for start, end in itertools.pairwise(bounds):
        moments.update(features[start:end], labels[start:end])
    return moments.tied_gaussian()


def by_hand(features: Tensor, labels: Tensor) -> tuple[Array, EmpiricalCovariance]:
    values, classes = features.numpy(), labels.numpy()
    means = np.stack([values[classes == c].mean(axis=0) for c in range(classes.max() + 1)])
    covariance = EmpiricalCovariance(assume_centered=True).fit(values - means[classes])
    return means, covariance


def scores_by_hand(features: Array, means: Array, precision: Array) -> Array:
    differences = features[:, None, :] - means
    return -0.5 * np.einsum("bci,ij,bcj->bc", differences, precision, differences)


@pytest.mark.parametrize("sizes", [(), (1,), (3, 1, 200, 7), (100,) * 4])
@pytest.mark.parametrize(("offset", "rtol"), [(0.0, 1e-10), (1e4, 1e-7)])
def test_tied_gaussian_is_that_of_scikit_learn(
    sizes: tuple[int, ...], offset: float, rtol: float
) -> None:
    features, labels = labeled_features(offset=offset)
    gaussian = gathered(features, labels, sizes)
    means, covariance = by_hand(features, labels)
    np.testing.assert_allclose(gaussian.means.numpy(), means, rtol=1e-12)
    np.testing.assert_allclose(gaussian.covariance.numpy(), covariance.covariance_, rtol=rtol)
    precision = (gaussian.whitening @ gaussian.whitening.T).numpy()
    np.testing.assert_allclose(precision, covariance.precision_, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(
        gaussian.class_scores(features).numpy(),
        scores_by_hand(features.numpy(), means, covariance.precision_),
        rtol=rtol,
        atol=rtol,
    )


def test_first_batch_far_from_the_others_does_no_harm() -> None:
    """Sums are taken around the first batch: it may be the odd one."""
    features, labels = labeled_features()
    order = torch.argsort(features[:, 0])
    gaussian = gathered(features[order], labels[order], (5, 100))
    means, covariance = by_hand(features, labels)
    np.testing.assert_allclose(gaussian.means.numpy(), means, rtol=1e-10)
    np.testing.assert_allclose(gaussian.covariance.numpy(), covariance.covariance_, rtol=1e-10)


def test_float32_features_are_summed_in_float64() -> None:
    features, labels = labeled_features(count=20_000, offset=100.0)
    rounded = features.float()
    gaussian = gathered(rounded, labels, (1000,) * 19)
    means, covariance = by_hand(rounded.double(), labels)
    np.testing.assert_allclose(gaussian.means.numpy(), means, rtol=1e-12)
    np.testing.assert_allclose(gaussian.covariance.numpy(), covariance.covariance_, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_units_do_not_count(dtype: torch.dtype) -> None:
    features, labels = labeled_features()
    dead = torch.zeros(len(features), 3, dtype=torch.float64)
    dead[:, 1] = 0.7  # constant, and no number that is exact in binary
    padded = torch.cat([features, dead], dim=1).to(dtype)
    gaussian = gathered(padded, labels, (50, 60))
    assert gaussian.whitening.shape == (DIMENSION + 3, DIMENSION)
    means, covariance = by_hand(features.to(dtype).double(), labels)
    expected = scores_by_hand(features.to(dtype).numpy(), means, covariance.precision_)
    np.testing.assert_allclose(gaussian.class_scores(padded).numpy(), expected, rtol=1e-6)
    # A unit that wakes up on an OOD image is in a direction without information: no huge score.
    awake = padded.clone()
    awake[:, DIMENSION:] += 1.0
    np.testing.assert_allclose(gaussian.class_scores(awake).numpy(), expected, rtol=1e-5)


def test_a_unit_that_only_rounding_moves_counts_as_dead() -> None:
    """Alone in its tap, where no larger variance gives it away."""
    generator = torch.Generator().manual_seed(0)
    jitter = 3e-8 * torch.randn(200, 3, generator=generator)
    moments = ClassMoments(2)
    moments.update((0.3 + jitter).float(), torch.arange(200) % 2)
    scores = moments.tied_gaussian().class_scores(torch.full((1, 3), 0.31))
    assert scores.abs().max() < 1e6, f"a step of 0.01 scores {scores.tolist()}"


def test_dependent_units_count_once() -> None:
    features, labels = labeled_features()
    padded = torch.cat([features, features[:, :2] + features[:, 2:4]], dim=1)
    gaussian = gathered(padded, labels, (50, 60))
    assert gaussian.whitening.shape == (DIMENSION + 2, DIMENSION)
    covariance = gaussian.covariance.numpy()
    precision = np.linalg.pinv(covariance, rcond=1e-12, hermitian=True)
    whitening = gaussian.whitening.numpy()
    np.testing.assert_allclose(whitening @ whitening.T, precision, rtol=1e-7, atol=1e-9)
    # On the images themselves nothing depends on the repetition.
    plain = gathered(features, labels).class_scores(features).numpy()
    np.testing.assert_allclose(gaussian.class_scores(padded).numpy(), plain, rtol=1e-7)


def test_more_units_than_images() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(12, 40, generator=generator, dtype=torch.float64)
    labels = torch.arange(12) % 3
    gaussian = gathered(features, labels, (4,), classes=3)
    assert gaussian.whitening.shape == (40, 9)  # 12 images less 3 means
    scores = gaussian.class_scores(10 * features)
    assert torch.isfinite(scores).all()


def test_class_with_one_image() -> None:
    features, labels = labeled_features()
    labels = torch.where(labels == 2, 1, labels)
    labels[7] = 2
    gaussian = gathered(features, labels, (50, 60))
    torch.testing.assert_close(gaussian.means[2], features[7], rtol=1e-12, atol=0)
    _, covariance = by_hand(features, labels)
    np.testing.assert_allclose(gaussian.covariance.numpy(), covariance.covariance_, rtol=1e-10)
    assert gaussian.class_scores(features)[7, 2].item() == pytest.approx(0, abs=1e-12)


def test_missing_classes_are_named() -> None:
    moments = ClassMoments(6)
    moments.update(torch.randn(10, 3), torch.tensor([0, 1, 3, 5] * 2 + [0, 1]))
    with pytest.raises(ValueError, match="class 2, 4:"):
        moments.tied_gaussian()


def test_all_images_alike_give_finite_scores() -> None:
    gaussian = gathered(torch.ones(6, 3), torch.arange(6) % 2, classes=2)
    scores = gaussian.class_scores(torch.rand(4, 3))
    torch.testing.assert_close(scores, torch.zeros(4, 2, dtype=torch.float64))


def test_scores_carry_gradients() -> None:
    features, labels = labeled_features()
    gaussian = gathered(features, labels)
    few = features[:3].clone().requires_grad_()
    gaussian.class_scores(few).amax(dim=1).sum().backward()
    means, covariance = by_hand(features, labels)
    nearest = gaussian.class_scores(features[:3]).argmax(dim=1)
    expected = -(features[:3].numpy() - means[nearest]) @ covariance.precision_
    assert few.grad is not None
    np.testing.assert_allclose(few.grad.numpy(), expected, rtol=1e-9)


# --- shared functions --------------------------------------------------------------------------


def test_squared_distances() -> None:
    features, _ = labeled_features(offset=1e4)
    points, centers = features[:30], features[30:35] + 1e-3
    expected = (points[:, None] - centers).square().sum(dim=2)
    torch.testing.assert_close(squared_distances(points, centers), expected, rtol=1e-9, atol=1e-9)
    alike = squared_distances(points, points)
    assert (alike >= 0).all()
    torch.testing.assert_close(alike.diagonal(), torch.zeros(30).double(), rtol=0, atol=1e-9)


def test_softmax_functions_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.9, 0.1, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(max_probability(logits), torch.tensor([0.5, 0.9]).double())
    entropies = [
        -(0.5 * np.log(2) + 0.5 * np.log(4)),
        0.9 * np.log(0.9) + 0.1 * np.log(0.1),
    ]
    # A logit of minus infinity is a probability that is exactly 0.
    finite = logits.clamp_min(-2000)
    np.testing.assert_allclose(negative_entropy(finite).numpy(), entropies, rtol=1e-12)


# --- logistic regression -----------------------------------------------------------------------

CS = np.logspace(-4, 4, 10)


def two_sides(seed: int, scales: tuple[float, ...] = (1.0, 30.0, 0.2)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor(scales, dtype=torch.float64)
    width = len(scales)
    positives = torch.randn(60, width, generator=generator, dtype=torch.float64) * scale
    negatives = torch.randn(45, width, generator=generator, dtype=torch.float64) * scale
    return positives - 5 * scale, negatives - 4 * scale


def stacked(positives: Tensor, negatives: Tensor) -> tuple[Array, NDArray[np.int64]]:
    labels = np.repeat([0, 1], [len(positives), len(negatives)])
    return torch.cat([positives, negatives]).numpy(), labels


def chosen_by_loop(features: Array, labels: NDArray[np.int64]) -> float:
    """Cross-validated accuracy, one fold and one strength at a time."""
    accuracies = []
    for c in CS:
        folds = []
        for train, test in StratifiedKFold(5).split(features, labels):
            model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10, max_iter=1000)
            model.fit(features[train], labels[train])
            folds.append(model.score(features[test], labels[test]))
        accuracies.append(np.mean(folds))
    return float(CS[int(np.argmax(accuracies))])


def minimized(features: Array, labels: NDArray[np.int64], c: float) -> Array:
    """Weights and bias that minimize C sum log-loss + |w|^2 / 2."""
    # In units of the features' spread, with the penalty that this makes; lbfgs gets nowhere else.
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scaled = (features - mean) / scale

    def objective(solution: Array) -> tuple[float, Array]:
        weight, bias = solution[:-1], solution[-1]
        margins = scaled @ weight + bias
        loss = c * np.sum(np.logaddexp(0, margins) - labels * margins)
        errors = c * (1 / (1 + np.exp(-margins)) - labels)
        gradient = np.append(errors @ scaled + weight / scale**2, errors.sum())
        return float(loss + 0.5 * np.sum((weight / scale) ** 2)), gradient

    found = minimize(
        objective, np.zeros(features.shape[1] + 1), jac=True, method="BFGS", options={"gtol": 1e-9}
    )
    weight = found.x[:-1] / scale
    return np.append(weight, found.x[-1] - weight @ mean)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("standardize", [False, True])
def test_regression_is_scikit_learns_to_the_optimum(seed: int, standardize: bool) -> None:
    positives, negatives = two_sides(seed)
    features, labels = stacked(positives, negatives)
    mean, scale = np.zeros(3), np.ones(3)
    if standardize:
        mean, scale = features.mean(axis=0), features.std(axis=0)
    scaled = (features - mean) / scale
    found = fit_logistic_regression(positives, negatives, standardize=standardize)

    chosen = chosen_by_loop(scaled, labels)
    assert found.inverse_penalty == pytest.approx(chosen, rel=1e-12)
    optimum = minimized(scaled, labels, chosen)
    weight = optimum[:-1] / scale
    np.testing.assert_allclose(found.weight.numpy(), weight, rtol=1e-5, atol=1e-8)
    assert found.bias == pytest.approx(optimum[-1] - weight @ mean, rel=1e-5)
    log_odds = found.log_odds(positives).numpy()
    np.testing.assert_allclose(log_odds, positives.numpy() @ weight + found.bias, rtol=1e-4)


def test_separated_sides_converge() -> None:
    positives, negatives = two_sides(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_logistic_regression(positives + 1000, negatives - 1000, standardize=False)
    assert (found.log_odds(positives + 1000) < 0).all()
    assert (found.log_odds(negatives - 1000) > 0).all()


def test_standardizing_is_scaling_beforehand() -> None:
    positives, negatives = two_sides(1)
    both = torch.cat([positives, negatives])
    mean, scale = both.mean(dim=0), both.std(dim=0, correction=0)
    inside = fit_logistic_regression(positives, negatives, standardize=True)
    outside = fit_logistic_regression(
        (positives - mean) / scale, (negatives - mean) / scale, standardize=False
    )
    torch.testing.assert_close(
        inside.log_odds(positives),
        outside.log_odds((positives - mean) / scale),
        rtol=1e-7,
        atol=1e-9,
    )
    # It matters: the scales of these features differ a hundredfold.
    plain = fit_logistic_regression(positives, negatives, standardize=False)
    assert not torch.allclose(plain.weight, inside.weight, rtol=1e-2)


def test_constant_feature_does_no_harm() -> None:
    positives, negatives = two_sides(2)
    wider = [
        torch.cat([side, torch.full((len(side), 1), -3.0)], dim=1)
        for side in (positives, negatives)
    ]
    for standardize in (False, True):
        found = fit_logistic_regression(wider[0], wider[1], standardize=standardize)
        plain = fit_logistic_regression(positives, negatives, standardize=standardize)
        assert torch.isfinite(found.weight).all()
        torch.testing.assert_close(
            found.log_odds(wider[0]), plain.log_odds(positives), rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize(("few", "many"), [(4, 50), (50, 4), (0, 10)])
def test_too_few_images_a_side(few: int, many: int) -> None:
    with pytest.raises(ValueError, match=f"at least 5 images of each kind, not {few} and {many}"):
        fit_logistic_regression(torch.randn(few, 2), torch.randn(many, 2), standardize=False)
