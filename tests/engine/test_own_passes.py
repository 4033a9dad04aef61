"""Passes that detectors take for themselves: what is shared, what it costs, what is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.gradient_detectors import fit, load, runner_of
from torch import Tensor

import oodbench
from oodbench import Outputs, PerturbingDetector
from oodbench.data import ImageArray
from oodbench.engine import costs
from oodbench.engine.passes.fitting_pass import OwnSeconds, pass_outputs
from oodbench.engine.passes.own_passes import OwnPasses
from oodbench.engine.scoring import score_split

Make = Callable[..., Any]


def test_both_variants_and_all_percentiles_share_one_step(tiny: Make, tiny_data: Make) -> None:
    classifier, forwards = tiny(), []
    classifier.network.register_forward_hook(lambda *given: forwards.append(1))
    detectors = load("adascale_a", "adascale_l")
    runner = runner_of(classifier, detectors, 64)
    with runner.attached():
        fit(runner, detectors, tiny_data(40))
        assert len(forwards) == 2, "one forward before the step, and one after it"
        forwards.clear()
        images = torch.from_numpy(tiny_data(20).images).double().requires_grad_()
        passes = OwnPasses(runner, images, runner.outputs(images))
        for method, detector in detectors.items():
            for index, limits in enumerate(detector.info.search_space["percentiles"]):
                candidate = detector.with_parameters(percentiles=limits)
                passes.view(method, candidate, (method, index))
    assert len(forwards) == 2


def test_costs_are_exact(tiny: Make, tiny_data: Make) -> None:
    classifier = tiny(dtype=torch.float32)
    names = ("iodin", "adascale_a", "adascale_l", "nac_ue", "grad_uncertainty")
    detectors = load(*names) | {"still": oodbench.load_detector("adascale_a", epsilon=0.0)}
    runner = runner_of(classifier, detectors, 16)
    with runner.attached():
        fit(runner, detectors, tiny_data(40))
    images = torch.from_numpy(tiny_data(16).images)
    measured, errors = costs.measure(
        classifier, detectors, None, images, capture=runner.capture, rounds=1
    )
    assert not errors
    passes = {name: (cost.forwards, cost.backwards) for name, cost in measured.items()}
    first, second, head = 4 * 36 * 2 * 9, 5 * 9 * 4 * 9, 3 * 5  # multiply-adds
    part = (second + head) / (first + second + head)
    assert passes.pop("nac_ue") == (1.0, pytest.approx(part, abs=1e-6))
    assert passes == {
        "iodin": (2.0, 1.0),
        "adascale_a": (2.0, 1.0),
        "adascale_l": (2.0, 1.0),
        "still": (1.0, 0.0),
        "grad_uncertainty": (1.0, 0.0),
    }


class Stream:
    """Batches of an unknown number of images."""

    name, size = "stream", None

    def __init__(self, data: ImageArray) -> None:
        self._data = data

    def first(self) -> Any:
        return self._data.images[:9], self._data.labels[:9]

    def batches(self) -> Iterator[Any]:
        for start in range(0, len(self._data), 9):
            rows = slice(start, start + 9)
            yield self._data.images[rows], self._data.labels[rows]


def test_a_fit_takes_gradients_of_a_sample(tiny: Make, tiny_data: Make) -> None:
    classifier, data = tiny(), tiny_data(100)
    seen: list[int] = []
    classifier.network.register_forward_hook(lambda module, given, out: seen.append(len(out)))

    def counted(source: Any, size: int) -> Tensor:
        detectors = load("nac_ue", fitting_images=40)
        runner = runner_of(classifier, detectors, size)
        with runner.attached():
            fit(runner, detectors, source)
        counts: Tensor = detectors["nac_ue"].counts["cifar10"][0]
        assert counts.sum(dim=1).tolist() == [40.0] * 5
        return counts

    sample = counted(data, 64)
    assert sum(seen) == 40, "images that no detector reads are not computed"
    assert torch.equal(counted(data, 7), sample)
    first = counted(Stream(data), 64)
    assert torch.equal(first, counted(data.select(np.arange(40)), 64))
    assert not torch.equal(first, sample)


def test_a_detector_of_all_images_beside_one_of_a_sample(tiny: Make, tiny_data: Make) -> None:
    classifier, data = tiny(), tiny_data(100)
    alone, both = load("nac_ue", fitting_images=40), load("nac_ue", fitting_images=40)
    both |= load("mahalanobis_single")
    single = load("mahalanobis_single")
    runner = runner_of(classifier, both, 30)
    with runner.attached():
        for detectors in (alone, single, both):
            fit(runner, detectors, data)
        outputs = next(pass_outputs(runner, data))
    for found, expected in zip(
        both["nac_ue"].counts["cifar10"], alone["nac_ue"].counts["cifar10"], strict=True
    ):
        assert torch.equal(found, expected)
    means = [each["mahalanobis_single"].score(outputs) for each in (both, single)]
    assert torch.equal(*means)


def test_time_of_gradients_is_that_of_their_detector(tiny: Make, tiny_data: Make) -> None:
    detectors = load("adascale_a", "adascale_l") | load("nac_ue", "mahalanobis_single")
    seconds = OwnSeconds()
    runner = runner_of(tiny(), detectors, 30)
    with runner.attached():
        list(pass_outputs(runner, tiny_data(60), detectors, seconds))
    assert seconds.alone.keys() == {"adascale_a", "adascale_l", "nac_ue"}
    both = seconds.alone["adascale_a"], seconds.alone["adascale_l"]
    assert 0 < both[1] < 2 * both[0], "the second would have taken the step of the first itself"
    assert 0 < seconds.spent < sum(seconds.alone.values())


class Wrong(PerturbingDetector):
    """A step of a wrong shape, or that is not finite."""

    epsilon = 0.1

    def __init__(self, how: str = "shape") -> None:
        self.how = how

    def perturbation_losses(self, outputs: Outputs) -> Tensor:
        return outputs.logits.amax(dim=1)

    def step(self, images: Tensor, gradient: Tensor, std: Tensor) -> Any:
        return {"shape": images[:1], "nan": images / 0, "nothing": None}[self.how]

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.amax(dim=1)


@pytest.mark.parametrize(
    ("how", "said"),
    [("shape", "of shape [1, 2, 6, 6]"), ("nan", "is not finite"), ("nothing", "nothing")],
)
def test_a_wrong_step_is_said(tiny: Make, tiny_data: Make, how: str, said: str) -> None:
    detector = oodbench.register("wrong_step", needs=("input_gradient",))(Wrong)(how)
    runner = runner_of(tiny(), {"M": detector}, 64)
    with runner.attached():
        result = score_split(runner, tiny_data(8), {"M": detector}, dataset="x")
    assert "step" in str(result.errors["M"])
    assert said in str(result.errors["M"])
