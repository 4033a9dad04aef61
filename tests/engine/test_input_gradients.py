"""Gradients for the input: what a detector must give, what it gets, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tuning import tuned_alone
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import oodbench
from oodbench import Detector, Outputs, PerturbingDetector, register
from oodbench.data import ImageArray
from oodbench.engine import costs
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import DetectorError, SplitScores, score_split
from oodbench.engine.tuning_data import TuningData
from oodbench.models.classifier import Classifier
from oodbench.planning.plan import Method

Make = Callable[..., Any]


@register("steep", needs=("input_gradients",), search_space={"temperature": (1.0, 4.0, 0.5)})
class Steep(Detector):
    """Minus the norm of the gradient of the cross-entropy with the predicted class."""

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def gradient_losses(self, outputs: Outputs) -> Tensor:
        scaled = outputs.logits / self.temperature
        return F.cross_entropy(scaled, scaled.argmax(dim=1), reduction="none")

    def score(self, outputs: Outputs) -> Tensor:
        return -outputs.input_gradients["logits"].double().flatten(1).norm(dim=1)


@register("two_losses", needs=("input_gradients", "input_gradient", "taps"))
class TwoLosses(PerturbingDetector):
    """Looks at two gradients of the images as they are, and perturbs them."""

    def __init__(self, epsilon: float = 0.05) -> None:
        self.epsilon = epsilon

    def gradient_losses(self, outputs: Outputs) -> Mapping[str, Tensor]:
        return {"energy": outputs.logits.logsumexp(dim=1), "first": outputs.taps["first"].sum(1)}

    def perturbation_losses(self, outputs: Outputs) -> Tensor:
        return -outputs.logits.amax(dim=1)

    def score(self, outputs: Outputs) -> Tensor:
        shown = outputs.input_gradients
        assert list(shown) == ["energy", "first"]
        norms = [shown[name].double().flatten(1).norm(dim=1) for name in shown]
        return outputs.logits.amax(dim=1) + norms[0] / 8 + norms[1] / 64


@register("graded", needs=("input_gradients", "calibration"), search_space={"power": (1.0, 2.0)})
class Graded(Detector):
    """Calibrated on gradients."""

    def __init__(self, power: float = 1.0) -> None:
        self.power = power
        self.sign = 0.0

    def gradient_losses(self, outputs: Outputs) -> Tensor:
        return outputs.logits.logsumexp(dim=1) * self.power

    def norms(self, outputs: Outputs) -> Tensor:
        return outputs.input_gradients["logits"].double().flatten(1).norm(dim=1)

    def calibrate(self, positives: Outputs, negatives: Outputs) -> None:
        self.sign = float((self.norms(positives).mean() - self.norms(negatives).mean()).sign())

    def score(self, outputs: Outputs) -> Tensor:
        return self.sign * self.norms(outputs)


@register("mapped", needs=("input_gradient", "feature_map"), search_space={"epsilon": (0.0, 0.05)})
class Mapped(PerturbingDetector):
    """Perturbs, and reads the map of the moved image: tuned batch by batch."""

    def __init__(self, epsilon: float = 0.0) -> None:
        self.epsilon = epsilon

    def perturbation_losses(self, outputs: Outputs) -> Tensor:
        return -outputs.logits.amax(dim=1)

    def score(self, outputs: Outputs) -> Tensor:
        assert outputs.feature_map is not None
        return outputs.feature_map.double().flatten(1).sum(dim=1)


def method(detector: Detector, tuned_on: Any = "none") -> Method:
    return Method("M", "model", detector.info, {}, tuned_on)


def scored(
    classifier: Classifier, data: ImageArray, detectors: Mapping[str, Detector], size: int = 8
) -> SplitScores[str]:
    runner = NetworkRunner(classifier, batch_size=size, capture=Capture(taps=True))
    with runner.attached():
        return score_split(runner, data, detectors, dataset="letters", check_batches=True)


def by_hand(classifier: Classifier, images: np.ndarray, temperature: float) -> np.ndarray:
    """The scores of `Steep`, image by image."""
    found = []
    for image in torch.from_numpy(images).double():
        x = image[None].requires_grad_()
        logits = classifier(x) / temperature
        loss = F.cross_entropy(logits, logits.argmax(dim=1))
        (gradient,) = torch.autograd.grad(loss, x)
        found.append(-float(gradient.norm()))
    return np.array(found)


# --- what a detector gets -------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("size", [5, 8, 20])
def test_the_gradient_is_that_of_each_image(
    tiny: Make, tiny_data: Make, temperature: float, size: int
) -> None:
    classifier, data = tiny(), tiny_data(20)
    outcome = scored(classifier, data, {"steep": Steep(temperature)}, size)
    assert not outcome.errors
    expected = by_hand(classifier, data.images, temperature)
    np.testing.assert_allclose(outcome.scores["steep"], expected, rtol=1e-9)


def test_gradients_of_several_losses_beside_a_perturbation(tiny: Make, tiny_data: Make) -> None:
    """The gradients are those of the images as they are, the logits those of the moved ones."""
    classifier, data = tiny(), tiny_data(20)
    outcome = scored(classifier, data, {"two": TwoLosses(), "steep": Steep()})
    assert not outcome.errors
    x = torch.from_numpy(data.images).double().requires_grad_()
    logits = classifier(x)
    first = classifier.network.get_submodule("first")(classifier.normalized(x)).mean(dim=(2, 3))
    moving, energy, early = (
        torch.autograd.grad(loss.sum(), x, retain_graph=True)[0]
        for loss in (-logits.amax(1), logits.logsumexp(1), first)
    )
    with torch.no_grad():
        step = 0.05 * torch.where(moving >= 0, 1.0, -1.0).double()
        expected = classifier(x - step).amax(1)
    expected = expected + energy.flatten(1).norm(dim=1) / 8 + early.flatten(1).norm(dim=1) / 64
    np.testing.assert_allclose(outcome.scores["two"], expected, rtol=1e-9)
    np.testing.assert_allclose(outcome.scores["steep"], by_hand(classifier, data.images, 1.0))


def test_the_first_forward_is_shared(tiny: Make, tiny_data: Make) -> None:
    classifier, forwards = tiny(), []
    classifier.network.register_forward_hook(lambda *given: forwards.append(1))
    detectors = {f"steep {t}": Steep(t) for t in (1.0, 2.0, 3.0)}
    scored(classifier, tiny_data(16), detectors, size=8)
    assert len(forwards) == 2


def test_a_gradient_costs_one_backward_and_no_second_forward(tiny: Make, tiny_data: Make) -> None:
    classifier = tiny(dtype=torch.float32)
    images = torch.from_numpy(tiny_data(16).images).float()
    detectors = {"steep": Steep(), "two": TwoLosses()}
    measured, errors = costs.measure(classifier, detectors, None, images, rounds=1)
    assert not errors
    assert (measured["steep"].forwards, measured["steep"].backwards) == (1.0, 1.0)
    assert measured["two"].forwards == 2.0
    assert 2.0 < measured["two"].backwards < 3.0, "the loss of a tap goes back a part of the way"


def test_what_a_loss_does_in_place_reaches_no_other(tiny: Make, tiny_data: Make) -> None:
    class InPlace(Steep):
        def gradient_losses(self, outputs: Outputs) -> Tensor:
            outputs.logits.mul_(0.0)
            outputs.features.mul_(2.0)
            return outputs.features.sum(dim=1)

    classifier, data = tiny(), tiny_data(20)
    together = scored(classifier, data, {"changed": InPlace(), "steep": Steep()})
    np.testing.assert_array_equal(
        together.scores["steep"], scored(classifier, data, {"steep": Steep()}).scores["steep"]
    )


def test_outputs_without_the_need_have_no_gradients() -> None:
    outputs = Outputs(torch.zeros(4, 3), torch.zeros(4, 2), input_gradients={"a": torch.rand(4, 1)})
    with pytest.raises(AttributeError, match="'input_gradients'"):
        outputs.only({"taps"}).input_gradients  # noqa: B018
    assert outputs[1:3].input_gradients["a"].shape == (2, 1)
    joined = Outputs.concatenate([outputs[:1], outputs[1:]]).input_gradients
    assert torch.equal(joined["a"], outputs.input_gradients["a"])


# --- what a detector must give --------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[Outputs], Any], list[str]]] = {
    "nothing": (lambda o: None, ["returned nothing; expected {'logits': loss}", "[8]"]),
    "a list": (lambda o: [o.logits.amax(1)], ["returned a list; expected {'logits': loss}"]),
    "an empty mapping": (lambda o: {}, ["an empty dict"]),
    "a number": (lambda o: {"logits": 3.0}, ["returned a float for 'logits'"]),
    "whole numbers": (lambda o: o.logits.argmax(1), ["returned a Tensor for 'logits'"]),
    "one number": (lambda o: o.logits.sum(), ["shape [] for 'logits'", "reduction='none'"]),
    "a column": (lambda o: o.logits[:, :1], ["shape [8, 1] for 'logits'; expected [8]"]),
    "detached": (lambda o: o.logits.detach().amax(1), ["without a gradient", "detach()"]),
    "of nothing": (
        lambda o: o.logits.detach().amax(1) * nn.Parameter(torch.ones(())),
        ["does not depend on the images"],
    ),
    "not finite": (lambda o: o.logits.amax(1).sub(1e9).log(), ["is not finite for 8 of the 8"]),
    "steep": (lambda o: (o.logits.amax(1) * 0).sqrt(), ["its gradient is not finite for 8"]),
}


@pytest.mark.parametrize("need", ["input_gradient", "input_gradients"])
@pytest.mark.parametrize("case", WRONG)
def test_a_loss_that_is_wrong_is_said(tiny: Make, tiny_data: Make, case: str, need: str) -> None:
    returned, said = WRONG[case]
    name = "perturbation_losses" if need == "input_gradient" else "gradient_losses"

    class Wrong(PerturbingDetector if need == "input_gradient" else Detector):  # type: ignore[misc]
        epsilon = 0.01

        def score(self, outputs: Outputs) -> Tensor:
            return outputs.logits.amax(dim=1)

    setattr(Wrong, name, lambda self, outputs: returned(outputs))
    cls = register("wrong", needs=(need,))(Wrong)  # type: ignore[arg-type]
    outcome = scored(tiny(), tiny_data(16), {"wrong": cls(), "steep": Steep()})
    assert [*outcome.scores] == ["steep"]
    error = outcome.errors["wrong"]
    assert isinstance(error, DetectorError)
    for words in ("detector 'wrong' (engine/test_input_gradients.py)", name, *said):
        assert words in str(error)


@pytest.mark.parametrize(
    ("place", "said"),
    [("logit", "Did you mean 'logits'"), ("first", "the need 'taps'"), (3, "a loss for 3")],
)
def test_a_perturbation_at_an_unknown_place_is_said(
    tiny: Make, tiny_data: Make, place: Any, said: str
) -> None:
    @register("lost", needs=("input_gradient",))
    class Lost(Mapped):
        def perturbation_losses(self, outputs: Outputs) -> Any:
            return {place: -outputs.logits.amax(dim=1)}

    outcome = scored(tiny(), tiny_data(16), {"lost": Lost(0.1)})
    assert said in str(outcome.errors["lost"])


# --- tuning and evaluate --------------------------------------------------------------------------


def tuning_images(tiny_data: Make) -> TuningData:
    first, second, third = (torch.from_numpy(tiny_data(24, seed).images) for seed in (1, 2, 3))
    return TuningData(*(images.double() for images in (first, second, 1 - third)))


@pytest.mark.parametrize("size", [5, 64])
@pytest.mark.parametrize("detector", [Steep(), Graded(), Mapped()])
def test_tuning_is_trying_every_setting(
    tiny: Make, tiny_data: Make, detector: Any, size: int
) -> None:
    from oodbench.metrics import tnr_at_95_tpr

    classifier, images = tiny(), tuning_images(tiny_data)
    runner = NetworkRunner(
        classifier, batch_size=size, capture=Capture(feature_map=True, map_name="second")
    )
    tuned_on = "fgsm" if "calibration" in detector.info.needs else "ood_oracle"
    with runner.attached():
        found = tuned_alone(runner, method(detector, tuned_on), detector, images)
    ((name, values),) = detector.info.search_space.items()
    assert found.parameters[name] in values

    def scores(candidate: Detector, data: Tensor) -> np.ndarray:
        array = ImageArray(data.float().numpy(), np.zeros(len(data), dtype=np.int64))
        scorer = candidate
        with runner.attached():
            return score_split(runner, array, {"M": scorer}, dataset="x").scores["M"]

    kinds = images.positives, images.noisy, images.negatives
    fitting, selecting = ([kind[rows] for kind in kinds] for rows in (slice(0, 12), slice(12, 24)))

    def sides(half: list[Tensor]) -> tuple[Tensor, Tensor]:
        positives, noisy, negatives = half
        return torch.cat([positives, noisy]) if tuned_on == "fgsm" else positives, negatives

    best = -1.0
    for value in values:
        candidate = detector.with_parameters(**{name: value})
        if tuned_on == "fgsm":
            candidate.sign = 1.0
            means = [scores(candidate, s).mean() for s in sides(fitting)]
            candidate.sign = float(np.sign(means[0] - means[1]))
        best = max(best, tnr_at_95_tpr(*(scores(candidate, side) for side in sides(selecting))))
    assert found.value == pytest.approx(best)


@pytest.mark.parametrize("normalization", [None, (0.5, 0.25)])
def test_evaluate_with_gradients(normalization: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    images = torch.rand(30, 3, 8, 8)
    result = oodbench.evaluate(
        model,
        [Steep(), "baseline"],
        id_data=TensorDataset(images, torch.arange(30) % 3),
        ood_data={"other": TensorDataset(torch.rand(20, 3, 8, 8))},
        normalization=normalization,
        costs=True,
    )
    assert result.failed == result.skipped == {}
    x = images.clone().requires_grad_()
    logits = model(x if normalization is None else (x - 0.5) / 0.25)
    F.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
    assert x.grad is not None
    expected = -x.grad.flatten(1).norm(dim=1)
    np.testing.assert_allclose(result.scores["steep"]["id"], expected, rtol=1e-4)
    (cost,) = [cost for cost in result.costs if cost.detector == "steep"]
    assert (cost.forwards_per_image, cost.backwards_per_image) == (1.0, 1.0)
    assert not cost.input_preprocessing
    said = any("gradients are with respect to" in note for note in result.notes)
    assert said == (normalization is None)


def test_a_model_without_a_gradient_is_a_reason() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Flatten(), nn.Linear(192, 3)

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.body(images) * 2
            logits: Tensor = self.fc(features)
            return logits

    data = TensorDataset(torch.rand(12, 3, 8, 8), torch.arange(12) % 3)
    result = oodbench.evaluate(
        Frozen(), [Steep(), "energy"], id_data=data, ood_data={"other": data}
    )
    assert [*result.scores] == ["energy"]
    assert "gradient" in result.skipped["steep"]
