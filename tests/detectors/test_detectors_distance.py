"""Detectors of distances, subspaces and banks, against references written from the formulas.

The references loop over images and classes in numpy, and take other roads than the detectors where
there are any: least squares for a pseudo-inverse, singular vectors for eigenvectors, a root finder
for a Weibull's shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import weibull_min
from torch import Tensor
from torch.nn import functional as F

import oodbench
from oodbench import Detector, Head, Outputs, metrics
from oodbench.detector import Batches
from oodbench.numerics.statistics.moments import ClassMoments
from oodbench.plugins.catalog import Catalog

Array = NDArray[np.float64]

NAMES = (
    "mahalanobis_single",
    "relative_mahalanobis",
    "residual",
    "vim",
    "knn",
    "nnguide",
    "openmax",
)
DIMENSION, CLASSES, IMAGES = 12, 5, 300


class Pass(Batches):
    """Training images in batches of one size."""

    def __init__(self, outputs: Outputs, size: int = 64, num_classes: int = CLASSES) -> None:
        self.outputs, self.size, self.num_classes = outputs, size, num_classes

    def __iter__(self) -> Iterator[Outputs]:
        for start in range(0, len(self.outputs), self.size):
            yield self.outputs[start : start + self.size]


def outputs_of(features: Tensor, labels: Tensor | None = None, classes: int = CLASSES) -> Outputs:
    """What a network whose last layer has fixed weights gives."""
    generator = torch.Generator().manual_seed(35)  # every class has 40 images or more
    weight = torch.randn(classes, features.shape[1], generator=generator, dtype=torch.float64)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64)
    head = Head("linear", weight.to(features), bias.to(features))
    return Outputs(head.logits(features), features, labels=labels, head=head)


def training(count: int = IMAGES, dtype: torch.dtype = torch.float64, seed: int = 1) -> Outputs:
    """Features around class centers; labels are mostly what the network says."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(
        8, DIMENSION, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    chosen = torch.randint(8, (count,), generator=generator)
    noise = torch.randn(count, DIMENSION, generator=generator, dtype=torch.float64)
    features = (2 * centers[chosen] + 0.7 * noise).to(dtype)
    labels = outputs_of(features).logits.argmax(dim=1)
    labels[::9] = torch.randint(CLASSES, (len(labels[::9]),), generator=generator)
    return outputs_of(features, labels)


def queried(dtype: torch.dtype = torch.float64) -> Outputs:
    generator = torch.Generator().manual_seed(2)
    far = 2 * torch.randn(20, DIMENSION, generator=generator, dtype=torch.float64)
    near = training(20, seed=3).features
    return outputs_of(torch.cat([near, far, torch.zeros(1, DIMENSION).double()]).to(dtype))


@cache
def detector_class(name: str) -> type[Detector]:
    return type(oodbench.load_detector(name))


def load(name: str, **parameters: Any) -> Any:
    """By the constructor, whose errors `load_detector` words anew."""
    return detector_class(name)(**parameters)


def fitted(name: str, outputs: Outputs | None = None, size: int = 64, **parameters: Any) -> Any:
    detector = load(name, **parameters)
    detector.fit(Pass(training() if outputs is None else outputs, size))
    return detector


# --- references --------------------------------------------------------------------------------


def doubles(tensor: Tensor | None) -> Array:
    assert tensor is not None
    values: Array = tensor.double().numpy()
    return values


def within_class(train: Outputs) -> tuple[list[Array], Array]:
    """Class means, and the precision of the within-class covariance."""
    features, labels = doubles(train.features), doubles(train.labels)
    means = [features[labels == c].mean(axis=0) for c in range(CLASSES)]
    scatter = np.zeros((features.shape[1],) * 2)
    for feature, label in zip(features, labels, strict=True):
        difference = feature - means[int(label)]
        scatter += np.outer(difference, difference)
    return means, np.linalg.inv(scatter / len(features))


def squared(difference: Array, precision: Array) -> float:
    return float(difference @ precision @ difference)


def mahalanobis_single(train: Outputs, test: Outputs) -> list[float]:
    means, precision = within_class(train)
    return [
        -min(squared(feature - mean, precision) for mean in means) / 2
        for feature in doubles(test.features)
    ]


def relative_mahalanobis(train: Outputs, test: Outputs) -> list[float]:
    means, precision = within_class(train)
    features = doubles(train.features)
    mean = features.mean(axis=0)
    background = np.linalg.inv(np.cov(features.T, bias=True))
    return [
        -min(squared(f - m, precision) - squared(f - mean, background) for m in means)
        for f in doubles(test.features)
    ]


