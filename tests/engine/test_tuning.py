"""Tuning data, and the choice of parameters against a search one setting at a time."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tuning import tuned_alone
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import oodbench
from oodbench import Detector, Outputs, register
from oodbench.data import ImageArray
from oodbench.detector.base import step_sign
from oodbench.engine.fitting import fit_together
from oodbench.engine.meters import PassMeter
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.contract import TuningError
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.image_sources import Batch, SplitImages
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.tuning import Tuned, tune
from oodbench.engine.tuning_data import (
    Kind,
    Part,
    TuningData,
    TuningImages,
    ValidationImages,
    adversarial_data,
)
from oodbench.models.classifier import Classifier
from oodbench.numerics.likelihood.regression import fit_logistic_regression
from oodbench.planning.plan import Method
from oodbench.specs import TuningSpec

Make = Callable[..., Any]
Taps = Callable[[Classifier, Tensor], dict[str, Tensor]]
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def exact(trained: Classifier) -> Classifier:
    """The trained network in float64, where the sign of a gradient is not a matter of rounding."""
    return copy.deepcopy(trained).double()


def made(
    classifier: Classifier, data: ImageArray, spec: TuningSpec, seed: int = 0, batch_size: int = 64
) -> TuningData:
    runner = NetworkRunner(classifier, batch_size=batch_size)
    with runner.attached():
        return adversarial_data(runner, data, spec, seed)


def predicted(classifier: Classifier, images: Tensor) -> NDArray[np.int64]:
    with torch.no_grad():
        return classifier(images).argmax(dim=1).numpy()


def attacked(classifier: Classifier, data: ImageArray, step: float) -> Tensor:
    """Fast gradient sign method with true labels, clamped."""
    images = torch.from_numpy(data.images).double().requires_grad_()
    loss = F.cross_entropy(classifier(images), torch.from_numpy(data.labels), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return torch.clamp(images.detach() + step * torch.sign(gradient), 0, 1)


def originals(data: ImageArray, images: Tensor) -> NDArray[np.int64]:
    """Which image of the data each of some unchanged images is."""
    known = {image.tobytes(): index for index, image in enumerate(data.images)}
    assert len(known) == len(data)
    return np.array([known[image.astype(np.float32).tobytes()] for image in images.numpy()])


# --- adversarial data --------------------------------------------------------------------------


def test_kept_are_the_images_that_are_right_right_and_wrong(
    exact: Classifier, digits: Make
) -> None:
    data = digits("validation")
    # Noise that fools the network on some images too.
    found = made(exact, data, TuningSpec(fgsm_step=0.1, noise_std=1.0))
    rows = originals(data, found.positives)
    assert len(set(rows)) == len(rows) >= 20
    assert len(found.noisy) == len(found.negatives) == len(rows)
    labels = data.labels[rows]
    np.testing.assert_array_equal(predicted(exact, found.positives), labels)
    np.testing.assert_array_equal(predicted(exact, found.noisy), labels)
    assert (predicted(exact, found.negatives) != labels).all()
    assert list(rows) != sorted(rows), "not shuffled"


def test_attack_is_one_clamped_step_along_the_sign_of_the_gradient(
    exact: Classifier, digits: Make
) -> None:
    data = digits("validation")
    found = made(exact, data, TuningSpec(fgsm_step=0.1))
    rows = originals(data, found.positives)
    expected = attacked(exact, data, 0.1)[rows]
    torch.testing.assert_close(found.negatives, expected, rtol=0, atol=1e-12)
    assert found.negatives.min() == 0
    assert found.negatives.max() == 1


def test_without_noise_all_right_then_wrong_are_kept(exact: Classifier, digits: Make) -> None:
    data = digits("validation")
    found = made(exact, data, TuningSpec(fgsm_step=0.1, noise_std=0.0))
    clean = torch.from_numpy(data.images).double()
    right = predicted(exact, clean) == data.labels
    wrong = predicted(exact, attacked(exact, data, 0.1)) != data.labels
    assert sorted(originals(data, found.positives)) == list(np.flatnonzero(right & wrong))
    torch.testing.assert_close(found.noisy, found.positives, rtol=0, atol=0)


def test_noise_is_in_units_of_the_normalized_image(exact: Classifier, digits: Make) -> None:
    data = digits("validation")
    found = made(exact, data, TuningSpec(fgsm_step=0.1, noise_std=0.25))
    inner = (found.positives > 0.4) & (found.positives < 0.6)  # four deviations from the ends
    noise = (found.noisy - found.positives)[inner]
    assert len(noise) > 100
    assert noise.std().item() == pytest.approx(0.25 * exact.std.item(), rel=0.1)
    assert abs(noise.mean().item()) < 0.25 * exact.std.item() * 4 / len(noise) ** 0.5
    assert found.noisy.min() == 0
    assert found.noisy.max() == 1


def test_seed_decides(exact: Classifier, digits: Make) -> None:
    data, spec = digits("validation", 150), TuningSpec(fgsm_step=0.1)
    first, again, other = (made(exact, data, spec, seed) for seed in (0, 0, 1))
    for name in ("positives", "noisy", "negatives"):
        torch.testing.assert_close(getattr(again, name), getattr(first, name), rtol=0, atol=0)
    assert not torch.equal(other.noisy[:20], first.noisy[:20])
    assert list(originals(data, other.positives)) != list(originals(data, first.positives))


def test_too_few_fooled_images_are_an_error_that_says_what_to_do(
    exact: Classifier, digits: Make
) -> None:
    spec = TuningSpec(fgsm_step=1e-6, noise_std=0.0)
    with pytest.raises(TuningError) as raised:
        made(exact, digits("validation", 100), spec)
    for part in (
        "on 0 of 100",
        "fgsm_step 1e-06",
        "min_adversarial 20",
        "raise tuning.fgsm_step",
        "give more",
    ):
        assert part in str(raised.value)


def parts_of(
    classifier: Classifier, images: TuningImages, batch_size: int = 8
) -> dict[Part, Tensor]:
    """All parts of tuning images, each from its batches."""
    runner = NetworkRunner(classifier, batch_size=batch_size)
    found: dict[Part, list[Tensor]] = {}
    for part, batch in images.batches(runner, lambda part: True):
        assert len(batch) <= batch_size
        found.setdefault(part, []).append(batch)
    return {part: torch.cat(batches).double() for part, batches in found.items()}


@pytest.mark.parametrize("batch_size", [4, 100])
def test_halves_are_disjoint_and_whole(exact: Classifier, batch_size: int) -> None:
    images = torch.arange(21.0).view(21, 1, 1, 1)
    parts = parts_of(exact, TuningData(images, images + 0.25, images + 0.5), batch_size)
    shifts: dict[Kind, float] = {"positives": 0.0, "noisy": 0.25, "negatives": 0.5}
    for kind, shift in shifts.items():
        halves = [parts[Part(kind, fits)].flatten() - shift for fits in (True, False)]
        assert [len(half) for half in halves] == [10, 11]
        # The three forms of one original image are on the same side.
        torch.testing.assert_close(torch.cat(halves), torch.arange(21.0).double())


def source(data: ImageArray, name: str = "images") -> SplitImages:
    return SplitImages(name, lambda: data)


@pytest.mark.parametrize("oracle", [True, False])
def test_validation_images(exact: Classifier, digits: Make, oracle: bool) -> None:
    inside = digits("validation", 40)
    outside = ImageArray((255 - 255 * digits("train", 30).images).astype(np.uint8))
    sides = source(inside), source(outside)
    found = ValidationImages.of(*sides, TuningSpec(), seed=0, oracle=oracle)
    assert (found.selected_by, found.whole) == (
        ("tnr_at_95_tpr", False) if oracle else ("auroc", True)
    )
    parts = parts_of(exact, found)
    assert {part: len(images) for part, images in parts.items()} == {
        Part("positives", True): 20,
        Part("positives", False): 20,
        Part("negatives", True): 15,
        Part("negatives", False): 15,
    }
    whole = [parts[Part("positives", fits)] for fits in (True, False)]
    rows = originals(inside, torch.cat(whole))
    assert sorted(rows) == list(range(40))
    assert list(rows) != list(range(40)), "the halves are not drawn at random"
    negatives = torch.cat([parts[Part("negatives", fits)] for fits in (True, False)])
    floats = torch.from_numpy(outside.images).double() / 255  # bytes become fractions
    torch.testing.assert_close(negatives.sum(dim=0), floats.sum(dim=0), rtol=0, atol=1e-5)
    again = parts_of(exact, ValidationImages.of(*sides, TuningSpec(), seed=0, oracle=oracle))
    for part, images in parts.items():
        torch.testing.assert_close(again[part], images, rtol=0, atol=0)


def test_too_few_validation_images(digits: Make) -> None:
    sides = source(digits("validation", 40)), source(digits("train", 19), "the others")
    with pytest.raises(TuningError, match="the others: 19 images are too few to tune on"):
        ValidationImages.of(*sides, TuningSpec(), seed=0, oracle=False)


def test_a_source_of_unknown_size_is_read_once(exact: Classifier, digits: Make) -> None:
    class Stream:
        name, size, reads = "a stream", None, 0

        def first(self) -> Batch:
            raise AssertionError

        def batches(self) -> Iterator[Batch]:
            self.reads += 1
            images = torch.from_numpy(digits("train", 50).images)
            yield images[:30], None
            yield images[30:], None

    stream = Stream()
    found = ValidationImages.of(
        source(digits("validation", 40)), stream, TuningSpec(), seed=0, oracle=False
    )
    parts = parts_of(exact, found)
    assert sum(len(images) for part, images in parts.items() if part.kind == "negatives") == 50
    assert stream.reads == 1


# --- choosing ----------------------------------------------------------------------------------


def tnr_by_hand(positives: Array, negatives: Array) -> float:
    """The highest threshold among the positives that accepts 95 % of them."""
    thresholds = [t for t in positives if np.mean(positives >= t) >= 0.95]
    return float(np.mean(negatives < max(thresholds)))


def tuned(
    classifier: Classifier,
    method: Method,
    detector: Detector,
    data: TuningData,
    batch_size: int = 32,
) -> Tuned:
    runner = NetworkRunner(
        classifier, batch_size=batch_size, capture=Capture.of(method.detector.needs)
    )
    with runner.attached():
        return tuned_alone(runner, method, detector, data)


@pytest.fixture(scope="module")
def tuning_data(exact: Classifier, digits: Make) -> TuningData:
    found = made(exact, digits("validation"), TuningSpec(fgsm_step=0.1))
    return TuningData(found.positives[:60], found.noisy[:60], found.negatives[:60])


def odin_by_hand(
    classifier: Classifier, images: Tensor, temperature: float, epsilon: float
) -> Array:
    x = images.clone().requires_grad_()
    z = classifier(x) / temperature
    (gradient,) = torch.autograd.grad(F.cross_entropy(z, z.argmax(dim=1), reduction="sum"), x)
    with torch.no_grad():
        z = classifier(x - epsilon * step_sign(gradient, "plus")) / temperature
        return F.softmax(z, dim=1).amax(dim=1).numpy()


def test_odin_is_tuned_as_by_trying_every_setting(
    exact: Classifier, tuning_data: TuningData, built_in: Make
) -> None:
    method, detector = built_in("odin"), oodbench.load_detector("odin")
    positives, negatives = tuning_data.positives[30:], tuning_data.negatives[30:]
    best: tuple[float, dict[str, float]] | None = None
    rates = set()
    for temperature, epsilon in itertools.product(*detector.info.search_space.values()):
        sides = [odin_by_hand(exact, side, temperature, epsilon) for side in (positives, negatives)]
        tnr = tnr_by_hand(*sides)
        rates.add(tnr)
        if best is None or tnr > best[0]:
            best = tnr, {"temperature": temperature, "epsilon": epsilon}
    assert len(rates) > 5, "these data would not tell settings apart"
    found = tuned(exact, method, detector, tuning_data)
    assert (found.value, found.parameters) == best
    for name, value in found.parameters.items():
        assert found.detector.parameters[name] == value
    assert detector.parameters["temperature"] == 1000.0, "the detector that was given is as it was"


def test_parameter_that_is_fixed_is_not_tuned(
    exact: Classifier, tuning_data: TuningData, built_in: Make
) -> None:
    method = built_in("odin", temperature=10.0)
    found = tuned(exact, method, oodbench.load_detector("odin", temperature=10.0), tuning_data)
    assert set(found.parameters) == {"epsilon"}
    assert found.detector.parameters["temperature"] == 10.0


@pytest.mark.parametrize("batch_size", [7, 200])
def test_gradient_is_computed_once_for_all_step_sizes(
    exact: Classifier, tuning_data: TuningData, built_in: Make, batch_size: int
) -> None:
    """4 temperatures, 10 steps that are not zero: 1 + 40 forwards and 4 backwards an image."""
    selected = 30 + 30
    meter = PassMeter(exact.network, exact.normalized(tuning_data.positives[:2]))
    with meter.counting(selected):
        tuned(exact, built_in("odin"), oodbench.load_detector("odin"), tuning_data, batch_size)
    assert meter.forwards == pytest.approx(41, rel=1e-9)
    assert meter.backwards == pytest.approx(4, rel=1e-9)


def test_tuning_leaves_no_gradient_behind(
    exact: Classifier, tuning_data: TuningData, built_in: Make
) -> None:
    tuned(exact, built_in("odin"), oodbench.load_detector("odin"), tuning_data)
    assert all(parameter.grad is None for parameter in exact.parameters())
    assert not tuning_data.positives.requires_grad


@register("constant", search_space={"level": (3.0, 1.0, 2.0), "order": ("up", "down", "up again")})
class Constant(Detector):
    """The level does nothing; the order turns the score round."""

    def __init__(self, level: float = 0.0, order: str = "") -> None:
        self.level = level
        self.order = order

    def score(self, outputs: Outputs) -> Tensor:
        brightness = outputs.logits.amax(dim=1)
        return brightness if self.order.startswith("up") else -brightness


@register("picky", search_space={"level": (2, 1, 0, 3)})
class Picky(Detector):
    """Cannot take the levels that it is told to refuse."""

    def __init__(self, level: int = 1, refused: tuple[int, ...] = ()) -> None:
        self.level, self.refused = level, refused

    def score(self, outputs: Outputs) -> Tensor:
        if self.level in self.refused:
            raise ValueError(f"level {self.level} is too much")
        brightness = outputs.logits.amax(dim=1)
        return brightness if self.level == 1 else -brightness


@register("picky_map", needs=("feature_map",), search_space={"level": (2, 1, 0, 3)})
class PickyMap(Picky):
    """The same of maps, which are scored batch by batch."""


@pytest.mark.parametrize("kind", [Picky, PickyMap])
def test_a_setting_that_fails_is_left_out_with_a_note(tiny: Make, kind: type[Picky]) -> None:
    classifier = tiny()
    method = Method("M", "model", kind.info)
    images, empty = torch.rand(40, 2, 6, 6, dtype=torch.float64), torch.zeros(0, 2, 6, 6)
    with torch.no_grad():
        order = classifier(images).amax(dim=1).argsort()
    # Interleaved, so that both halves of both sides have the same spread.
    data = TuningData(images[order[20:]], empty.double(), images[order[:20]])
    best = tuned(classifier, method, kind(refused=(2, 0)), data)
    (note,) = best.notes
    assert note.startswith(
        "tuned without 2 of 4 settings, which failed: ValueError: level 2 is too much "
        "(engine/test_tuning.py"
    ), note
    assert (best.parameters, best.value) == ({"level": 1}, 1.0)
    with pytest.raises(ValueError, match="level 2 is too much"):
        tuned(classifier, method, kind(refused=(0, 1, 2, 3)), data)


def test_only_a_strictly_better_setting_replaces_an_earlier_one(tiny: Make) -> None:
    classifier = tiny()
    method = Method("M", "model", Constant.info)
    images = torch.rand(40, 2, 6, 6, dtype=torch.float64)
    scores = classifier(images).detach().amax(dim=1)
    low, high = images[scores.argsort()][:20], images[scores.argsort()][20:]
    empty = images[:0]
    up = tuned(classifier, method, Constant(), TuningData(high, empty, low))
    assert (up.value, up.parameters) == (1.0, {"level": 3.0, "order": "up"})
    down = tuned(classifier, method, Constant(), TuningData(low, empty, high))
    assert (down.value, down.parameters) == (1.0, {"level": 3.0, "order": "down"})


def test_settings_see_one_pass_where_nothing_is_perturbed(tiny: Make) -> None:
    classifier = tiny()
    images = torch.rand(40, 2, 6, 6, dtype=torch.float64)
    meter = PassMeter(classifier.network, images[:2])
    with meter.counting(40):
        method = Method("M", "model", Constant.info)
        tuned(classifier, method, Constant(), TuningData(images, images[:0], images))
    # Half of the positives and half of the negatives.
    assert (meter.forwards, meter.backwards) == (pytest.approx(1, rel=1e-9), 0)


# --- selection by AUROC -------------------------------------------------------------------------


def auroc_by_hand(positives: Array, negatives: Array) -> float:
    """Share of pairs in which the positive one is higher; half of those with equal scores."""
    wins = (positives[:, None] > negatives).mean() + (positives[:, None] == negatives).mean() / 2
    return float(wins)


@pytest.fixture(scope="module")
def validation_images(digits: Make) -> ValidationImages:
    """Digits against other digits with rows exchanged: neither easy nor hopeless."""
    images = digits("train", 200).images.copy()
    images[:, :, [2, 4]] = images[:, :, [4, 2]]
    return ValidationImages.of(
        source(digits("validation", 90)),
        source(ImageArray(images[:70])),
        TuningSpec(),
        seed=0,
        oracle=False,
    )


GRID = {"temperature": (1000.0, 1.0, 10.0), "epsilon": (0.0028, 0.0, 0.02)}


def test_largest_auroc_of_all_validation_images_wins(
    exact: Classifier, validation_images: ValidationImages, built_in: Make
) -> None:
    """ODIN, every combination scored in a loop of its own; the first parameter is fastest."""
    parts = parts_of(exact, validation_images)
    positives, negatives = (
        torch.cat([parts[Part(kind, fits)] for fits in (True, False)])
        for kind in ("positives", "negatives")
    )
    assert (len(positives), len(negatives)) == (90, 70)
    values: dict[tuple[float, float], float] = {}
    for epsilon, temperature in itertools.product(GRID["epsilon"], GRID["temperature"]):
        sides = [odin_by_hand(exact, side, temperature, epsilon) for side in (positives, negatives)]
        values[temperature, epsilon] = auroc_by_hand(*sides)
    assert len(set(values.values())) > 5, "these data would not tell settings apart"
    best = max(values, key=values.__getitem__)
    assert best != next(iter(values)), "the first one wins in any case"
    method = replace(built_in("odin"), grid=GRID, tuned_on="ood_validation")
    found = tuned(exact, method, oodbench.load_detector("odin"), validation_images)
    assert found.parameters == dict(zip(GRID, best, strict=True))
    assert (found.selected_by, found.value) == ("auroc", pytest.approx(values[best], rel=1e-12))
    assert found.notes == ()


@register("odd", search_space={"a": (0, 1), "b": (0, 1)})
class Odd(Detector):
    """The sign of the score is that of a + b = 1."""

    def __init__(self, a: int = 0, b: int = 0) -> None:
        self.a, self.b = a, b

    def score(self, outputs: Outputs) -> Tensor:
        brightness = outputs.logits.amax(dim=1)
        return brightness if self.a + self.b == 1 else -brightness


def test_of_equal_settings_the_first_wins_in_the_order_of_openood(tiny: Make) -> None:
    """The first parameter is fastest there, and slowest under the other protocols."""
    classifier = tiny()
    images = torch.rand(40, 2, 6, 6)
    with torch.no_grad():
        order = classifier(images.double()).amax(dim=1).argsort()
    low, high = (ImageArray(images[rows].numpy()) for rows in (order[:20], order[20:]))
    for oracle, first in ((False, {"a": 1, "b": 0}), (True, {"a": 0, "b": 1})):
        both = ValidationImages.of(source(high), source(low), TuningSpec(), seed=0, oracle=oracle)
        found = tuned(classifier, Method("M", "model", Odd.info), Odd(), both)
        assert (found.value, found.parameters) == (1.0, first)
        assert "which score the tuning images as others do: a 1 b 1 as a 0 b 0" in found.notes[0]


def test_settings_without_effect_are_left_out_with_a_note(tiny: Make, tiny_data: Make) -> None:
    data = [source(tiny_data(40, seed)) for seed in (1, 2)]
    images = ValidationImages.of(*data, TuningSpec(), seed=0, oracle=False)
    method = Method("M", "model", Constant.info)
    found = tuned(tiny(), method, Constant(), images)
    order = "down" if found.parameters["order"] == "down" else "up"
    assert found.parameters == {"level": 3.0, "order": order}
    (note,) = found.notes
    assert note == (
        "tuned without 7 of 9 settings, which score the tuning images as others do: level 1.0 as "
        "level 3.0, level 2.0 as level 3.0, order up again as order up"
    )


def test_images_are_read_once_for_all_methods(
    exact: Classifier, digits: Make, built_in: Make
) -> None:
    """One forward pass an image for detectors without gradients, one pass more for each step."""
    reads = dict.fromkeys(("inside", "outside"), 0)

    class Counted(SplitImages):
        def batches(self) -> Iterator[Batch]:
            reads[self.name] += 1
            return super().batches()

    images = ValidationImages.of(
        Counted("inside", lambda: digits("validation", 40)),
        Counted("outside", lambda: digits("train", 40)),
        TuningSpec(),
        seed=0,
        oracle=False,
    )
    methods = [
        replace(built_in(detector), name=detector, tuned_on="ood_validation")
        for detector in ("energy", "gen", "odin")
    ]
    odin = {"temperature": (1.0, 100.0), "epsilon": (0.0, 0.01, 0.1)}
    methods[-1] = replace(methods[-1], grid=odin)
    detectors = {method.name: oodbench.load_detector(method.name) for method in methods}
    runner = NetworkRunner(exact, batch_size=16)
    meter = PassMeter(exact.network, exact.normalized(torch.rand(2, 1, 8, 8).double()))
    with runner.attached(), meter.counting(80):
        found = tune(runner, methods, detectors, images)
    assert all(isinstance(each, Tuned) for each in found.values()), found
    assert reads == {"inside": 1, "outside": 1}
    assert meter.forwards == pytest.approx(1 + 2 * 2, rel=1e-9)
    assert meter.backwards == pytest.approx(2, rel=1e-9)


def test_settings_of_a_grid_that_the_constructor_refuses_are_left_out(
    exact: Classifier, validation_images: ValidationImages, built_in: Make, digits: Make
) -> None:
    detector = oodbench.load_detector("vra")
    runner = NetworkRunner(exact, batch_size=64)
    with runner.attached():
        fit_together({"M": detector}, lambda: pass_outputs(runner, digits("train", 100)), 10)
    grid = {"upper_percentile": (0.5, 0.9), "lower_percentile": (0.6, 0.3)}
    method = replace(built_in("vra"), grid=grid, tuned_on="ood_validation")
    found = tuned(exact, method, detector, validation_images)
    (note,) = found.notes
    assert note.startswith("tuned without 1 of 4 settings, which failed: percentiles")


# --- Mahalanobis -------------------------------------------------------------------------------


def confidences(
    classifier: Classifier,
    detector: Any,
    images: Tensor,
    epsilon: float,
    tap_activations: Taps,
) -> Tensor:
    """M_l of every tap, one tap and one step size at a time, shape [B, L]."""
    columns = []
    for tap, gaussian in detector.gaussians.items():
        x = images.clone().requires_grad_()
        confidence = gaussian.class_scores(tap_activations(classifier, x)[tap]).amax(dim=1)
        (gradient,) = torch.autograd.grad(-confidence.sum(), x)
        with torch.no_grad():
            moved = x - epsilon * step_sign(gradient, "plus")
            columns.append(gaussian.class_scores(tap_activations(classifier, moved)[tap]).amax(1))
    return torch.stack(columns, dim=1)


@pytest.fixture(scope="module")
def fitted(exact: Classifier, digits: Make) -> Any:
    detector = oodbench.load_detector("mahalanobis")
    runner = NetworkRunner(exact, batch_size=200, capture=Capture(taps=True))
    with runner.attached():
        fits = fit_together({"M": detector}, lambda: pass_outputs(runner, digits("train")), 10)
    assert fits["M"].error is None
    return detector


def test_mahalanobis_is_tuned_as_by_a_naive_loop(
    exact: Classifier,
    tuning_data: TuningData,
    fitted: Any,
    built_in: Make,
    tap_activations: Taps,
) -> None:
    def sides(rows: slice, epsilon: float) -> list[Tensor]:
        """Clean and noisy on one side, attacked on the other."""
        positives = torch.cat([tuning_data.positives[rows], tuning_data.noisy[rows]])
        return [
            confidences(exact, fitted, images, epsilon, tap_activations)
            for images in (positives, tuning_data.negatives[rows])
        ]

    # Longer steps than the published ones, which change little on so few images.
    steps = (0.0, 0.01, 0.1, 0.05, 0.03)
    rates: dict[float, float] = {}
    models = {}
    for epsilon in steps:
        model = fit_logistic_regression(*sides(slice(0, 30), epsilon), standardize=False)
        selecting = [-model.log_odds(side).numpy() for side in sides(slice(30, 60), epsilon)]
        rates[epsilon], models[epsilon] = tnr_by_hand(*selecting), model
    best = next(epsilon for epsilon in rates if rates[epsilon] == max(rates.values()))
    assert len(set(rates.values())) > 1, "these data would not tell settings apart"

    published = built_in("mahalanobis")
    method = replace(
        published, detector=replace(published.detector, search_space={"epsilon": steps})
    )
    meter = PassMeter(exact.network, exact.normalized(tuning_data.positives[:2]))
    with meter.counting(3 * 60):
        found = tuned(exact, method, fitted, tuning_data)
    assert found.parameters == {"epsilon": best}
    assert found.value == pytest.approx(rates[best], rel=1e-12)
    regression = found.detector.regression  # type: ignore[attr-defined]
    torch.testing.assert_close(regression.weight, models[best].weight, rtol=1e-5, atol=1e-10)
    assert fitted.regression is None, "the detector that was given is as it was"
    # Taps of the first pass share it; one backward a tap, one pass to it for each of 4 steps.
    assert meter.forwards == pytest.approx(1 + 4 * meter.backwards, rel=1e-9)
    assert 2 < meter.backwards < 4


def test_mahalanobis_is_trained_on_half_of_the_validation_images(
    exact: Classifier,
    validation_images: ValidationImages,
    fitted: Any,
    built_in: Make,
    tap_activations: Taps,
) -> None:
    """Its regression never sees the images that select the step; noisy images there are none."""
    parts = parts_of(exact, validation_images)
    values = {}
    for epsilon in (0.0, 0.05):
        fitting, selecting = (
            [
                confidences(exact, fitted, parts[Part(kind, fits)], epsilon, tap_activations)
                for kind in ("positives", "negatives")
            ]
            for fits in (True, False)
        )
        model = fit_logistic_regression(*fitting, standardize=False)
        values[epsilon] = auroc_by_hand(*(-model.log_odds(side).numpy() for side in selecting))
    method = replace(
        built_in("mahalanobis"), grid={"epsilon": (0.0, 0.05)}, tuned_on="ood_validation"
    )
    found = tuned(exact, method, fitted, validation_images)
    assert found.parameters == {"epsilon": max(values, key=values.__getitem__)}
    assert found.value == pytest.approx(max(values.values()), rel=1e-9)
    assert values[0.0] != values[0.05]


def test_oracle_tuning_has_no_noisy_images(
    exact: Classifier, fitted: Any, digits: Make, built_in: Make
) -> None:
    inside = digits("validation", 40)
    outside = ImageArray(np.random.default_rng(0).random((40, 1, 8, 8)).astype(np.float32))
    data = ValidationImages.of(source(inside), source(outside), TuningSpec(), seed=0, oracle=True)
    found = tuned(exact, built_in("mahalanobis", epsilon=0.0), fitted, data)
    assert found.parameters == {}
    assert found.value > 0.9, "noise is easy to tell from digits if one is shown noise"
    scores: Mapping[str, Tensor] = {}
    runner = NetworkRunner(exact, batch_size=40, capture=Capture(taps=True))
    with runner.attached(), torch.no_grad():
        scores = {
            name: found.detector.score(runner.outputs(torch.from_numpy(side.images).double()))
            for name, side in (("in", inside), ("out", outside))
        }
    assert scores["in"].median() > scores["out"].median()
