"""Checks of what a detector declares: its names, its needs, its hyperparameters."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from oodbench.detector import (
    NEEDS,
    Detector,
    Outputs,
    PerturbingDetector,
    parameters_problem,
    required_methods,
)
from oodbench.engine.passes.capture import LOGITS
from oodbench.engine.passes.contract import checked_losses
from oodbench.testing.assertions import ROUNDING, CheckFailed, differing, expect, expect_same
from oodbench.testing.check import check, needing
from oodbench.testing.planted import (
    IMAGES,
    MANY_CLASSES,
    VERY_MANY_CLASSES,
    PlantedNetwork,
    Split,
    copied,
)
from oodbench.testing.small_network import engine_scores
from oodbench.testing.subject import Subject
from oodbench.testing.watched_outputs import watched_reads


@check("Correct the arguments of @register.")
def declaration(subject: Subject) -> None:
    """Names, paper, needs and search space are declared, and they fit together.

    A paper is declared whole, with venue, year and url, or not at all.
    """
    info, cls = subject.cls.info, subject.cls
    for field in ("label", "title"):
        expect(bool(getattr(info, field)), f"{field} is empty")
    word = re.fullmatch(r"[A-Za-z]\w*(-\w+)*\+*", info.label)  # "MDS++", "NAC-UE"
    expect(word is not None, f"the label {info.label!r} is not one word")
    if info.venue or info.year or info.url:  # what is not published has none of them
        year = info.year or 0
        expect(bool(info.venue), "venue is empty, and year or url is not")
        expect(1990 <= year <= 2100, f"year is {info.year}")
        expect(info.url.startswith("https://"), f"url is {info.url!r}, not https://...")
    expect(info.needs <= set(NEEDS), f"unknown needs {info.needs - set(NEEDS)}")
    base = PerturbingDetector if issubclass(cls, PerturbingDetector) else Detector
    for method, need in required_methods(NEEDS).items():
        if not need or (info.layerwise and need == "validation"):  # needed for some parameters
            continue
        has = getattr(cls, method, None) is not getattr(base, method, None)
        expect(
            has == (need in info.needs),
            f"{'has' if has else 'lacks'} the method for the need '{need}', which it "
            f"{'does not declare' if has else 'declares'}",
        )
    detector = subject.new()
    if all(hasattr(detector, name) for name in cls.parameter_names()):  # or see `parameters_kept`
        problem = parameters_problem(detector, subject.parameters)
        expect(problem is None, str(problem))
    for parameter, values in info.search_space.items():
        twice = [value for value in values if values.count(value) > 1]
        expect(not twice, f"{parameter} has a value twice: {values}")
    if "input_gradient" in info.needs:
        step = getattr(detector, "epsilon", None)
        expect(
            isinstance(step, float),
            f"expected an attribute epsilon, a float in units of a [0, 1] pixel: found {step!r}",
        )


def _parameters(subject: Subject) -> str | None:
    return None if subject.cls.parameter_names() else "its constructor takes no arguments"


@check(
    "Write self.NAME = NAME in the constructor: tuning sets these attributes, reports read them.",
    _parameters,
)
def parameters_kept(subject: Subject) -> None:
    """The constructor keeps its arguments in attributes of the same name."""
    for changed in settings(subject):
        detector = subject.new(**changed)
        given = {**subject.parameters, **changed}
        for name, parameter in inspect.signature(subject.cls).parameters.items():
            expect(hasattr(detector, name), f"the argument '{name}' is kept in no such attribute")
            value = given.get(name, parameter.default)
            kept = getattr(detector, name)
            expect(
                value is parameter.empty or bool(kept == value),
                f"made with {name} = {value!r}, its attribute {name} is {kept!r}",
            )


def settings(subject: Subject) -> Iterator[dict[str, Any]]:
    """The defaults; then each value of the search space, and each choice of an argument, alone."""
    yield {}
    for name, values in subject.search_space.items():
        yield from ({name: value} for value in values)
    try:
        types = get_type_hints(subject.cls.__init__)
    except NameError:  # a type that is imported for checkers only
        types = {}
    for name in subject.cls.parameter_names():
        annotation = types.get(name)
        if name in subject.search_space:
            continue
        if get_origin(annotation) is Literal:
            yield from ({name: value} for value in get_args(annotation))
        elif annotation is bool:
            yield from ({name: value} for value in (True, False))


@check("Add it to needs=(...) in @register: a run decides from needs which models a detector fits.")
def needs_declared(subject: Subject) -> None:
    """Nothing is read that is not declared, neither for fitting nor for scoring."""

    def everything(split: Split) -> Outputs:
        return copied(subject.reduced(subject.network.outputs(split)))

    try:
        found = subject.scores(subject.fitted, subject.outputs("id"))
    except AttributeError as error:
        if "is not declared" not in str(error):
            raise
        raise CheckFailed(str(error)) from error
    expect_same(
        found,
        subject.scores(subject.learned(everything), everything("id")),
        0.0,
        "shown only what it declares",
        "The score depends on something that needs=(...) does not name, such as hasattr(outputs, "
        "...): declare what is read.",
    )


_HEADS = {"head", "dismax_head"}
"""Needs that may only say on which models a detector runs; its formula holds on no others."""


def _declares(subject: Subject) -> str | None:
    return None if subject.needs - _HEADS else "declares nothing that could go unused"


@check("Remove it from needs=(...): models that lack what is declared are skipped.", _declares)
def needs_used(subject: Subject) -> None:
    """Every declared need is used, with the defaults or with another value of an argument.

    "head" and "dismax_head" may go unused: they also say on which models the detector runs.
    """
    unused = set(subject.needs) - _HEADS
    failed: Exception | None = None
    for changed in settings(subject):
        try:
            unused -= _used(subject, changed)
        except Exception as error:
            if not changed:
                raise
            failed = error  # other checks say what is wrong with the value
        if not unused:
            return
    need = min(unused)
    what = {
        "fit": "fit reads no batch",
        "validation": "fit_validation reads no batch",
        "calibration": "calibrate reads neither side",
        "input_gradient": "perturbation_losses reads nothing of outputs",
    }.get(need, f"outputs.{need} is never read")
    raise CheckFailed(f"the need '{need}' is declared, and {what}") from failed


def _used(subject: Subject, changed: dict[str, Any]) -> set[str]:
    """The needs that a detector uses with these arguments."""
    detector = subject.new(**changed)
    with watched_reads(detector) as used:
        subject.learn(detector)
        subject.scores(detector, subject.outputs("id"))
        if "input_gradient" in subject.needs:
            batch = subject.outputs("id")
            _losses(subject, detector, "perturbation_losses", batch)
    return used


def _losses(subject: Subject, detector: Detector, method: str, batch: Outputs) -> dict[str, Tensor]:
    """The losses of planted images, checked as the engine does."""
    images = subject.network.outputs("id").input_gradients[IMAGES][: len(batch)].clone()
    places = {LOGITS, *getattr(batch, "taps", ())} if method == "perturbation_losses" else None
    with torch.enable_grad():
        graph = subject.network.with_graph(batch, images.requires_grad_())
        given = getattr(detector, method)(graph)
        return checked_losses(detector, method, given, len(batch), places)


@check(
    "Use reduction='none', and no statistic of the batch.",
    needing("input_gradient", "input_gradients"),
)
def losses(subject: Subject) -> None:
    """An image's loss, of which gradients are taken, does not depend on the other images."""
    for need, method in (
        ("input_gradient", "perturbation_losses"),
        ("input_gradients", "gradient_losses"),
    ):
        if need not in subject.needs:
            continue
        outputs = subject.outputs("id")
        whole = _losses(subject, subject.fitted, method, outputs)
        part = _losses(subject, subject.fitted, method, outputs[:7])
        expect(list(whole) == list(part), f"{method} names {[*whole]}, {[*part]}")
        for name, loss in whole.items():
            what = f"the loss '{name}' of {method}, in a smaller batch"
            expect_same(part[name].detach(), loss[:7].detach(), ROUNDING, what)


