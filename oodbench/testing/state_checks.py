"""Checks that a detector changes nothing but itself."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from oodbench.detector import Detector, Outputs
from oodbench.errors import UserError
from oodbench.storage.fitted_state.detector_state import stored_state
from oodbench.storage.fitted_state.state_reading import detector_of
from oodbench.testing.assertions import CheckFailed, expect, expect_same, said
from oodbench.testing.check import check
from oodbench.testing.planted import Split, copied
from oodbench.testing.process_state import changed, process_state, restored, unusual_seeds
from oodbench.testing.small_network import classifier_for, engine_scores, state_of
from oodbench.testing.subject import Subject

_SPLITS: tuple[Split, ...] = ("fit", "validation", "positives", "negatives", "id")
_METHODS = (
    "fit",
    "fit_validation",
    "calibrate",
    "gradient_losses",
    "perturbation_losses",
    "step",
    "tap_loss",
    "reduce_gradient",
    "reduce_layer",
    "replace_tap",
    "score",
)


@check("Write relu() instead of relu_(), and a * b instead of a *= b.")
def outputs_unchanged(subject: Subject) -> None:
    """Neither fitting nor scoring writes into the outputs that the detector is given."""
    planted = {split: subject.network.outputs(split) for split in _SPLITS}
    own = {split: copied(outputs) for split, outputs in planted.items()}
    detector = subject.learned(lambda split: subject.seen(own[split]))
    subject.scores(detector, subject.seen(own["id"]))
    for split, outputs in own.items():
        before = _tensors(planted[split])
        for place, tensor in _tensors(outputs).items():
            expect(
                torch.equal(tensor, before[place]),
                f"it writes into {place} of the images that it is given ('{split}')",
            )


def _tensors(outputs: Outputs) -> dict[str, Tensor]:
    tensors = {
        "logits": outputs.logits,
        "features": outputs.features,
        "feature_map": outputs.feature_map,
        "labels": outputs.labels,
        "the head's weight": outputs.head.weight,
        "the head's bias": outputs.head.bias,
        **{f"tap '{name}'": tap for name, tap in outputs.taps.items()},
        **{f"the map of tap '{name}'": tap for name, tap in outputs.tap_maps.items()},
    }
    return {place: tensor for place, tensor in tensors.items() if tensor is not None}


@check("Leave the model alone: read what needs=(...) gives, and clone it before it is changed.")
def model_unchanged(subject: Subject) -> None:
    """Fitted and scored by a run, the model is the same afterwards.

    Weights, buffers and their addresses, modes, frozen parameters, gradients and hooks are looked
    at.
    """
    classifier = copy.deepcopy(classifier_for(subject))
    network = classifier.network
    network.get_submodule("first.1").train()  # an odd state, to be given back
    network.get_parameter("second.0.weight").requires_grad_(False)
    before = state_of(classifier)
    changed = {"epsilon": 0.01} if "input_gradient" in subject.needs else {}
    scores = engine_scores(subject, {0: changed}, classifier)[0]
    expect(bool(scores.isfinite().all()), "scores of a run are not finite")
    after = state_of(classifier)
    for place, value in before.items():
        same = (
            torch.equal(after[place], value) if isinstance(value, Tensor) else after[place] == value
        )
        expect(same, f"{place} of the model is not as it was")


# --- the process ---------------------------------------------------------------------------------


_OWN_GENERATOR = (
    "Use generators of the detector's own: torch.Generator().manual_seed(0), "
    "numpy.random.default_rng(0), random.Random(0); to make layers of a network, "
    "with torch.random.fork_rng(): torch.manual_seed(0)."
)


@check(
    "Use a context manager, such as torch.enable_grad() or torch.autocast, and put back whatever "
    "is set for the process."
)
def global_state(subject: Subject) -> None:
    """No method changes global state: random generators, grad mode, default dtype, threads."""

    def watched(method: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            before = process_state()
            result = own(*given)
            after = process_state()
            for what in changed(before, after):
                plain = isinstance(after[what], bool | int | str | torch.dtype | torch.device)
                raise CheckFailed(
                    f"{method} changes {what}"
                    + (f": {before[what]} before, {after[what]} after" if plain else ""),
                    _OWN_GENERATOR if "generator" in what else "",
                )
            return result

        return call

    with restored():
        unusual_seeds()
        detector = watched("__init__", subject.new)()
        for method in _METHODS:
            if hasattr(detector, method):
                own = getattr(detector, method)
                object.__setattr__(detector, method, watched(method, own))
        subject.learn(detector)
        subject.scores(detector, subject.outputs("id"))


# --- copies --------------------------------------------------------------------------------------


@check(
    "Assign results to attributes (self.mean = ...) instead of changing shared objects in place "
    "(self.list.append(...)), and keep nothing in the class or in a module."
)
def copies(subject: Subject) -> None:
    """Copies score the same, and what is done with them does not change the original.

    Shallow copies get other parameters and are calibrated, as tuning does; deep copies and pickled
    ones are also fitted again.
    """
    original, outputs = subject.learned(), subject.outputs("id")
    before = subject.scores(original, outputs)
    for how, copying in _COPIES.items():
        if how == "pickle" and not _named(subject.cls):
            continue  # a class of a function has no name that pickle finds
        try:
            again = copying(original)
        except Exception as error:
            raise CheckFailed(
                f"{how} of the fitted detector raised {said(error)}",
                "Keep no lambdas, locks or open files in attributes.",
            ) from error
        expect_same(subject.scores(again, outputs), before, 0.0, f"of a copy made with {how}")
        subject.scores(again, subject.outputs("ood"))
        if how == "copy.copy":
            subject.calibrate(again, subject.outputs("negatives"), subject.outputs("positives"))
        else:
            subject.learn(again, fit_on="other")
        done = "was calibrated with other images" if how == "copy.copy" else "was fitted again"
        name = f"after a copy made with {how} {done}"
        expect_same(subject.scores(original, outputs), before, 0.0, name)


def _named(cls: type[Detector]) -> bool:
    """Whether pickle finds a class by its name."""
    try:
        pickle.dumps(cls)
    except Exception:
        return False
    return True


_COPIES: dict[str, Callable[[Detector], Detector]] = {
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda detector: pickle.loads(pickle.dumps(detector)),
}


# --- saving --------------------------------------------------------------------------------------


@check(
    "Keep what is fitted in tensors, arrays, numbers, containers of them, or objects of classes of "
    "the detector's own file."
)
def saved(subject: Subject) -> None:
    """Saved and loaded, it scores the same, bit for bit, whatever the values of its parameters.

    Values of the search space are set in a fitted detector, as tuning does; with other literals
    and truth values it is fitted anew.
    """
    outputs = subject.outputs("id")
    for setting, detector in _settings(subject):
        shown = ", ".join(f"{name}={value!r}" for name, value in setting.items())
        how = f"saved and loaded{f' with {shown}' if shown else ''}"
        before = subject.scores(detector, outputs)
        try:
            state, tensors = stored_state(detector)
            written = json.loads(json.dumps(state))
            again = detector_of(subject.cls, written, tensors, before.device)
        except UserError as error:
            raise CheckFailed(f"{how}: {error.message.rstrip('.')}", error.hint) from error
        expect_same(subject.scores(again, outputs), before, 0.0, how)


def _settings(subject: Subject) -> Iterator[tuple[dict[str, Any], Detector]]:
    """Fitted detectors, with their defaults and with each other value of one parameter."""
    yield {}, copy.deepcopy(subject.fitted)
    for name, values in subject.search_space.items():
        for value in values:
            if value != getattr(subject.fitted, name):
                changed = subject.fitted.with_parameters(**{name: value})
                yield {name: value}, copy.deepcopy(changed)
    try:
        types = get_type_hints(subject.cls.__init__)
    except NameError:  # a type that is imported for checkers only
        return
    for name in subject.cls.parameter_names():
        for value in _choices(types.get(name)):
            if name not in subject.search_space and value != getattr(subject.fitted, name):
                try:
                    detector = subject.learned(**{name: value})
                except ValueError:  # not with the defaults of the others, or on planted outputs
                    continue
                if detector.info.needs == subject.fitted.info.needs:  # else it is not fitted yet
                    yield {name: value}, detector


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The values of a type that lists them: literals, true and false."""
    if get_origin(annotation) in (Union, UnionType):
        return tuple(value for each in get_args(annotation) for value in _choices(each))
    if annotation is bool:
        return (True, False)
    return get_args(annotation) if get_origin(annotation) is Literal else ()
