"""Scores are checked on the way out, and a detector that fails does so alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench import Detector, Outputs, PerturbingDetector, register
from oodbench.data import ImageArray
from oodbench.detector import Batches
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import DetectorError, SplitScores, score_batch, score_split
from oodbench.models.classifier import Classifier

Make = Callable[..., Any]


@register("good")
class Good(Detector):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.amax(dim=1)


@register("bad")
class Bad(Detector):
    """Does one thing that it must not."""

    def __init__(self, how: str, image: int = 0) -> None:
        self.how = how
        self.image = image
        self.done = 0

    def score(self, outputs: Outputs) -> Tensor:
        scores = outputs.logits.amax(dim=1)
        start, self.done = self.done, self.done + len(outputs)
        if self.how == "column":
            return scores[:, None]
        if self.how == "scalar":
            return scores.sum()
        if self.how == "short":
            return scores[1:]
        if self.how == "array":
            return scores.numpy()  # type: ignore[return-value]
        if self.how.startswith(("complex", "int", "bool")):
            return (scores > scores.median()).to(getattr(torch, self.how))
        if self.how == "batch mean":
            return scores - scores.mean()
        if self.how == "rank in batch":
            return scores.argsort().argsort().double()
        if self.how == "raise":
            raise ZeroDivisionError("no luck")
        if start <= self.image < self.done:
            scores[self.image - start] = float(self.how)  # nan, inf
        return scores


@register("slope", needs=("input_gradient",))
class Slope(PerturbingDetector):
    """Perturbs its input; its loss may raise, or lead nowhere."""

    def __init__(self, epsilon: float = 0.01, how: str = "good") -> None:
        self.epsilon = epsilon
        self.how = how

    def perturbation_losses(self, outputs: Outputs) -> Mapping[str, Tensor]:
        if self.how == "raise":
            raise ZeroDivisionError("no slope")
        if self.how == "unknown place":
            return {"nowhere": outputs.logits.amax(dim=1)}
        if self.how == "constant":
            return {"logits": torch.ones(len(outputs))}
        return {"logits": -outputs.logits.amax(dim=1)}

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.amax(dim=1)


def scored(
    classifier: Classifier,
    data: ImageArray,
    detectors: Mapping[str, Detector],
    *,
    batch_size: int = 8,
    check_batches: bool = False,
) -> SplitScores[str]:
    runner = NetworkRunner(classifier, batch_size=batch_size, capture=Capture(taps=True))
    with runner.attached():
        return score_split(runner, data, detectors, dataset="letters", check_batches=check_batches)


def error_of(classifier: Classifier, data: ImageArray, detector: Detector, **options: Any) -> str:
    """The message of a detector that fails beside a good one."""
    expected = scored(classifier, data, {"G": Good()}).scores["G"]
    outcome = scored(
        classifier, data, {"Before": Good(), "X+Bad": detector, "After": Good()}, **options
    )
    assert set(outcome.errors) == {"X+Bad"}
    assert set(outcome.scores) == {"Before", "After"}
    for scores in outcome.scores.values():
        np.testing.assert_allclose(scores, expected, rtol=1e-12)
    assert isinstance(outcome.errors["X+Bad"], DetectorError)
    return str(outcome.errors["X+Bad"])


def test_scores_are_float64_in_the_order_of_the_images(tiny: Make, tiny_data: Make) -> None:
    classifier, data = tiny(), tiny_data(20)
    outcome = scored(classifier, data, {"G": Good()}, check_batches=True)
    logits = classifier(torch.from_numpy(data.images).double()).detach()
    assert outcome.scores["G"].dtype == np.float64
    np.testing.assert_allclose(outcome.scores["G"], logits.amax(dim=1), rtol=1e-12)
    np.testing.assert_array_equal(outcome.correct, logits.argmax(dim=1).numpy() == data.labels)


def test_without_labels_nothing_is_right_or_wrong(tiny: Make, tiny_data: Make) -> None:
    data = ImageArray(tiny_data(9).images)
    assert scored(tiny(), data, {"G": Good()}).correct is None


@pytest.mark.parametrize(
    ("how", "found"),
    [("column", r"\[8, 1\]"), ("scalar", r"\[\]"), ("short", r"\[7\]"), ("array", "ndarray")],
)
def test_wrong_shape(tiny: Make, tiny_data: Make, how: str, found: str) -> None:
    message = error_of(tiny(), tiny_data(20), Bad(how))
    assert "'bad'" in message
    assert re.search(
        rf"gave {found} for a batch of 8 images; expected a torch tensor of shape \[8\]", message
    ), message


@pytest.mark.parametrize("how", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("image", [0, 13, 19])
def test_score_that_is_no_number(tiny: Make, tiny_data: Make, how: str, image: int) -> None:
    message = error_of(tiny(), tiny_data(20), Bad(how, image))
    for part in ("'X+Bad'", "'letters'", f"image {image} of", f"score {how}"):
        assert part in message, message


@pytest.mark.parametrize("how", ["batch mean", "rank in batch"])
def test_score_that_depends_on_the_batch(tiny: Make, tiny_data: Make, how: str) -> None:
    message = error_of(tiny(), tiny_data(20), Bad(how), check_batches=True)
    assert "scores depend on the batch" in message
    assert "or the detector draws random numbers" in message
    unchecked = scored(tiny(), tiny_data(20), {"B": Bad(how)})
    assert not unchecked.errors


@pytest.mark.parametrize("how", ["complex64", "complex128"])
def test_complex_scores_are_refused(tiny: Make, tiny_data: Make, how: str) -> None:
    said = error_of(tiny(), tiny_data(8), Bad(how))
    assert f"gave scores of type {how}" in said
    assert "scores.real" in said


@pytest.mark.parametrize("how", ["int64", "int8", "bool"])
def test_whole_numbers_and_booleans_are_scores(tiny: Make, tiny_data: Make, how: str) -> None:
    scores = scored(tiny(), tiny_data(8), {"X": Bad(how)}).scores["X"]
    assert scores.dtype == np.float64
    assert set(scores) == {0.0, 1.0}


def test_who_raises_fails_alone(tiny: Make, tiny_data: Make) -> None:
    classifier, data = tiny(), tiny_data(20)
    detectors = {
        "good": Good(),
        "score": Bad("raise"),
        "loss": Slope(how="raise"),
        "place": Slope(how="unknown place"),
        "constant": Slope(how="constant"),
        "slope": Slope(),
    }
    outcome = scored(classifier, data, detectors)
    assert {name: type(error).__name__ for name, error in outcome.errors.items()} == {
        "score": "ZeroDivisionError",
        "loss": "ZeroDivisionError",
        "place": "DetectorError",
        "constant": "DetectorError",
    }
    for name in ("good", "slope"):
        alone = scored(classifier, data, {name: detectors[name]})
        np.testing.assert_allclose(outcome.scores[name], alone.scores[name], rtol=1e-12)
    assert outcome.correct is not None
    assert len(outcome.correct) == 20


def test_failed_detector_is_not_called_again(tiny: Make, tiny_data: Make) -> None:
    bad = Bad("nan", image=3)
    scored(tiny(), tiny_data(40), {"B": bad}, batch_size=8)
    assert bad.done == 8


def test_score_batch_raises_what_the_detector_raises(tiny: Make, tiny_data: Make) -> None:
    images = torch.from_numpy(tiny_data(5).images).double()
    runner = NetworkRunner(tiny(), batch_size=5, capture=Capture(taps=True))
    with runner.attached():
        with pytest.raises(ZeroDivisionError, match="no slope"):
            score_batch(runner, "S", Slope(how="raise"), images)
        with pytest.raises(ZeroDivisionError, match="no luck"):
            score_batch(runner, "B", Bad("raise"), images)


def test_perturbation_does_not_reach_the_others(tiny: Make, tiny_data: Make) -> None:
    """Each perturbing method starts from the clean images."""
    classifier, data = tiny(), tiny_data(20)
    steps = {f"{epsilon}": Slope(epsilon) for epsilon in (0.0, 0.01, 0.2)}
    together = scored(classifier, data, {**steps, "good": Good()})
    for name, detector in steps.items():
        alone = scored(classifier, data, {name: detector}).scores[name]
        np.testing.assert_allclose(together.scores[name], alone, rtol=1e-12)
    np.testing.assert_allclose(together.scores["0.0"], together.scores["good"], rtol=1e-12)
    assert (together.scores["0.2"] > together.scores["0.01"]).mean() > 0.9
    assert (together.scores["0.01"] > together.scores["good"]).all()


@register("looks", needs=("features", "taps"))
class LooksForGraph(Detector):
    """Scores 1 where what it is given hangs on a graph, which it could keep alive."""

    def score(self, outputs: Outputs) -> Tensor:
        tensors = [outputs.logits, outputs.features, *outputs.taps.values()]
        graph = any(tensor.requires_grad for tensor in tensors)
        return torch.full((len(outputs),), float(graph))


def test_detectors_see_no_graph(tiny: Make, tiny_data: Make) -> None:
    """Not even beside one for which the first pass records one."""
    outcome = scored(tiny(), tiny_data(20), {"looks": LooksForGraph(), "slope": Slope()})
    np.testing.assert_array_equal(outcome.scores["looks"], np.zeros(20))


@register("keeps", needs=("features", "fit"))
class Keeps(Detector):
    """Keeps the features of the first batch that it is fitted on."""

    def fit(self, batches: Batches) -> None:
        self.features = next(iter(batches)).features

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.logits.amax(dim=1)


def test_what_is_fitted_has_no_graph_but_can_take_part_in_one(tiny: Make, tiny_data: Make) -> None:
    """The pass is made in inference mode; what a detector is given is not bound to it."""
    runner, detector = NetworkRunner(tiny(), batch_size=8), Keeps()
    with runner.attached():
        fit_together({"M": detector}, lambda: pass_outputs(runner, tiny_data(20)), 3)
    assert not detector.features.requires_grad
    weight = torch.ones(5, dtype=torch.float64, requires_grad=True)
    (detector.features @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, detector.features.sum(dim=0))
