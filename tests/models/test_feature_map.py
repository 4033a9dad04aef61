"""The map before pooling: found by running the network, captured and handed on batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tuning import tuned_alone
from torch import Tensor, nn

from oodbench import Detector, Outputs, models, register
from oodbench.data import ImageArray
from oodbench.detector import Batches
from oodbench.engine.fitting import fit_together
from oodbench.engine.meters import PassMeter
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_split
from oodbench.engine.tuning_data import TuningData
from oodbench.models.classifier import Classifier
from oodbench.models.feature_map import find_map
from oodbench.models.user_classifier import UserClassifier
from oodbench.planning.plan import Method

Make = Callable[..., Any]


def classifier_of(network: Any) -> Classifier:
    return Classifier(network, (0.5,) * 3, (0.25,) * 3).eval()


def photographs(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet8", "stage3"), ("resnet18", "stage4"), ("densenet_bc100", "norm")],
)
@pytest.mark.parametrize("head", ["softmax", "dismax"])
def test_the_map_of_our_networks(name: str, expected: str, head: str) -> None:
    classifier = classifier_of(models.create(name, num_classes=10, head=head))
    assert find_map(classifier, photographs()) == expected


class Own(nn.Module):
    """Whatever is put between a convolution and a linear layer."""

    def __init__(self, middle: nn.Module, features: int) -> None:
        super().__init__()
        self.conv, self.middle = nn.Conv2d(3, 6, 3), middle
        self.linear = nn.Linear(features, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.middle(self.conv(images)))


def pooling(*before: nn.Module, after: tuple[nn.Module, ...] = ()) -> nn.Sequential:
    return nn.Sequential(*before, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *after)


@pytest.mark.parametrize(
    ("middle", "features", "expected"),
    [
        (pooling(nn.ReLU()), 6, "module.middle.0"),
        (pooling(nn.BatchNorm2d(6), nn.ReLU(inplace=True)), 6, "module.middle.1"),
        (pooling(nn.ReLU(), after=(nn.Dropout(0.5),)), 6, "module.middle.0"),
        (pooling(nn.ReLU(), after=(nn.Linear(6, 5), nn.ReLU())), 5, None),
        (nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()), 6, None),
    ],
    ids=["plain", "in place", "dropout", "several layers", "largest"],
)
def test_the_map_of_other_networks(middle: nn.Module, features: int, expected: str | None) -> None:
    classifier = classifier_of(models.adapt(Own(middle, features)))
    assert find_map(classifier, photographs()) == expected
    assert not any(module._forward_hooks for module in classifier.modules())


class Tokens(nn.Module):
    """A map [B, D, H, W], rectified, as tokens [B, H W, D]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2).relu()


class Turned(nn.Module):
    """A map with its channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class Mapping(nn.Module):
    """A map in what blocks of Hugging Face return."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"mask": x > 0, "state": (x.relu(), None)}


class Mean(nn.Module):
    """Over the places of an activation."""

    def __init__(self, *axes: int, times: float = 1.0) -> None:
        super().__init__()
        self.axes, self.times = axes, times

    def forward(self, x: Any) -> Tensor:
        x = x["state"][0] if isinstance(x, dict) else x
        return self.times * x.mean(self.axes)