def residual_lengths(train: Outputs, test: Outputs, dim: int) -> tuple[Array, Array]:
    """Of training and test images."""
    weight, bias = doubles(train.head.weight), doubles(train.head.bias)
    origin = np.linalg.lstsq(weight, -bias, rcond=None)[0]
    _, _, axes = np.linalg.svd(doubles(train.features) - origin)
    lengths = []
    for outputs in (train, test):
        centered = doubles(outputs.features) - origin
        inside = np.stack([sum((c @ a) * a for a in axes[:dim]) for c in centered])
        lengths.append(np.sqrt(((centered - inside) ** 2).sum(axis=1)))
    return lengths[0], lengths[1]


def residual(train: Outputs, test: Outputs, dim: int = DIMENSION // 2) -> list[float]:
    return list(-residual_lengths(train, test, dim)[1])


def vim(train: Outputs, test: Outputs, dim: int = DIMENSION // 2) -> list[float]:
    of_training, of_test = residual_lengths(train, test, dim)
    alpha = sum(max(z) for z in doubles(train.logits)) / sum(of_training)
    return [
        -(alpha * r - float(logsumexp(z)))
        for r, z in zip(of_test, doubles(test.logits), strict=True)
    ]


def unit(vector: Array) -> Array:
    length = float(np.sqrt((vector**2).sum()))
    return vector / length if length else vector


def knn(train: Outputs, test: Outputs, k: int = 50) -> list[float]:
    bank = [unit(f) for f in doubles(train.features)]
    return [
        -sorted(float(np.linalg.norm(unit(f) - row)) for row in bank)[k - 1]
        for f in doubles(test.features)
    ]


def nnguide(train: Outputs, test: Outputs, k: int = 10) -> list[float]:
    bank = [
        unit(f) * logsumexp(z)
        for f, z in zip(doubles(train.features), doubles(train.logits), strict=True)
    ]
    scores = []
    for f, z in zip(doubles(test.features), doubles(test.logits), strict=True):
        products = sorted((float(unit(f) @ row) for row in bank), reverse=True)
        scores.append(float(logsumexp(z)) * float(np.mean(products[:k])))
    return scores


def revised_activations(
    train: Outputs,
    test: Outputs,
    tail_size: int = 20,
    alpha: int = 10,
    euclidean_weight: float = 1.0,
) -> list[tuple[float, Array]]:
    """The activation of the unknown class, and those of the known ones."""

    def distance(z: Array, mean: Array) -> float:
        euclidean = float(np.sqrt(((z - mean) ** 2).sum()))
        cosine = 1 - float(unit(z) @ unit(mean))
        return euclidean_weight * euclidean + (1 - euclidean_weight) * cosine

    logits, labels = doubles(train.logits), doubles(train.labels)
    count = logits.shape[1]
    means, models = [], []
    for c in range(count):
        right = [z for z, y in zip(logits, labels, strict=True) if y == c and np.argmax(z) == c]
        mean = np.mean(right, axis=0)
        tail = np.array(sorted(distance(z, mean) for z in right)[-tail_size:])
        logs = np.log1p((tail - tail[0]) / 1e4)
        below = logs - logs[-1]

        def excess(shape: float, below: Array = below) -> float:
            weights = np.exp(shape * below)
            return float((weights * below).sum() / weights.sum() - 1 / shape - below.mean())

        shape = brentq(excess, 0.1 / -below.mean(), 1e3 / -below.mean(), rtol=1e-15)
        scale = 1e4 * np.exp(logs[-1]) * np.mean(np.exp(shape * below)) ** (1 / shape)
        means.append(mean)
        models.append((tail[0], shape, scale))

    activations = []
    for z in doubles(test.logits):
        revised, unknown = z.copy(), 0.0
        for rank, c in enumerate(np.argsort(-z)[:alpha], start=1):
            smallest, shape, scale = models[c]
            moved = distance(z, means[c]) - smallest + 1e4
            share = (min(alpha, count) + 1 - rank) / min(alpha, count)
            with np.errstate(over="ignore"):  # far above a narrow tail
                cdf = float(weibull_min.cdf(moved, shape, scale=scale))
            given_up = z[c] * share * cdf
            revised[c] -= given_up
            unknown += given_up
        activations.append((unknown, revised))
    return activations


def openmax(train: Outputs, test: Outputs, **parameters: Any) -> list[float]:
    return [
        float(np.log(np.exp(known - known.max()).sum()) + known.max() - unknown)
        for unknown, known in revised_activations(train, test, **parameters)
    ]


REFERENCES = {
    name: globals()[name] for name in NAMES
}  # name -> (train, test, parameters) -> scores

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    *(("residual", {"dim": dim}) for dim in (1, 5, DIMENSION - 1)),
    *(("vim", {"dim": dim}) for dim in (1, 5, DIMENSION - 1)),
    *(("knn", {"k": k}) for k in (1, 2, 200, IMAGES)),
    *(("nnguide", {"k": k}) for k in (1, 100, IMAGES)),
    *(("openmax", {"alpha": alpha}) for alpha in (1, 3, CLASSES)),
    *(("openmax", {"tail_size": size}) for size in (2, 10, 1000)),
    *(("openmax", {"euclidean_weight": weight}) for weight in (0.0, 1 / 201, 0.5)),
]


@pytest.mark.parametrize(("name", "parameters"), SETTINGS)
def test_scores_are_those_of_the_formula(name: str, parameters: dict[str, Any]) -> None:
    train, test = training(), queried()
    expected = REFERENCES[name](train, test, **parameters)
    found = fitted(name, train, **parameters).score(test)
    assert found.dtype == torch.float64
    # The reference's powers of numbers near 1 have a rounding of their own.
    tolerance = 1e-7 if name == "openmax" else 1e-10
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_float32_features(name: str) -> None:
    train, test = training(dtype=torch.float32), queried(torch.float32)
    expected = np.array(REFERENCES[name](train, test))
    found = fitted(name, train).score(test)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).std())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_features(name: str, dtype: torch.dtype) -> None:
    """Features are rounded; what is made of them is not."""
    train, test = training(dtype=dtype), queried(dtype)
    half = fitted(name, train).score(test)

    def widened(outputs: Outputs) -> Outputs:
        head = Head("linear", doubled(outputs.head.weight), doubled(outputs.head.bias))
        return replace(outputs, features=outputs.features.double(), head=head)

    expected = fitted(name, widened(train)).score(widened(test))
    torch.testing.assert_close(half, expected, rtol=1e-4, atol=1e-4)


