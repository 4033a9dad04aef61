"""CARef and CADRef against references written from the formulas, image by image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import oodbench
from oodbench import Head, Outputs
from oodbench.testing.planted import PlantedBatches

Array = NDArray[np.float64]
CLASSES, DIMENSION = 12, 9
NEVER = 4
"""A class that no training image is predicted as."""


def images(count: int, seed: int, *, predict_never: bool = False) -> Outputs:
    """Features of both signs and positive energies, from a linear layer with some zero weights."""
    weight = np.random.default_rng(1).normal(size=(CLASSES, DIMENSION))
    weight[:, 2] = 0
    bias = np.random.default_rng(2).normal(size=CLASSES) + 3
    features = np.random.default_rng(seed).normal(0.3, 1, (count, DIMENSION))
    features[:, 5] = 1.5  # constant
    logits = features @ weight.T + bias
    logits[:, NEVER] = logits.max(axis=1) + 2 if predict_never else -50
    head = Head("linear", torch.from_numpy(weight), torch.from_numpy(bias))
    return Outputs(torch.from_numpy(logits), torch.from_numpy(features), head=head)


def fitted(name: str, training: Outputs, size: int = 17, **parameters: Any) -> Any:
    detector = oodbench.load_detector(name, **parameters)
    detector.fit(PlantedBatches(training, CLASSES, size))
    return detector


def parts(training: Outputs, image: Outputs, number: int) -> tuple[Array, Array, int]:
    """z, M of the predicted class, and this class."""
    z = image.features[number].double().numpy()
    predicted = int(np.argmax(image.logits[number].numpy()))
    same = [
        training.features[i].double().numpy()
        for i in range(len(training))
        if int(np.argmax(training.logits[i].numpy())) == predicted
    ]
    return z, np.mean(same or training.features.double().numpy(), axis=0), predicted


def confidence(name: str, logits: Array) -> float:
    p = np.exp(logits - logits.max())
    p /= p.sum()
    if name == "energy":
        return float(np.log(np.exp(logits).sum()))
    if name == "gen":
        largest = np.sort(p)[-max(10, CLASSES // 10) :]
        return float(1 / (largest**0.1 * (1 - largest) ** 0.1).sum())
    return float(logits.max() if name == "max_logit" else p.max())


def caref(training: Outputs, image: Outputs) -> list[float]:
    scores = []
    for number in range(len(image)):
        z, mean, _ = parts(training, image, number)
        scores.append(-sum(map(abs, z - mean)) / sum(map(abs, z)))
    return scores


def cadref(training: Outputs, image: Outputs, name: str) -> list[float]:
    assert image.head.weight is not None
    mean_confidence = np.mean([confidence(name, row.numpy()) for row in training.logits])
    scores = []
    for number in range(len(image)):
        z, mean, predicted = parts(training, image, number)
        weight = image.head.weight[predicted].double().numpy()
        raising = lowering = 0.0
        for error, w in zip(z - mean, weight, strict=True):
            raising += max(error * np.sign(w), 0)
            lowering += max(-error * np.sign(w), 0)
        own = confidence(name, image.logits[number].numpy())
        norm = sum(map(abs, z))
        scores.append(-(raising / (norm * own) + lowering / (norm * mean_confidence)))
    return scores


@pytest.mark.parametrize("size", [1, 17, 90])
@pytest.mark.parametrize("predict_never", [False, True])
def test_caref(size: int, predict_never: bool) -> None:
    training, image = images(90, 3), images(23, 4, predict_never=predict_never)
    found = fitted("caref", training, size).score(image)
    np.testing.assert_allclose(found, caref(training, image), rtol=1e-10)


@pytest.mark.parametrize("name", ["energy", "gen", "max_logit", "max_probability"])
@pytest.mark.parametrize("predict_never", [False, True])
def test_cadref(name: str, predict_never: bool) -> None:
    training, image = images(90, 3), images(23, 4, predict_never=predict_never)
    detector = fitted("cadref", training, logit_score=name)
    np.testing.assert_allclose(detector.score(image), cadref(training, image, name), rtol=1e-9)
    again = fitted("cadref", training, size=1, logit_score=name)
    np.testing.assert_allclose(again.score(image), detector.score(image), rtol=1e-12)


def test_one_training_image() -> None:
    training, image = images(1, 3), images(5, 4)
    np.testing.assert_allclose(
        fitted("caref", training).score(image), caref(training, image), rtol=1e-10
    )
    np.testing.assert_allclose(
        fitted("cadref", training).score(image), cadref(training, image, "energy"), rtol=1e-10
    )


def test_an_image_without_features_has_a_finite_score_below_all_others() -> None:
    training, image = images(90, 3), images(5, 4)
    empty = replace(image, features=torch.cat([image.features[:4], torch.zeros(1, DIMENSION)]))
    for name in ("caref", "cadref"):
        scores = fitted(name, training).score(empty)
        assert scores.isfinite().all()
        assert scores.argmin() == 4


def test_an_energy_below_zero_scores_lower_than_a_small_one() -> None:
    training, image = images(90, 3), images(4, 4)
    shifts = torch.tensor([0.0, 0.9, 1.0, 3.0], dtype=torch.float64)
    same = replace(image, features=image.features[:1].repeat(4, 1))
    logits = image.logits[:1] - shifts[:, None] * image.logits[:1].logsumexp(dim=1)
    scores = fitted("cadref", training).score(replace(same, logits=logits))
    assert scores[0] > scores[1] > scores[2] == scores[3]


def test_a_network_with_negative_energies_is_refused() -> None:
    training = images(90, 3)
    low = replace(training, logits=training.logits - 100)
    with pytest.raises(ValueError, match="CADRef multiplies or divides by them"):
        fitted("cadref", low)
    fitted("cadref", low, logit_score="gen")
