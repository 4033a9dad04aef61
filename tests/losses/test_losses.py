"""Heads and losses against their equations, at the places where they are delicate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from oodbench.losses import (
    DisMax2022Head,
    DisMax2022Loss,
    DisMaxHead,
    DisMaxLoss,
    DistanceHead,
    IsoMaxPlusHead,
    IsoMaxPlusLoss,
    LogitNormHead,
    LogitNormLoss,
    Loss,
    SoftMaxHead,
    SoftMaxLoss,
    T2FNormHead,
)

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
    canceling = torch.cdist(features, prototypes).diagonal().double()
    assert ((canceling - true).abs() / true).max() > 0.1, "these data would not show it"
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


# --- heads on directions: IsoMax+ and DisMax of 2022 -------------------------------------------

DIRECTIONS: list[type[IsoMaxPlusHead]] = [IsoMaxPlusHead, DisMax2022Head]
LOSSES: list[type[Loss]] = [
    SoftMaxLoss,
    DisMaxLoss,
    IsoMaxPlusLoss,
    DisMax2022Loss,
    LogitNormLoss,
]


def direction_head(
    make: type[IsoMaxPlusHead], prototypes: Tensor, scale: float = 1.0
) -> IsoMaxPlusHead:
    classes, dimension = prototypes.shape
    head = make(dimension, classes).to(prototypes.dtype)
    with torch.no_grad():
        head.prototypes.copy_(prototypes)
        head.scale.fill_(scale)
    return head


def logits_by_hand(
    make: type[DistanceHead], features: Array, prototypes: Array, scale: float
) -> Array:
    """From the papers' equations, with numpy."""
    f = features / np.sqrt((features**2).sum(axis=1, keepdims=True))
    p = prototypes / np.sqrt((prototypes**2).sum(axis=1, keepdims=True))
    distances = abs(scale) * np.sqrt(((f[:, None] - p[None]) ** 2).sum(axis=2))
    if make is DisMax2022Head:
        distances = distances / np.sqrt(2)
        distances = distances + distances.mean(axis=1, keepdims=True)
    return -distances


@pytest.mark.parametrize("make", DIRECTIONS)
@pytest.mark.parametrize(("batch", "classes", "dimension"), [(4, 3, 5), (40, 30, 64), (1, 2, 2)])
@pytest.mark.parametrize("scale", [1.0, 3.7, -0.4])
def test_direction_heads_follow_their_equations(
    make: type[IsoMaxPlusHead], batch: int, classes: int, dimension: int, scale: float
) -> None:
    features, prototypes, _ = random_problem(batch, classes, dimension)
    found = direction_head(make, prototypes, scale)(5 * features).detach().numpy()
    expected = logits_by_hand(make, 5 * features.numpy(), prototypes.numpy(), scale)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_distances_between_unit_vectors() -> None:
    """At right angles sqrt(2), opposite 2, equal 0; over sqrt(2) for DisMax of 2022."""
    features = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    prototypes = torch.tensor([[0.5, 0.0], [0.0, 7.0], [-2.0, 0.0]], dtype=torch.float64)
    root = math.sqrt(2)
    torch.testing.assert_close(
        direction_head(IsoMaxPlusHead, prototypes)(features).detach(),
        -torch.tensor([[0, root, 2]], dtype=torch.float64),
    )
    mean = (1 + root) / 3
    torch.testing.assert_close(
        direction_head(DisMax2022Head, prototypes)(features).detach(),
        -torch.tensor([[mean, 1 + mean, root + mean]], dtype=torch.float64),
    )


def test_mean_distance_does_not_change_probabilities() -> None:
    features, prototypes, targets = random_problem(8, 5, 6)
    plus = direction_head(IsoMaxPlusHead, prototypes, 2.0)(features) / math.sqrt(2)
    later = direction_head(DisMax2022Head, prototypes, 2.0)(features)
    assert (plus - later).std(dim=1).max().item() < 1e-12
    assert (plus - later).min().item() > 0.1, "the logits themselves differ"
    torch.testing.assert_close(torch.softmax(plus, 1), torch.softmax(later, 1))
    torch.testing.assert_close(IsoMaxPlusLoss()(plus, targets), DisMax2022Loss()(later, targets))


@pytest.mark.parametrize("make", DIRECTIONS)
@pytest.mark.parametrize("scale", [2.0, -2.0])
def test_direction_gradients_agree_with_finite_differences(
    make: type[IsoMaxPlusHead], scale: float
) -> None:
    features, prototypes, targets = random_problem(6, 4, 5)
    head, criterion = direction_head(make, prototypes, scale), DisMaxLoss(alpha=3.0)

    def loss(features: Tensor, prototypes: Tensor, scale: Tensor) -> Tensor:
        weights = {"prototypes": prototypes, "scale": scale}
        return criterion(functional_call(head, weights, (features,)), targets)

    inputs = (features, prototypes, torch.tensor(scale, dtype=torch.float64))
    assert torch.autograd.gradcheck(loss, tuple(tensor.requires_grad_() for tensor in inputs))


