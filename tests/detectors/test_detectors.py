"""Built-in detectors against references written from the formulas, in float64.

What holds for every detector is in `test_conformance`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Detector, Outputs
from oodbench.data import ImageArray
from oodbench.detector.base import step_sign
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_batch, score_split
from oodbench.models.classifier import Classifier, Network
from oodbench.numerics.likelihood.regression import fit_logistic_regression
from oodbench.planning.plan import Method
from oodbench.testing.planted import PlantedBatches

Make = Callable[..., Any]
Taps = Callable[[Classifier, Tensor], dict[str, Tensor]]


def load(name: str, **parameters: Any) -> Any:
    return oodbench.load_detector(name, **parameters)


def outputs_of(logits: Tensor) -> Outputs:
    return Outputs(logits, torch.zeros(len(logits), 1))


def doubles(data: ImageArray) -> Tensor:
    return torch.from_numpy(data.images).double()


def engine_scores(
    classifier: Classifier,
    method: Method,
    detector: Detector,
    data: ImageArray,
    batch_size: int = 7,
) -> NDArray[np.float64]:
    """Scores as a run makes them."""
    runner = NetworkRunner(
        classifier, batch_size=batch_size, capture=Capture.of(method.detector.needs)
    )
    with runner.attached():
        scored = score_split(runner, data, {"M": detector}, dataset="test")
    assert not scored.errors, scored.errors
    return scored.scores["M"]


# --- declarations ------------------------------------------------------------------------------


def test_published_grids() -> None:
    assert load("odin").info.search_space == {
        "temperature": (1.0, 10.0, 100.0, 1000.0),
        "epsilon": (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.0024, 0.005, 0.01, 0.05, 0.1, 0.2),
    }
    assert load("mahalanobis").info.search_space == {
        "epsilon": (0.0, 0.01, 0.005, 0.002, 0.0014, 0.001, 0.0005)
    }


# --- scores from logits ------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64))
    logits = logits + torch.tensor([[5.0], [-3.0]])  # probabilities do not see this
    outputs = outputs_of(logits)
    odds = [7 / 3, 1 / 2]
    np.testing.assert_allclose(load("baseline").score(outputs), np.log(odds), rtol=1e-12)
    entropies = [-0.7 * np.log(0.7) - 0.2 * np.log(0.2) - 0.1 * np.log(0.1), np.log(3)]
    np.testing.assert_allclose(load("entropy").score(outputs), -np.log(entropies), rtol=1e-12)


def test_dismax_entropy_by_hand() -> None:
    """Probabilities proportional to exp(-distance), without alpha."""
    distances = np.array([[1.0, 3.0, 2.5], [4.0, 4.0, 4.0]])
    weights = np.exp(-distances)
    p = weights / weights.sum(axis=1, keepdims=True)
    scores = load("dismax_entropy").score(outputs_of(torch.from_numpy(-distances)))
    entropies = -(p * np.log(p)).sum(axis=1)
    np.testing.assert_allclose(scores.numpy(), -np.log(entropies), rtol=1e-12)


def test_distance_scores_by_hand() -> None:
    logits = torch.tensor([[-1.0, -3.0, -2.5], [-4.0, -4.0, -4.0]], dtype=torch.float64)
    assert load("min_distance").score(outputs_of(logits)).tolist() == [-1.0, -4.0]
    weights = np.exp([-1.0, -3.0, -2.5])
    p = weights / weights.sum()
    expected = [-1 - 6.5 / 3 + (p * np.log(p)).sum(), -4 - 4 - np.log(3)]
    np.testing.assert_allclose(load("mmles").score(outputs_of(logits)), expected, rtol=1e-12)


def test_mmles_where_probabilities_are_zero() -> None:
    logits = torch.tensor([[0.0, -2000.0, 0.0, 0.0]], dtype=torch.float64)
    score = load("mmles").score(outputs_of(logits)).item()
    assert score == pytest.approx(0 - 500 - np.log(3), rel=1e-12)


@pytest.mark.parametrize("name", ["entropy", "dismax_entropy"])
def test_probability_of_zero_adds_nothing_to_an_entropy(name: str) -> None:
    logits = torch.tensor([[0.0, -2000.0, 0.0], [5000.0, 0.0, 0.0]], dtype=torch.float64)
    # Of the second image H = log(1 + s) + 5000 s / (1 + s), with s = 2 exp(-5000).
    expected = [-np.log(np.log(2)), 5000 - np.log(2) - np.log(5001)]
    np.testing.assert_allclose(load(name).score(outputs_of(logits)), expected, rtol=1e-14)


def test_confident_scores_are_not_tied() -> None:
    """In float32 the largest probability of both would be exactly 1."""
    logits = torch.tensor([[20.0, 0.0], [25.0, 0.0]], dtype=torch.float64)
    for name in ("baseline", "entropy"):
        low, high = load(name).score(outputs_of(logits)).tolist()
        assert low < high


# --- ODIN --------------------------------------------------------------------------------------


def odin_by_hand(
    classifier: Classifier,
    images: Tensor,
    temperature: float,
    epsilon: float,
    sign_zero: str = "plus",
) -> Tensor:
    """In normalized space, where a step is divided by the channel's standard deviation."""
    network, std = classifier.network, classifier.std
    x = ((images - classifier.mean) / std).requires_grad_()
    z = network(x) / temperature
    log_p = z - torch.logsumexp(z, dim=1, keepdim=True)
    loss = -log_p[torch.arange(len(z)), z.argmax(dim=1)]
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    sign = gradient.sign()
    if sign_zero == "plus":
        sign[gradient == 0] = 1.0
    with torch.no_grad():
        z = network(x - epsilon * sign / std) / temperature
        exponentials = torch.exp(z - z.amax(dim=1, keepdim=True))
        return (exponentials / exponentials.sum(dim=1, keepdim=True)).amax(dim=1).logit()


