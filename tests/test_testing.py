"""The conformance checks: each fails for a detector that is wrong in one way, and says so."""

from __future__ import annotations

import copy
import gc
import random
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench import Detector, Outputs, PerturbingDetector, UserError, register, testing
from oodbench.detector import Batches
from oodbench.models.classifier import Classifier
from oodbench.testing import (
    CHECKS,
    ConformanceError,
    check_detector,
    parametrize_with_checks,
    process_state,
    score_checks,
    state_checks,
)
from oodbench.testing.assertions import CheckFailed, NotRun
from oodbench.testing.fitting_checks import live_bytes
from oodbench.testing.small_network import SmallNetwork
from oodbench.testing.subject import Subject

NAMED = {check.name: check for check in CHECKS}


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


def failure(cls: type[Detector], check: str) -> CheckFailed:
    """What a check says; as a user sees it, of an exception of the detector, too."""
    result = testing.suite.result_of(NAMED[check], Subject(cls))
    assert result.status == "failed", f"{check} says: {result}"
    assert result.remedy or result.place, f"nothing says what to do: {result}"
    return CheckFailed(result.seen, result.remedy)


class Right(Detector):
    """Similarity to the direction of the mean training feature, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.mean: Tensor | None = None

    def fit(self, batches: Batches) -> None:
        total, count = 0.0, 0
        for outputs in batches:
            total = total + outputs.features.double().sum(dim=0)
            count += len(outputs)
        self.mean = torch.as_tensor(total / count)

    def score(self, outputs: Outputs) -> Tensor:
        if self.mean is None:
            raise ValueError("call fit first")
        features = outputs.features.double()
        return self.factor * (features @ self.mean) / features.norm(dim=1).clamp_min(1e-9)


def test_a_detector_that_is_right_passes() -> None:
    report = check_detector(declared(type("Copy", (Right,), {})))
    assert report.passed
    status = {result.name: result.status for result in report.results}
    assert status.keys() == NAMED.keys()
    assert status.pop("cuda") == ("passed" if torch.cuda.is_available() else "not run")
    others = {name for name, each in status.items() if each != "passed"}
    assert others == {"losses", "class_without_images"}
    assert {status[name] for name in others} == {"not applicable"}


# --- one detector for each check, wrong in one way ----------------------------------------------


class Rounded(Right):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = max(factor, 1.0)


class Renamed(Right):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        del self.factor
        self._factor = factor

    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.sum(dim=1) * self._factor


class Undeclared(Right):
    def score(self, outputs: Outputs) -> Tensor:
        bias = outputs.head.bias
        return super().score(outputs) + (0 if bias is None else bias.sum() + bias[0])


class UndeclaredLabels(Right):
    def fit(self, batches: Batches) -> None:
        outputs = next(iter(batches))
        self.mean = outputs.features[outputs.labels == 1].mean(dim=0)


class Looking(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs) + (1 if hasattr(outputs, "taps") else 0)


class Idle(Right):
    def fit(self, batches: Batches) -> None:
        self.mean = torch.ones(batches.num_classes * 8 + 10, dtype=torch.float64)


class Ignoring(Right):
    def calibrate(self, positives: Outputs, negatives: Outputs) -> None:
        self.factor = self.factor * 1.0


class TurnedRound(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return -super().score(outputs)


class Constant(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs) * 0


class OneColumn(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs)[:, None]


class NotANumber(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs).log().sub(1e9).sqrt()


class Narrow(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs).float()


class Whole(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return (1000 * super().score(outputs)).long()


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


class FiveClasses(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs) + 0 * outputs.logits[:, 4]


class Host(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs).cpu()


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


class ClassMeans(Right):
    """A mean for every class; NaN for one without images."""

    def fit(self, batches: Batches) -> None:
        sums, counts = torch.zeros(5, 50).double(), torch.zeros(5).double()
        for outputs in batches:
            assert outputs.labels is not None
            sums.index_add_(0, outputs.labels, outputs.features)
            counts += torch.bincount(outputs.labels, minlength=5)
        self.mean = (sums / counts[:, None]).sum(dim=0)


class Joining(Right):
    """A mean of class means, of joined batches; torch raises a ValueError about an empty list."""

    def fit(self, batches: Batches) -> None:
        rows: list[list[Tensor]] = [[] for _ in range(batches.num_classes)]
        for outputs in batches:
            assert outputs.labels is not None
            for number in outputs.labels.unique().tolist():
                rows[number].append(outputs.features[outputs.labels == number].double())
        if not all(rows):
            raise ValueError("expected a non-empty list of tensors")
        self.mean = torch.stack([torch.cat(each).mean(dim=0) for each in rows]).mean(dim=0)


class Asserting(Right):
    def score(self, outputs: Outputs) -> Tensor:
        assert self.mean is not None, "fit comes first"
        return super().score(outputs)


class Stateless(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return outputs.features.sum(dim=1)


class Hoarding(Right):
    def fit(self, batches: Batches) -> None:
        self.mean = torch.cat([outputs.features for outputs in batches]).mean(dim=0)


class HoardingArrays(Right):
    def fit(self, batches: Batches) -> None:
        kept = [outputs.logits.numpy().copy() for outputs in batches]
        super().fit(batches)
        self.total = float(np.concatenate(kept).sum())


class HoardingLater(Right):
    def fit(self, batches: Batches) -> None:
        super().fit(batches)
        self.kept = [outputs.features for outputs in batches]


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


class WithoutEffect(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs) / self.factor


class TwoAlike(Right):
    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs) / self.factor * min(self.factor, 1.0)


class InPlace(Right):
    def score(self, outputs: Outputs) -> Tensor:
        outputs.features.clamp_(max=3)
        return super().score(outputs)


class InPlaceWhileFitting(Right):
    def fit(self, batches: Batches) -> None:
        for outputs in batches:
            outputs.features.mul_(0.5)
        super().fit(batches)


class WritesIntoHead(Right):
    def fit(self, batches: Batches) -> None:
        for outputs in batches:
            assert outputs.head.weight is not None
            outputs.head.weight.clamp_(min=0)
        super().fit(batches)


class SharedList(Right):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(factor)
        self.added: list[float] = []

    def calibrate(self, positives: Outputs, negatives: Outputs) -> None:
        self.added.append(float(positives.features.mean() + 2 * negatives.features.mean()))

    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs) + len(self.added)


class InTheClass(Right):
    kept: Tensor

    def fit(self, batches: Batches) -> None:
        super().fit(batches)
        assert self.mean is not None
        type(self).kept = self.mean

    def score(self, outputs: Outputs) -> Tensor:
        return super().score(outputs) + type(self).kept.sum()


class WithFunction(Right):
    def fit(self, batches: Batches) -> None:
        super().fit(batches)
        self.function = lambda values: values


class AcrossTheBatch(Right):
    """Its loss is compared with that of the other images."""

    def gradient_losses(self, outputs: Outputs) -> Tensor:
        loss = -outputs.logits.logsumexp(dim=1)
        return (loss - loss.mean()) * loss


class PerturbingAcrossTheBatch(Right, PerturbingDetector):
    epsilon = 0.01
    perturbation_losses = AcrossTheBatch.gradient_losses


class ReachingForTheModel(Right):
    """Trains what it finds in memory."""

    def fit(self, batches: Batches) -> None:
        super().fit(batches)
        for found in gc.get_objects():
            if type(found) is SmallNetwork:
                weights = dict(found.named_parameters())  # other tests' networks have other heads
                if "head.weight" in weights:
                    with torch.no_grad():
                        weights["head.weight"].mul_(1.01)


NEEDS = {
    Undeclared: ("features", "fit"),
    Ignoring: ("features", "fit", "calibration"),
    SharedList: ("features", "fit", "calibration"),
    ClassMeans: ("features", "fit", "labels"),
    Joining: ("features", "fit", "labels"),
    WritesIntoHead: ("features", "fit", "head"),
    AcrossTheBatch: ("features", "fit", "input_gradients"),
    PerturbingAcrossTheBatch: ("features", "fit", "input_gradient"),
}

WRONG: list[tuple[type[Detector], str, str]] = [
    (Renamed, "parameters_kept", "'factor' is kept in no such attribute. Write self.NAME"),
    (Rounded, "parameters_kept", "made with factor = 0.5, its attribute factor is 1.0"),
    (Undeclared, "needs_declared", r"outputs.head is not declared: write needs=\('head', ...\)"),
    (UndeclaredLabels, "needs_declared", r"outputs.labels is not declared: write needs=\('labels'"),
    (Looking, "needs_declared", r"they differ by 1, .* such as hasattr"),
    (Idle, "needs_used", "'features' is declared|'fit' is declared, and fit reads no batch"),
    (Ignoring, "needs_used", "'calibration' is declared, and calibrate reads neither side"),
    (OneColumn, "scores", r"shape \[90, 1\]; expected .* shape \[90\].* Return one number"),
    (NotANumber, "scores", "scores are not finite.* log_softmax"),
    (Narrow, "scores", "'id' images are float32, not float64. Return a float64 tensor"),
    (Whole, "scores", "'id' images are int64, not float64"),
    (TurnedRound, "orientation", r"AUROC 0\.0.* Return the negated score"),
    (Constant, "orientation", r"AUROC 0\.500.* Every image has the same score"),
    (Standardized, "batch_size", "in batches of 1: image .* no mean, maximum or sort over"),
    (Standardized, "neighbors", "among OOD images: image .* differ by"),
    (Standardized, "one_image", "of an image alone: image 5 has 0, expected"),
    (Positional, "order", "of permuted images"),
    (Positional, "batch_size", "in batches of 1"),
    (Squeezing, "one_image", r"shape \[\]; expected a torch tensor of shape \[1\]"),
    (Remembering, "scored_again", "scored once more: .* Set attributes in fit only"),
    (Imprecise, "single_precision", r"'id' images in float32: .* Call .double\(\)"),
    (FiveClasses, "other_models", "IndexError: index 4 is out of bounds"),
    (Random, "determinism", "fitted and scored a second time: .* Draw random numbers from"),
    (LastBatch, "fit_batch_size", "fitted in batches of 37: .* Add up over all batches"),
    (Appending, "refit", "fitted on other images before: .* anew"),
    (ClassMeans, "class_without_images", "without an image of class 2: .* not finite.*counts > 0"),
    (Joining, "class_without_images", "class 2: ValueError: expected a non-empty list"),
    (Asserting, "unfitted", "raised AssertionError: fit comes first; expected a ValueError"),
    (Stateless, "unfitted", "declares a fit and scores without one. Set fitted attributes"),
    (Hoarding, "memory", "grew by 12.* MB over 30,000 .*, 4.. bytes an image.*RowSample"),
    (HoardingArrays, "memory", "MB over 30,000 training images, 4. bytes an image"),
    (HoardingLater, "memory", "grew by 12.* MB over 30,000 training images"),
    (Baked, "search_after_fit", "with factor = .* set after the fit: .* Use the value in score"),
    (Shared, "search_after_fit", "(after the fit|other parameters): image"),
    (WithoutEffect, "search_effect", "factor = 0.5 and factor = 1.0 give the same scores"),
    (TwoAlike, "search_effect", "factor = 1.0 and factor = 2.0 give the same scores"),
    (InPlace, "outputs_unchanged", r"writes into features of the images .* \('id'\). .* relu_"),
    (InPlaceWhileFitting, "outputs_unchanged", r"writes into features .* \('fit'\)"),
    (WritesIntoHead, "outputs_unchanged", "writes into the head's weight"),
    (ReachingForTheModel, "model_unchanged", "head.weight of the model is not as it was"),
    (SharedList, "copies", "after a copy made with copy.copy was calibrated .* differ by 1"),
    (InTheClass, "copies", "after a copy made with copy.deepcopy was fitted again"),
    (WithFunction, "copies", "pickle of the fitted detector raised .* Keep no lambdas"),
    (WithFunction, "saved", "saved and loaded: .* 'function' is a function .* Keep fitted values"),
    (AcrossTheBatch, "losses", "'logits' of gradient_losses, in a smaller batch: .* reduction="),
    (PerturbingAcrossTheBatch, "losses", "of perturbation_losses, in a smaller batch"),
]


@pytest.mark.parametrize(
    ("cls", "check", "said"), WRONG, ids=[f"{cls.__name__}-{check}" for cls, check, _ in WRONG]
)
def test_a_detector_that_is_wrong_fails(cls: type[Detector], check: str, said: str) -> None:
    needs = NEEDS.get(cls, ("features", "fit"))
    with pytest.raises(CheckFailed, match=said):
        raise failure(declared(cls, needs=needs), check)


def test_every_check_has_a_detector_that_fails() -> None:
    elsewhere = {"declaration", "cuda", "global_state"}
    assert {check for _, check, _ in WRONG} | elsewhere == NAMED.keys()


@pytest.mark.parametrize("need", ["taps", "labels", "feature_map"])
def test_a_need_that_is_not_used_is_named(need: str) -> None:
    cls = declared(type("Copy", (Right,), {}), needs=("features", "fit", need))
    said = f"the need '{need}' is declared, and outputs.{need} is never read. Remove it"
    assert said in str(failure(cls, "needs_used"))


def test_a_need_that_one_choice_of_an_argument_uses_is_used() -> None:
    class Choosing(Right):
        def __init__(self, factor: float = 1.0, on_map: bool = False) -> None:
            super().__init__(factor)
            self.on_map = on_map

        def score(self, outputs: Outputs) -> Tensor:
            more = outputs.feature_map.sum(dim=(1, 2, 3)) if self.on_map else 0
            return super().score(outputs) + more

    cls = declared(Choosing, needs=("features", "fit", "feature_map"))
    cls.__init__.__annotations__.update(factor=float, on_map=bool)
    NAMED["needs_used"](cls)


# --- global state -------------------------------------------------------------------------------

STATES: Mapping[str, tuple[Callable[[], object], str]] = {
    "torch": (lambda: torch.rand(1), "torch's global generator. Use generators of"),
    "seed": (lambda: torch.manual_seed(0), "torch's global generator"),
    "numpy": (lambda: np.random.rand(), "numpy's global generator"),  # noqa: NPY002
    "python": (random.random, "Python's global generator"),
    "grad": (lambda: torch.set_grad_enabled(True), "grad mode of torch: False before, True after"),
    "dtype": (
        lambda: torch.set_default_dtype(torch.float64),
        "default dtype: torch.float32 before, torch.float64 after. Use a context manager",
    ),
    "threads": (
        lambda: torch.set_num_threads(torch.get_num_threads() + 1),
        r"torch's number of threads: \d+ before, \d+ after",
    ),
    "errors": (lambda: np.seterr(all="ignore"), "numpy's handling of errors"),
    "deterministic": (lambda: torch.use_deterministic_algorithms(True), "deterministic"),
}


@pytest.mark.parametrize("method", ["fit", "score"])
@pytest.mark.parametrize("what", STATES)
def test_a_change_of_global_state_is_named_and_undone(what: str, method: str) -> None:
    change, said = STATES[what]

    def changing(self: Right, given: Any) -> Any:
        change()
        return getattr(Right, method)(self, given)

    cls = declared(type("Copy", (Right,), {method: changing}))
    before = process_state.process_state()
    with pytest.raises(CheckFailed, match=f"{method} changes .*{said}"):
        raise failure(cls, "global_state")
    assert not process_state.changed(before, process_state.process_state())


def test_a_constructor_that_changes_global_state_is_named() -> None:
    class Seeding(Right):
        def __init__(self, factor: float = 1.0) -> None:
            super().__init__(factor)
            np.random.seed(0)  # noqa: NPY002

    np.random.seed(0)  # noqa: NPY002 - as another instance did
    said = "__init__ changes numpy's global generator. Use generators of the detector's own"
    assert said in str(failure(declared(Seeding), "global_state"))


# --- CUDA ---------------------------------------------------------------------------------------


def test_without_cuda_the_check_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotRun, match="no CUDA"):
        NAMED["cuda"](declared(Right))


def test_scores_on_the_cpu_fail_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():  # a stand-in: tensors stay where they are
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(score_checks, "copied", lambda outputs, on: outputs)
    assert "scores of CUDA tensors are on cpu. Create tensors on the device" in str(
        failure(declared(Host), "cuda")
    )


# --- what a detector returns and declares ---------------------------------------------------------


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
        ("array", r"returned a value of type ndarray; expected a torch tensor of shape \[90\]"),
        ("infinite", r"90 of 90 scores are not finite, the first of them \[-inf\]"),
    ],
)
def test_scores_of_another_form_are_named_by_every_check(kind: str, said: str) -> None:
    cls = declared(type("Copy", (Returns,), {"kind": kind}))
    for check in ("scores", "orientation"):
        with pytest.raises(AssertionError, match=said):
            NAMED[check](cls)


def test_a_missing_step_size_is_named() -> None:
    methods = {"perturbation_losses": lambda self, outputs: -outputs.logits.amax(dim=1)}
    cls = declared(
        type("Copy", (Right, PerturbingDetector), methods),
        needs=("features", "fit", "input_gradient"),
    )
    with pytest.raises(AssertionError, match="expected an attribute epsilon, a float"):
        NAMED["declaration"](cls)


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
        NAMED["declaration"](cls)


@pytest.mark.parametrize("what", ["weight", "mode", "hook", "frozen", "buffer"])
def test_a_network_that_is_changed_is_noticed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(subject: Subject, settings: Any, classifier: Classifier) -> Any:
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
        return {0: torch.zeros(1)}

    monkeypatch.setattr(state_checks, "engine_scores", change)
    with pytest.raises(AssertionError, match=r"first\.1"):
        NAMED["model_unchanged"](declared(Right))


# --- the functions ------------------------------------------------------------------------------


def test_all_failures_are_in_the_error_and_in_the_report() -> None:
    cls = declared(type("Copy", (TurnedRound,), {}))
    with pytest.raises(ConformanceError) as raised:
        check_detector(cls)
    assert "FAIL orientation" in str(raised.value)
    assert "To do: Return the negated score" in str(raised.value)
    report = check_detector(cls, errors="return")
    assert [failure.name for failure in report.failures] == ["orientation"]
    assert "ok   scores" in str(report)
    assert "28 checks: 24 passed, 1 failed" in str(report)


def test_an_exception_is_said_once_with_the_line_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "detectors" / "broken_inside.py"
    file.parent.mkdir()
    file.write_text(
        "from oodbench import Detector, register\n\n"
        '@register("broken_inside")\nclass Broken(Detector):\n'
        "    def score(self, outputs):\n        return outputs.logits.amax(dim=7)\n"
    )
    for given in (file, str(file)):
        with pytest.raises(ConformanceError) as raised:
            check_detector(given)
    text = str(raised.value)
    assert "IndexError: Dimension out of range" in text
    assert "detectors/broken_inside.py, line 6: return outputs.logits.amax(dim=7)" in text
    assert text.count("IndexError") == 1
    assert text.count("as in scores") == 1, "the checks that fail alike are one line"
    (line,) = (line for line in text.splitlines() if "as in scores" in line)
    assert re.match(r"FAIL \d+ more checks +as in scores: needs_declared, .*, saved$", line)
    assert text.count("FAIL") == 2


def test_a_constructor_without_defaults_is_named_once() -> None:
    class Needing(Right):
        def __init__(self, other: int) -> None:
            super().__init__()
            self.other = other

    report = check_detector(declared(Needing), errors="return")
    first, *others = report.failures
    assert "it cannot be made: " in first.seen
    assert "missing 1 required positional argument: 'other'" in first.seen
    assert first.remedy == "Give each argument of the constructor a default."
    assert {failure.seen for failure in others} == {"as in declaration"}


def test_a_value_that_the_images_do_not_allow_is_left_out() -> None:
    class Neighbor(Right):
        def __init__(self, factor: float = 1.0) -> None:
            super().__init__(factor)

        def score(self, outputs: Outputs) -> Tensor:
            if self.factor > 600:
                raise ValueError("more neighbors than training images")
            return super().score(outputs)

    cls = declared(Neighbor, search_space={"factor": (1.0, 2.0, 1000.0)})
    for check in ("search_after_fit", "search_effect", "parameters_kept"):
        NAMED[check](cls)


def test_the_end_of_a_long_fit_is_not_waited_for() -> None:
    class Slow(Right):
        def fit(self, batches: Batches) -> None:
            count = sum(len(outputs) for outputs in batches)
            assert count < 10_000, "this would take minutes"
            super().fit(batches)

    NAMED["memory"](declared(Slow))


def test_an_instance_is_checked_with_its_parameters() -> None:
    cls = declared(type("Copy", (Right,), {}))
    turned = check_detector(cls(factor=-1.0), errors="return")
    assert "orientation" in [failure.name for failure in turned.failures]
    given = cls(factor=2.0)
    before = copy.deepcopy(vars(given))
    assert check_detector(given, errors="return").passed
    assert vars(given) == before


def test_names_aliases_and_plugins(tmp_path: Path) -> None:
    assert check_detector("msp").detector == "baseline"
    with pytest.raises(UserError, match=r"no detector 'energie'.*\n?.*Did you mean 'energy'"):
        check_detector("energie")
    examples = Path(__file__).parent.parent / "examples"
    assert check_detector("collision", plugins=examples).passed


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "expected a detector, its class, its name or its file, not 3"),
        ("", "expected a detector"),
        (Detector, "is not registered"),
        (Detector(), "is not registered"),
        ("nowhere/energy.py", "There is no file nowhere/energy.py"),
        (Path(__file__).parent, "is a folder; check one detector at a time"),
        (Path(__file__), "declares no detector"),
    ],
)
def test_what_is_no_detector_is_refused(given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_detector(given)


def test_parametrized_tests_leave_out_what_does_not_apply() -> None:
    mark = parametrize_with_checks(["energy", "knn"]).mark
    ids = [case.id for case in mark.args[1]]
    assert mark.args[0] == ("detector", "check")
    assert {"energy-scores", "knn-scores", "knn-memory", "energy-cuda"} <= set(ids)
    assert not {"energy-memory", "energy-losses", "knn-losses"} & set(ids)


def test_without_pytest_the_decorator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(UserError, match="needs pytest, which is not installed"):
        parametrize_with_checks(["energy"])


def test_the_guide_shows_every_check() -> None:
    guide = Path(__file__).parent.parent / "docs" / "how-to" / "writing-a-detector.md"
    (block,) = re.findall(
        r"^(steepness  [^ ]*steepness.py\n.*?)```", guide.read_text(), flags=re.S | re.M
    )
    shown = [(line[5:25].strip(), line[26:]) for line in block.splitlines() if line[:4].strip()]
    assert [name for name, _ in shown[1:-1]] == list(NAMED)
    passed = {line[5:25].strip(): line[26:] for line in block.splitlines() if line[:2] == "ok"}
    assert passed == {name: NAMED[name].idea for name in passed}
    assert f"{len(CHECKS)} checks: " in block


def test_a_file_of_tests_of_a_user_runs(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "test_mine.py").write_text(
        "from oodbench.testing import parametrize_with_checks\n\n"
        '@parametrize_with_checks(["energy"])\n'
        "def test_conformance(detector, check):\n    check(detector)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_conformance[energy-orientation] PASSED" in done.stdout
    if not torch.cuda.is_available():
        assert "no CUDA" in done.stdout or "test_conformance[energy-cuda] SKIPPED" in done.stdout


def test_objects_are_set_aside_during_the_memory_check_only() -> None:
    gc.unfreeze()  # those that the tests have set aside
    try:
        with pytest.raises(CheckFailed, match=r"grew by 12.* MB"):
            NAMED["memory"](declared(type("Copy", (Hoarding,), {})))
        assert gc.get_freeze_count() == 0
        NAMED["memory"](declared(Right))
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()


def test_tensors_without_data_have_no_bytes() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    before = live_bytes()
    with FakeTensorMode():
        fake = torch.empty(1_000_000)
    meta = torch.empty(1_000_000, device="meta")
    assert abs(live_bytes() - before) < 1_000_000
    real = torch.empty(1_000_000)
    assert live_bytes() - before >= 4_000_000
    assert fake.shape == meta.shape == real.shape  # all are alive until here