LAYOUTS = {
    "map": (nn.ReLU(), Mean(2, 3)),
    "channels last": (Turned(), Mean(1, 2)),
    "tokens": (Tokens(), Mean(1)),
    "mapping": (Mapping(), Mean(2, 3)),
    "first of one axis": (nn.ReLU(), nn.Sequential(Mean(2), Mean(2))),
}
TYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def of_type(network: nn.Module, dtype: torch.dtype) -> UserClassifier:
    adapted = models.adapt(network.to(dtype)).eval()
    place = torch.device("cpu")
    return UserClassifier(adapted, None, dtype=dtype, device=place, channels_last=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_map_in_every_type_and_layout(layout: str, dtype: torch.dtype) -> None:
    before, mean = LAYOUTS[layout]
    for size in (32, 8):  # of the second, the map has as many channels as rows and columns
        network = Own(nn.Sequential(before, mean), 6)
        classifier = of_type(network, dtype)
        images = photographs()[..., :size, :size]
        assert find_map(classifier, images) == "module.middle.0"
        capture = Capture.of({"feature_map"}, "module.middle.0")
        runner = NetworkRunner(classifier, batch_size=4, capture=capture)
        with runner.attached(), torch.no_grad():
            outputs = runner.outputs(images)
            expected = network.conv(images.to(dtype))
        if layout != "channels last":
            expected = expected.relu()
        assert outputs.feature_map is not None
        found = outputs.feature_map.flatten(2)
        torch.testing.assert_close(found, expected.flatten(2), rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(found.mean(dim=2), outputs.features, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(
    ("dtype", "times"),
    [
        (torch.bfloat16, 1.04),
        (torch.float16, 1.005),
        (torch.float32, 1 + 1e-4),
        (torch.float64, 1 + 1e-12),
    ],
)
def test_what_is_not_the_mean_is_told_in_every_type(dtype: torch.dtype, times: float) -> None:
    network = Own(nn.Sequential(nn.ReLU(), Mean(2, 3, times=times)), 6)
    assert find_map(of_type(network, dtype), photographs()) is None


def in_place() -> Classifier:
    return classifier_of(models.adapt(Own(pooling(nn.BatchNorm2d(6), nn.ReLU(inplace=True)), 6)))


def test_the_map_that_is_captured_has_the_features_as_its_mean() -> None:
    classifier = in_place()
    name = find_map(classifier, photographs())
    runner = NetworkRunner(classifier, batch_size=4, capture=Capture.of({"feature_map"}, name))
    with runner.attached(), torch.no_grad():
        outputs = runner.outputs(photographs())
    assert outputs.feature_map is not None
    assert outputs.feature_map.shape == (4, 6, 30, 30)
    torch.testing.assert_close(outputs.feature_map.mean(dim=(2, 3)), outputs.features)


def test_without_a_map_the_features_are_one() -> None:
    network = Own(pooling(nn.ReLU(), after=(nn.Linear(6, 5), nn.ReLU())), 5)
    classifier = classifier_of(models.adapt(network))
    runner = NetworkRunner(classifier, batch_size=4, capture=Capture.of({"feature_map"}))
    with runner.attached(), torch.no_grad():
        outputs = runner.outputs(photographs())
    assert outputs.feature_map is not None
    assert outputs.feature_map.shape == (4, 5, 1, 1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_tap_is_kept_as_it_was_when_the_next_layer_works_in_place(
    in_place: bool, mode: Make
) -> None:
    network = Own(pooling(nn.BatchNorm2d(6), nn.ReLU(inplace=in_place)), 6)
    classifier = classifier_of(models.adapt(network, taps=("middle.0",)))
    runner = NetworkRunner(classifier, batch_size=4, capture=Capture.of({"taps", "tap_maps"}))
    calls: list[object] = []
    network.register_forward_pre_hook(lambda *call: calls.append(call))
    with runner.attached(), mode():
        several = [runner.outputs(photographs()) for _ in range(3)]
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    for outputs in several:
        assert outputs.tap_maps["middle.0"].min() < 0
        torch.testing.assert_close(
            outputs.tap_maps["middle.0"].mean(dim=(2, 3)), outputs.taps["middle.0"]
        )
    # The batch that showed that the network works in place was passed once more.
    assert len(calls) == (4 if in_place else 3)


def test_a_tap_that_a_later_batch_overwrites() -> None:
    """A network need not work in place on every batch."""

    class Sometimes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu_() if len(x) < 4 else x.relu()

    network = Own(pooling(nn.BatchNorm2d(6), Sometimes()), 6)
    classifier = classifier_of(models.adapt(network, taps=("middle.0",)))
    runner = NetworkRunner(classifier, batch_size=4, capture=Capture.of({"tap_maps"}))
    with runner.attached(), torch.inference_mode():
        whole, part = runner.outputs(photographs()), runner.outputs(photographs()[:3])
    torch.testing.assert_close(part.tap_maps["middle.0"], whole.tap_maps["middle.0"][:3])


@register("brightest", needs=("feature_map", "fit", "validation"), search_space={"times": (1, 2)})
class Brightest(Detector):
    """The largest value of the map, as often as is said; notes what it is shown."""

    def __init__(self, times: int = 1) -> None:
        self.times = times
        self.shown: list[tuple[str, int]] = []

    def fit(self, batches: Batches) -> None:
        self.note("fit", batches)

    def fit_validation(self, batches: Batches) -> None:
        self.note("validation", batches)

    def note(self, hook: str, batches: Batches) -> None:
        for outputs in batches:
            assert outputs.feature_map is not None
            assert not hasattr(outputs, "taps")
            assert not hasattr(outputs, "tap_maps")
            self.shown.append((hook, len(outputs)))

    def score(self, outputs: Outputs) -> Tensor:
        assert outputs.feature_map is not None
        brightest = outputs.feature_map.flatten(1).amax(dim=1)
        outputs.feature_map.zero_()  # its own copy
        return self.times * brightest


METHOD = Method("M", "model", Brightest.info)


def test_maps_reach_fit_and_score(tiny: Make, tiny_data: Make) -> None:
    classifier: Classifier = tiny()
    data: ImageArray = tiny_data(10)
    images = torch.from_numpy(data.images).double()
    name = find_map(classifier, images[:4])
    assert name == "second"
    detector = Brightest()
    runner = NetworkRunner(
        classifier, batch_size=4, capture=Capture.of({"feature_map", "taps"}, name)
    )
    with runner.attached():
        for need in ("fit", "validation"):
            fits = fit_together({"M": detector}, lambda: pass_outputs(runner, data), 3, needs=need)
            assert fits["M"].error is None
        scored = score_split(
            runner,
            data,
            {"M": detector, "again": detector},
            dataset="test",
            check_batches=True,
        )
    assert not scored.errors, scored.errors
    assert detector.shown == [(hook, n) for hook in ("fit", "validation") for n in (4, 4, 2)]
    network = classifier.network
    with torch.no_grad():
        x = network.second(network.first(classifier.normalized(images)))
    for scores in scored.scores.values():
        np.testing.assert_allclose(scores, x.flatten(1).amax(dim=1), rtol=1e-12)


def test_tuning_reads_maps_batch_by_batch_in_one_pass(tiny: Make) -> None:
    classifier: Classifier = tiny()
    images = torch.rand(
        40, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    network = classifier.network
    with torch.no_grad():
        x = network.second(network.first(classifier.normalized(images)))
    order = x.flatten(1).amax(dim=1).argsort()
    # Interleaved, so that both halves of both sides have the same spread.
    data = TuningData(images[order[20:]], images[:0], images[order[:20]])
    runner = NetworkRunner(classifier, batch_size=7, capture=Capture.of({"feature_map"}, "second"))
    meter = PassMeter(network, images[:2])
    with runner.attached(), meter.counting(40):
        best = tuned_alone(runner, METHOD, Brightest(), data)
    assert (best.parameters, best.value) == ({"times": 1}, 1.0)
    assert meter.forwards == pytest.approx(0.5), "the halves that select, once for both settings"
