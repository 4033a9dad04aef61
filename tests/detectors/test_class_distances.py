"""Distances from classes and clusters against float64 references, written from the formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans
from torch import Tensor

from oodbench import Outputs
from oodbench.detector import Batches
from oodbench.engine.fitting import fit_together
from oodbench.numerics.statistics import own_covariances
from oodbench.plugins.catalog import Catalog

Array = NDArray[np.float64]

CATALOG = Catalog()
LABELED = ("mahalanobis_plus", "relative_mahalanobis_plus", "cosine", "rcos", "gmm")
NAMES = (*LABELED, "ssd")
DIMENSION, CLASSES, IMAGES = 7, 4, 240


class Pass(Batches):
    """Training images in batches of one size."""

    def __init__(self, outputs: Outputs, size: int = 64, num_classes: int = CLASSES) -> None:
        self.outputs, self.size, self.num_classes = outputs, size, num_classes

    def __iter__(self) -> Iterator[Outputs]:
        for start in range(0, len(self.outputs), self.size):
            yield self.outputs[start : start + self.size]


def outputs_of(features: Tensor, labels: Tensor | None = None) -> Outputs:
    return Outputs(features[:, :CLASSES].double(), features, labels=labels)


def signed(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Outputs:
    """Correlated features of both signs around class means, with labels."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, DIMENSION, generator=fixed, dtype=torch.float64)
    mixing = torch.randn(CLASSES, DIMENSION, DIMENSION, generator=fixed, dtype=torch.float64)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    noise = torch.randn(count, 1, DIMENSION, generator=generator, dtype=torch.float64)
    features = 3 * means[labels] + (noise @ mixing[labels]).squeeze(1)
    return outputs_of(features.to(dtype), labels)


TRAINING, SCORED = signed(IMAGES, 1), signed(50, 2)
SCORED.features[:10] *= -3  # far from every class


def fitted(name: str, outputs: Outputs = TRAINING, size: int = 64, **parameters: Any) -> Any:
    detector = CATALOG.load_detector(name, parameters)
    detector.fit(Pass(outputs, size))
    return detector


def arrays(outputs: Outputs) -> tuple[Array, NDArray[np.int64]]:
    assert outputs.labels is not None
    return outputs.features.double().numpy(), outputs.labels.numpy()


def unit(features: Array) -> Array:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


# --- the formulas --------------------------------------------------------------------------------


def squared(difference: Array, covariance: Array) -> Array:
    inverse = np.linalg.inv(covariance)
    return np.array([d @ inverse @ d for d in difference])


def by_class(features: Array, labels: NDArray[np.int64]) -> dict[int, Array]:
    return {int(c): features[labels == c] for c in np.unique(labels)}


def nearest(training: Outputs, scored: Array) -> tuple[Array, Array]:
    """Squared distances to the nearest class and to all images, of directions."""
    features, labels = arrays(training)
    classes = by_class(unit(features), labels)
    within = sum((g - g.mean(0)).T @ (g - g.mean(0)) for g in classes.values()) / len(features)
    distances = [squared(unit(scored) - g.mean(0), within) for g in classes.values()]
    everything = unit(features)
    total = np.cov(everything.T, bias=True)
    return np.min(distances, axis=0), squared(unit(scored) - everything.mean(0), total)


def mahalanobis_plus(training: Outputs, scored: Array) -> Array:
    return -nearest(training, scored)[0]


def relative_mahalanobis_plus(training: Outputs, scored: Array) -> Array:
    to_class, to_all = nearest(training, scored)
    return -(to_class - to_all)


def all_cosines(training: Outputs, scored: Array) -> Array:
    means = np.stack([group.mean(axis=0) for group in by_class(*arrays(training)).values()])
    return np.array(
        [[f @ m / np.sqrt(f @ f) / np.sqrt(m @ m) for m in means] for f in scored],
    )


def cosine(training: Outputs, scored: Array) -> Array:
    return all_cosines(training, scored).max(axis=1)


def rcos(training: Outputs, scored: Array) -> Array:
    return softmax(all_cosines(training, scored), axis=1).max(axis=1)


