"""The DisMax head and loss against their equations, at the places where they are delicate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from oodbench.losses import DisMaxHead, DisMaxLoss, SoftMaxHead, SoftMaxLoss

Array = NDArray[np.float64]


def reference(
    features: Array, prototypes: Array, targets: NDArray[np.int64], alpha: float
) -> tuple[Array, float, Array, Array]:
    """Logits, loss, gradients by features and by prototypes, from equations 6 and 7."""
    rows = np.arange(len(features))
    differences = features[:, None, :] - prototypes[None, :, :]
    distances = np.sqrt((differences**2).sum(axis=2))
    scaled = -alpha * distances
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    log_probabilities = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    loss = -log_probabilities[rows, targets].mean()
    by_distance = -np.exp(log_probabilities)
    by_distance[rows, targets] += 1
    by_distance *= alpha / len(features)
    terms = (by_distance / distances)[:, :, None] * differences
    return -distances, float(loss), terms.sum(axis=1), -terms.sum(axis=0)


def head_with(prototypes: Tensor) -> DisMaxHead:
    classes, dimension = prototypes.shape
    head = DisMaxHead(dimension, classes).to(prototypes.dtype)
    with torch.no_grad():
        head.prototypes.copy_(prototypes)
    return head


def random_problem(batch: int, classes: int, dimension: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    features = torch.randn(batch, dimension, generator=generator, dtype=torch.float64)
    prototypes = torch.randn(classes, dimension, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (batch,), generator=generator)
    return features, prototypes, targets


@pytest.mark.parametrize(("batch", "classes", "dimension"), [(4, 3, 5), (40, 30, 64), (1, 2, 1)])
@pytest.mark.parametrize("alpha", [1.0, 10.0])
def test_head_and_loss_follow_equations_6_and_7(
    batch: int, classes: int, dimension: int, alpha: float
) -> None:
    features, prototypes, targets = random_problem(batch, classes, dimension)
    head = head_with(prototypes)
    features.requires_grad_()
    logits = head(features)
    loss = DisMaxLoss(alpha)(logits, targets)
    loss.backward()
    expected = reference(features.detach().numpy(), prototypes.numpy(), targets.numpy(), alpha)
    found = (logits, loss, features.grad, head.prototypes.grad)
    for name, value, wanted in zip(
        ("logits", "loss", "by features", "by prototypes"), found, expected, strict=True
    ):
        assert value is not None
        np.testing.assert_allclose(
            value.detach().numpy(), wanted, rtol=1e-6, atol=1e-12, err_msg=name
        )


def test_gradients_agree_with_finite_differences() -> None:
    features, prototypes, targets = random_problem(6, 4, 5)
    head, criterion = head_with(prototypes), DisMaxLoss(alpha=3.0)

    def loss(features: Tensor, prototypes: Tensor) -> Tensor:
        logits = functional_call(head, {"prototypes": prototypes}, (features,))
        return criterion(logits, targets)

    assert torch.autograd.gradcheck(loss, (features.requires_grad_(), prototypes.requires_grad_()))


def test_first_step_moves_only_the_prototypes() -> None:
    features, _, targets = random_problem(32, 10, 16)
    features.requires_grad_()
    head = DisMaxHead(16, 10).double()
    torch.testing.assert_close(head.prototypes.detach(), torch.zeros(10, 16, dtype=torch.float64))
    loss = DisMaxLoss()(head(features), targets)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(10), rel=1e-12)
    assert features.grad is not None
    assert head.prototypes.grad is not None
    torch.testing.assert_close(features.grad, torch.zeros_like(features), atol=1e-15, rtol=0)
    assert head.prototypes.grad.norm() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("at_start", [True, False])
def test_zero_distance_has_finite_gradients(dtype: torch.dtype, at_start: bool) -> None:
    features = torch.zeros(3, 8, dtype=dtype, requires_grad=True)  # dead units: all-zero features
    prototypes = torch.zeros(4, 8, dtype=dtype)
    if not at_start:
        prototypes[1:] = torch.eye(8, dtype=dtype)[:3]
    head = head_with(prototypes)
    DisMaxLoss()(head(features), torch.tensor([0, 1, 2])).backward()
    assert features.grad is not None
    assert head.prototypes.grad is not None
    assert torch.isfinite(features.grad).all(), features.grad
    assert torch.isfinite(head.prototypes.grad).all(), head.prototypes.grad


@pytest.mark.parametrize("gap", [90.0, 104.0, 200.0])
def test_large_gaps_stay_finite(gap: float) -> None:
    """The logarithm of a float32 softmax has NaN gradients at 90 and is infinite at 104."""
    alpha = 10.0
    head = head_with(torch.tensor([[0.0], [-gap / alpha]]))
    features = torch.ones(1, 1, requires_grad=True)
    loss = DisMaxLoss(alpha)(head(features), torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(gap, rel=1e-6)
    assert features.grad is not None
    # Both distances grow by 1 with the feature, so their difference does not depend on it; a
    # prototype does move, by alpha.
    torch.testing.assert_close(features.grad, torch.zeros(1, 1), atol=1e-5, rtol=0)
    expected = torch.tensor([[alpha], [-alpha]])
    torch.testing.assert_close(head.prototypes.grad, expected, rtol=1e-6, atol=0)


def test_distance_to_a_near_prototype_is_accurate() -> None:
    """More than 25 rows, where `torch.cdist` by itself multiplies matrices and cancels."""
    generator = torch.Generator().manual_seed(0)
    prototypes = 5 * torch.rand(30, 512, generator=generator)
    features = prototypes + 1e-3 * torch.randn(30, 512, generator=generator)
    true = (features.double() - prototypes.double()).square().sum(dim=1).sqrt()
    cancelling = torch.cdist(features, prototypes).diagonal().double()
    assert ((cancelling - true).abs() / true).max() > 0.1, "these data would not show it"
    found = -head_with(prototypes)(features).detach().diagonal()
    torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=0)


def test_alpha_acts_in_the_loss_alone() -> None:
    features, prototypes, targets = random_problem(5, 3, 4)
    logits = head_with(prototypes)(features).detach()
    torch.testing.assert_close(
        logits, -(features[:, None] - prototypes).square().sum(dim=2).sqrt(), rtol=1e-12, atol=0
    )
    losses = [DisMaxLoss(alpha)(logits, targets).item() for alpha in (1.0, 10.0)]
    by_hand = [
        -torch.log_softmax(alpha * logits, dim=1)[torch.arange(5), targets].mean().item()
        for alpha in (1.0, 10.0)
    ]
    np.testing.assert_allclose(losses, by_hand, rtol=1e-12)
    assert DisMaxLoss().alpha == 10.0


def test_float32_under_autocast() -> None:
    features, prototypes, _ = random_problem(40, 30, 64)
    head = head_with(prototypes.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        from_float = head(features.float())
        from_half = head(features.bfloat16())
    assert from_float.dtype == from_half.dtype == torch.float32
    torch.testing.assert_close(from_float, head(features.float()), rtol=0, atol=0)
    torch.testing.assert_close(from_half, head(features.bfloat16().float()), rtol=0, atol=0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be positive"):
        DisMaxLoss(alpha=alpha)


def test_head_has_prototypes_and_nothing_else() -> None:
    assert {name: tuple(p.shape) for name, p in DisMaxHead(7, 3).named_parameters()} == {
        "prototypes": (3, 7)
    }


class PlainModel(nn.Module):
    """A model of somebody who has never heard of oodbench."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        self.fc: nn.Module = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