@pytest.mark.parametrize("make", DIRECTIONS)
def test_features_of_zero_have_moderate_gradients(make: type[IsoMaxPlusHead]) -> None:
    """Dead units: dividing by 1e-12 there would multiply the gradient by 1e12."""
    head = direction_head(make, torch.eye(8)[:4])
    features = torch.zeros(3, 8, requires_grad=True)
    logits = head(features)
    each = math.sqrt(2) if make is DisMax2022Head else 1.0
    torch.testing.assert_close(logits.detach(), torch.full((3, 4), -each))
    DisMaxLoss()(logits, torch.tensor([0, 1, 2])).backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert 0 < features.grad.norm() < 100


@pytest.mark.parametrize("make", DIRECTIONS)
def test_features_on_a_prototype_have_finite_gradients(make: type[IsoMaxPlusHead]) -> None:
    head = direction_head(make, torch.eye(4))
    features = torch.eye(4, requires_grad=True)
    DisMaxLoss()(head(features), torch.arange(4)).backward()
    for gradient in (features.grad, head.prototypes.grad, head.scale.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("make", DIRECTIONS)
def test_length_of_features_does_not_matter(make: type[IsoMaxPlusHead]) -> None:
    features, prototypes, _ = random_problem(6, 4, 5)
    head = direction_head(make, prototypes)
    for factor in (1e-6, 1e6):
        torch.testing.assert_close(head(factor * features), head(features))


@pytest.mark.parametrize("make", DIRECTIONS)
def test_direction_heads_start_at_random_with_scale_one(make: type[IsoMaxPlusHead]) -> None:
    torch.manual_seed(0)
    head = make(400, 100)
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "prototypes": (100, 400),
        "scale": (),
    }
    # The prototypes first: passes are counted by a layer's first weights.
    assert next(head.parameters()) is head.prototypes
    assert head.scale.item() == 1
    assert head.prototypes.std().item() == pytest.approx(1, rel=2e-2)
    assert abs(head.prototypes.mean().item()) < 2e-2


@pytest.mark.parametrize("make", DIRECTIONS)
def test_directions_in_float32_under_autocast(make: type[IsoMaxPlusHead]) -> None:
    features, prototypes, _ = random_problem(40, 30, 64)
    head = direction_head(make, prototypes.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        from_float = head(features.float())
        from_half = head(features.bfloat16())
    assert from_float.dtype == from_half.dtype == torch.float32
    torch.testing.assert_close(from_float, head(features.float()), rtol=0, atol=0)
    torch.testing.assert_close(from_half, head(features.bfloat16().float()), rtol=0, atol=0)


def test_temperature_acts_in_evaluation_alone() -> None:
    features, prototypes, _ = random_problem(5, 3, 4)
    head = direction_head(DisMax2022Head, prototypes)
    at_one = head.eval()(features)
    torch.testing.assert_close(at_one, head.train()(features), rtol=0, atol=0)
    head.get_buffer("temperature").fill_(0.25)
    torch.testing.assert_close(head(features), at_one, rtol=0, atol=0)
    torch.testing.assert_close(head.eval()(features), 4 * at_one, rtol=0, atol=0)


def test_temperature_is_stored_with_the_weights() -> None:
    head = DisMax2022Head(4, 3)
    assert head.temperature.item() == 1
    head.temperature.fill_(0.5)
    other = DisMax2022Head(4, 3)
    other.load_state_dict(head.state_dict())
    assert other.temperature.item() == 0.5
    assert "temperature" not in dict(other.named_parameters()), "it is not trained"


# --- normalized logits, normalized features ----------------------------------------------------


def cross_entropy_by_hand(logits: Array, targets: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-log_probabilities[np.arange(len(targets)), targets].mean())


@pytest.mark.parametrize("tau", [0.04, 1.0])
@pytest.mark.parametrize("length", [1e-6, 1.0, 1e3])
def test_logitnorm_by_hand(tau: float, length: float) -> None:
    logits, _, targets = random_problem(40, 3, 10)
    logits, targets = length * logits, targets % 10
    values = logits.numpy()
    norms = np.sqrt((values**2).sum(axis=1, keepdims=True))
    expected = cross_entropy_by_hand(values / ((norms + 1e-7) * tau), targets.numpy())
    assert LogitNormLoss(tau)(logits, targets).item() == pytest.approx(expected, rel=1e-10)


def test_logitnorm_gradients_agree_with_finite_differences_and_keep_the_length() -> None:
    logits, _, targets = random_problem(6, 4, 5)
    logits.requires_grad_()
    criterion = LogitNormLoss(tau=0.3)
    assert torch.autograd.gradcheck(lambda logits: criterion(logits, targets), (logits,))
    criterion(logits, targets).backward()
    assert logits.grad is not None
    along = (logits * logits.grad).sum(dim=1).detach()
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-6, rtol=0)
    assert logits.grad.norm() > 0.1