def doubled(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.double()


# --- declarations ------------------------------------------------------------------------------


def test_published_defaults() -> None:
    layers = {"layers": None, "combine": "mean"}
    assert {name: load(name).parameters for name in NAMES} == {
        "mahalanobis_single": layers,
        "relative_mahalanobis": layers,
        "residual": {"dim": None},
        "vim": {"dim": None, "bank_size": 10_000},
        "knn": {"k": 50, "bank_size": 50_000, **layers},
        "nnguide": {"k": 10, "bank_size": 50_000},
        "openmax": {
            "tail_size": 20,
            "alpha": 10,
            "euclidean_weight": 1.0,
            "bank_size": 50_000,
        },
    }


@pytest.mark.parametrize("name", NAMES)
def test_default_is_in_the_grid(name: str) -> None:
    detector = load(name)
    for parameter, grid in detector.info.search_space.items():
        assert getattr(detector, parameter) in grid


@pytest.mark.parametrize("name", NAMES)
def test_declares_what_it_uses(name: str) -> None:
    """What is not declared may be missing."""
    needs = Catalog().detectors[name].info
    assert needs is not None
    train, test = training(), queried()
    expected = fitted(name, train).score(test)

    def bare(outputs: Outputs) -> Outputs:
        if "head" not in needs.needs:
            outputs = replace(outputs, head=Head("other"))
        if "labels" not in needs.needs:
            outputs = replace(outputs, labels=None)
        if "features" not in needs.needs:
            outputs = replace(outputs, features=torch.zeros(len(outputs), 1).to(outputs.features))
        return outputs

    found = fitted(name, bare(train)).score(replace(bare(test), labels=None))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# --- what holds for all ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_the_batch(name: str, dtype: torch.dtype) -> None:
    detector, test = fitted(name, training(dtype=dtype)), queried(dtype)
    whole = detector.score(test)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-6
    for size in (1, 7):
        parts = [detector.score(test[i : i + size]) for i in range(0, len(test), size)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_fit_does_not_depend_on_the_batches(name: str) -> None:
    train, test = training(), queried()
    whole = fitted(name, train, size=IMAGES).score(test)
    for size in (1, 32):
        found = fitted(name, train, size=size).score(test)
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-9)


GRIDS: list[tuple[str, dict[str, Any]]] = [
    ("residual", {"dim": 3}),
    ("vim", {"dim": 3}),
    ("vim", {"dim": DIMENSION - 1}),
    ("knn", {"k": 7}),
    ("nnguide", {"k": 100}),
    ("openmax", {"tail_size": 50, "alpha": 3}),
    ("openmax", {"euclidean_weight": 0.25}),
]


@pytest.mark.parametrize(("name", "parameters"), GRIDS)
def test_parameters_after_fit(name: str, parameters: dict[str, Any]) -> None:
    train, test = training(), queried()
    detector = fitted(name, train)
    before = detector.score(test)
    changed = detector.with_parameters(**parameters).score(test)
    fresh = fitted(name, train, **parameters).score(test)
    torch.testing.assert_close(changed, fresh, rtol=0, atol=0)
    assert not torch.allclose(changed, before), "the parameter does something"
    torch.testing.assert_close(detector.score(test), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_fitting_again_forgets(name: str) -> None:
    test = queried()
    detector = fitted(name, training(seed=8))
    detector.fit(Pass(training()))
    torch.testing.assert_close(detector.score(test), fitted(name).score(test), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_given_is_changed(name: str) -> None:
    train, test = training(), queried()
    detector = fitted(name, train)
    detector.score(test)
    for given, copy in ((train, training()), (test, queried())):
        torch.testing.assert_close(given.features, copy.features, rtol=0, atol=0)
        torch.testing.assert_close(given.logits, copy.logits, rtol=0, atol=0)
        torch.testing.assert_close(given.head.weight, copy.head.weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_dead_units_and_zero_images(name: str) -> None:
    """Units that are zero on all training images, and images without any activation."""
    train = training()
    features = torch.cat([train.features, torch.zeros(IMAGES, 4).double()], dim=1)
    features[::50] = 0
    labels = train.labels
    assert labels is not None
    # Half of the features' dimensions would be all that live.
    parameters = {"dim": 5} if name in ("residual", "vim") else {}
    detector = fitted(name, outputs_of(features, labels), **parameters)
    awake = torch.cat([features[:5], torch.zeros(1, 16).double(), torch.ones(1, 16).double()])
    assert torch.isfinite(detector.score(outputs_of(awake))).all()


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("name", NAMES)
def test_constant_features(name: str, value: float) -> None:
    """One point: a score, where there is one, is a number; else the reason is said."""
    labels = torch.arange(IMAGES) % CLASSES
    outputs = outputs_of(torch.full((IMAGES, DIMENSION), value, dtype=torch.float32), labels)
    reasons = {
        "mahalanobis_single": "do not vary within their classes, up to rounding",
        "relative_mahalanobis": "do not vary within their classes, up to rounding",
        "residual": "lie in a space of dim = 6 up to rounding",
        "vim": "lie in a space of dim = 6 up to rounding",
    }
    if name in reasons:
        with pytest.raises(ValueError, match=reasons[name]):
            fitted(name, outputs).score(queried(torch.float32))
    elif name != "openmax":  # which needs an image that is classified right
        assert torch.isfinite(fitted(name, outputs).score(queried(torch.float32))).all()


def narrow(scale: float, offset: float, dtype: torch.dtype) -> tuple[Outputs, Outputs, Outputs]:
    """Features around a point that is far away: for fitting, ID and OOD."""
    fit, known = training(), training(seed=5)
    far = known.features + 3 * torch.randn(
        known.features.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64
    )
    sides = []
    for features, labels in (
        (fit.features, fit.labels),
        (known.features, known.labels),
        (far, known.labels),
    ):
        sides.append(outputs_of((offset + scale * features).to(dtype), labels))
    return sides[0], sides[1], sides[2]


@pytest.mark.parametrize(
    ("scale", "offset", "dtype"),
    [
        (1e-5, 1.0, torch.float64),
        (1e-6, 1.0, torch.float64),
        (3e-7, -2.0, torch.float64),
        (1e-9, 1.0, torch.float64),
        (1e-6, 500.0, torch.float64),
        (1e-40, 0.0, torch.float64),
        (1e-4, 1.0, torch.float32),
        (1e-12, 0.0, torch.float32),
    ],
)
@pytest.mark.parametrize("name", ["mahalanobis_single", "relative_mahalanobis", "mahalanobis"])
def test_a_narrow_spread_counts_as_far_as_the_type_tells_it(
    name: str, scale: float, offset: float, dtype: torch.dtype
) -> None:
    """Distances in units of the covariance do not change with the scale, nor with the origin."""

    def scores(scale: float, offset: float, dtype: torch.dtype) -> tuple[Array, Array]:
        fit, known, far = (
            replace(outputs, taps={"only": outputs.features})
            for outputs in narrow(scale, offset, dtype)
        )
        detector = fitted(name, replace(fit, labels=training().labels))
        return doubles(detector.score(known)), doubles(detector.score(far))

    found, expected = scores(scale, offset, dtype), scores(1.0, 0.0, torch.float64)
    assert metrics.auroc(*found) == pytest.approx(metrics.auroc(*expected), abs=1e-3)
    assert metrics.auroc(*expected) > 0.85
    if dtype == torch.float64:
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("scale", "offset", "dtype"),
    [
        (1e-17, 1.0, torch.float64),
        (1e-14, 500.0, torch.float64),
        (1e-8, 1.0, torch.float32),
        (1e-5, 500.0, torch.float32),
    ],
)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mahalanobis_single", "do not vary within their classes"),
        ("relative_mahalanobis", "do not vary within their classes"),
        ("mahalanobis", "do not vary within their classes"),
        ("residual", "lie in a space of dim = 6 up to rounding"),
        ("vim", "lie in a space of dim = 6 up to rounding"),
    ],
)
def test_a_spread_that_is_rounding_is_a_reason_to_fail(
    name: str, reason: str, scale: float, offset: float, dtype: torch.dtype
) -> None:
    fit, known, _ = narrow(scale, offset, dtype)
    fit = replace(fit, taps={"only": fit.features})
    if name == "vim":  # which asks first for logits that are positive
        fit = replace(fit, logits=fit.logits.abs())
    with pytest.raises(ValueError, match=reason):
        fitted(name, fit).score(known)


def test_one_tap_that_varies_is_enough_for_mahalanobis() -> None:
    """A tap without information counts the same for every image."""
    fit, test = training(), queried()
    both = [
        replace(outputs, taps={"dead": torch.ones(len(outputs), 3), "alive": outputs.features})
        for outputs in (fit, test)
    ]
    alone = [replace(outputs, taps={"alive": outputs.features}) for outputs in (fit, test)]
    found, expected = (fitted("mahalanobis", pair[0]).score(pair[1]) for pair in (both, alone))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_scoring_before_fitting_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=r"Call fit first|Call fit and calibrate first"):
        load(name).score(queried())