def test_one_line_changes_a_plain_training_loop() -> None:
    torch.manual_seed(0)
    targets = torch.arange(300) % 3
    inputs = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])[targets]
    inputs = inputs + 0.4 * torch.randn(300, 2)
    model = PlainModel()
    model.fc, criterion = DisMaxHead(8, 3), DisMaxLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(100):
        loss = criterion(model(inputs), targets)
        if step == 0:
            assert loss.item() == pytest.approx(math.log(3), rel=1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = (model(inputs).argmax(dim=1) == targets).float().mean().item()
    assert accuracy > 0.97
    assert loss.item() < 0.2


def test_softmax_head_and_loss() -> None:
    torch.manual_seed(0)
    head = SoftMaxHead(400, 100)
    assert head.bias.count_nonzero() == 0
    # Uniform on +-1/sqrt(D): the extremes of 40,000 draws come within 0.1 % of the bounds.
    assert head.weight.abs().max().item() == pytest.approx(400**-0.5, rel=1e-3)
    assert head.weight.std().item() == pytest.approx((400 * 3) ** -0.5, rel=2e-2)
    logits, targets = torch.randn(6, 4), torch.arange(6) % 4
    by_hand = -torch.log_softmax(logits, dim=1)[torch.arange(6), targets].mean()
    torch.testing.assert_close(SoftMaxLoss()(logits, targets), by_hand)