# --- the search space ----------------------------------------------------------------------------


def _searches(subject: Subject) -> str | None:
    return None if subject.search_space else "no search space"


@check(
    "Use the value in score, not in the constructor or in fit: tuning fits once, copies the "
    "detector and sets the attribute.",
    _searches,
)
def search_after_fit(subject: Subject) -> None:
    """A value that is set after the fit scores as one given to the constructor does.

    And the detector that was copied stays as it was. A value for which a `ValueError` is raised, as
    for more neighbors than there are images, is left out, as tuning leaves it out.
    """
    original, outputs = subject.learned(), subject.outputs("id")
    before = subject.scores(original, outputs)
    for parameter, values in subject.search_space.items():
        for value in values:
            changed = {parameter: value}
            try:
                expected = subject.scores(subject.learned(**changed), outputs)
            except ValueError:
                continue
            found = subject.scores(original.with_parameters(**changed), outputs)
            name = f"with {parameter} = {value} set after the fit"
            expect_same(found, expected, ROUNDING, name)
    expect_same(
        subject.scores(original, outputs),
        before,
        0.0,
        "after copies of it had other parameters",
        "Keep each parameter in a plain attribute: copies share the objects that attributes hold.",
    )


@check("Use the parameter in score, or take the value out of search_space.", _searches)
def search_effect(subject: Subject) -> None:
    """Every value of the search space gives other scores than every other value.

    A value may need a large model to make a difference, such as a number of classes: a model with
    1,200 classes is tried, too. Step sizes are tried on images. A value for which a `ValueError` is
    raised is left out.
    """
    for parameter, values in subject.search_space.items():
        same, compared = set(itertools.combinations(range(len(values)), 2)), set()
        for scores_of in _models(subject):
            if same:
                settings = {i: {parameter: values[i]} for pair in sorted(same) for i in pair}
                scores = scores_of(settings)
                compared |= {pair for pair in same if scores.keys() >= {*pair}}
                same -= _different(scores, same)
        if same & compared:
            one, other = (values[i] for i in min(same & compared))
            raise CheckFailed(
                f"{parameter} = {one!r} and {parameter} = {other!r} give the same scores, on every "
                "model tried: tuning cannot choose between them"
            )


