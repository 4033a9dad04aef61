"""RotPred against its equation, written out image by image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.errors import UserError
from oodbench.losses import RotPredHead, RotPredLoss, SoftMaxHead
from oodbench.losses.rotations import rotated


def cross_entropy(row: list[float], target: int) -> float:
    return math.log(sum(math.exp(value) for value in row)) - row[target]


class Body(nn.Module):
    """Features that depend on the orientation."""

    def forward(self, images: Tensor) -> Tensor:
        """The first row of an image, twice, shape [B, 2 W]."""
        return torch.cat([images[:, 0, 0], images[:, 0, 0].square()], dim=1)


def problem(classes: int = 3) -> tuple[RotPredHead, Tensor, Tensor]:
    torch.manual_seed(classes)
    head = RotPredHead(6, classes).double()
    images = torch.randn(5, 1, 3, 3, dtype=torch.float64)
    return head, images, torch.arange(5) % classes


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_loss_by_hand(weight: float) -> None:
    head, images, labels = problem()
    criterion = RotPredLoss(head, weight)
    batch, targets = criterion.mix(images, labels, torch.Generator())
    found = criterion(head(Body()(batch)), targets)
    classes, rotations = [], []
    for image, label in zip(images.numpy(), labels.tolist(), strict=True):
        for turns in range(4):
            view = torch.from_numpy(np.rot90(image, turns, axes=(1, 2)).copy())
            features = Body()(view[None])
            if turns == 0:
                scores = features @ head.weight.T + head.bias
                classes.append(cross_entropy(scores[0].tolist(), label))
            second = features @ head.rotations.weight.T + head.rotations.bias
            rotations.append(cross_entropy(second[0].tolist(), turns))
    expected = sum(classes) / 5 + weight * sum(rotations) / 20
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert criterion.labeled(5) == 5
    assert torch.equal(batch[:5], images)


def test_gradients_agree_with_finite_differences() -> None:
    head, images, labels = problem()
    criterion = RotPredLoss(head)
    batch, targets = criterion.mix(images, labels, torch.Generator())
    features = Body()(batch).requires_grad_()
    weight, second = (
        each.detach().clone().requires_grad_() for each in (head.weight, head.rotations.weight)
    )

    def loss(features: Tensor, weight: Tensor, second: Tensor) -> Tensor:
        values = {"weight": weight, "rotations.weight": second}
        result: Tensor = criterion(torch.func.functional_call(head, values, (features,)), targets)
        return result

    assert torch.autograd.gradcheck(loss, (features, weight, second))


def test_evaluation_gives_the_classes_alone() -> None:
    head, images, labels = problem()
    features = Body()(images)
    logits = features @ head.weight.T + head.bias
    head.eval()
    assert torch.equal(head(features), logits)
    expected = nn.functional.cross_entropy(logits, labels)
    assert torch.equal(RotPredLoss(head)(head(features), labels), expected)
    head.train()
    assert head(features).shape == (5, 3 + 4)
    assert torch.equal(head(features)[:, :3], logits)


def test_labels_without_rotations_are_refused_in_training() -> None:
    head, images, labels = problem()
    with pytest.raises(ValueError, match=r"RotPredLoss\.mix"):
        RotPredLoss(head)(head(Body()(images)), labels)


def test_rotations_need_square_images() -> None:
    with pytest.raises(UserError, match="4 x 6 pixels"):
        rotated(torch.rand(1, 3, 4, 6))


def test_classes_start_as_those_of_a_softmax_head() -> None:
    torch.manual_seed(4)
    head = RotPredHead(8, 5)
    torch.manual_seed(4)
    assert torch.equal(head.weight, SoftMaxHead(8, 5).weight)
    assert head.rotations.weight.shape == (4, 8)


def test_weight_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="weight must not be negative"):
        RotPredLoss(RotPredHead(2, 2), -1.0)