def test_logitnorm_is_finite_for_logits_of_zero_and_sharp_logits() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [1e15, 0.0, 0.0], [-60.0, 60.0, 0.0]]).requires_grad_()
    losses = [LogitNormLoss(0.004)(logits[[row]], torch.tensor([0])) for row in range(3)]
    assert losses[0].item() == pytest.approx(math.log(3), rel=1e-6)
    assert losses[1].item() == pytest.approx(0, abs=1e-6)
    assert losses[2].item() == pytest.approx(math.sqrt(2) / 0.004, rel=1e-5)
    sum(losses, torch.zeros(())).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_logitnorm_normalizes_half_precision_in_float32() -> None:
    logits, _, targets = random_problem(40, 3, 10)
    half, targets = logits.bfloat16(), targets % 10
    found = LogitNormLoss()(half, targets)
    assert found.dtype == torch.float32
    expected = LogitNormLoss()(half.double(), targets).item()
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tau", [0.1, 1.0, 2.0])
def test_t2fnorm_by_hand(tau: float) -> None:
    torch.manual_seed(0)
    features, _, _ = random_problem(40, 3, 16)
    head = T2FNormHead(16, 7, tau).double()
    with torch.no_grad():
        head.bias.normal_()
    f, w, b = features.numpy(), head.weight.detach().numpy(), head.bias.detach().numpy()
    directions = f / np.sqrt((f**2).sum(axis=1, keepdims=True))
    for training, given in ((True, directions), (False, f)):
        found = head.train(training)(features).detach().numpy()
        expected = given / head.tau.item() @ w.T + b
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    evaluation = features @ head.evaluation_weight.T + head.bias
    torch.testing.assert_close(head(features), evaluation, rtol=1e-10, atol=1e-12)
    assert not head.evaluation_weight.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_t2fnorm_gradients_agree_with_finite_differences(training: bool) -> None:
    features, weight, targets = random_problem(6, 4, 5)
    head, criterion = T2FNormHead(5, 4).double().train(training), SoftMaxLoss()

    def loss(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weights = {"weight": weight, "bias": bias}
        return criterion(functional_call(head, weights, (features,)), targets)

    inputs = (features, weight, torch.zeros(4, dtype=torch.float64))
    assert torch.autograd.gradcheck(loss, tuple(tensor.requires_grad_() for tensor in inputs))


def test_t2fnorm_forgets_the_length_of_features_in_training_alone() -> None:
    features, _, _ = random_problem(6, 3, 8)
    head = T2FNormHead(8, 3).double()
    torch.testing.assert_close(head(1e3 * features), head(features))
    head.eval()
    torch.testing.assert_close(head(1e3 * features) - head.bias, 1e3 * (head(features) - head.bias))


def test_t2fnorm_has_moderate_gradients_for_features_of_zero() -> None:
    features = torch.zeros(3, 8, requires_grad=True)
    SoftMaxLoss()(T2FNormHead(8, 3)(features), torch.arange(3)).backward()
    assert features.grad is not None
    assert 0 < features.grad.norm() < 100


def test_t2fnorm_stores_tau_with_the_weights() -> None:
    first, second = T2FNormHead(4, 3, tau=0.25), T2FNormHead(4, 3)
    second.load_state_dict(first.state_dict())
    assert second.tau.item() == 0.25
    assert "tau" not in dict(second.named_parameters()), "it is not trained"
    features = torch.rand(5, 4)
    torch.testing.assert_close(second(features), first(features), rtol=0, atol=0)
    assert "tau=0.25" in repr(second)


@pytest.mark.parametrize("make", [LogitNormHead, T2FNormHead])
def test_heads_of_normalized_training_start_as_softmax_does(make: type[SoftMaxHead]) -> None:
    torch.manual_seed(0)
    expected = SoftMaxHead(12, 5)
    torch.manual_seed(0)
    head = make(12, 5)
    torch.testing.assert_close(head.weight, expected.weight, rtol=0, atol=0)
    assert head.bias.count_nonzero() == 0


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_tau_must_be_positive(tau: float) -> None:
    with pytest.raises(ValueError, match="tau must be positive"):
        LogitNormLoss(tau)
    with pytest.raises(ValueError, match="tau must be positive"):
        T2FNormHead(4, 3, tau)


# --- losses in common --------------------------------------------------------------------------


@pytest.mark.parametrize("make", LOSSES)
def test_losses_leave_a_batch_as_it_is(make: type[Loss]) -> None:
    criterion, images, labels = make(), torch.rand(5, 1, 4, 4), torch.arange(5)
    mixed, targets = criterion.mix(images, labels, torch.Generator())
    assert mixed is images
    assert targets is labels
    assert criterion.labeled(5) == 5


@pytest.mark.parametrize("make", [IsoMaxPlusLoss, DisMax2022Loss])
def test_losses_with_alpha_are_scaled_cross_entropies(make: type[DisMaxLoss]) -> None:
    logits, targets = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 4
    for criterion, alpha in ((make(), 10.0), (make(alpha=2.5), 2.5)):
        by_hand = -torch.log_softmax(alpha * logits, dim=1)[torch.arange(6), targets].mean()
        torch.testing.assert_close(criterion(logits, targets), by_hand)


def test_mixed_quadrants_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="mixed_quadrants must not be negative"):
        DisMax2022Loss(mixed_quadrants=-1)