def shrunk(groups: dict[int, Array], prior: float) -> dict[int, Array]:
    """Sigma_c = (n_c S_c + nu T) / (n_c + nu)."""
    scatters = {c: (g - g.mean(0)).T @ (g - g.mean(0)) for c, g in groups.items()}
    tied = sum(scatters.values()) / sum(map(len, groups.values()))
    return {c: (s + prior * tied) / (len(groups[c]) + prior) for c, s in scatters.items()}


def gmm(training: Outputs, scored: Array, prior: float = DIMENSION + 2) -> Array:
    features, labels = arrays(training)
    groups = by_class(features, labels)
    covariances = shrunk(groups, prior)
    return logsumexp(
        [
            np.log(len(group) / len(features))
            + multivariate_normal.logpdf(scored, group.mean(axis=0), covariances[c])
            for c, group in groups.items()
        ],
        axis=0,
    )


def ssd(training: Outputs, scored: Array, clusters: int = 1) -> Array:
    directions = unit(arrays(training)[0])
    of = KMeans(clusters, n_init=3, random_state=0).fit_predict(directions)
    groups = by_class(directions, of)
    covariances = shrunk(groups, DIMENSION + 2)
    distances = [squared(unit(scored) - g.mean(0), covariances[c]) for c, g in groups.items()]
    return -np.min(distances, axis=0)


REFERENCES: dict[str, Callable[..., Array]] = {
    "mahalanobis_plus": mahalanobis_plus,
    "relative_mahalanobis_plus": relative_mahalanobis_plus,
    "cosine": cosine,
    "rcos": rcos,
    "gmm": gmm,
    "ssd": ssd,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 64, IMAGES])
def test_scores_are_those_of_the_formula(name: str, size: int) -> None:
    expected = REFERENCES[name](TRAINING, SCORED.features.numpy())
    scores = fitted(name, size=size).score(SCORED)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)
    assert scores.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("gmm", {"prior": 0.5}), ("gmm", {"prior": 1e3}), ("ssd", {"clusters": 3})],
)
def test_scores_with_parameters(name: str, parameters: dict[str, float]) -> None:
    expected = REFERENCES[name](TRAINING, SCORED.features.numpy(), **parameters)
    scores = fitted(name, **parameters).score(SCORED)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)


def test_one_cluster_has_the_sample_covariance_whatever_the_prior() -> None:
    directions = unit(arrays(TRAINING)[0])
    expected = -squared(
        unit(SCORED.features.numpy()) - directions.mean(0), np.cov(directions.T, bias=True)
    )
    for prior in (None, 1e-6, 1e6):
        scores = fitted("ssd", prior=prior).score(SCORED)
        np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)


# --- few images, ties, types ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cosine", "rcos", "gmm"])
def test_a_class_without_images_is_left_out(name: str) -> None:
    assert TRAINING.labels is not None
    kept = TRAINING.labels != 1
    three = outputs_of(TRAINING.features[kept], TRAINING.labels[kept])
    expected = REFERENCES[name](three, SCORED.features.numpy())
    np.testing.assert_allclose(fitted(name, three).score(SCORED).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["mahalanobis_plus", "relative_mahalanobis_plus"])
def test_a_class_without_images_has_no_mean(name: str) -> None:
    labels = TRAINING.labels
    assert labels is not None
    with pytest.raises(ValueError, match="class 1"):
        fitted(name, outputs_of(TRAINING.features[labels != 1], labels[labels != 1]))


@pytest.mark.parametrize("name", LABELED)
def test_a_class_of_one_image(name: str) -> None:
    labels = TRAINING.labels
    assert labels is not None
    kept = torch.cat([(labels != 1).nonzero().flatten(), (labels == 1).nonzero()[0]])
    one = outputs_of(TRAINING.features[kept], labels[kept])
    expected = REFERENCES[name](one, SCORED.features.numpy())
    np.testing.assert_allclose(fitted(name, one).score(SCORED).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["mahalanobis_plus", "relative_mahalanobis_plus", "gmm", "ssd"])
