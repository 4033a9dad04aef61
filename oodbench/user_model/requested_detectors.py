"""The argument `detectors` of `oodbench.evaluate`, and which of them are tuned."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oodbench import argument_checks
from oodbench.deploy.fitted_detector import FittedDetector
from oodbench.detector import Detector, DetectorInfo
from oodbench.errors import UserError, did_you_mean, kind_of
from oodbench.planning.plan import Method
from oodbench.plugins.catalog import Catalog
from oodbench.specs import TuningProtocol
from oodbench.user_model.data_sets import OOD_DATA

FITTED_AGAIN = "Its `detector` is an instance that can be given; a copy of it is fitted again."


@dataclass(frozen=True, slots=True)
class Requested:
    """A requested detector.

    Attributes:
        label: its name in results.
        given: a name, or an instance of the user's.
        info: its declaration.
        fixed: parameters that are not tuned.
        tuned_on: protocol of tuning, or "none".
    """

    label: str
    given: str | Detector
    info: DetectorInfo
    fixed: Mapping[str, Any]
    tuned_on: TuningProtocol


def requested_detectors(
    detectors: Any, catalog: Catalog, tune: Any, *, on_ood: bool = False
) -> tuple[list[Requested], dict[str, str]]:
    """The requested detectors; and those that cannot be loaded, with the reason.

    Args:
        detectors: as given.
        catalog: gives detectors by name.
        tune: as given.
        on_ood: whether there are OOD images to tune on.

    Raises:
        UserError: if an argument is not valid, or no detector is tuned on these images.
    """
    broken: dict[str, str] = {}
    if isinstance(detectors, str) and detectors == "all":
        pairs = _all(catalog, broken)
    elif isinstance(detectors, Mapping):
        pairs = list(detectors.items())
    else:
        if isinstance(detectors, str | Detector):
            detectors = [detectors]
        if not isinstance(detectors, Iterable):
            raise UserError(
                f"detectors: expected names or instances, or a mapping to them, not {detectors!r}.",
                "`oodbench list detectors` shows what there is.",
            )
        pairs = [(None, given) for given in detectors]
    found: dict[str, tuple[Any, Detector]] = {}
    for label, given in pairs:
        detector = _detector(given, catalog)
        name = detector.info.name if label is None else label
        argument_checks.visible_name("detectors", name)
        if name in found:
            raise UserError(
                f"detectors: '{name}' is given twice.",
                f"Give a mapping: {{'{name} 1': ..., '{name} 2': ...}}.",
            )
        found[name] = given, detector
    if not found:
        raise UserError("detectors names none.", "`oodbench list detectors` shows what there is.")
    protocol: TuningProtocol = "ood_validation" if on_ood else "fgsm"
    asked = _with_tuning(found, tune, catalog.aliases, protocol)
    if on_ood and all(each.tuned_on == "none" for each in asked):
        raise UserError(
            f"{OOD_DATA}: no detector is tuned, so these images have no use.",
            "Give tune='all' or labels of detectors, or leave them out.",
        )
    return asked, broken


def _all(catalog: Catalog, broken: dict[str, str]) -> list[tuple[str | None, str]]:
    """Every known detector; those that cannot be loaded are added to `broken`."""
    names: list[tuple[str | None, str]] = []
    for name in catalog.detectors:
        try:
            catalog.load_detector(name)
        except UserError as error:
            broken[name] = f"the detector is broken: {error.message.rstrip('.')}"
        else:
            names.append((None, name))
    return names


def _with_tuning(
    found: Mapping[str, tuple[Any, Detector]],
    tune: Any,
    aliases: Mapping[str, str],
    protocol: TuningProtocol,
) -> list[Requested]:
    """Detectors with the parameters that are fixed, and whether the others are tuned."""
    expected = "expected 'all', 'none', or labels of detectors"
    given_names: Sequence[Any] = ()
    if isinstance(tune, str):
        given_names = () if tune in ("all", "none") else (tune,)
    elif isinstance(tune, Sequence):
        given_names = tune
    else:
        raise UserError(f"tune: {expected}, not {tune!r}.")
    named = set()
    for name in given_names:
        label = name if name in found else aliases.get(name, name)
        if label not in found:
            raise UserError(
                f"tune: {expected}; there is no detector {name!r}.",
                did_you_mean(str(name), found),
            )
        named.add(label)
        info = found[label][1].info
        if not info.search_space and "calibration" not in info.needs:
            raise UserError(f"tune: detector '{info.name}' declares no search space.")
    asked = []
    for label, (given, detector) in found.items():
        info = detector.info
        fixed = {} if isinstance(given, str) or label in named else _parameters(detector)
        wanted = label in named or (tune == "all" and bool(set(info.search_space) - set(fixed)))
        # One that trains a model of its own needs tuning data in any case.
        tuned: TuningProtocol = protocol if wanted or "calibration" in info.needs else "none"
        asked.append(Requested(label, given, info, fixed, tuned))
    return asked


def _parameters(detector: Detector) -> dict[str, Any]:
    try:
        return detector.parameters
    except AttributeError as error:
        raise UserError(
            f"Detector '{detector.info.name}' does not keep what its constructor takes: {error}.",
            "Keep each argument in an attribute of the same name.",
        ) from None


def methods_of(asked: Iterable[Requested], model: str, *, prefix: str) -> list[Method]:
    """The methods of a model.

    Args:
        asked: detectors.
        model: its name in records.
        prefix: put before the labels of the detectors.
    """
    return [
        Method(
            f"{prefix}{each.label}",
            model,
            each.info,
            each.fixed,
            each.tuned_on,
            tuning_ood=OOD_DATA if each.tuned_on == "ood_validation" else None,
        )
        for each in asked
    ]


def detectors_of(
    asked: Iterable[Requested], catalog: Catalog, *, prefix: str
) -> dict[str, Detector]:
    """Method -> a detector of its own; copies of instances that were given."""
    return {f"{prefix}{each.label}": _detector(each.given, catalog) for each in asked}


def _detector(given: Any, catalog: Catalog) -> Detector:
    if isinstance(given, str):
        return catalog.load_detector(given)
    if isinstance(given, type) and issubclass(given, Detector):
        raise UserError(
            f"detectors: {given.__name__} is a class.", f"Give an instance: {given.__name__}()."
        )
    if not isinstance(given, Detector):
        raise UserError(
            f"detectors: expected names or instances of oodbench.Detector, not {kind_of(given)}.",
            FITTED_AGAIN if isinstance(given, FittedDetector) else "",
        )
    if not hasattr(given, "info"):
        raise UserError(
            f"detectors: {type(given).__name__} is not registered.",
            "Decorate the class with @oodbench.register(name, needs=...).",
        )
    step = getattr(given, "epsilon", None)
    if "input_gradient" in given.info.needs and not isinstance(step, int | float):
        raise UserError(
            f"Detector '{given.info.name}' needs input gradients and has no step size.",
            "Give it an attribute 'epsilon', a number in units of a [0, 1] pixel.",
        )
    try:
        return copy.deepcopy(given)
    except Exception as error:  # its own code
        raise UserError(
            f"Detector '{given.info.name}' cannot be copied: {type(error).__name__}: {error}.",
            "Keep no open files, generators or locks in it.",
        ) from error
