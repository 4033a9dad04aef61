"""Every detector of the catalog against every requirement of `conformance`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import conformance
from helpers.conformance import CHECKS, Check, check_cuda, check_declaration, check_engine
from torch import Tensor

from oodbench import Detector, Outputs, PerturbingDetector, register
from oodbench.detector import Batches
from oodbench.models.classifier import Classifier
from oodbench.plugins.catalog import Catalog, load_class

CATALOG = Catalog()
DETECTORS = tuple(CATALOG.entries["detector"])
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=check.__name__, marks=NO_CUDA if check is check_cuda else ())
        for check in CHECKS
    ],
)
@pytest.mark.parametrize("name", DETECTORS)
def test_conformance(name: str, check: Check) -> None:
    check(load_class(CATALOG.entry("detector", name).path))


@pytest.mark.parametrize("name", DETECTORS)
def test_reading_a_file_gives_the_declaration_that_running_it_gives(name: str) -> None:
    info = load_class(CATALOG.entry("detector", name).path).info
    assert info.name == name
    assert CATALOG.detectors[name].info == info


def test_labels_are_unique() -> None:
    labels = [status.info.label for status in CATALOG.detectors.values() if status.info]
    assert sorted(labels) == sorted(set(labels))


# --- what the checks are worth: detectors that are wrong in one way -------------------------------


class Right(Detector):
    """Distance from the mean training feature's direction, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.mean: Tensor | None = None

    def fit(self, batches: Batches) -> None:
        features = torch.cat([outputs.features for outputs in batches])
        self.mean = features.mean(dim=0)

    def score(self, outputs: Outputs) -> Tensor:
        if self.mean is None:
            raise ValueError("call fit first")
        lengths = outputs.features.norm(dim=1)
        return self.factor * (outputs.features @ self.mean) / lengths.clamp_min(1e-9)


class TurnedRound(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return -super().score(outputs)


class OneColumn(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs)[:, None]


class NotANumber(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs).log().sub(1e9).sqrt()


class Narrow(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs).float()


class Standardized(Right):
    def score(self, outputs: Outputs) -> Tensor:
        scores = super().score(outputs)
        return scores - scores.mean()


class Positional(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs) + torch.arange(len(outputs)) / 1e4


class Squeezing(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs).squeeze()


class Remembering(Right):
    def score(self, outputs: Outputs) -> Tensor:
        scores = super().score(outputs)
        assert self.mean is not None
        self.mean = self.mean + outputs.features.mean(dim=0) / 100
        return scores


class Imprecise(Right):
    def score(self, outputs: Outputs) -> Tensor:
        eps = torch.finfo(outputs.features.dtype).eps
        return super().score(outputs).double() + eps**0.5 * outputs.features[:, 3] * 100


class Random(Right):
    def fit(self, batches: Batches) -> None:
        super().fit(batches)
        assert self.mean is not None
        self.mean = self.mean + torch.rand(()) / 100


class LastBatch(Right):
    def fit(self, batches: Batches) -> None:
        for outputs in batches:
            self.mean = outputs.features.mean(dim=0)


class Appending(Right):
    def fit(self, batches: Batches) -> None:
        before = self.mean
        super().fit(batches)
        if before is not None:
            self.mean = (self.mean + before) / 2


class Baked(Right):
    def fit(self, batches: Batches) -> None:
        super().fit(batches)
        assert self.mean is not None
        self.mean = self.mean * self.factor

    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs) / self.factor


class Shared(Right):
    """Parameters in a place that copies share."""

    def __init__(self, factor: float = 1.0) -> None:
        self.settings = {"factor": factor}
        self.mean = None

    @property
    def factor(self) -> float:  # type: ignore[override]
        return self.settings["factor"]

    @factor.setter
    def factor(self, value: float) -> None:
        self.settings["factor"] = value


class Asserting(Right):
    def score(self, outputs: Outputs) -> Tensor:
        assert self.mean is not None, "fit comes first"
        return super().score(outputs)


class InPlace(Right):
    def score(self, outputs: Outputs) -> Tensor:
        outputs.features.clamp_(max=3)
        return super().score(outputs)


class InPlaceWhileFitting(Right):
    def fit(self, batches: Batches) -> None:
        for outputs in batches:
            outputs.features.mul_(0.5)
        super().fit(batches)


class Undeclared(Right):
    def score(self, outputs: Outputs) -> Tensor:
        bias = outputs.head.bias
        return super().score(outputs) + (0 if bias is None else bias.sum() + bias[0])


class UndeclaredLabels(Right):
    def fit(self, batches: Batches) -> None:
        outputs = next(iter(batches))
        self.mean = outputs.features[outputs.labels == 1].mean(dim=0)


class Renamed(Right):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        del self.factor
        self._factor = factor

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.sum(dim=1) * self._factor


