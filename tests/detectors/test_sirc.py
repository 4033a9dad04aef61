"""SIRC against the paper's formula, image by image, and against `oodbench.metrics.sirc`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import oodbench
from oodbench import Outputs, metrics
from oodbench.testing.planted import PlantedBatches

CLASSES = 5


def images(count: int, seed: int, scale: float = 2.0) -> Outputs:
    """Signed features, one of them constant, and logits that are not theirs."""
    generator = np.random.default_rng(seed)
    features = generator.normal(0.5, 1, (count, 7))
    features[:, 3] = -1.5
    logits = generator.normal(0, scale, (count, CLASSES))
    return Outputs(torch.from_numpy(logits), torch.from_numpy(features))


@pytest.mark.parametrize("first", ["msp", "entropy"])
@pytest.mark.parametrize("size", [1, 17, 60])
def test_formula(first: str, size: int) -> None:
    training, tested = images(60, 0), images(25, 1)
    detector = oodbench.load_detector("sirc", first=first)
    detector.fit(PlantedBatches(training, CLASSES, size))
    found = detector.score(tested)
    norms = [sum(abs(float(x)) for x in row) for row in training.features]
    mean = sum(norms) / len(norms)
    std = math.sqrt(sum((norm - mean) ** 2 for norm in norms) / len(norms))
    for number, (row, z) in enumerate(zip(tested.logits, tested.features, strict=True)):
        total = sum(math.exp(float(logit)) for logit in row)
        p = [math.exp(float(logit)) / total for logit in row]
        s1, most = (max(p), 1.0) if first == "msp" else (sum(q * math.log(q) for q in p), 0.0)
        s2 = sum(abs(float(x)) for x in z)
        paper = -(most - s1) * (1 + math.exp(-(s2 - (mean - 3 * std)) / std))
        assert float(found[number]) == pytest.approx(-math.log(-paper), rel=1e-9, abs=1e-9)
    assert float(detector.score(tested[:1])) == pytest.approx(float(found[0]), rel=1e-12)


def test_it_is_the_combination_of_stored_scores() -> None:
    training, tested = images(60, 2), images(25, 3)
    detector = oodbench.load_detector("sirc")
    detector.fit(PlantedBatches(training, CLASSES, 16))
    p = tested.logits.softmax(dim=1).amax(dim=1).numpy()
    s2, id_s2 = (each.features.abs().sum(dim=1).numpy() for each in (tested, training))
    expected = metrics.sirc(p, s2, id_s2)
    np.testing.assert_allclose(detector.score(tested).numpy(), expected, rtol=1e-9)


def test_confident_images_are_not_tied_and_a_small_norm_lowers_the_score() -> None:
    training = images(60, 4)
    detector = oodbench.load_detector("sirc")
    detector.fit(PlantedBatches(training, CLASSES, 16))
    logits = torch.zeros(3, CLASSES, dtype=torch.float64)
    logits[:, 0] = torch.tensor([100.0, 120.0, 120.0])
    features = training.features[:1].repeat(3, 1)
    features[2] = 0
    scores = detector.score(Outputs(logits, features))
    assert scores[0] < scores[1]
    assert scores[2] < scores[1]


def test_equal_norms_are_refused() -> None:
    training = images(10, 5)
    same = Outputs(training.logits, training.features[:1].repeat(10, 1))
    with pytest.raises(ValueError, match="does not vary over 10 training images"):
        oodbench.load_detector("sirc").fit(PlantedBatches(same, CLASSES, 4))
