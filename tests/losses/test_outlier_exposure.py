"""Outlier Exposure against its equation, written out image by image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from oodbench.losses import OEHead, OELoss


def by_hand(logits: list[list[float]], targets: list[int], weight: float) -> float:
    """Hendrycks et al. 2019: -log p_y of ID images, cross-entropy to the uniform of the others."""
    certain, uniform = [], []
    for row, target in zip(logits, targets, strict=True):
        total = math.log(sum(math.exp(value) for value in row))
        if target >= 0:
            certain.append(total - row[target])
        else:
            uniform.append(-sum((value - total) / len(row) for value in row))
    outliers = sum(uniform) / len(uniform) if uniform else 0.0
    return sum(certain) / len(certain) + weight * outliers


def problem(batch: int, auxiliary: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(batch + auxiliary, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (batch,), generator=generator)
    return 3 * logits, torch.cat([labels, torch.full((auxiliary,), -1)])


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("batch", "auxiliary", "classes"), [(5, 10, 4), (1, 1, 2), (6, 0, 3)])
def test_loss_by_hand(batch: int, auxiliary: int, classes: int, weight: float) -> None:
    logits, targets = problem(batch, auxiliary, classes)
    expected = by_hand(logits.tolist(), targets.tolist(), weight)
    assert OELoss(weight)(logits, targets).item() == pytest.approx(expected, rel=1e-12)


def test_gradients_agree_with_finite_differences() -> None:
    logits, targets = problem(4, 6, 3)
    assert torch.autograd.gradcheck(
        lambda values: OELoss()(values, targets), logits.requires_grad_()
    )


def test_uniform_outputs_are_the_minimum_on_outliers() -> None:
    logits = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    loss = OELoss(1.0)(logits, torch.tensor([2, -1, -1]))
    assert loss.item() == pytest.approx(2 * math.log(5))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[1:].abs().max() < 1e-15


def test_auxiliary_images_come_after_the_batch_without_a_class() -> None:
    images, labels, others = (
        torch.rand(4, 1, 3, 3),
        torch.tensor([0, 1, 2, 0]),
        torch.rand(8, 1, 3, 3),
    )
    criterion, generator = OELoss(), torch.Generator()
    mixed, targets = criterion.mix(images, labels, generator, others)
    assert torch.equal(mixed, torch.cat([images, others]))
    assert targets.tolist() == [0, 1, 2, 0] + 8 * [-1]
    assert criterion.labeled(4) == 4
    assert criterion.mix(images, labels, generator) == (images, labels)


def test_weight_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="weight must not be negative"):
        OELoss(-0.5)


def test_a_plain_loop_with_auxiliary_images() -> None:
    """Outputs for outliers become more uniform than without them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.eye(3).repeat(20, 2)[:, :6] + 0.1 * torch.randn(60, 6, generator=generator)
    others = 2 * torch.rand(120, 6, generator=generator)
    entropies = []
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        head, criterion = OEHead(6, 3), OELoss(weight)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
        for _ in range(100):
            images, targets = criterion.mix(features, labels, generator, others)
            optimizer.zero_grad()
            criterion(head(images), targets).backward()
            optimizer.step()
        p = head(others).softmax(dim=1)
        entropies.append(-(p * p.log()).sum(dim=1).mean().item())
        assert (head(features).argmax(dim=1) == labels).all()
    assert entropies[1] > entropies[0] + 0.1