@pytest.mark.parametrize("temperature", [1.0, 10.0, 1000.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.0014, 0.1])
@pytest.mark.parametrize("head", ["softmax", "dismax"])
def test_odin_is_the_published_one(
    tiny: Make, tiny_data: Make, built_in: Make, temperature: float, epsilon: float, head: str
) -> None:
    classifier, data = tiny(head=head), tiny_data(20)
    detector = load("odin", temperature=temperature, epsilon=epsilon)
    found = engine_scores(classifier, built_in("odin"), detector, data)
    expected = odin_by_hand(classifier, doubles(data), temperature, epsilon).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # Relative to what distinguishes images, which is little at a high temperature.
    uniform = np.log(1 / 2)
    np.testing.assert_allclose(found - uniform, expected - uniform, rtol=1e-6)


def test_odin_without_temperature_and_step_is_the_baseline(
    tiny: Make, tiny_data: Make, built_in: Make
) -> None:
    classifier, data = tiny(), tiny_data(20)
    plain = load("odin", temperature=1.0, epsilon=0.0)
    found = engine_scores(classifier, built_in("odin"), plain, data)
    baseline = engine_scores(classifier, built_in("baseline"), load("baseline"), data)
    np.testing.assert_array_equal(found, baseline)


def test_odin_temperature_acts_before_the_gradient(
    tiny: Make, tiny_data: Make, built_in: Make
) -> None:
    """With more than two classes the temperature changes the gradient's direction."""
    classifier, data = tiny(num_classes=6), tiny_data(40)
    images = doubles(data).requires_grad_()
    logits = classifier(images)
    (gradient,) = torch.autograd.grad(
        F.cross_entropy(logits, logits.argmax(dim=1), reduction="sum"), images
    )
    moved = images.detach() - 0.05 * step_sign(gradient, "plus")
    wrong = F.softmax(classifier(moved) / 1000, dim=1).amax(dim=1).logit().detach()
    right = odin_by_hand(classifier, doubles(data), 1000.0, 0.05)
    assert (wrong - right).abs().max() > 1e-6, "these data would not show it"
    detector = load("odin", temperature=1000.0, epsilon=0.05)
    found = engine_scores(classifier, built_in("odin"), detector, data)
    np.testing.assert_allclose(found, right.numpy(), rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 300.0, 20_000.0])
