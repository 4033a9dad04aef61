"""Counting passes, operations and memory, against counts by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench.engine.meters import PassMeter, count_flops, peak_memory, tensor_bytes
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.losses import DisMaxHead
from oodbench.models.classifier import Classifier, Network
from oodbench.numerics.statistics.moments import TiedGaussian

Make = Callable[..., Any]
CPU = torch.device("cpu")


# --- passes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["resnet8", "resnet20"])
@pytest.mark.parametrize("head", ["softmax", "dismax"])
def test_full_pass_is_one(network: str, head: str) -> None:
    model = oodbench.models.create(network, 10, head).eval()
    images = torch.rand(5, 3, 8, 8)
    meter = PassMeter(model, images[:2])
    with meter.counting(5), torch.no_grad():
        model(images)
    assert meter.forwards == pytest.approx(1, rel=1e-12)
    assert meter.backwards == 0
    with meter.counting(5), torch.inference_mode():
        model(images[:2])
        model(images[2:])
    assert meter.forwards == pytest.approx(2, rel=1e-12)


def test_backward_is_counted_apart_and_every_time(tiny: Make) -> None:
    network = tiny().network.requires_grad_(False)
    images = torch.rand(4, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    meter = PassMeter(network, images)
    with meter.counting(4):
        loss = network(images).sum()
        assert meter.backwards == 0
        for _ in range(3):
            loss.backward(inputs=[images], retain_graph=True)
    assert meter.forwards == pytest.approx(1, rel=1e-12)
    assert meter.backwards == pytest.approx(3, rel=1e-12)


def test_part_of_a_pass_is_its_share(tiny: Make) -> None:
    """Shares are multiply-adds: 36 x 18 x 4, 9 x 36 x 5, 5 x 3."""
    network = tiny().network.requires_grad_(False)
    images = torch.rand(4, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    share = 36 * 18 * 4 / (36 * 18 * 4 + 9 * 36 * 5 + 5 * 3)
    meter = PassMeter(network, images)
    with meter.counting(4):
        network.first(images).sum().backward(inputs=[images])
    assert meter.forwards == pytest.approx(share, rel=1e-12)
    assert meter.backwards == pytest.approx(share, rel=1e-12)


def test_nothing_is_counted_outside(tiny: Make) -> None:
    network = tiny().network
    images = torch.rand(4, 2, 6, 6, dtype=torch.float64)
    meter = PassMeter(network, images)
    with meter.counting(4):
        pass
    network(images)
    assert (meter.forwards, meter.backwards) == (0, 0)
    assert not any(module._forward_hooks for module in network.modules())


def test_layer_that_is_used_twice_counts_twice() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.again, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            once = self.again(x)
            return self.head(self.again(once))

    model, x = Recurrent(), torch.rand(3, 6)
    meter = PassMeter(model, x)
    with meter.counting(3):
        model(x)
    assert meter.forwards == pytest.approx(1, rel=1e-12)
    with meter.counting(3):
        model.again(x)
    assert meter.forwards == pytest.approx(1 + 36 / 84, rel=1e-12)


class ConvolutionTaps(Network):
    """Taps that are layers with weights themselves, as DenseNet's stem is."""

    def __init__(self) -> None:
        super().__init__()
        self.tap_names = ("stem", "last")
        self.stem, self.last = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.last(self.stem(images)).mean(dim=(2, 3)))
        return logits


def test_layer_at_which_a_pass_stops_counts() -> None:
    classifier = Classifier(ConvolutionTaps(), (0.0, 0.0), (1.0, 1.0))
    images = torch.rand(3, 2, 6, 6)
    runner = NetworkRunner(classifier, batch_size=3, capture=Capture(taps=True))
    meter = PassMeter(classifier.network, images)
    with runner.attached(), meter.counting(3), torch.no_grad():
        runner.activation(images, "stem")
    stem, last = 16 * 4 * 18, 4 * 4 * 36
    assert meter.forwards == pytest.approx(stem / (stem + last + 12), rel=1e-12)


# --- operations --------------------------------------------------------------------------------


@contextmanager
def plain() -> Iterator[None]:
    yield