# --- Mahalanobis -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mahalanobis_single", "relative_mahalanobis"])
def test_class_without_training_image(name: str) -> None:
    train = training()
    assert train.labels is not None
    labels = torch.where(train.labels == 3, 1, train.labels)
    with pytest.raises(ValueError, match="no training image of class 3"):
        fitted(name, replace(train, labels=labels))


def test_relative_distances_of_one_class_cancel() -> None:
    """With a single class both models are the same."""
    train = replace(training(), labels=torch.zeros(IMAGES, dtype=torch.int64))
    detector = load("relative_mahalanobis")
    detector.fit(Pass(train, num_classes=1))
    np.testing.assert_allclose(detector.score(queried()), np.zeros(41), atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_background_is_the_gaussian_of_all_images(offset: float) -> None:
    """Its distances are those by the mean and the covariance of all features."""
    train = training()
    features = train.features.double() + offset
    assert train.labels is not None
    moments = ClassMoments(CLASSES)
    for start in range(0, IMAGES, 70):
        moments.update(features[start : start + 70], train.labels[start : start + 70])
    classes = moments.tied_gaussian()
    background = classes.white_background(moments.counts)
    values = features.numpy()
    precision = np.linalg.inv(np.cov(values.T, bias=True))
    centered = values - values.mean(axis=0)
    expected = -0.5 * ((centered @ precision) * centered).sum(axis=1, keepdims=True)
    found = background.class_scores(classes.white(features))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("images", [60, 62, 64, 68, 200])
def test_relative_distances_of_about_as_many_images_as_features(images: int) -> None:
    """Features vary between the classes where they do not vary within them."""
    classes, dimension = 5, 64
    generator = torch.Generator().manual_seed(images)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % classes
        noise = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
        return noise + 4 * torch.eye(classes, dimension).double()[labels], labels

    features, labels = drawn(images)
    detector = load("relative_mahalanobis")
    detector.fit(Pass(outputs_of(features, labels, classes), num_classes=classes))
    far = 3 * torch.randn(200, dimension, generator=generator, dtype=torch.float64)
    own, other = (detector.score(outputs_of(x)) for x in (drawn(200)[0], far))
    auroc = (own[:, None] > other).double().mean()
    assert auroc > 0.85, f"AUROC {auroc:.3f}"


# --- nearest neighbors ------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3])
def test_neighbors_in_a_narrow_cone(spread: float) -> None:
    """All directions nearly alike: the k-th neighbor is still the k-th."""
    generator = torch.Generator().manual_seed(0)
    center = torch.ones(64, dtype=torch.float64)

    def drawn(count: int) -> Tensor:
        noise = torch.randn(count, 64, generator=generator, dtype=torch.float64)
        return (center + spread * noise).float()

    seen, asked = drawn(2000), drawn(100)
    found = fitted("knn", outputs_of(seen), k=50).score(outputs_of(asked))
    units = [F.normalize(x.double(), dim=1).float().double() for x in (seen, asked)]
    distances = (units[1][:, None] - units[0]).norm(dim=2).sort(dim=1).values[:, 49]
    torch.testing.assert_close(found, -distances, rtol=1e-4, atol=0)


# --- what multiplies by logits -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["vim", "nnguide", "openmax"])
def test_negative_logits_are_refused(name: str) -> None:
    """They would turn the order round; softmax is the same whatever is added to all logits."""
    train = training()
    with pytest.raises(ValueError, match=r"largest logits .* are -\d+.* on average, and \w+ mult"):
        fitted(name, replace(train, logits=train.logits - 100))


# --- principal space ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residual", "vim"])
@pytest.mark.parametrize(("dimension", "expected"), [(2048, 1000), (767, 383), (13, 6)])
def test_dimension_of_the_authors_rule(name: str, dimension: int, expected: int) -> None:
    from oodbench.numerics.subspace import principal_dimension

    assert principal_dimension(load(name).dim, dimension) == expected
    assert principal_dimension(None, 768) == principal_dimension(None, 2047) == 512


@pytest.mark.parametrize("name", ["residual", "vim"])
@pytest.mark.parametrize("dim", [DIMENSION, DIMENSION + 1])
def test_principal_space_without_residual(name: str, dim: int) -> None:
    with pytest.raises(ValueError, match=f"dim = {dim} leaves no residual.* dim below {DIMENSION}"):
        fitted(name, dim=dim).score(queried())


@pytest.mark.parametrize("name", ["residual", "vim"])
def test_dim_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match="dim must be at least 1, or None"):
        load(name, dim=0)