def test_odin_moves_confident_images_too(
    tiny: Make, tiny_data: Make, built_in: Make, scale: float
) -> None:
    """The gradient of the cross-entropy underflows there, and the sign of 0 is the same everywhere.

    A temperature that is as many times larger gives the same scores.
    """
    classifier, data = tiny(), tiny_data(20)
    scaled = copy.deepcopy(classifier)
    with torch.no_grad():
        for parameter in scaled.network.head.parameters():
            parameter.mul_(scale)
    expected = engine_scores(
        classifier, built_in("odin"), load("odin", temperature=0.02, epsilon=0.05), data
    )
    found = engine_scores(
        scaled, built_in("odin"), load("odin", temperature=0.02 * scale, epsilon=0.05), data
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    confident = engine_scores(
        scaled, built_in("odin"), load("odin", temperature=0.02, epsilon=0.05), data
    )
    still = engine_scores(
        scaled, built_in("odin"), load("odin", temperature=0.02, epsilon=0.0), data
    )
    assert len(np.unique(confident)) == len(confident)
    assert (confident > still).all(), "the step is towards the predicted class"


def test_odin_does_not_clamp(tiny: Make, built_in: Make) -> None:
    classifier = tiny()
    generator = np.random.default_rng(0)
    data = ImageArray(generator.integers(0, 2, (20, 2, 6, 6)).astype(np.float32))
    detector = load("odin", temperature=1.0, epsilon=0.2)
    found = engine_scores(classifier, built_in("odin"), detector, data)
    expected = odin_by_hand(classifier, doubles(data), 1.0, 0.2).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9)