@pytest.mark.parametrize("mode", [plain, torch.no_grad, torch.inference_mode])
def test_operations_by_hand(mode: Callable[[], Any]) -> None:
    convolution, linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 7)
    norm = nn.BatchNorm2d(4).eval()
    images = torch.rand(2, 3, 8, 8)
    prototypes = DisMaxHead(4, 10)

    def compute() -> None:
        with mode():
            x = torch.relu(norm(convolution(images)))
            x = x + x
            features = x.mean(dim=(2, 3))
            linear(features)
            prototypes(features)

    elements = 2 * 4 * 64
    by_hand = {
        "convolution": 2 * elements * 27,
        "norm": 2 * elements,
        "rectifier": elements,
        "addition": elements,
        "linear": 2 * 2 * 4 * 7,
        "distances": 3 * 2 * 10 * 4,
    }
    assert count_flops(compute) == sum(by_hand.values()), by_hand


@pytest.mark.parametrize("rows", [3, 40])
def test_distances_are_three_operations_each(rows: int) -> None:
    head = DisMaxHead(16, 30).requires_grad_(False)
    features = torch.rand(rows, 16, requires_grad=True)
    forward = 3 * rows * 30 * 16
    assert count_flops(lambda: head(features)) == forward
    assert count_flops(lambda: head(features).sum().backward(inputs=[features])) == 2 * forward


def test_backward_to_the_input_costs_one_forward() -> None:
    """With gradients of the weights it would cost two."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    forward = count_flops(lambda: layers(images))
    assert forward == 2 * (2 * 4 * 36 * 27 + 2 * 4 * 36 * 5)
    assert count_flops(lambda: layers(images).sum().backward()) == 3 * forward
    layers.requires_grad_(False)
    images.grad = None  # adding to a gradient that is there would count too
    both = count_flops(lambda: layers(images).sum().backward(inputs=[images]))
    assert both == 2 * forward


# --- memory ------------------------------------------------------------------------------------

KILO = 4 * 1000  # bytes of a thousand float32


@pytest.mark.parametrize("mode", [plain, torch.inference_mode])
def test_peak_memory_by_hand(mode: Callable[[], Any]) -> None:
    def compute() -> None:
        with mode():
            a = torch.ones(1000)
            b = torch.cat([a, a])  # three thousand alive
            del a
            c = b[:1000].clone()  # three again
            del b
            d = c * 2  # two
            del c
            d.sum()

    assert peak_memory(compute, CPU) == 3 * KILO


def test_peak_memory_leaves_out_what_was_there_before() -> None:
    before = torch.ones(1000)
    weight = torch.ones(1000, 1000)

    assert peak_memory(lambda: before.view(10, 100).detach()[:5].t(), CPU) == 0
    assert peak_memory(lambda: before.mul_(2), CPU) == 0
    assert peak_memory(lambda: torch.nn.functional.linear(before, weight), CPU) == KILO


def test_peak_memory_counts_a_view_once() -> None:
    def compute() -> None:
        a = torch.ones(1000)
        views = [a.view(10, 100), a[:500], a.detach()]
        del a, views
        torch.ones(500)

    assert peak_memory(compute, CPU) == KILO


def test_graph_that_is_kept_is_memory() -> None:
    x = torch.ones(1000, requires_grad=True)

    def chain() -> Tensor:
        y = x
        for _ in range(10):
            y = y.sin()
        return y

    def without_graph() -> None:
        with torch.no_grad():
            chain()

    assert peak_memory(without_graph, CPU) == 2 * KILO
    assert peak_memory(chain, CPU) == 10 * KILO


@dataclass
class State:
    kept: Tensor
    more: dict[str, Any]
    number: float = 1.5


def test_tensor_bytes() -> None:
    floats, doubles = torch.zeros(10), torch.zeros(10, dtype=torch.float64)
    assert tensor_bytes(floats) == 40
    assert tensor_bytes([floats, (doubles, 3, "text", None)]) == 120
    assert tensor_bytes([floats, {"again": floats}]) == 40, "one tensor is counted once"
    assert tensor_bytes(State(floats, {"a": [doubles]})) == 120
    norm = nn.BatchNorm1d(4)  # weight, bias, mean, variance, and a counter of 8 bytes
    assert tensor_bytes(norm) == 4 * 4 * 4 + 8
    circle: dict[str, Any] = {"floats": floats}
    circle["self"] = circle
    assert tensor_bytes(circle) == 40


def test_tensor_bytes_of_a_fitted_detector() -> None:
    detector: Any = oodbench.load_detector("mahalanobis")
    assert tensor_bytes(detector) == 0
    means, covariance = torch.zeros(3, 5).double(), torch.eye(5).double()
    detector.gaussians = {"tap": TiedGaussian(means, covariance, 1e-16)}
    assert tensor_bytes(detector) == 8 * (15 + 25)