@pytest.mark.parametrize("name", ["residual", "vim"])
def test_other_heads_and_no_images(name: str) -> None:
    with pytest.raises(ValueError, match="a dismax head has no W and b"):
        fitted(name, replace(training(), head=Head("dismax")))
    with pytest.raises(ValueError, match="no training image"):
        fitted(name, training()[:0])


@pytest.mark.parametrize("name", ["residual", "vim"])
def test_head_without_bias_and_with_more_classes_than_features(name: str) -> None:
    train, test = training(), queried()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(30, DIMENSION, generator=generator, dtype=torch.float64)
    for bias in (None, torch.randn(30, generator=generator, dtype=torch.float64)):
        head = Head("linear", weight, bias)
        with_zeros = Head("linear", weight, torch.zeros(30).double() if bias is None else bias)
        given = [
            replace(part, head=head, logits=head.logits(part.features)) for part in (train, test)
        ]
        reference = [replace(part, head=with_zeros) for part in given]
        expected = REFERENCES[name](*reference)
        np.testing.assert_allclose(fitted(name, given[0]).score(given[1]), expected, rtol=1e-9)


def test_alpha_of_a_sample() -> None:
    """Largest logits are averaged over all images, residuals over the sample."""
    train = training(2000)
    whole = fitted("vim", train).alpha(5)
    assert whole == pytest.approx(fitted("vim", train, bank_size=2000).alpha(5), rel=1e-12)
    sampled = fitted("vim", train, bank_size=200).alpha(5)
    assert sampled != whole
    assert sampled == pytest.approx(whole, rel=0.05)