# --- mixed quadrants ---------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "pure"), [(8, 4), (9, 5), (4, 2), (3, 2)])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3)])
def test_second_half_is_made_of_quadrants(count: int, pure: int, height: int, width: int) -> None:
    criterion = DisMax2022Loss(mixed_quadrants=1.0)
    # Every pixel tells the image it comes from, and where it was.
    pixels = torch.arange(height * width).view(1, 1, height, width)
    images = (1000 * torch.arange(count).view(-1, 1, 1, 1) + pixels).expand(-1, 2, -1, -1)
    labels = 100 + torch.arange(count)
    mixed, targets = criterion.mix(images, labels, torch.Generator())
    assert criterion.labeled(count) == pure
    assert mixed.shape == images.shape
    assert targets.shape == (count, 4)
    assert targets.dtype == torch.int64
    torch.testing.assert_close(mixed[:pure], images[:pure], rtol=0, atol=0)
    assert (targets[:pure] == labels[:pure, None]).all()
    rest = count - pure
    for row in range(rest):
        for quadrant in range(4):
            source = pure + (row - quadrant) % rest
            rows = slice(0, height // 2) if quadrant < 2 else slice(height // 2, None)
            columns = slice(0, width // 2) if quadrant % 2 == 0 else slice(width // 2, None)
            found = mixed[pure + row, :, rows, columns]
            torch.testing.assert_close(found, images[source, :, rows, columns], rtol=0, atol=0)
            assert targets[pure + row, quadrant] == labels[source]


def test_one_image_is_not_mixed() -> None:
    criterion = DisMax2022Loss(mixed_quadrants=1.0)
    images, labels = torch.rand(1, 1, 4, 4), torch.tensor([2])
    mixed, targets = criterion.mix(images, labels, torch.Generator())
    assert mixed is images
    assert targets is labels
    assert torch.isfinite(criterion(torch.randn(1, 3), targets))


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_loss_of_mixed_images_by_hand(weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    targets = torch.tensor([[0] * 4, [2] * 4, [1] * 4, [0, 1, 2, 1], [2, 2, 2, 2]])
    log_p = torch.log_softmax(10 * logits, dim=1)
    certain = -(log_p[0, 0] + log_p[1, 2] + log_p[2, 1]) / 3
    quarters = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    first = (quarters * (quarters.log() - log_p[3])).sum()
    second = -log_p[4, 2]  # all four of one class: a divergence from certainty
    expected = (certain + weight * (first + second) / 2) / 2
    criterion = DisMax2022Loss(mixed_quadrants=weight)
    torch.testing.assert_close(criterion(logits, targets), expected)


def test_loss_of_mixed_images_has_the_right_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    criterion = DisMax2022Loss(alpha=2.0, mixed_quadrants=0.7)
    images, labels = torch.rand(7, 1, 2, 2), torch.randint(3, (7,), generator=generator)
    _, targets = criterion.mix(images, labels, generator)
    assert torch.autograd.gradcheck(lambda logits: criterion(logits, targets), (logits,))


def test_loss_of_mixed_images_has_its_minimum_at_the_targets() -> None:
    targets = torch.tensor([[1] * 4, [0, 1, 1, 2]])
    p = torch.tensor([[1e-12, 1, 1e-12], [0.25, 0.5, 0.25]], dtype=torch.float64)
    criterion = DisMax2022Loss(alpha=1.0, mixed_quadrants=1.0)
    assert criterion(p.log(), targets).item() == pytest.approx(0, abs=1e-9)


def test_plain_labels_are_plain_cross_entropy_also_where_quadrants_are_mixed() -> None:
    """What is measured on validation images."""
    logits, labels = torch.randn(6, 4), torch.arange(6) % 4
    torch.testing.assert_close(
        DisMax2022Loss(mixed_quadrants=1.0)(logits, labels), DisMaxLoss()(logits, labels)
    )
