"""Detectors of logits, penultimate features and the linear head, against loops in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal, localcontext
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Detector, Head, Outputs
from oodbench.detector import Batches
from oodbench.errors import NotFittedError
from oodbench.numerics.likelihood.temperature import LOWEST, calibrate

Array = NDArray[np.float64]

CLASSES, DIMENSION = 6, 10
NAMES = (
    "max_logit",
    "energy",
    "gen",
    "kl_matching",
    "temperature_scaling",
    "gradnorm",
    "she",
    "fdbd",
    "nci",
    "dice",
)
FITTED = ("she", "fdbd", "nci", "dice")
VALIDATION = ("kl_matching", "temperature_scaling")
WITH_LINEAR_HEAD = ("fdbd", "nci", "dice")


class Given(Batches):
    """Batches made by hand."""

    def __init__(self, *batches: Outputs, num_classes: int = CLASSES) -> None:
        self.batches = batches
        self.num_classes = num_classes

    def __iter__(self) -> Iterator[Outputs]:
        return iter(self.batches)


def in_parts(outputs: Outputs, size: int) -> Given:
    return Given(*(outputs[start : start + size] for start in range(0, len(outputs), size)))


def head(dtype: torch.dtype = torch.float64, *, bias: bool = True) -> Head:
    generator = torch.Generator().manual_seed(14)  # every class is predicted
    weight = torch.randn(CLASSES, DIMENSION, generator=generator, dtype=torch.float64)
    shift = torch.randn(CLASSES, generator=generator, dtype=torch.float64)
    return Head("linear", weight.to(dtype), shift.to(dtype) if bias else None)


def sample(
    count: int, seed: int = 0, *, dtype: torch.dtype = torch.float64, last: Head | None = None
) -> Outputs:
    """Features as after a ReLU, one of them dead; three quarters are labeled as predicted."""
    last = head(dtype) if last is None else last
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, DIMENSION, generator=generator, dtype=torch.float64).relu()
    features[:, 3] = 0
    features = features.to(dtype)
    logits = last.logits(features)
    labels = logits.argmax(dim=1)
    wrong = torch.rand(count, generator=generator) < 0.25
    labels = torch.where(wrong, (labels + 1) % CLASSES, labels)
    return Outputs(logits, features, labels=labels, head=last)


def of_logits(*rows: Sequence[float]) -> Outputs:
    return Outputs(torch.tensor(rows, dtype=torch.float64), torch.zeros(len(rows), 1))


def load(name: str, **parameters: Any) -> Any:
    return oodbench.load_detector(name, **parameters)


def learn(detector: Detector, batches: Batches) -> Any:
    if "fit" in detector.info.needs:
        detector.fit(batches)
    if "validation" in detector.info.needs:
        detector.fit_validation(batches)
    return detector


# --- references: one image and one class at a time ---------------------------------------------


def softmax_by_hand(z: Array) -> Array:
    exponentials = np.array([np.exp(value - max(z)) for value in z])
    probabilities: Array = exponentials / sum(exponentials)
    return probabilities


def log_odds_by_hand(z: Array) -> float:
    """Of the largest probability; the other probabilities are added up, not subtracted from 1."""
    first, *others = sorted(softmax_by_hand(z), reverse=True)
    return float(np.log(first) - np.log(sum(others)))


def numbers(tensor: Tensor | None) -> Array:
    assert tensor is not None
    values: Array = tensor.double().numpy()
    return values


def reference(name: str, training: Outputs, test: Outputs, parameters: dict[str, Any]) -> Array:
    """Scores of the test images, from the formulas."""
    logits, features = numbers(test.logits), numbers(test.features)
    if name == "max_logit":
        return np.array([max(z) for z in logits])
    if name == "energy":
        t = parameters.get("temperature", 1.0)
        return np.array([t * np.log(sum(np.exp(value / t) for value in z)) for z in logits])
    if name == "gen":
        gamma, m = parameters.get("gamma", 0.1), parameters.get("top_m", 100)
        largest = [sorted(softmax_by_hand(z), reverse=True)[:m] for z in logits]
        return -np.log([sum(p**gamma * (1 - p) ** gamma for p in row) for row in largest])
    if name == "kl_matching":
        return kl_by_hand(numbers(training.logits), logits)
    if name == "temperature_scaling":
        assert training.labels is not None
        t = calibrate(training.logits, training.labels)
        return np.array([log_odds_by_hand(z / t) for z in logits])
    if name == "gradnorm":
        t = parameters.get("temperature", 1.0)
        scores = []
        for h, z in zip(features, logits, strict=True):
            p = softmax_by_hand(z / t)
            # One entry of the gradient for every weight W_cd.
            scores.append(
                sum(abs((p[c] - 1 / len(p)) * value / t) for c in range(len(p)) for value in h)
            )
        return np.array(scores)
    return fitted_by_hand(name, training, test, parameters)


def kl_by_hand(validation: Array, logits: Array) -> Array:
    groups: dict[int, list[Array]] = {}
    for z in validation:
        groups.setdefault(int(np.argmax(z)), []).append(softmax_by_hand(z))
    templates = [np.mean(group, axis=0) for group in groups.values()]
    scores = []
    for z in logits:
        p = softmax_by_hand(z)
        divergences = [
            sum(p[i] * np.log(p[i] / d[i]) for i in range(len(p)) if p[i] > 0) for d in templates
        ]
        scores.append(-np.log(min(divergences)))
    return np.array(scores)


def fitted_by_hand(
    name: str, training: Outputs, test: Outputs, parameters: dict[str, Any]
) -> Array:
    logits, features = numbers(test.logits), numbers(test.features)
    seen, predicted = numbers(training.features), numbers(training.logits).argmax(axis=1)
    mean = seen.mean(axis=0)
    scores = []
    for h, z in zip(features, logits, strict=True):
        c = int(np.argmax(z))
        if name == "she":
            assert training.labels is not None
            labels = training.labels.tolist()
            pattern = np.mean(
                [f for f, y, k in zip(seen, labels, predicted, strict=True) if y == k == c], axis=0
            )
            scores.append(sum(pattern * h))
            continue
        weight = numbers(test.head.weight)
        if name == "fdbd":
            distances = [
                abs(z[c] - z[k]) / np.sqrt(sum((weight[c] - weight[k]) ** 2))
                for k in range(len(z))
                if k != c
            ]
            scores.append(np.mean(distances) / np.sqrt(sum((h - mean) ** 2)))
        elif name == "nci":
            centered = h - mean
            cosine = centered @ weight[c] / np.sqrt(centered @ centered)
            scores.append(cosine + parameters.get("alpha", 0.0001) * sum(abs(h)))
        elif name == "dice":
            entries = [weight[k, d] * mean[d] for k in range(len(z)) for d in range(len(h))]
            threshold = np.percentile(entries, 100 * parameters.get("p", 0.9))
            bias = np.zeros(len(z)) if test.head.bias is None else numbers(test.head.bias)
            sparse = [
                bias[k]
                + sum(
                    weight[k, d] * h[d] for d in range(len(h)) if weight[k, d] * mean[d] > threshold
                )
                for k in range(len(z))
            ]
            energies = parameters.get("base", "energy") == "energy"
            scores.append(
                np.log(sum(np.exp(sparse))) if energies else log_odds_by_hand(np.array(sparse))
            )
    return np.array(scores)


CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in NAMES),
    ("energy", {"temperature": 10.0}),
    ("energy", {"temperature": 1000.0}),
    ("gen", {"gamma": 0.01, "top_m": 3}),
    ("gen", {"gamma": 2.0, "top_m": 1}),
    ("gen", {"gamma": 0.5, "top_m": CLASSES}),
    ("gradnorm", {"temperature": 5.0}),
    ("nci", {"alpha": 0.1}),
    ("nci", {"alpha": 0.0}),
    ("dice", {"p": 0.0}),
    ("dice", {"p": 0.3}),
    ("dice", {"p": 0.7, "base": "max_probability"}),
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_score_is_the_formula(name: str, parameters: dict[str, Any], dtype: torch.dtype) -> None:
    training, test = sample(150, 1, dtype=dtype), sample(30, 2, dtype=dtype)
    detector = learn(load(name, **parameters), in_parts(training, 64))
    expected = reference(name, training, test, parameters)
    exact = dtype == torch.float64 or name != "dice"  # only DICE's product is in the features' type
    rtol = 1e-10 if exact else 1e-5
    # Log-odds are around zero: what they lose there is relative to their spread.
    atol = max(1e-13, rtol * expected.std())
    np.testing.assert_allclose(detector.score(test).numpy(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", ["nci", "fdbd", "dice"])
def test_a_head_without_a_bias(name: str) -> None:
    last = head(bias=False)
    training, test = sample(150, 1, last=last), sample(30, 2, last=last)
    detector = learn(load(name), in_parts(training, 64))
    expected = reference(name, training, test, {})
    np.testing.assert_allclose(detector.score(test).numpy(), expected, rtol=1e-10)


# --- contracts that all of them keep -----------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_float64_and_do_not_depend_on_the_batch(name: str) -> None:
    detector = learn(load(name), in_parts(sample(150, 1), 64))
    test = sample(40, 2)
    whole = detector.score(test)
    assert whole.dtype == torch.float64
    assert whole.shape == (40,)
    assert torch.isfinite(whole).all()
    for size in (1, 7):
        parts = [detector.score(test[i : i + size]) for i in range(0, 40, size)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_given_is_changed(name: str) -> None:
    training, test = sample(150, 1), sample(20, 2)
    before = [outputs.map(torch.clone) for outputs in (training, test)]
    assert test.head.weight is not None
    weight = test.head.weight.clone()
    learn(load(name), Given(training)).score(test)
    for outputs, copy in zip((training, test), before, strict=True):
        assert torch.equal(outputs.logits, copy.logits)
        assert torch.equal(outputs.features, copy.features)
    assert torch.equal(test.head.weight, weight)


@pytest.mark.parametrize("name", FITTED + VALIDATION)
def test_a_fit_streams_and_forgets_an_earlier_one(name: str) -> None:
    training, test = sample(150, 1), sample(20, 2)
    expected = learn(load(name), Given(training)).score(test)
    detector = learn(load(name), in_parts(sample(90, 5), 90))
    detector.score(test)
    again = learn(detector, in_parts(training, 11)).score(test)
    torch.testing.assert_close(again, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("energy", "temperature", 100.0),
        ("gen", "gamma", 2.0),
        ("gen", "top_m", 2),
        ("gradnorm", "temperature", 3.0),
        ("nci", "alpha", 0.1),
        ("dice", "p", 0.3),
        ("dice", "base", "max_probability"),
    ],
)
def test_a_parameter_changed_after_the_fit(name: str, parameter: str, value: Any) -> None:
    training, test = sample(150, 1), sample(20, 2)
    fitted = learn(load(name), Given(training))
    before = fitted.score(test)
    changed = fitted.with_parameters(**{parameter: value}).score(test)
    fresh = learn(load(name, **{parameter: value}), Given(training)).score(test)
    assert torch.equal(changed, fresh)
    assert not torch.equal(changed, before), "these data would not show it"
    assert torch.equal(fitted.score(test), before), "the original is as it was"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("energy", {"temperature": 1.0}),
        ("gen", {"gamma": 0.1, "top_m": 100}),
        ("gradnorm", {"temperature": 1.0}),
        ("nci", {"alpha": 0.0001}),
        ("dice", {"p": 0.9, "base": "energy"}),
        ("max_logit", {}),
        ("kl_matching", {}),
        ("temperature_scaling", {}),
        ("she", {}),
        ("fdbd", {}),
    ],
)
def test_published_defaults(name: str, parameters: dict[str, Any]) -> None:
    detector = load(name)
    assert detector.parameters == parameters
    for parameter, values in detector.info.search_space.items():
        assert parameters[parameter] in values


def test_published_grids() -> None:
    spaces = {name: dict(load(name).info.search_space) for name in NAMES}
    assert {name: space for name, space in spaces.items() if space} == {
        "energy": {"temperature": (1.0, 10.0, 100.0, 1000.0)},
        "gen": {
            "gamma": (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0),
            "top_m": (10, 50, 100, 200, 500, 1000),
        },
        "nci": {"alpha": (0.0001, 0.001, 0.01, 0.1)},
        "dice": {"p": (0.1, 0.3, 0.5, 0.7, 0.9)},
    }


def test_needs() -> None:
    assert {name: set(load(name).info.needs) for name in NAMES} == {
        "max_logit": set(),
        "energy": set(),
        "gen": set(),
        "kl_matching": {"validation"},
        "temperature_scaling": {"validation", "labels"},
        "gradnorm": {"features", "head"},
        "she": {"features", "labels", "fit"},
        "fdbd": {"features", "head", "fit"},
        "nci": {"features", "head", "fit"},
        "dice": {"features", "head", "fit"},
    }


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("energy", {"temperature": 0.0}, "temperature must be positive, not 0.0"),
        ("gradnorm", {"temperature": -1.0}, "temperature must be positive, not -1.0"),
        ("gen", {"gamma": 0.0}, "gamma must be positive, not 0.0"),
        ("gen", {"top_m": 0}, "top_m must be at least 1, not 0"),
        ("nci", {"alpha": -0.1}, "alpha must not be negative, not -0.1"),
        ("nci", {"alpha": float("nan")}, "alpha must not be negative, not nan"),
        ("dice", {"p": 1.0}, r"p must be a fraction in \[0, 1\), not 1.0"),
        ("dice", {"p": -0.1}, r"p must be a fraction in \[0, 1\), not -0.1"),
        ("dice", {"base": "msp"}, "base must be one of energy, max_probability, not msp"),
    ],
)
def test_bad_parameters(name: str, parameters: dict[str, Any], message: str) -> None:
    detector_class = type(load(name))
    with pytest.raises(ValueError, match=message):
        detector_class(**parameters)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kl_matching", "Call fit_validation first"),
        ("temperature_scaling", "Call fit_validation first"),
        ("she", "Call fit first"),
        ("fdbd", "Call fit first"),
        ("nci", "Call fit first"),
        ("dice", "Call fit first"),
    ],
)
def test_scoring_before_the_fit(name: str, message: str) -> None:
    with pytest.raises(NotFittedError, match=message):
        load(name).score(sample(3))


@pytest.mark.parametrize("name", FITTED + VALIDATION)
def test_a_fit_without_images(name: str) -> None:
    with pytest.raises(ValueError, match=r"no (training|validation) images to"):
        learn(load(name), Given())


@pytest.mark.parametrize("name", ["she", "temperature_scaling"])
def test_a_fit_without_labels(name: str) -> None:
    with pytest.raises(ValueError, match="images with labels"):
        learn(load(name), Given(replace(sample(50), labels=None)))


@pytest.mark.parametrize("kind", ["dismax", "other"])
@pytest.mark.parametrize("name", WITH_LINEAR_HEAD)
def test_a_head_that_is_not_linear(name: str, kind: Any) -> None:
    outputs = sample(50)
    outputs = replace(outputs, head=replace(outputs.head, kind=kind))
    with pytest.raises(ValueError, match=f"a {kind} head has no"):
        learn(load(name), Given(outputs)).score(outputs)


def test_fdbd_needs_two_classes() -> None:
    outputs = sample(20)
    assert outputs.head.weight is not None
    one = Head("linear", outputs.head.weight[:1])
    with pytest.raises(ValueError, match="fewer than two classes"):
        learn(load("fdbd"), Given(replace(outputs, head=one), num_classes=1))


def test_she_names_the_classes_without_a_pattern() -> None:
    outputs = sample(200)
    assert outputs.labels is not None
    never_right = (outputs.labels + 1) % CLASSES
    labels = torch.where((outputs.labels == 2) | (outputs.labels == 4), never_right, outputs.labels)
    with pytest.raises(ValueError, match=r"class 2, 4 is classified correctly.*more images"):
        learn(load("she"), Given(replace(outputs, labels=labels)))


# --- scores of probabilities at every scale of the logits ---------------------------------------


def exactly(name: str, parameters: dict[str, Any], rows: Array, validation: Array) -> list[Any]:
    """What a detector's paper computes for each row of logits, or what has the same order.

    With 80 digits and any exponent; 1 - p is the sum of the other probabilities.
    """
    temperature = parameters.get("temperature", 1.0)

    def softmax(z: Array) -> list[Any]:
        exponentials = [mpmath.exp(mpmath.mpf(float(value)) / temperature) for value in z]
        total = mpmath.fsum(exponentials)
        return [value / total for value in exponentials]

    def others(p: Sequence[Any], i: int) -> Any:
        return mpmath.fsum(value for j, value in enumerate(p) if j != i)

    def divergence(p: Sequence[Any], d: Sequence[Any]) -> Any:
        """The sum of p log(p / d) - p + d, from complements for the largest."""
        top = max(range(len(d)), key=d.__getitem__)
        surplus = others(d, top) - others(p, top)
        terms = [p[i] * mpmath.log(p[i] / d[i]) - p[i] + d[i] for i in range(len(d)) if i != top]
        near = abs(surplus) < 0.1
        ratio = mpmath.log1p(surplus / d[top]) if near else mpmath.log(p[top] / d[top])
        return mpmath.fsum([*terms, p[top] * ratio - surplus])

    posteriors = [softmax(z) for z in rows]
    if name in ("entropy", "dismax_entropy"):
        logs = [[mpmath.log1p(-others(p, i)) for i in range(len(p))] for p in posteriors]
        return [
            mpmath.fsum(
                v * (log if v > 0.5 else mpmath.log(v)) for v, log in zip(p, row, strict=True)
            )
            for p, row in zip(posteriors, logs, strict=True)
        ]
    if name == "gen":
        gamma = mpmath.mpf(parameters["gamma"])
        return [
            -mpmath.fsum((v * others(p, i)) ** gamma for i, v in enumerate(p)) for p in posteriors
        ]
    if name == "kl_matching":
        groups: dict[int, list[list[Any]]] = {}
        for z in validation:
            groups.setdefault(int(z.argmax()), []).append(softmax(z))
        templates = [
            [mpmath.fsum(column) / len(group) for column in zip(*group, strict=True)]
            for group in groups.values()
        ]
        return [-min(divergence(p, template) for template in templates) for p in posteriors]
    return [max(p) / others(p, p.index(max(p))) for p in posteriors]


OF_PROBABILITIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("baseline", {}),
    ("entropy", {}),
    ("dismax_entropy", {}),
    ("gen", {"gamma": 0.1}),
    ("gen", {"gamma": 10.0}),
    ("odin", {"temperature": 1.0}),
    ("odin", {"temperature": 0.125}),
    ("odin", {"temperature": 1024.0}),
    ("temperature_scaling", {}),
    ("kl_matching", {}),
)
SCALES = (1e-3, 1.0, 30.0, 64.0, 1e3, 1e4)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("name", "parameters"), OF_PROBABILITIES)
def test_scores_of_probabilities_keep_their_order_at_every_scale(
    name: str, parameters: dict[str, Any], scale: float
) -> None:
    """In float64 the largest probability is 1, and the entropy of the others 0, long before."""
    generator = torch.Generator().manual_seed(3)
    rows, validation = (
        (scale * torch.randn(count, 4, generator=generator)).double() for count in (16, 12)
    )  # float32 numbers, as a network gives them
    detector = load(name, **parameters)
    if name == "temperature_scaling":
        detector.fitted_temperature = 1.0
    elif "validation" in detector.info.needs:
        learn(detector, Given(Outputs(validation, torch.zeros(12, 1)), num_classes=4))
    scores = detector.score(Outputs(rows, torch.zeros(len(rows), 1)))
    with mpmath.workdps(80):
        values = exactly(name, parameters, numbers(rows), numbers(validation))
        order = sorted(range(len(values)), key=values.__getitem__)
    assert torch.isfinite(scores).all()
    if name == "kl_matching":  # of images that are far more confident it is the template's own
        distinct = len({mpmath.nstr(value, 15) for value in values})
        assert (scores[order].diff() >= 0).all()
        assert len(scores.unique()) >= distinct
    else:
        assert len(scores.unique()) == len(values), "images are tied that the logits tell apart"
        assert scores.argsort().tolist() == order
    logarithm = name in ("entropy", "dismax_entropy", "gen", "kl_matching")
    with mpmath.workdps(30):
        expected = [float(-mpmath.log(-v) if logarithm else mpmath.log(v)) for v in values]
    rtol = 1e-9 if name == "kl_matching" else 1e-13  # p and its template nearly the same at 1e-3
    np.testing.assert_allclose(scores.numpy(), expected, rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("margin", [50.0, 800.0, 9e3])
def test_a_small_difference_of_large_margins_is_seen(margin: float) -> None:
    """Two images whose probabilities differ in no digit of float64."""
    outputs = of_logits([margin, 0.0, -1.0], [margin * (1 + 1e-6), 0.0, -1.0])
    for name in ("baseline", "entropy", "dismax_entropy", "gen"):
        low, high = load(name).score(outputs).tolist()
        assert low < high, name
    assert outputs.logits.softmax(dim=1).amax(dim=1).unique().numel() == 1


# --- energy, GEN -------------------------------------------------------------------------------


def test_energy_at_a_high_temperature_tells_images_apart() -> None:
    """It becomes T log C plus the mean logit; in float32 that constant hides small differences."""
    scores = load("energy", temperature=1000.0).score(
        of_logits([1.0, 0.0, 0.0], [1.0 + 1e-6, 0.0, 0.0])
    )
    assert (scores[1] - scores[0]).item() == pytest.approx(1e-6 / 3, rel=1e-2)


def gen_exactly(logits: Sequence[float], gamma: str) -> float:
    """Minus the logarithm of the generalized entropy of all classes, with 400 digits."""
    with localcontext(prec=400) as context:
        context.Emin = -(10**9)
        exponentials = [Decimal(value).exp() for value in logits]
        total = sum(exponentials)
        terms = [
            (p / total) ** Decimal(gamma) * ((total - p) / total) ** Decimal(gamma)
            for p in exponentials
        ]
        return -float(sum(terms).ln())


@pytest.mark.parametrize("gap", [0.0, 1e-9, 5.0, 30.0, 40.0, 300.0, 700.0])
@pytest.mark.parametrize("gamma", ["0.1", "0.5", "2"])
def test_gen_of_confident_images_does_not_cancel(gap: float, gamma: str) -> None:
    """From a gap of 37 on the largest probability is 1 in float64, and 1 - p would be 0."""
    logits = [gap, 0.0, -0.5, -1.0]
    found = load("gen", gamma=float(gamma)).score(of_logits(logits)).item()
    assert found == pytest.approx(gen_exactly(logits, gamma), rel=1e-11)


def test_gen_of_certain_images() -> None:
    scores = load("gen").score(of_logits([1e6, 0.0, 0.0], [0.0, -1e6, 0.0], [0.0, 0.0, 0.0]))
    two = 2 * (1 / 4) ** 0.1
    three = 3 * (2 / 9) ** 0.1
    certain = 0.1 * 1e6 - np.log(2**0.1 + 2)  # 1 - p = 2 exp(-1e6), and p = exp(-1e6) twice
    expected = [certain, -np.log(two), -np.log(three)]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-12)


# --- KL matching -------------------------------------------------------------------------------


def test_kl_matching_leaves_out_classes_that_are_never_predicted() -> None:
    validation = of_logits([3.0, 0.0, 0.0], [4.0, 1.0, 0.0], [0.0, 1.0, 5.0])
    test = of_logits([0.0, 9.0, 0.0], [2.0, 2.0, 2.0])
    detector = learn(load("kl_matching"), Given(validation, num_classes=3))
    assert detector.log_templates.shape == (2, 3)
    expected = kl_by_hand(numbers(validation.logits), numbers(test.logits))
    np.testing.assert_allclose(detector.score(test).numpy(), expected, rtol=1e-12)


def test_kl_matching_of_a_posterior_that_is_a_template() -> None:
    """The divergence is zero; its logarithm is that of the rounding, and above all others."""
    validation = of_logits([3.0, 0.0, 0.0], [0.0, 2.0, 1.0])
    detector = learn(load("kl_matching"), Given(validation, num_classes=3))
    test = of_logits([3.0, 0.0, 0.0], [0.0, 2.0, 1.0], [3.0 + 1e-9, 0.0, 0.0])
    *exact, near = detector.score(test).tolist()
    assert min(exact) > -np.log(1e-29)
    assert np.log(1e16) < near < np.log(1e20)


def test_kl_matching_where_probabilities_are_zero() -> None:
    """A template that underflows where the image does not: far, but finite."""
    detector = learn(
        load("kl_matching"),
        Given(of_logits([0.0, -3000.0, -3000.0], [-3000.0, 0.0, -3000.0]), num_classes=3),
    )
    test = of_logits(
        [0.0, -3000.0, -3000.0], [0.0, 0.0, -3000.0], [-3000.0, -3000.0, 0.0], [-9.0, 0.0, 0.0]
    )
    match, between, other, spread = detector.score(test).tolist()
    assert match > 3000
    assert match > between > spread > other
    assert other == pytest.approx(-np.log(3000), rel=1e-12)
    assert between == pytest.approx(-np.log(0.5 * 3000 - np.log(2)), rel=1e-12)


def test_kl_matching_does_not_look_at_labels() -> None:
    validation, test = sample(150, 1), sample(20, 2)
    assert validation.labels is not None
    with_labels = learn(load("kl_matching"), Given(validation)).score(test)
    without = learn(load("kl_matching"), Given(replace(validation, labels=None))).score(test)
    assert torch.equal(with_labels, without)


# --- temperature scaling -----------------------------------------------------------------------


def test_temperature_scaling_finds_the_temperature_of_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(F.softmax(logits, dim=1), 1, generator=generator).squeeze(1)
    validation = Outputs(3 * logits, torch.zeros(4000, 1), labels=labels)
    detector = learn(load("temperature_scaling"), in_parts(validation, 512))
    assert detector.fitted_temperature == pytest.approx(3.0, rel=0.1)
    assert detector.fitted_temperature == pytest.approx(calibrate(validation.logits, labels))


def test_temperature_scaling_where_every_validation_image_is_right() -> None:
    """The likeliest temperature is the smallest one: probabilities are 1, images not alike."""
    logits = 3 * torch.randn(500, 5, generator=torch.Generator().manual_seed(0)).double()
    right = Outputs(logits, torch.zeros(500, 1), labels=logits.argmax(dim=1))
    detector = learn(load("temperature_scaling"), in_parts(right, 128))
    assert detector.fitted_temperature == pytest.approx(LOWEST)
    scores = detector.score(right)
    margins = logits.topk(2, dim=1).values.diff(dim=1).abs().squeeze(1)
    assert len(scores.unique()) == 500
    assert torch.equal(scores.argsort(), margins.argsort())


def test_temperature_scaling_keeps_single_precision() -> None:
    """Of a network that has no other; one in double precision loses nothing."""
    logits = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).double()
    for dtype in (torch.float32, torch.float64):
        validation = Outputs(
            logits.to(dtype).double(), torch.zeros(64, 1, dtype=dtype), labels=torch.arange(64) % 4
        )
        detector = learn(load("temperature_scaling"), in_parts(validation, 16))
        assert validation.labels is not None
        assert detector.fitted_temperature == calibrate(validation.logits, validation.labels)


# --- GradNorm ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5, 8.0])
def test_gradnorm_is_the_norm_of_the_gradient(temperature: float) -> None:
    """KL(u || softmax(z / T)) through a real layer, one image at a time."""
    test = sample(20, 3)
    assert test.head.weight is not None
    assert test.head.bias is not None
    layer = nn.Linear(DIMENSION, CLASSES).double()
    with torch.no_grad():
        layer.weight.copy_(test.head.weight)
        layer.bias.copy_(test.head.bias)
    uniform = torch.full((1, CLASSES), 1 / CLASSES, dtype=torch.float64)
    norms = []
    for h in test.features:
        log_p = F.log_softmax(layer(h[None]) / temperature, dim=1)
        loss = F.kl_div(log_p, uniform, reduction="batchmean")
        (gradient,) = torch.autograd.grad(loss, layer.weight)
        norms.append(gradient.abs().sum().item())
    found = load("gradnorm", temperature=temperature).score(test)
    np.testing.assert_allclose(found.numpy(), norms, rtol=1e-10)


def test_gradnorm_of_nothing_is_zero() -> None:
    outputs = sample(2)
    dark = replace(outputs, features=torch.zeros_like(outputs.features))
    even = replace(outputs, logits=torch.full_like(outputs.logits, 3.0))
    assert load("gradnorm").score(dark).tolist() == [0, 0]
    np.testing.assert_allclose(load("gradnorm").score(even).numpy(), 0, atol=1e-14)


# --- SHE, fDBD, NCI ----------------------------------------------------------------------------


def test_she_stores_only_what_is_classified_correctly() -> None:
    logits = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 1]]
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0], [100.0, 100.0], [5.0, 6.0]])
    labels = torch.tensor([0, 0, 1, 1])
    training = Outputs(logits, features, labels=labels)
    detector = learn(load("she"), Given(training, num_classes=2))
    assert detector.patterns.tolist() == [[2.0, 3.0], [5.0, 6.0]]
    assert detector.score(training).tolist() == [8.0, 18.0, 500.0, 61.0]


def test_fdbd_of_a_feature_on_the_mean_is_finite() -> None:
    training = sample(64, 1)
    detector = learn(load("fdbd"), Given(training))
    on_it = detector.mean[None]
    test = Outputs(training.head.logits(on_it), on_it, head=training.head)
    score = detector.score(test)
    assert torch.isfinite(score).all()
    assert score.item() > detector.score(training).max().item()


def test_fdbd_of_classes_with_the_same_weights() -> None:
    """No boundary lies between them: it adds nothing, whatever their biases."""
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    last = Head("linear", weight, torch.tensor([0.0, -0.5, 0.0], dtype=torch.float64))
    features = torch.tensor([[3.0, 1.0], [0.0, 5.0]], dtype=torch.float64)
    outputs = Outputs(last.logits(features), features, head=last)
    detector = learn(load("fdbd"), Given(outputs, num_classes=3))
    from_mean = np.hypot(1.5, 2.0)
    expected = [2 / np.sqrt(2) / 2 / from_mean, (5 + 5.5) / np.sqrt(2) / 2 / from_mean]
    np.testing.assert_allclose(detector.score(outputs).numpy(), expected, rtol=1e-12)


def test_fdbd_of_weights_that_are_near_each_other() -> None:
    """Their distance would cancel if it came from |a|^2 - 2ab + |b|^2."""
    weight = 1e4 * torch.ones(2, DIMENSION, dtype=torch.float64)
    weight[1, 0] += 1e-6
    features = torch.rand(5, DIMENSION, generator=torch.Generator().manual_seed(0)).double()
    last = Head("linear", weight)
    outputs = Outputs(last.logits(features), features, head=last)
    detector = learn(load("fdbd"), Given(outputs, num_classes=2))
    width = (weight[1, 0] - weight[0, 0]).item()
    assert detector.weight_distances[0, 1].item() == pytest.approx(width, rel=1e-12)


def test_nci_of_a_feature_on_the_mean_has_no_direction() -> None:
    training = sample(64, 1)
    detector = learn(load("nci", alpha=0.01), Given(training))
    on_it = detector.mean[None]
    test = Outputs(training.head.logits(on_it), on_it, head=training.head)
    expected = 0.01 * detector.mean.abs().sum()
    torch.testing.assert_close(detector.score(test), expected[None], rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.1])
@pytest.mark.parametrize("name", NAMES)
def test_constant_features_give_no_nan(name: str, value: float) -> None:
    last = head(torch.float32)
    features = torch.full((8, DIMENSION), value)
    logits = last.logits(features[:1]).expand(8, -1)
    labels = torch.arange(8) % CLASSES
    outputs = Outputs(logits, features, labels=labels, head=last)
    if name == "she":  # every class needs an image that is classified correctly
        outputs = replace(outputs, logits=torch.eye(CLASSES, dtype=torch.float64)[labels])
    scores = learn(load(name), in_parts(outputs, 3)).score(outputs)
    assert torch.isfinite(scores).all(), scores
    if name != "she":
        np.testing.assert_allclose(scores.numpy(), scores[0].item(), rtol=1e-9)


# --- DICE --------------------------------------------------------------------------------------


def test_dice_keeps_what_contributes_most() -> None:
    weight = torch.tensor([[1.0, -8.0, 3.0], [2.0, 5.0, -1.0]], dtype=torch.float64)
    last = Head("linear", weight, torch.tensor([0.5, -0.5], dtype=torch.float64))
    training = Outputs(
        torch.zeros(2, 2).double(), torch.tensor([[1.0, 0, 4], [3, 2, 0]]), head=last
    )
    detector = learn(load("dice", p=0.5), Given(training, num_classes=2))
    # mean feature (2, 1, 2), contributions [[2, -8, 6], [4, 5, -2]], median 3
    test = Outputs(torch.zeros(1, 2).double(), torch.tensor([[1.0, 1.0, 1.0]]), head=last)
    expected = np.log(np.exp(3.0 + 0.5) + np.exp(2.0 + 5.0 - 0.5))
    assert detector.score(test).item() == pytest.approx(expected, rel=1e-6)


def test_dice_takes_no_quantile_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the supported versions of torch, older ones refuse more than 2^24 values: a wide head."""

    def refuse(*arguments: Any, **options: Any) -> Tensor:
        raise RuntimeError("quantile() input tensor is too large")

    training = sample(50)
    for owner, name in ((torch, "quantile"), (torch, "nanquantile"), (Tensor, "quantile")):
        monkeypatch.setattr(owner, name, refuse)
    assert torch.isfinite(learn(load("dice"), Given(training)).score(training)).all()