class Darkness(Network):
    """Features are how far the pixels are below 1/2: none, and no gradient, at 1/2 itself."""

    def __init__(self) -> None:
        super().__init__()
        self.tap_names = ()
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, -1.0, 2.0]]))
            self.head.bias.copy_(torch.tensor([0.25, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(0.5 - images.flatten(1)))
        return logits


@pytest.mark.parametrize(("sign_zero", "moved"), [("plus", 0.375), ("zero", 0.5)])
def test_sign_of_a_zero_gradient(built_in: Make, sign_zero: str, moved: float) -> None:
    classifier = Classifier(Darkness(), mean=(0.0,), std=(1.0,)).double().eval()
    data = ImageArray(np.full((1, 1, 2, 2), 0.5, dtype=np.float32))
    detector = load("odin", temperature=1.0, epsilon=0.125, sign_zero=sign_zero)
    found = engine_scores(classifier, built_in("odin"), detector, data)
    expected = F.softmax(classifier(torch.full((1, 1, 2, 2), moved).double()), 1).amax().logit()
    np.testing.assert_allclose(found, expected.item(), rtol=1e-12)


def test_step_sign() -> None:
    gradient = torch.tensor([-2.0, -0.0, 0.0, 1e-30])
    assert step_sign(gradient, "plus").tolist() == [-1, 1, 1, 1]
    assert step_sign(gradient, "zero").tolist() == [-1, 0, 0, 1]
    assert step_sign(gradient.double(), "plus").dtype == torch.float64


# --- Mahalanobis -------------------------------------------------------------------------------


def gaussians_by_hand(
    classifier: Classifier, data: ImageArray, tap_activations: Taps
) -> dict[str, tuple[Tensor, Tensor]]:
    """Tap -> class means and precision, from the whole training set at once."""
    assert data.labels is not None
    with torch.no_grad():
        taps = tap_activations(classifier, doubles(data))
    found = {}
    for name, tap in taps.items():
        features = tap.numpy()
        means = np.stack([features[data.labels == c].mean(axis=0) for c in range(3)])
        centered = features - means[data.labels]
        precision = np.linalg.pinv(centered.T @ centered / len(centered), hermitian=True)
        found[name] = torch.from_numpy(means), torch.from_numpy(precision)
    return found


def confidences_by_hand(
    classifier: Classifier,
    images: Tensor,
    gaussians: dict[str, tuple[Tensor, Tensor]],
    epsilon: float,
    tap_activations: Taps,
    sign_zero: str = "plus",
) -> dict[str, Tensor]:
    """Tap -> M_l of images that were moved to increase M_l."""
    found = {}
    for tap, (means, precision) in gaussians.items():

        def scores(
            x: Tensor, tap: str = tap, means: Tensor = means, precision: Tensor = precision
        ) -> Tensor:
            differences = tap_activations(classifier, x)[tap][:, None] - means
            return -0.5 * torch.einsum("bci,ij,bcj->bc", differences, precision, differences)

        x = images.clone().requires_grad_()
        before = scores(x)
        nearest = before.detach().argmax(dim=1)
        loss = -before[torch.arange(len(x)), nearest].sum()
        (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            moved = x - epsilon * step_sign(gradient, sign_zero)
            found[tap] = scores(moved).amax(dim=1)
    return found


@pytest.fixture(scope="module")
def fitted_mahalanobis(tiny: Make, tiny_data: Make) -> tuple[Classifier, Any]:
    classifier, detector = tiny(), load("mahalanobis")
    runner = NetworkRunner(classifier, batch_size=17, capture=Capture(taps=True))
    with runner.attached():
        fits = fit_together({"M": detector}, lambda: pass_outputs(runner, tiny_data(90, 1)), 3)
    assert fits["M"].error is None
    return classifier, detector


@pytest.mark.parametrize("epsilon", [0.0, 0.0014, 0.05])
def test_mahalanobis_is_the_published_one(
    fitted_mahalanobis: tuple[Classifier, Any],
    tiny_data: Make,
    built_in: Make,
    tap_activations: Taps,
    epsilon: float,
) -> None:
    """Each tap after its own perturbation, their sum, and the regression on them."""
    classifier, fitted = fitted_mahalanobis
    gaussians = gaussians_by_hand(classifier, tiny_data(90, 1), tap_activations)
    test, method = tiny_data(20, 2), built_in("mahalanobis")

    def by_hand(data: ImageArray) -> Tensor:
        confidences = confidences_by_hand(
            classifier, doubles(data), gaussians, epsilon, tap_activations
        )
        return torch.stack(list(confidences.values()), dim=1)

    detector = fitted.with_parameters(epsilon=epsilon)
    for index, tap in enumerate(("first", "second")):
        single = detector.with_parameters()
        single.gaussians = {tap: detector.gaussians[tap]}
        found = engine_scores(classifier, method, single, test)
        np.testing.assert_allclose(found, by_hand(test)[:, index].numpy(), rtol=1e-6, err_msg=tap)
    summed = engine_scores(classifier, method, detector, test)
    np.testing.assert_allclose(summed, by_hand(test).sum(dim=1).numpy(), rtol=1e-6)

    positives, negatives = by_hand(tiny_data(30, 3)), 3 * by_hand(tiny_data(30, 4))
    model = fit_logistic_regression(positives, negatives, standardize=False)
    detector.regression = model
    found = engine_scores(classifier, method, detector, test)
    expected = -(by_hand(test) @ model.weight + model.bias)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)


def test_mahalanobis_calibrates_on_the_confidences(
    fitted_mahalanobis: tuple[Classifier, Any], tiny_data: Make
) -> None:
    classifier, fitted = fitted_mahalanobis
    detector = fitted.with_parameters(standardize=True)
    runner = NetworkRunner(classifier, batch_size=50, capture=Capture(taps=True))
    with runner.attached(), torch.no_grad():
        inside = runner.outputs(doubles(tiny_data(30, 3)))
        outside = runner.outputs(1 - doubles(tiny_data(30, 3)))
    detector.calibrate(inside, outside)
    stacked = [
        torch.stack(list(fitted.confidences(side).values()), 1) for side in (inside, outside)
    ]
    model = fit_logistic_regression(stacked[0], stacked[1], standardize=True)
    torch.testing.assert_close(
        detector.score(inside), -model.log_odds(stacked[0]), rtol=1e-9, atol=0
    )
    assert detector.score(inside).mean() > detector.score(outside).mean(), "higher is more ID"
    assert fitted.regression is None, "a calibrated copy leaves the original as it was"


def test_mahalanobis_takes_labels_from_the_data_and_not_from_predictions(
    tiny: Make, tiny_data: Make
) -> None:
    classifier, data = tiny(), tiny_data(90, 1)
    runner = NetworkRunner(classifier, batch_size=90, capture=Capture(taps=True))
    with runner.attached():
        (outputs,) = pass_outputs(runner, data)
    assert outputs.labels is not None
    assert (outputs.logits.argmax(dim=1) != outputs.labels).any(), "these data would not show it"
    detector = load("mahalanobis")
    batches = PlantedBatches(outputs)
    batches.num_classes = 3
    detector.fit(batches)
    tap = outputs.taps["second"].double()
    means = torch.stack([tap[outputs.labels == c].mean(dim=0) for c in range(3)])
    torch.testing.assert_close(detector.gaussians["second"].means, means, rtol=1e-10, atol=1e-12)


def test_one_batch_alone_scores_as_in_a_split(
    fitted_mahalanobis: tuple[Classifier, Any], tiny_data: Make, built_in: Make
) -> None:
    classifier, fitted = fitted_mahalanobis
    data, method = tiny_data(9, 5), built_in("mahalanobis")
    detector = fitted.with_parameters(epsilon=0.01)
    split = engine_scores(classifier, method, detector, data, batch_size=4)
    runner = NetworkRunner(classifier, batch_size=9, capture=Capture(taps=True))
    with runner.attached():
        alone = score_batch(runner, "M", detector, doubles(data))
    np.testing.assert_allclose(alone.numpy(), split, rtol=1e-9)