class Stateless(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.sum(dim=1)


def declared(cls: type[Detector], **changed: Any) -> type[Detector]:
    fields: dict[str, Any] = {
        "label": "Wrong",
        "title": "Wrong",
        "venue": "None",
        "year": 2000,
        "url": "https://example.org",
        "needs": ("features", "fit"),
        "search_space": {"factor": (0.5, 1.0, 2.0)} if "factor" in cls.parameter_names() else {},
    }
    return register("wrong", **{**fields, **changed})(cls)


def failing(cls: type[Detector]) -> dict[str, Exception]:
    found: dict[str, Exception] = {}
    for check in CHECKS:
        if check is not check_cuda or torch.cuda.is_available():
            try:
                check(cls)
            except Exception as error:
                found[check.__name__] = error
    return found


def test_a_detector_that_is_right_passes() -> None:
    assert failing(declared(Right)) == {}


@pytest.mark.parametrize(
    ("cls", "checks"),
    [
        (TurnedRound, "orientation"),
        (OneColumn, "scores one_image batch_size engine"),
        (NotANumber, "scores batch_size engine"),
        (Narrow, "scores"),
        (Standardized, "batch_size neighbors one_image engine"),
        (Positional, "order batch_size engine"),
        (Squeezing, "one_image"),
        (Remembering, "scoring_leaves_no_trace"),
        (Imprecise, "single_precision"),
        (Random, "repeatable"),
        (LastBatch, "fit_batch_size"),
        (Appending, "refit"),
        (Baked, "parameters_after_fit"),
        (Shared, "parameters_after_fit"),
        (Asserting, "unfitted"),
        (Stateless, "unfitted"),
        (InPlace, "inputs_unchanged"),
        (InPlaceWhileFitting, "inputs_unchanged"),
        (Undeclared, "declares_what_it_uses"),
        (UndeclaredLabels, "declares_what_it_uses"),
        (Renamed, "declaration"),
    ],
)
def test_a_detector_that_is_wrong_fails(cls: type[Detector], checks: str) -> None:
    found = failing(declared(cls))
    for check in checks.split():
        assert f"check_{check}" in found


class Returns(Right):
    """Gives something else than scores."""

    kind = "scalar"

    def score(self, outputs: Outputs) -> Any:
        scores = super().score(outputs)
        return {
            "scalar": scores.mean(),
            "column": scores[:, None],
            "array": scores.numpy(),
            "infinite": scores - torch.inf,
        }[self.kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("scalar", r"shape \[\]; expected a torch tensor of shape \[90\]"),
        ("column", r"shape \[90, 1\]; expected a torch tensor of shape \[90\]"),
        ("array", r"returned a ndarray; expected a torch tensor of shape \[90\]"),
        ("infinite", r"90 of 90 scores are not finite, the first of them \[-inf\]"),
    ],
)
def test_scores_of_another_form_are_named_by_every_check(kind: str, said: str) -> None:
    cls = declared(type("Copy", (Returns,), {"kind": kind}))
    for check in (conformance.check_scores, conformance.check_orientation):
        with pytest.raises(AssertionError, match=said):
            check(cls)


def test_a_missing_step_size_is_named() -> None:
    methods = {"perturbation_losses": lambda self, outputs: -outputs.logits.amax(dim=1)}
    cls = declared(
        type("Copy", (Right, PerturbingDetector), methods),
        needs=("features", "fit", "input_gradient"),
    )
    with pytest.raises(AssertionError, match="expected an attribute epsilon, a float"):
        check_declaration(cls)


class ClassMeans(Right):
    """A mean for every class; NaN for one without images."""

    def fit(self, batches: Batches) -> None:
        sums, counts = torch.zeros(5, 50).double(), torch.zeros(5).double()
        for outputs in batches:
            assert outputs.labels is not None
            sums.index_add_(0, outputs.labels, outputs.features)
            counts += torch.bincount(outputs.labels, minlength=5)
        self.mean = (sums / counts[:, None]).sum(dim=0)


def test_a_class_without_images_is_noticed() -> None:
    found = failing(declared(ClassMeans, needs=("features", "fit", "labels")))
    assert "fitted without an image of class 2" in str(found["check_class_without_images"])


def test_what_is_not_declared_is_named() -> None:
    found = failing(declared(UndeclaredLabels))["check_declares_what_it_uses"]
    assert isinstance(found, AssertionError)
    assert "outputs.labels is not declared: write needs=('labels', ...)" in str(found)


@pytest.mark.parametrize(
    "changed",
    [
        {"venue": ""},
        {"year": None},
        {"url": "http://example.org"},
        {"label": "two words"},
        {"search_space": {"factor": (0.5, 2.0)}},
        {"search_space": {"factor": (1.0, 1.0)}},
        {"needs": ("features",)},
    ],
)
def test_a_declaration_that_is_wrong_fails(changed: dict[str, Any]) -> None:
    cls = declared(type("Copy", (Right,), {}), **changed)
    with pytest.raises(AssertionError, match="wrong: "):
        check_declaration(cls)


@pytest.mark.parametrize("what", ["weight", "mode", "hook", "frozen", "buffer"])
def test_a_network_that_is_changed_is_noticed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(classifier: Classifier, cls: type[Detector]) -> Any:
        part = classifier.network.get_submodule("first.1")
        with torch.no_grad():
            match what:
                case "weight":
                    part.weight[2] += 1e-6
                case "mode":
                    part.eval()
                case "hook":
                    part.register_forward_hook(lambda *given: None)
                case "frozen":
                    part.weight.requires_grad_(False)
                case "buffer":
                    part.running_mean += 1e-6
        return np.zeros(1)

    monkeypatch.setattr(conformance, "engine_scores", change)
    with pytest.raises(AssertionError, match=r"first\.1"):
        check_engine(declared(Right))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_built_in_detector_says_where_it_was_published(name: str) -> None:
    info = CATALOG.detectors[name].info
    assert info is not None
    assert info.venue
    assert info.year
    assert info.url
    assert info.paper
    assert info.authors


class AcrossTheBatch(Right):
    """Its loss is compared with that of the other images."""

    epsilon = 0.01

    def perturbation_losses(self, outputs: Outputs) -> Tensor:
        loss = -outputs.logits.logsumexp(dim=1)
        return (loss - loss.mean()) * loss

    gradient_losses = perturbation_losses


@pytest.mark.parametrize("need", ["input_gradient", "input_gradients"])
def test_a_loss_that_depends_on_the_batch_fails(need: str) -> None:
    bases = (AcrossTheBatch, PerturbingDetector)[: 2 if need == "input_gradient" else 1]
    cls = declared(type("Copy", bases, {}), needs=("features", "fit", need))
    assert "check_losses" in failing(cls)
