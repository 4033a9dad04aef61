"""VOS against its equations, written out class by class, and its draws against plain ones."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from oodbench.losses import SoftMaxLoss, VOSHead, VOSLoss
from oodbench.losses.virtual_outliers import longest_normals

CLASSES, DIMENSION = 3, 4


def made(seed: int = 0, **options: float) -> tuple[VOSHead, VOSLoss]:
    torch.manual_seed(seed)
    head = VOSHead(DIMENSION, CLASSES).double()
    values = {"start": 0.0, "queue": 5, "samples": 50, "select": 2, **options}
    return head, VOSLoss(head, **values).double()


def batches(count: int, size: int = 8, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, DIMENSION, generator=generator, dtype=torch.float64),
            torch.randint(CLASSES, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def test_queues_hold_the_newest_features_of_each_class() -> None:
    _, criterion = made()
    expected = [deque[tuple[float, ...]](maxlen=5) for _ in range(CLASSES)]
    for features, labels in batches(4, size=13):
        criterion.enqueue(features, labels)
        for row, label in zip(features.tolist(), labels.tolist(), strict=True):
            expected[label].append(tuple(row))
        for label in range(CLASSES):
            held = min(int(criterion.seen[label]), 5)
            found = {tuple(row) for row in criterion.queues[label, :held].tolist()}
            assert found == set(expected[label])


@pytest.mark.parametrize("size", [1, 8, 40])
def test_loss_by_hand(size: int) -> None:
    """The equations with the virtual outliers that were drawn, in plain loops."""
    head, criterion = made(weight=0.3)
    for features, labels in batches(6):
        criterion.enqueue(features, labels)
    features, labels = batches(1, size)[0]
    drawn: list[Tensor] = []
    draw = criterion.virtual_outliers
    criterion.virtual_outliers = lambda: drawn.append(draw()) or drawn[0]  # type: ignore
    found = criterion(head(features), labels)
    (outliers,) = drawn
    assert outliers.shape == (2 * CLASSES, DIMENSION)

    weight, bias = head.weight.tolist(), head.bias.tolist()
    learned = criterion.class_weights.tolist()
    slopes = [row[0] for row in criterion.regression.weight.tolist()]
    offsets = criterion.regression.bias.tolist()

    def logits(row: list[float]) -> list[float]:
        return [
            sum(w * z for w, z in zip(weight[c], row, strict=True)) + bias[c]
            for c in range(CLASSES)
        ]

    def logistic(row: list[float], is_id: int) -> float:
        terms = [max(w, 0) * math.exp(z) for w, z in zip(learned, logits(row), strict=True)]
        scores = [slopes[side] * math.log(sum(terms)) + offsets[side] for side in (0, 1)]
        return math.log(sum(map(math.exp, scores))) - scores[is_id]

    entropy = [
        math.log(sum(map(math.exp, logits(row)))) - logits(row)[label]
        for row, label in zip(features.tolist(), labels.tolist(), strict=True)
    ]
    terms = [logistic(row, 1) for row in features.tolist()]
    terms += [logistic(row, 0) for row in outliers.tolist()]
    expected = sum(entropy) / len(entropy) + 0.3 * sum(terms) / len(terms)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_virtual_outliers_come_from_the_gaussians_of_the_queues() -> None:
    """Means, tied covariance and Mahalanobis lengths, from the definition."""
    _, criterion = made(queue=20, samples=1, select=1)
    for features, labels in batches(40):
        criterion.enqueue(features + labels[:, None], labels)
    criterion.begin_epoch(0.5, torch.Generator().manual_seed(3))
    draws = np.stack([criterion.virtual_outliers().numpy() for _ in range(1500)])
    queues = criterion.queues.numpy()
    for label in range(CLASSES):
        mean = queues[label].mean(axis=0)
        np.testing.assert_allclose(draws[:, label].mean(axis=0), mean, atol=0.12)
    residuals = np.concatenate([each - each.mean(axis=0) for each in queues])
    covariance = residuals.T @ residuals / len(residuals) + 1e-4 * np.eye(DIMENSION)
    centered = (draws - draws.mean(axis=0)).reshape(-1, DIMENSION)
    np.testing.assert_allclose(np.cov(centered.T), covariance, atol=0.12)


@pytest.mark.parametrize(("of", "count", "dimension"), [(200, 1, 3), (50, 3, 8), (7, 7, 2)])
def test_longest_normals_are_distributed_as_the_longest_of_many(
    of: int, count: int, dimension: int
) -> None:
    found = longest_normals(
        1500, count, dimension, of=of, generator=torch.Generator().manual_seed(0)
    ).numpy()
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(1500, of, dimension))
    order = np.argsort(-np.linalg.norm(vectors, axis=2), axis=1)[:, :count]
    plain = np.take_along_axis(vectors, order[:, :, None], axis=1)
    for place in range(count):
        lengths = [np.linalg.norm(each[:, place], axis=1) for each in (found, plain)]
        assert stats.ks_2samp(*lengths).pvalue > 1e-3, place
        for axis in range(dimension):
            sides = [each[:, place, axis] for each in (found, plain)]
            assert stats.ks_2samp(*sides).pvalue > 1e-4, (place, axis)
    lengths = np.linalg.norm(found, axis=2)
    assert (np.diff(lengths, axis=1) <= 0).all(), "the longest first"


def test_ten_thousand_samples_are_far_out() -> None:
    """The largest squared length of n is near the quantile 1 - 1/n."""
    found = longest_normals(500, 1, 64, of=10_000, generator=torch.Generator().manual_seed(0))
    median = found.square().sum(dim=2).median().item()
    assert stats.chi2.cdf(median, 64) == pytest.approx(0.5 ** (1 / 10_000), abs=2e-5)


def test_gradients_agree_with_finite_differences() -> None:
    head, criterion = made()
    criterion.class_weights.data[1] = -0.5  # without effect
    features, labels = batches(1)[0]
    outliers = 2 * batches(1, 3, seed=7)[0][0]
    names = ("class_weights", "regression.weight", "regression.bias")
    values = [criterion.get_parameter(name).detach().clone().requires_grad_() for name in names]
    weight, bias = head.weight.detach().clone(), head.bias.detach().clone()

    def loss(features: Tensor, weight: Tensor, bias: Tensor, *learned: Tensor) -> Tensor:
        for name, value in zip(names, learned, strict=True):
            owner, _, last = name.rpartition(".")
            module = criterion.get_submodule(owner)
            del module._parameters[last]
            setattr(module, last, value)
            module._parameters[last] = module.__dict__.pop(last)
        logits, virtual = (F.linear(each, weight, bias) for each in (features, outliers))
        return F.cross_entropy(logits, labels) + criterion.logistic_loss(logits, virtual)

    inputs = (features, weight, bias)
    assert torch.autograd.gradcheck(loss, (*(each.requires_grad_() for each in inputs), *values))


def test_features_in_the_queues_get_no_gradient_and_the_head_does() -> None:
    head, criterion = made()
    for features, labels in batches(6):
        criterion.enqueue(features, labels)
    features, labels = batches(1)[0]
    features.requires_grad_()
    criterion(head(features), labels).backward()
    assert not criterion.queues.requires_grad
    plain = torch.autograd.grad(
        SoftMaxLoss()(F.linear(features, head.weight, head.bias), labels), head.weight
    )[0]
    assert head.weight.grad is not None
    assert not torch.allclose(head.weight.grad, plain)
    assert criterion.class_weights.grad is not None
    assert criterion.class_weights.grad.abs().min() > 0


def test_it_begins_when_the_queues_are_full_and_its_time_has_come() -> None:
    head, criterion = made(start=0.4)
    (features, labels), *others = batches(8)
    plain = F.cross_entropy(F.linear(features, head.weight, head.bias), labels)
    criterion.begin_epoch(0.39, torch.Generator())
    assert torch.equal(criterion(head(features), labels), plain)
    for each in others:
        criterion.enqueue(*each)
    assert criterion.seen.min() >= 5
    assert torch.equal(criterion(head(features), labels), plain), "too early"
    criterion.begin_epoch(0.4, torch.Generator())
    assert criterion(head(features), labels) > plain
    _, fresh = made(start=0.4)
    fresh.begin_epoch(0.9, torch.Generator())
    assert torch.equal(fresh(head(features), labels), plain), "queues are not full"


def test_evaluation_leaves_the_queues_alone() -> None:
    head, criterion = made()
    features, labels = batches(1)[0]
    logits = head.eval()(features)
    assert logits.shape == (8, CLASSES)
    assert torch.equal(criterion(logits, labels), F.cross_entropy(logits, labels))
    assert int(criterion.seen.sum()) == 0
    assert torch.equal(head.train()(features), torch.cat([logits, features], dim=1))


def test_the_state_is_all_there_is() -> None:
    """A loss with the state of another, and the generator of the same epoch, gives the same."""
    head, first = made()
    for features, labels in batches(6):
        first.enqueue(features, labels)
    second = VOSLoss(head, start=0.0, queue=5, samples=50, select=2).double()
    second.load_state_dict(first.state_dict())
    features, labels = batches(1)[0]
    losses = []
    for criterion in (first, second):
        criterion.begin_epoch(0.5, torch.Generator().manual_seed(9))
        losses.append([criterion(head(features), labels).item() for _ in range(3)])
    assert losses[0] == losses[1]
    assert "class_weights" in dict(first.named_parameters())
    assert not any(name.startswith("head") for name in first.state_dict()), "the network's own"


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_training_that_diverges_gives_nan(value: float) -> None:
    """The training loop reports it; a factorization of such features raises otherwise."""
    head, criterion = made()
    for features, labels in batches(6):
        criterion.enqueue(features, labels)
    criterion.begin_epoch(0.5, torch.Generator())
    features, labels = batches(1)[0]
    features[0, 0] = value
    assert criterion(head(features), labels).isnan()


def test_a_loss_without_effect_says_so() -> None:
    _, criterion = made(queue=100)
    assert "80 images of class 1" in criterion.obstacle([60, 40, 50], epochs=2)
    assert criterion.obstacle([60, 50, 50], epochs=2) == ""
    assert SoftMaxLoss().obstacle([1], epochs=1) == ""


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("weight", -1.0, "weight must not be negative"),
        ("start", 1.0, "start must be at least 0 and below 1"),
        ("queue", 0, "queue must be a positive whole number"),
        ("queue", 2.5, "queue must be a positive whole number"),
        ("queue", 1e15, "queue is too large: memory has no place for 3 x 1,000,000,000,000,000 x"),
        ("samples", 0, "samples must be"),
        ("select", 51, "select must be at most samples"),
    ],
)
def test_options_are_checked(option: str, value: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(**{option: value})


def test_weights_below_zero_do_not_count() -> None:
    _, criterion = made()
    criterion.class_weights.data = torch.tensor([0.5, -3.0, 2.0], dtype=torch.float64)
    logits = torch.tensor([[1.0, 900.0, 2.0], [-800.0, 0.0, -801.0]], dtype=torch.float64)
    expected = [
        math.log(0.5 * math.e + 2 * math.e**2),
        -800 + math.log(0.5 + 2 / math.e),
    ]
    assert criterion.weighted_energies(logits).tolist() == pytest.approx(expected, rel=1e-12)