def test_features_that_do_not_vary_are_an_error(name: str) -> None:
    labels = torch.arange(12) % CLASSES
    constant = torch.ones(12, DIMENSION)
    with pytest.raises(ValueError, match="do not vary"):
        fitted(name, outputs_of(constant, labels))


@pytest.mark.parametrize("name", NAMES)
def test_a_dead_unit_is_ignored(name: str) -> None:
    """Whatever a unit gives that is silent on the training images, where it has no scale."""
    training = torch.cat([TRAINING.features, torch.zeros(IMAGES, 1).double()], dim=1)
    scored = torch.cat([SCORED.features, torch.zeros(50, 1).double()], dim=1)
    detector = fitted(name, outputs_of(training, TRAINING.labels))
    expected = fitted(name).score(SCORED)
    torch.testing.assert_close(detector.score(outputs_of(scored)), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["mahalanobis_plus", "relative_mahalanobis_plus", "ssd", "cosine"])
def test_the_length_of_features_has_no_effect(name: str) -> None:
    detector = fitted(name)
    longer = outputs_of(SCORED.features * torch.linspace(0.1, 9, 50)[:, None].double())
    torch.testing.assert_close(detector.score(longer), detector.score(SCORED))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_of_other_types(name: str, dtype: torch.dtype) -> None:
    """As those of the rounded features in float64."""
    training = outputs_of(TRAINING.features.to(dtype), TRAINING.labels)
    scored = SCORED.features.to(dtype)
    scored[0] = 0
    detector = fitted(name, training)
    scores = detector.score(outputs_of(scored))
    assert scores.isfinite().all()
    reference = REFERENCES[name](training, scored[1:].double().numpy())
    np.testing.assert_allclose(scores[1:].numpy(), reference, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_no_images_are_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="image"):
        fitted(name, outputs_of(torch.empty(0, DIMENSION), torch.empty(0, dtype=torch.int64)))


def test_more_clusters_than_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="9 clusters of 5 training images"):
        fitted("ssd", TRAINING[:5], clusters=9)


# --- bounded memory ------------------------------------------------------------------------------


def test_a_mixture_of_many_classes_is_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_covariances, "MOST_ENTRIES", CLASSES * 3**2)
    features, labels = arrays(TRAINING)
    axes = np.linalg.eigh(np.cov(features.T, bias=True))[1][:, -3:]
    projected = outputs_of(torch.tensor(features @ axes), torch.tensor(labels))
    expected = gmm(projected, SCORED.features.numpy() @ axes, prior=3 + 2)
    for dim in (None, 3, 6):
        scores = fitted("gmm", dim=dim).score(SCORED)
        np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)


def test_blocks_of_classes_give_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = fitted("gmm")
    expected = detector.score(SCORED)
    monkeypatch.setattr(own_covariances, "BLOCK", 1)
    torch.testing.assert_close(detector.score(SCORED), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["gmm", "ssd"])
def test_a_bank_keeps_features_with_their_labels(name: str) -> None:
    """Every feature of a class is the class's own point, but for little noise."""
    labels = torch.arange(3000) % CLASSES
    noise = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0)).double()
    features = torch.eye(CLASSES, 3).double()[labels] * 100 + noise
    detector = fitted(name, outputs_of(features, labels), bank_size=200)
    gaussians = detector.gaussians
    if name == "gmm":
        assert gaussians.space.covariance.trace() < 10
        assert gaussians.log_shares.exp().sum() == pytest.approx(1)
    assert detector.score(outputs_of(features[:20])).isfinite().all()


def test_detectors_share_their_statistics() -> None:
    """Each pair is fitted once, and scores as alone."""
    pairs = ("mahalanobis_plus", "relative_mahalanobis_plus"), ("cosine", "rcos"), ("knn", "ssd")
    for pair in pairs:
        detectors = {name: CATALOG.load_detector(name) for name in pair}
        fits = fit_together(detectors, lambda: iter(Pass(TRAINING)), CLASSES)
        assert [fit.error for fit in fits.values()] == [None, None]
        assert fits[pair[1]].shared_seconds > 0
        for name, detector in detectors.items():
            torch.testing.assert_close(
                detector.score(SCORED), fitted(name).score(SCORED), rtol=1e-12, atol=1e-12
            )
