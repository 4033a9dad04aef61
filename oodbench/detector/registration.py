"""The `register` decorator and its checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from oodbench.detector.base import Detector, PerturbingDetector
from oodbench.detector.info import FAMILIES, NEEDS, DetectorInfo, Family, Need, family_of
from oodbench.errors import UserError, did_you_mean

_METHODS: Mapping[str, str] = {
    "fit": "fit",
    "validation": "fit_validation",
    "input_gradient": "perturbation_losses",
    "input_gradients": "gradient_losses",
    "tap_gradients": "tap_loss",
    "calibration": "calibrate",
    "layers": "reduce_layer",
    "replaced_logits": "replace_tap",
}
"""Need -> the method that the engine calls for it."""

_LAYERWISE = "oodbench.layerwise"
"""Module of the base class, which imports torch."""

_METHOD_HINTS: Mapping[str, str] = {
    "input_gradient": " To score with the gradient itself, declare 'input_gradients'.",
    "input_gradients": " To move the images before they are scored, declare 'input_gradient'.",
}


def required_methods(needs: Iterable[str]) -> dict[str, str]:
    """The methods that a detector must define: method -> the need that it is for, or ""."""
    return {"score": "", **{_METHODS[need]: need for need in needs if need in _METHODS}}


def parameters_problem(detector: Detector, given: Iterable[str] = ()) -> str | None:
    """Why the parameters of a new detector cannot be read, set or tuned, or None.

    Args:
        detector: a new instance.
        given: names of the parameters that do not have their defaults.
    """
    for name in detector.parameter_names():
        if not hasattr(detector, name):
            return (
                f"the constructor's argument '{name}' is not kept in an attribute of the same "
                f"name, so that tuning it would have no effect: write self.{name} = {name}"
            )
    fixed = set(given)
    for name, values in detector.info.search_space.items():
        default = getattr(detector, name)
        if name not in fixed and default not in values:
            return f"the default {name} = {default!r} is not among {values}, its search space"
    return None


D = TypeVar("D", bound="type[Detector]")


def register(
    name: str,
    *,
    label: str = "",
    title: str = "",
    aliases: Sequence[str] = (),
    paper: str = "",
    authors: Sequence[str] = (),
    venue: str = "",
    year: int | None = None,
    url: str = "",
    code: str = "",
    needs: Iterable[Need] = (),
    search_space: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    family: Family | None = None,
    nonnegative_features: bool = False,
    layerwise: bool = False,
) -> Callable[[D], D]:
    """Declare a detector. Write the arguments as literals: lists are made without running the file.

    Args:
        name: the detector's name; the file must be called `<name>.py`.
        label: short name in the names of methods; default: the class's name.
        title: full title; default: the first line of the class's docstring.
        aliases: other names that work wherever the name does.
        paper: title of the paper.
        authors: the paper's authors, in order, as ("Dan Hendrycks", "Kevin Gimpel").
        venue: where the paper was published ("ICLR").
        year: when it was published.
        url: where to read it.
        code: address of the authors' repository.
        needs: what it needs beyond the logits (`oodbench.detector.Need`).
        search_space: parameter -> values to try when it is tuned.
        family: what it works on, which lists are ordered by; default: what the needs say.
        nonnegative_features: whether the formula assumes that features are not negative: those of a
            ReLU, not those of a ViT. Reports then warn of networks with negative features.
        layerwise: whether the class derives from `LayerwiseDetector`.

    Raises:
        UserError: if the class is no Detector; an argument has another type; a need is unknown; a
            method that a need is for is missing; a method is for a need that is not declared; or a
            parameter of the search space is not one of the constructor's.
    """

    def decorate(cls: D) -> D:
        if not issubclass(cls, Detector):
            raise UserError(
                f"Detector '{name}': class {cls.__name__} does not derive from oodbench.Detector."
            )
        info = declared(
            name,
            label=label or cls.__name__,
            title=title or _first_line(cls.__doc__, cls.__name__),
            aliases=aliases,
            paper=paper,
            authors=authors,
            venue=venue,
            year=year,
            url=url,
            code=code,
            needs=needs,
            search_space=search_space,
            family=family,
            nonnegative_features=nonnegative_features,
            layerwise=layerwise,
        )
        _check_methods(cls, info)
        _check_search_space(cls, info)
        cls.info = info
        return cls

    return decorate


def declared(
    name: str,
    *,
    aliases: Iterable[str] = (),
    authors: Iterable[str] = (),
    needs: Iterable[str] = (),
    search_space: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    family: Family | None = None,
    nonnegative_features: bool = False,
    **texts: Any,
) -> DetectorInfo:
    """A declaration, from the arguments of `register`.

    Raises:
        UserError: if an argument has another type, or a need or the family is unknown.
    """
    for argument, value in (("aliases", aliases), ("authors", authors), ("needs", needs)):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise UserError(
                f"Detector '{name}': {argument}: expected a tuple of names, not {value!r}.",
                f"Write {argument}=({value!r},).",
            )
    for need in needs:
        if need not in NEEDS:
            raise UserError(
                f"Detector '{name}' declares the unknown need '{need}'.",
                did_you_mean(str(need), NEEDS),
            )
    if not isinstance(search_space, Mapping):
        raise UserError(
            f"Detector '{name}': search_space: expected a mapping of a parameter to its values, "
            f"not {search_space!r}."
        )
    if family is not None and family not in FAMILIES:
        raise UserError(
            f"Detector '{name}': family: unknown name {family!r}.",
            did_you_mean(str(family), FAMILIES),
        )
    if not isinstance(nonnegative_features, bool):
        raise UserError(
            f"Detector '{name}': nonnegative_features: expected True or False, not "
            f"{nonnegative_features!r}."
        )
    with_gradients = "Declare 'input_gradients' to score with gradients of the images as they are."
    hints = {
        ("input_gradient", "replaced_logits"): with_gradients,
        ("input_gradient", "rotations"): with_gradients,
        ("tap_gradients", "replaced_logits"): "Both read the taps that choose_taps names.",
    }
    for pair, hint in hints.items():
        if {*pair} <= set(needs):
            raise UserError(
                f"Detector '{name}' declares the needs '{pair[0]}' and '{pair[1]}', of which a "
                "detector can have one.",
                hint,
            )
    if "perturbed" in needs and "input_gradient" not in needs:
        raise UserError(
            f"Detector '{name}' declares the need 'perturbed' without 'input_gradient'.",
            "Declare 'input_gradient' too, which moves the images.",
        )
    return DetectorInfo(
        name=name,
        aliases=tuple(aliases),
        authors=tuple(authors),
        needs=frozenset(needs),
        search_space={key: tuple(values) for key, values in search_space.items()},
        family=family or family_of(frozenset(needs)),
        nonnegative_features=nonnegative_features,
        **texts,
    )


def _check_methods(cls: type[Detector], info: DetectorInfo) -> None:
    """Refuse a class if its methods do not match its needs."""
    name, needs = info.name, info.needs
    for method, need in required_methods(needs).items():
        if not _defines(cls, method):
            declares = f"declares the need '{need}' and " if need else ""
            base = "PerturbingDetector" if need == "input_gradient" else "Detector"
            raise UserError(
                f"Detector '{name}' {declares}has no method '{method}'.",
                f"help(oodbench.{base}.{method}) says what it gets and gives."
                + _METHOD_HINTS.get(need, ""),
            )
    for need, method in _METHODS.items():
        if need not in needs and method in vars(cls):
            raise UserError(
                f"Detector '{name}' has a method '{method}' and does not declare the need "
                f"'{need}': the method would never be called.",
                f"Add '{need}' to needs, or remove the method.",
            )
    if issubclass(cls, PerturbingDetector) != ("input_gradient" in needs):
        raise UserError(
            f"Detector '{name}': the need 'input_gradient' and the base class PerturbingDetector "
            "belong together, and it has one of them.",
            "Write both, or neither.",
        )
    if cls.layerwise != info.layerwise:
        raise UserError(
            f"Detector '{name}': layerwise=True in @register and the base class LayerwiseDetector "
            "belong together, and it has one of them.",
            "Write both, or neither.",
        )
    for method in ("fit_features", "score_features") if info.layerwise else ():
        if not any(method in vars(base) for base in cls.__mro__ if base.__module__ != _LAYERWISE):
            raise UserError(
                f"Detector '{name}' derives from LayerwiseDetector and has no method '{method}'.",
                f"help(oodbench.LayerwiseDetector.{method}) says what it gets and gives.",
            )


def _defines(cls: type[Detector], method: str) -> bool:
    """Whether a class has a method that is not only the base classes' placeholder."""
    placeholders = [vars(base).get(method) for base in (Detector, PerturbingDetector)]
    return getattr(cls, method, None) not in [None, *placeholders]


def _check_search_space(cls: type[Detector], info: DetectorInfo) -> None:
    parameters = cls.parameter_names()
    for parameter in info.search_space:
        if parameter not in parameters:
            raise UserError(
                f"Detector '{info.name}' declares a search space for '{parameter}', "
                "which its constructor does not take.",
                did_you_mean(parameter, parameters),
            )


def _first_line(docstring: str | None, otherwise: str) -> str:
    lines = inspect.cleandoc(docstring or "").splitlines()
    return lines[0].rstrip(".") if lines else otherwise