def test_vim_keeps_no_images() -> None:
    for value in vars(fitted("vim")).values():
        assert not isinstance(value, Tensor) or len(value) < IMAGES
        assert not hasattr(value, "blocks")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_features_within_the_principal_space(dtype: torch.dtype) -> None:
    """Where peers divide by zero."""
    train = training(dtype=dtype)
    features = train.features.clone()
    features[:, 5:] = 0  # five dimensions, and one for the origin
    train = replace(train, features=features)
    detector = fitted("vim", train, dim=6)
    with pytest.raises(ValueError, match=r"in a space of dim = 6 .* Choose a smaller dim"):
        detector.score(train)
    assert torch.isfinite(detector.with_parameters(dim=4).score(train)).all()
    with pytest.raises(ValueError, match="bank_size must be at least 1"):
        load("vim", bank_size=0)


# --- nearest neighbors ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["knn", "nnguide"])
def test_bank_smaller_than_k(name: str) -> None:
    detector = fitted(name, training(8))
    with pytest.raises(ValueError, match=r"k = \d+ neighbors of a bank of 8 training images"):
        detector.score(queried())
    assert torch.isfinite(detector.with_parameters(k=8).score(queried())).all()


@pytest.mark.parametrize("name", ["knn", "nnguide"])
def test_bad_sizes(name: str) -> None:
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        load(name, k=0)
    with pytest.raises(ValueError, match="bank_size must be at least 1, not 0"):
        load(name, bank_size=0)


