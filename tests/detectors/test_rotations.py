"""Detector of rotations, and the pass that it asks for, against plain ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import oodbench
from oodbench import Detector, Outputs, register
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_batch, score_split
from oodbench.errors import UserError
from oodbench.losses import RotPredHead
from oodbench.testing.small_network import small_classifier, small_images


def by_hand(logits: list[float], rotations: list[list[float]]) -> float:
    """KL(uniform, p) - mean KL(one-hot, q), each sum written out, base 2."""

    def probabilities(row: list[float]) -> list[float]:
        total = sum(math.exp(value) for value in row)
        return [math.exp(value) / total for value in row]

    p, uniform = probabilities(logits), 1 / len(logits)
    divergence = sum(uniform * math.log2(uniform / each) for each in p)
    losses = [-math.log2(probabilities(row)[turns]) for turns, row in enumerate(rotations)]
    return divergence - sum(losses) / 4


def outputs(images: int, classes: int) -> Outputs:
    generator = torch.Generator().manual_seed(classes)

    def normal(*shape: int) -> Tensor:
        return 3 * torch.randn(images, *shape, generator=generator, dtype=torch.float64)

    logits = normal(classes)
    if images > 3:
        logits[1], logits[2] = 0.0, logits[0]  # ties
    return Outputs(logits, normal(2), rotation_logits=normal(4, 4))


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (7, 10), (5, 1000)])
def test_score_by_hand(images: int, classes: int) -> None:
    given = outputs(images, classes)
    assert given.rotation_logits is not None
    found = oodbench.load_detector("rotpred").score(given)
    expected = [
        by_hand(*pair)
        for pair in zip(given.logits.tolist(), given.rotation_logits.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
    alone = [oodbench.load_detector("rotpred").score(given[i : i + 1]) for i in range(images)]
    np.testing.assert_allclose(torch.cat(alone).numpy(), expected, rtol=1e-10)


def test_confident_outputs_stay_finite() -> None:
    given = outputs(7, 10)
    assert given.rotation_logits is not None
    far = given.replaced(logits=1e3 * given.logits, rotation_logits=1e3 * given.rotation_logits)
    assert oodbench.load_detector("rotpred").score(far).isfinite().all()


def test_the_network_sees_four_orientations() -> None:
    """Scores of a run are those of the formula on passes that are made by hand."""
    classifier, data = small_classifier("linear"), small_images(20, seed=4)
    head = classifier.network.head
    assert isinstance(head, RotPredHead)
    features: list[Tensor] = []
    handles = classifier.network.watch_features(lambda each: features.append(each.clone()))
    with torch.no_grad():
        logits = classifier(torch.from_numpy(data.images))
        for turns in (1, 2, 3):
            classifier(torch.from_numpy(np.rot90(data.images, turns, axes=(2, 3)).copy()))
        rotations = torch.stack([head.rotations(each) for each in features], dim=1)
    for handle in handles:
        handle.remove()
    expected = [by_hand(*pair) for pair in zip(logits.tolist(), rotations.tolist(), strict=True)]
    detector = oodbench.load_detector("rotpred")
    for batch_size in (20, 3):
        runner = NetworkRunner(classifier, batch_size=batch_size)
        with runner.attached():
            scored = score_split(runner, data, {"M": detector}, dataset="test", check_batches=True)
        assert not scored.errors
        np.testing.assert_allclose(scored.scores["M"], expected, rtol=1e-4, atol=2e-5)


def test_rotations_need_square_images() -> None:
    runner = NetworkRunner(small_classifier("linear"), batch_size=4)
    with runner.attached(), pytest.raises(UserError, match="need square images"):
        score_batch(runner, "M", oodbench.load_detector("rotpred"), torch.rand(2, 2, 8, 6))


def test_networks_without_a_second_head_are_skipped_with_the_reason() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    images = {name: torch.rand(9, 3, 4, 4) for name in ("id", "ood")}
    result = oodbench.evaluate(
        model, ["baseline", "rotpred"], id_data=images["id"], ood_data={"x": images["ood"]}
    )
    assert "needs a second head for rotations" in result.skipped["rotpred"]


def test_an_input_step_does_not_go_with_rotations() -> None:
    class Both(Detector):
        """Both."""

        def score(self, outputs: Outputs) -> Tensor:
            """No score is needed."""
            raise NotImplementedError

    with pytest.raises(UserError, match="'input_gradient' and 'rotations'"):
        register("both", needs=("input_gradient", "rotations"))(Both)
