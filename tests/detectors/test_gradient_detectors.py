"""Detectors with gradients, in float64, against loops over images that differentiate by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.gradient_detectors import load, scored
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Head, Outputs
from oodbench.data import ImageArray
from oodbench.models.classifier import Classifier

Make = Callable[..., Any]
Array = NDArray[np.float64]
SIZES = [7, 64]


def each_normalized(classifier: Classifier, data: ImageArray) -> Iterator[Tensor]:
    """The input of the network, [1, C, H, W] each, as published code takes it."""
    for image in torch.from_numpy(data.images).double():
        yield classifier.normalized(image[None]).detach().requires_grad_()


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(loss, x, retain_graph=True)[0]


# --- i-ODIN --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("temperature", "epsilon"), [(1000.0, 0.0014), (1.0, 0.05)])
def test_iodin_moves_one_value(
    tiny: Make, tiny_data: Make, size: int, temperature: float, epsilon: float
) -> None:
    classifier, data = tiny(), tiny_data(30)
    expected = []
    for x in each_normalized(classifier, data):
        logits = classifier.network(x) / temperature
        g = gradient(F.cross_entropy(logits, logits.argmax(dim=1)), x)[0]
        at = np.unravel_index(int(g.abs().argmax()), g.shape)
        moved = x.detach().clone()
        moved[0][at] -= epsilon * (1 if g[at] >= 0 else -1) / classifier.std.flatten()[at[0]]
        p = F.softmax(classifier.network(moved) / temperature, dim=1).amax().item()
        expected.append(np.log(p) - np.log1p(-p))
    detectors = load("iodin", temperature=temperature, epsilon=epsilon)
    found = scored(classifier, detectors, data, data, size)["iodin"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# --- AdaSCALE ------------------------------------------------------------------------------------


def ranked(values: Array, count: int) -> list[int]:
    return sorted(range(len(values)), key=lambda i: -values[i])[:count]


def adascale(
    classifier: Classifier, validation: ImageArray, tested: ImageArray, limits: tuple[float, float]
) -> dict[str, list[float]]:
    """Both variants, as the published code; of few features one at least is counted."""
    head = classifier.network.head
    assert isinstance(head, nn.Module)
    weight, bias = (each.detach().double().numpy() for each in head.parameters())

    def features(x: Tensor) -> Tensor:
        network: Any = classifier.network
        return network.second(network.first(x)).mean(dim=(2, 3))

    def measured(data: ImageArray) -> Iterator[tuple[Array, float]]:
        for x in each_normalized(classifier, data):
            z = features(x)
            g = gradient(classifier.network(x).amax(), x).flatten()
            moved = x.detach().flatten().clone()
            for i in ranked(-g.abs().numpy(), int(0.05 * len(g))):
                moved[i] += 0.5 * g[i].sign()
            after = features(moved.view_as(x))[0].detach().numpy()
            before = z[0].detach().numpy()
            first = ranked(before, max(1, int(0.05 * len(before))))
            second = ranked(before, max(1, int(0.01 * len(before))))
            shift = sum(abs(after[i] - before[i]) for i in second)
            yield before, sum(max(0.0, after[i]) for i in first) + 10 * shift

    known = [q for _, q in measured(validation)]
    found: dict[str, list[float]] = {"adascale_a": [], "adascale_l": []}
    for z, q in measured(tested):
        share = sum(each <= q for each in known) / len(known)
        percentile = limits[0] + (1 - share) * (limits[1] - limits[0])
        count = len(z) - round(len(z) * percentile)
        values = np.maximum(z, 0)
        r = values.sum() / sum(values[i] for i in ranked(values, count))
        for name, logits in (
            ("adascale_a", weight @ (z * np.exp(r)) + bias),
            ("adascale_l", r**2 * (weight @ z + bias)),
        ):
            found[name].append(float(np.logaddexp.reduce(logits)))
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("limits", [(0.75, 0.85), (0.2, 0.6)])
def test_adascale_is_the_loop(
    tiny: Make, tiny_data: Make, size: int, limits: tuple[float, float]
) -> None:
    classifier, validation, tested = tiny(), tiny_data(40, 1), tiny_data(30, 2)
    expected = adascale(classifier, validation, tested, limits)
    detectors = load("adascale_a", "adascale_l", percentiles=limits)
    found = scored(classifier, detectors, validation, tested, size)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


def test_adascale_without_activation_is_finite() -> None:
    for name in ("adascale_a", "adascale_l"):
        detector: Any = oodbench.load_detector(name)
        head = Head("linear", torch.rand(3, 8).double(), None)
        zero = Outputs(torch.zeros(2, 3).double(), torch.zeros(2, 8), head=head)
        detector.shifts = torch.zeros(4).double()
        assert detector.score(zero.replaced(perturbed=zero)).isfinite().all()


# --- NAC-UE --------------------------------------------------------------------------------------


def thresholds(bins: int) -> list[float]:
    """As the published code makes them: M limits, the last above every state."""
    half = [np.log(x) / np.log(1000) for x in np.linspace(1, np.sqrt(1000), bins // 2)]
    half[-1] = 0.5
    limits = [*half[:-1], *(1 - x for x in reversed(half))]
    limits[-1] += 0.01
    return [*limits, 1.2]


def nac(
    classifier: Classifier,
    training: ImageArray,
    tested: ImageArray,
    layers: Sequence[tuple[int, int, float]],
) -> list[float]:
    network: Any = classifier.network

    def states(data: ImageArray) -> Iterator[list[Array]]:
        for x in each_normalized(classifier, data):
            early = network.first(x)
            pooled = network.second(early).mean(dim=(2, 3))
            loss = -F.log_softmax(network.head(pooled), dim=1).mean()
            of_pooled = pooled * gradient(loss, pooled)
            of_early = early.sum(dim=(2, 3)) * gradient(loss, early).sum(dim=(2, 3))
            yield [of_pooled[0].detach().numpy(), of_early[0].detach().numpy()]

    def place(value: float, layer: tuple[int, int, float]) -> int:
        a, limits = expit(layer[2] * value), thresholds(layer[1])
        return next(i for i in range(len(limits) - 1) if limits[i] <= a < limits[i + 1])

    counts: dict[tuple[int, int, int], int] = {}
    for values in states(training):
        for i, layer in enumerate(layers):
            for neuron, value in enumerate(values[i]):
                key = i, neuron, place(value, layer)
                counts[key] = counts.get(key, 0) + 1
    found = []
    for values in states(tested):
        covered = [
            np.mean(
                [
                    min(counts.get((i, neuron, place(value, layer)), 0) / layer[0], 1)
                    for neuron, value in enumerate(values[i])
                ]
            )
            for i, layer in enumerate(layers)
        ]
        found.append(float(np.mean(covered)))
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("preset", "layers"),
    [
        ("auto", [(50, 50, 100.0), (100, 500, 1000.0)]),
        ("cifar100", [(50, 50, 50.0), (500, 1000, 10.0)]),
        ("imagenet", [(10, 50, 3000.0), (500, 50, 300.0)]),
        ("vit", [(500, 50, 100.0), (50, 500, 1.0)]),
    ],
)
def test_nac_is_the_loop(
    tiny: Make,
    tiny_data: Make,
    size: int,
    preset: str,
    layers: Sequence[tuple[int, int, float]],
) -> None:
    classifier, training, tested = tiny(), tiny_data(60, 1), tiny_data(25, 2)
    expected = nac(classifier, training, tested, layers)
    detectors = load("nac_ue", preset=preset)
    found = scored(classifier, detectors, training, tested, size)["nac_ue"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_layers_of_nac() -> None:
    detector = oodbench.load_detector("nac_ue")
    taps = ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert [*detector.choose_taps([*taps, "features"])] == ["features", *taps[3:0:-1]]
    assert [*detector.choose_taps(taps)] == taps[:0:-1], "without the input of the last layer"
    assert [*detector.choose_taps(["features"])] == ["features"]
    with pytest.raises(ValueError, match="feature layers"):
        detector.choose_taps([])


# --- GradUncertainty -----------------------------------------------------------------------------


@pytest.mark.parametrize("biased", [True, False])
def test_the_closed_form_of_grad_uncertainty(biased: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=biased).double()
    features = torch.randn(12, 6).double()
    features[3] = 0
    expected = []
    for f in features:
        p = layer(f[None]).softmax(dim=1)
        loss = F.binary_cross_entropy(p, torch.ones_like(p), reduction="sum")
        gradients = torch.autograd.grad(loss, list(layer.parameters()))
        expected.append(sum(float(g.square().sum()) for g in gradients))
    head = Head("linear", layer.weight.detach(), layer.bias.detach() if biased else None)
    outputs = Outputs(head.logits(features), features, head=head)
    found = oodbench.load_detector("grad_uncertainty").score(outputs)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