Settings = Mapping[int, dict[str, Any]]


def _models(subject: Subject) -> Iterator[Callable[[Settings], Mapping[int, Tensor]]]:
    """Functions that score with several settings, each on another model."""
    yield functools.partial(_planted_scores, subject, subject.network)
    yield functools.partial(engine_scores, subject)  # moves images
    if subject.network.kind == "linear":
        yield functools.partial(_planted_scores, subject, MANY_CLASSES)
        yield functools.partial(_planted_scores, subject, VERY_MANY_CLASSES)


def _planted_scores(
    subject: Subject, network: PlantedNetwork, settings: Settings
) -> dict[int, Tensor]:
    """Scores on a planted network, of the settings that can be used on it."""
    found: dict[int, Tensor] = {}
    try:
        fitted = subject.learned(network=network)
    except Exception:
        if network == subject.network:
            raise
        return found
    for index, changed in settings.items():
        with suppress(ValueError):
            detector = fitted.with_parameters(**changed)
            positives, negatives = (subject.outputs(side, network=network) for side in _SIDES)
            subject.calibrate(detector, positives, negatives, network)
            outputs = subject.outputs("ood", network=network)
            found[index] = subject.scores(detector, outputs, network)
    return found


_SIDES: tuple[Split, Split] = ("positives", "negatives")


def _different(scores: Mapping[int, Tensor], same: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The pairs of settings whose scores differ by more than rounding."""
    found = set()
    for one, other in same:
        if one in scores and other in scores:
            _, difference, allowed = differing(scores[one], scores[other], ROUNDING)
            if difference > allowed:
                found.add((one, other))
    return found