@pytest.mark.parametrize("name", ["knn", "nnguide"])
def test_bank_is_bounded(name: str) -> None:
    """A sample has the scores of a fit on just these images."""
    train, test = training(), queried()
    detector = fitted(name, train, bank_size=60, k=5)
    assert len(detector.bank) == 60
    scores = detector.score(test)
    again = fitted(name, train, size=7, bank_size=60, k=5).score(test)
    torch.testing.assert_close(scores, again, rtol=1e-12, atol=1e-12)
    whole = fitted(name, train, k=5).score(test)
    assert not torch.allclose(scores, whole)
    assert (name != "knn") or (scores <= whole + 1e-12).all(), "neighbors of fewer are farther"


def test_distances_to_near_neighbors() -> None:
    """From the product alone, distances below 1e-4 would be noise in float32."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(200, 64, generator=generator)
    detector = fitted("knn", outputs_of(features), k=1)
    np.testing.assert_array_equal(detector.score(outputs_of(features)), np.zeros(200))
    moved = features + 1e-5 * torch.randn(200, 64, generator=generator)
    expected = knn(outputs_of(features), outputs_of(moved), k=1)
    assert -1e-4 < min(expected) < max(expected) < 0
    found = detector.score(outputs_of(moved))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_neighbors_of_wide_features() -> None:
    """The k-th in float32 is the k-th in float64, or one as near up to float32's rounding."""
    generator = torch.Generator().manual_seed(0)
    features = torch.relu(torch.randn(600, 512, generator=generator))
    queries = torch.relu(torch.randn(30, 512, generator=generator))
    detector = fitted("knn", outputs_of(features))
    for k in (1, 50, 500):
        expected = np.square(knn(outputs_of(features), outputs_of(queries), k))
        found = detector.with_parameters(k=k).score(outputs_of(queries)).square()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_zero_image_among_the_neighbors() -> None:
    """It is at distance 1 of every direction: nearer than what is at more than 60 degrees."""
    degrees = torch.tensor([50.0, 70.0, 80.0, 90.0], dtype=torch.float64).deg2rad()
    directions = torch.stack([degrees.cos(), degrees.sin()], dim=1)
    train = outputs_of(torch.cat([3 * directions, torch.zeros(1, 2).double()]))
    test = outputs_of(torch.tensor([[5.0, 0.0], [0.0, 0.0]], dtype=torch.float64))
    detector = fitted("knn", train, k=2)
    np.testing.assert_allclose(detector.score(test), [-1, -1], rtol=1e-12)
    chord = 2 * np.sin(np.deg2rad(35))
    found = detector.with_parameters(k=3).score(test)
    np.testing.assert_allclose(found, [-chord, -1], rtol=1e-12)
    np.testing.assert_allclose(detector.with_parameters(k=1).score(test)[1], 0, atol=0)


