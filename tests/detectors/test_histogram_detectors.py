"""OptFS and WeiPer against references written from the formulas, and histograms against NumPy's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import oodbench
from oodbench import Head, Outputs
from oodbench.numerics.perturbed_head import PerturbedHead
from oodbench.numerics.statistics.histograms import Bins
from oodbench.testing.planted import PlantedBatches

Array = NDArray[np.float64]
CLASSES, DIMENSION = 5, 11


def images(count: int, seed: int, classes: int = CLASSES, *, rectified: bool = False) -> Outputs:
    """Outputs of a linear layer for features of both signs, or rectified ones."""
    weight = np.random.default_rng(1).normal(size=(classes, DIMENSION))
    bias = np.random.default_rng(2).normal(size=classes)
    features = np.random.default_rng(seed).normal(0.2, 1, (count, DIMENSION))
    features[:, 3] = 0.25  # constant, and tied between images
    if rectified:
        features = features.clip(0)
    head = Head("linear", torch.from_numpy(weight), torch.from_numpy(bias))
    return Outputs(
        torch.from_numpy(features @ weight.T + bias), torch.from_numpy(features), head=head
    )


def fitted(name: str, training: Outputs, size: int = 17, **parameters: Any) -> Any:
    detector = oodbench.load_detector(name, **parameters)
    detector.fit(PlantedBatches(training, training.logits.shape[1], size))
    return detector


def arrays(outputs: Outputs) -> tuple[Array, Array, Array, Array]:
    """Features, logits, weights and bias."""
    weight, bias = outputs.head.weight, outputs.head.bias
    assert weight is not None
    assert bias is not None
    both = (outputs.features, outputs.logits, weight, bias)
    z, logits, w, b = (each.double().numpy() for each in both)
    return z, logits, w, b


# --- histograms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_histograms(dtype: torch.dtype) -> None:
    values = torch.randn(7, 400, generator=torch.Generator().manual_seed(0), dtype=dtype)
    values[0, :5] = torch.tensor([-1.25, 1.75, -1.3, 1.8, 0.0])  # both edges, below, above
    found = Bins(-1.25, 1.75, 30).shares(values)
    for row, shares in zip(values.double().numpy(), found, strict=True):
        expected, _ = np.histogram(row, 30, (-1.25, 1.75))
        np.testing.assert_array_equal((400 * shares).round(), expected)
    assert found.sum() < 7


def test_an_empty_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="do not vary"):
        Bins(0.5, 0.5, 10)


# --- OptFS ---------------------------------------------------------------------------------------


def optfs(training: Outputs, image: Outputs, bins: int, base: str) -> list[float]:
    z, logits, w, b = arrays(training)
    low, high = np.quantile(z, [0.001, 0.999])
    edges = np.linspace(low, high, bins + 1)

    def place(value: float) -> int | None:
        if value < low or value > high:
            return None
        return min(int(np.searchsorted(edges, value, side="right")) - 1, bins - 1)

    theta = np.zeros(bins)
    for features, own in zip(z, logits, strict=True):
        for value, weight in zip(features, w[np.argmax(own)], strict=True):
            if (k := place(value)) is not None:
                theta[k] += weight * value / len(z)
    theta = 1000 * theta / np.sqrt((theta**2).sum())
    scores = []
    for features, own in zip(*arrays(image)[:2], strict=True):
        places = [place(value) for value in features]
        shaped = np.array(
            [
                0 if k is None else theta[k] * value
                for k, value in zip(places, features, strict=True)
            ]
        )
        if base == "contribution":
            scores.append(float(w[np.argmax(own)] @ shaped))
        else:
            shaped_logits = w @ shaped + b
            top = shaped_logits.max()
            scores.append(float(np.log(np.exp(shaped_logits - top).sum()) + top))
    return scores


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("base", ["contribution", "energy"])
@pytest.mark.parametrize(("count", "bins", "size"), [(501, 100, 100), (60, 7, 1), (1, 3, 1)])
def test_optfs(rectified: bool, base: str, count: int, bins: int, size: int) -> None:
    training = images(count, 3, rectified=rectified)
    image = images(40, 4, rectified=rectified)
    detector = fitted("optfs", training, size, bins=bins, base=base)
    expected = optfs(training, image, bins, base)
    np.testing.assert_allclose(detector.score(image), expected, rtol=1e-9, atol=1e-9)


def test_optfs_without_variation() -> None:
    training = images(20, 3)
    constant = replace(training, features=torch.ones_like(training.features))
    with pytest.raises(ValueError, match="do not vary"):
        fitted("optfs", constant)
    assert training.head.weight is not None
    silent = replace(training, head=Head("linear", torch.zeros_like(training.head.weight)))
    with pytest.raises(ValueError, match="no training feature contributes"):
        fitted("optfs", silent)


# --- WeiPer --------------------------------------------------------------------------------------


def noise(copies: int, classes: int, seed: int) -> Array:
    """The Gaussian vectors of all copies, rounded to multiples of 1/32 that int8 can count."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(classes, DIMENSION, generator=generator) for _ in range(copies)]
    rounded: Array = np.rint(32 * torch.stack(drawn).double().numpy())
    return rounded.clip(-127, 127) / 32


def divergence(counts: Array, p: Array, length: int, epsilon: float, total: int) -> float:
    before = (length - 1) // 2
    padded = np.pad(counts / total, (before, length - 1 - before), mode="edge")
    q = np.convolve(padded, np.ones(length) / length, mode="valid") + epsilon
    p = p + epsilon
    q, p = q / q.sum(), p / p.sum()
    return float((p * np.log(p / q)).sum() + (q * np.log(q / p)).sum())


def weiper(training: Outputs, image: Outputs, settings: Any, copies: int, seed: int) -> list[float]:
    delta, bins, lambda_1, lambda_2, s_z, s_w = settings
    z, _, w, b = arrays(training)
    drawn = noise(copies, len(w), seed)
    units = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    perturbed = w + delta * np.linalg.norm(w, axis=1)[:, None] * units  # [r, C, D]

    def logits_of(features: Array) -> Array:
        return np.stack([copy @ features + b for copy in perturbed])  # [r, C]

    trained = np.stack([logits_of(each) for each in z])
    ranges = [(z.min(), z.max()), (trained.min(), trained.max())]
    means = [
        np.mean([np.histogram(each, bins, span)[0] / each.size for each in sides], axis=0)
        for sides, span in zip((z, trained), ranges, strict=True)
    ]
    scores = []
    for features in arrays(image)[0]:
        logits = logits_of(features)
        parts = []
        for values, span, p, length, epsilon in zip(
            (features, logits), ranges, means, (s_z, s_w), (0.01, 0.025), strict=True
        ):
            counts = np.histogram(values, bins, span)[0]
            parts.append(divergence(counts, p, length, epsilon, values.size))
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        confidence = np.mean(shifted.max(axis=1) / shifted.sum(axis=1))
        scores.append(-(parts[0] + lambda_1 * parts[1] - lambda_2 * confidence))
    return scores


PRESETS = {
    "cifar10": (1.8, 100, 2.5, 0.1, 4, 15),
    "cifar100": (2.4, 100, 0.1, 1.0, 4, 40),
    "imagenet": (2.4, 100, 2.5, 0.25, 40, 15),
    "imagenet_vit": (2.0, 80, 2.5, 0.1, 40, 15),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("count", "size"), [(60, 17), (1, 1)])
def test_weiper(preset: str, count: int, size: int) -> None:
    training, image = images(count, 3), images(25, 4)
    expected = weiper(training, image, PRESETS[preset], copies=6, seed=3)
    for batch in (size, count):
        detector = fitted("weiper", training, batch, preset=preset, copies=6, seed=3)
        np.testing.assert_allclose(detector.score(image), expected, rtol=1e-9)
        singles = [detector.score(image[n : n + 1]) for n in range(len(image))]
        np.testing.assert_allclose(torch.cat(singles), expected, rtol=1e-9)


def test_arguments_of_weiper_replace_single_values_of_a_preset() -> None:
    training, image = images(40, 3, rectified=True), images(10, 4, rectified=True)
    settings = (1.0, 13, 0.7, 0.3, 1, 6)
    names = ("distance", "bins", "lambda_1", "lambda_2", "smoothing", "logit_smoothing")
    given = dict(zip(names, settings, strict=True))
    found = fitted("weiper", training, copies=4, **given).score(image)
    np.testing.assert_allclose(found, weiper(training, image, settings, 4, 0), rtol=1e-9)
    one = fitted("weiper", training, preset="cifar100", lambda_2=0.0, copies=4).score(image)
    expected = weiper(training, image, (2.4, 100, 0.1, 0.0, 4, 40), 4, 0)
    np.testing.assert_allclose(one, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("classes", "preset"),
    [(29, "cifar10"), (30, "cifar100"), (299, "cifar100"), (300, "imagenet")],
)
def test_the_number_of_classes_chooses_the_preset(classes: int, preset: str) -> None:
    training, image = images(30, 3, classes), images(5, 4, classes)
    by_classes = fitted("weiper", training, copies=2).score(image)
    assert torch.equal(by_classes, fitted("weiper", training, preset=preset, copies=2).score(image))


def test_weiper_in_single_precision() -> None:
    """Of 20,000 logits, rounding moves few to another bin, each by 5e-5 of a histogram."""
    training, image = images(30, 3, 400), images(20, 4, 400)

    def single(outputs: Outputs) -> Outputs:
        features: Tensor = outputs.features.float()
        return replace(outputs, features=features)

    expected = fitted("weiper", training, copies=50).score(image)
    found = fitted("weiper", single(training), copies=50).score(single(image))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    head = PerturbedHead(image.head, copies=50, seed=0)
    (_, logits), *_ = head.logits(image.features.float(), 1.8)
    assert logits.dtype == torch.float32


def test_weiper_without_variation() -> None:
    training = images(20, 3)
    constant = replace(training, features=torch.ones_like(training.features))
    with pytest.raises(ValueError, match="do not vary"):
        fitted("weiper", constant)