def test_guidance_by_hand() -> None:
    """Two neighbors of different energy, at 0 and 90 degrees."""
    features = torch.tensor([[2.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    logits = torch.tensor([[3.0, -1000.0], [4.0, -1000.0]], dtype=torch.float64)
    detector = load("nnguide", k=2)
    detector.fit(Pass(Outputs(logits, features)))
    test = Outputs(logits[:1] * 2, torch.tensor([[1.0, 1.0]], dtype=torch.float64))
    # 6 times the mean of 3 cos 45 degrees and 4 cos 45 degrees
    np.testing.assert_allclose(detector.score(test), [6 * 3.5 * 0.5**0.5], rtol=1e-12)
    np.testing.assert_allclose(
        detector.with_parameters(k=1).score(test), [6 * 4 * 0.5**0.5], rtol=1e-12
    )


# --- OpenMax -----------------------------------------------------------------------------------


def test_openmax_has_the_order_of_the_papers_probability() -> None:
    train, test = training(), queried()
    scores = fitted("openmax", train).score(test).numpy()
    for score, (unknown, known) in zip(scores, revised_activations(train, test), strict=True):
        powers = np.exp(np.array([unknown, *known]))
        probability = powers[0] / powers.sum()
        np.testing.assert_allclose(1 / (1 + np.exp(score)), probability, rtol=1e-7)


def test_openmax_does_not_run_into_ties() -> None:
    """Far away the probability itself is 1 for both."""
    train = training()
    logits = torch.tensor([[90.0, 1, 1, 1, 1], [180.0, 1, 1, 1, 1]], dtype=torch.float64)
    low, lower = fitted("openmax", train).score(replace(queried()[:2], logits=logits)).tolist()
    assert lower < low < -40


def test_openmax_leaves_out_images_that_are_classified_wrong() -> None:
    train = training()
    assert train.labels is not None
    right = train.labels == train.logits.argmax(dim=1)
    assert 0 < right.sum() < IMAGES, "these data would not show it"
    alone = train.map(lambda tensor: tensor[right])
    test = queried()
    torch.testing.assert_close(
        fitted("openmax", train).score(test),
        fitted("openmax", alone).score(test),
        rtol=1e-12,
        atol=1e-12,
    )


def test_openmax_near_a_mean_is_known_and_far_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000) % CLASSES
    noise = torch.randn(1000, CLASSES, generator=generator, dtype=torch.float64)
    logits = 10 * torch.eye(CLASSES).double()[labels] + noise
    train = Outputs(logits, torch.zeros(1000, 1).double(), labels=labels)
    detector = fitted("openmax", train, alpha=1)
    logits = detector.means
    near = detector.score(replace(queried()[:CLASSES], logits=logits))
    # Nothing is given up at the mean, and the whole of the largest logit far away.
    torch.testing.assert_close(near, logits.logsumexp(dim=1), rtol=0, atol=0.01)
    far = detector.score(replace(queried()[:CLASSES], logits=50 * logits))
    others = (50 * logits).fill_diagonal_(0)
    torch.testing.assert_close(far, others.logsumexp(dim=1) - 50 * logits.diagonal())


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_openmax_class_with_few_images(kept: int) -> None:
    """None or one: every distance is far. Two: a step. Three: a distribution like any other."""
    train = training()
    assert train.labels is not None
    predicted = train.logits.argmax(dim=1)
    rows = torch.cat([(predicted == 2).nonzero()[:kept, 0], (predicted != 2).nonzero()[:, 0]])
    few = replace(train, labels=predicted).map(lambda tensor: tensor[rows])
    detector = fitted("openmax", few, size=400)
    test = training(seed=5)
    test = test.map(lambda tensor: tensor[test.logits.argmax(dim=1) == 2])
    scores = detector.with_parameters(alpha=1).score(test)
    assert torch.isfinite(scores).all()
    cdf = detector.tails().cdf(torch.cdist(test.logits, detector.means))[:, 2]
    if kept < 2:
        assert (cdf == 1).all()
        others = torch.cat([test.logits[:, :2], test.logits[:, 3:]], dim=1)
        known = torch.cat([others, torch.zeros(len(others), 1).double()], dim=1)
        torch.testing.assert_close(scores, known.logsumexp(dim=1) - test.logits[:, 2])
    elif kept == 2:
        assert set(cdf.tolist()) <= {0.0, 1.0}
    else:
        assert ((cdf > 0) & (cdf < 1)).any()


def test_openmax_without_a_right_image() -> None:
    train = training()
    labels = (train.logits.argmax(dim=1) + 1) % CLASSES
    with pytest.raises(ValueError, match="no training image is classified right"):
        fitted("openmax", replace(train, labels=labels))


def test_openmax_of_images_that_are_all_alike() -> None:
    train = training()
    alike = train.map(lambda tensor: tensor[:1].expand(50, *tensor.shape[1:]))
    alike = replace(alike, labels=alike.logits.argmax(dim=1))
    scores = fitted("openmax", alike).score(queried())
    assert torch.isfinite(scores).all()


def test_openmax_gives_up_equal_logits_in_the_order_of_classes() -> None:
    detector = fitted("openmax", alpha=2)
    logits = torch.full((3, CLASSES), 4.0, dtype=torch.float64)
    batch = detector.score(replace(queried()[:3], logits=logits))
    alone = detector.score(replace(queried()[:1], logits=logits[:1]))
    assert batch.tolist() == alone.tolist() * 3


def test_openmax_takes_all_classes_at_most() -> None:
    detector, test = fitted("openmax"), queried()
    for alpha in (10, 20):
        torch.testing.assert_close(
            detector.with_parameters(alpha=alpha).score(test),
            detector.with_parameters(alpha=CLASSES).score(test),
            rtol=0,
            atol=0,
        )


def test_openmax_sample() -> None:
    """Distances are those of a sample, means those of all images."""
    train, test = training(3000), queried()
    detector = fitted("openmax", train, bank_size=500)
    assert len(detector.classes) == 500
    torch.testing.assert_close(detector.means, fitted("openmax", train).means, rtol=0, atol=0)
    assert torch.isfinite(detector.score(test)).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tail_size": 1}, "tail_size must be at least 2, not 1"),
        ({"alpha": 0}, "alpha must be at least 1, not 0"),
        ({"euclidean_weight": 1.5}, "euclidean_weight must be between 0 and 1, not 1.5"),
        ({"bank_size": 0}, "bank_size must be at least 1, not 0"),
    ],
)
def test_openmax_bad_parameters(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("openmax", **parameters)


def test_detectors_are_detectors() -> None:
    assert all(isinstance(load(name), Detector) for name in NAMES)
