"""The arguments of `oodbench.evaluate`, checked."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from oodbench import argument_checks
from oodbench.detector import Detector, DetectorInfo
from oodbench.engine.device import find_device
from oodbench.engine.passes.image_sources import ID
from oodbench.errors import UserError, did_you_mean
from oodbench.models.structure.user_network import Function, model_name, unwrapped
from oodbench.planning.plan import Method
from oodbench.plugins.catalog import Catalog
from oodbench.specs import TuningProtocol
from oodbench.user_model.dataloader import LoadedImages
from oodbench.user_model.session import DataSets
from oodbench.user_model.user_classifier import Scaling


def named_models(model: Any) -> dict[str, nn.Module]:
    """Name -> module; of a single model the name is "model"."""
    if not isinstance(model, Mapping):
        return {"model": module_of(model)}
    if not model:
        raise UserError("model names none.", 'Give {"name": model, ...}.')
    for name in model:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"model: expected a name for each model, not {name!r}.")
    return {name: module_of(each) for name, each in model.items()}


def options_of(
    own: Mapping[str, tuple[Any, Any]], name: str, models: Mapping[str, Any], several: bool
) -> dict[str, Any]:
    """The arguments of one model: its own ones, or those given for all models.

    Args:
        own: argument -> its default and the value that was given.
        name: name of the model.
        models: all of them.
        several: whether they were given by name.
    """
    found = {}
    for argument, (default, given) in own.items():
        if several and isinstance(given, Mapping):
            for other in given:
                if other not in models:
                    raise UserError(
                        f"{argument}: there is no model {other!r}.",
                        did_you_mean(str(other), models),
                    )
            given = given.get(name, default)
        found[argument] = given
    return found


def module_of(model: Any) -> nn.Module:
    """A model as a module.

    Raises:
        UserError: if it is neither a module nor a function, or has no weights yet.
    """
    if isinstance(model, type) or not callable(model):
        what = f"the class {model.__name__}" if isinstance(model, type) else kind_of(model)
        raise UserError(
            f"model: expected a torch.nn.Module, or a function that gives logits, not {what}.",
            f"Give an instance of {model.__name__}." if isinstance(model, type) else "",
        )
    module = unwrapped(model) if isinstance(model, nn.Module) else Function(model)
    if any(map(is_lazy, module.parameters())):
        raise UserError(
            f"The model {model_name(module)} has lazy layers that have not been run, and so no "
            "weights.",
            "Load its weights, or give it a batch first.",
        )
    return module


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
    detectors: Any, catalog: Catalog, tune: Any
) -> tuple[list[Requested], dict[str, str]]:
    """The requested detectors; and those that cannot be loaded, with the reason."""
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
    return _with_tuning(found, tune, catalog.aliases), broken


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
    found: Mapping[str, tuple[Any, Detector]], tune: Any, aliases: Mapping[str, str]
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
        tuned: TuningProtocol = "fgsm" if wanted or "calibration" in info.needs else "none"
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
        Method(f"{prefix}{each.label}", model, each.info, each.fixed, each.tuned_on)
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
            f"detectors: expected names or instances of oodbench.Detector, not {kind_of(given)}."
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


def device_for(name: str | torch.device, module: nn.Module) -> torch.device:
    """The device that a model runs on.

    Raises:
        UserError: if there is no such device, or the model cannot be moved to it.
    """
    own = device_of(module)
    fixed = stays_where_it_is(module)
    if name == "auto" and own is not None and (fixed or own.type == "cuda"):
        return own
    if name == "auto" and fixed:
        return torch.device("cpu")
    found = find_device(str(name))
    if fixed and own is not None and own.type != found.type:
        raise UserError(
            f"The model {model_name(module)} is on the device '{own}', and parts of it cannot be "
            f"moved to '{found}'.",
            f"Give device='{own.type}', or move the model itself.",
        )
    return found


def normalization_of(given: Any) -> Scaling | None:
    """Mean and standard deviation per channel."""
    if given is None:
        return None
    expected = "expected (mean, std), a number per channel in each"
    try:
        mean, std = (
            tuple(map(_real, part))
            if hasattr(part, "__len__") and not isinstance(part, str)
            else (_real(part),)
            for part in given
        )
    except (TypeError, ValueError):
        raise UserError(f"normalization: {expected}, not {given!r}.") from None
    if len(mean) != len(std) or not mean:
        raise UserError(
            f"normalization: {expected}, not {len(mean)} means and {len(std)} deviations."
        )
    for value in (*mean, *std):
        if not math.isfinite(value):
            raise UserError(f"normalization: {value} is not a finite number.")
    for value in std:
        if value <= 0:
            raise UserError(f"normalization: a standard deviation is positive, not {value:g}.")
    return mean, std


def _real(value: Any) -> float:
    if isinstance(value, str | bytes | bool):
        raise TypeError
    return float(value)


def data_sets(
    id_data: Any, ood_data: Any, fit_data: Any, validation_data: Any, *, in_unit_range: bool
) -> DataSets:
    """The data sets of a call.

    Raises:
        UserError: if the data or their names are not valid.
    """
    if not isinstance(ood_data, Mapping):
        raise UserError(
            f"ood_data: expected a mapping from names to data, not {kind_of(ood_data)}.",
            'Give ood_data={"name": ...}.',
        )
    if not ood_data:
        raise UserError("ood_data names no data set.", 'Give ood_data={"name": ...}.')
    for name in ood_data:
        argument_checks.visible_name("ood_data", name)
    if ID in ood_data:
        raise UserError(
            f"ood_data: '{ID}' is what the in-distribution scores are called.",
            "Choose another name for that data set.",
        )
    data = DataSets(
        test={
            ID: LoadedImages(id_data, "id_data", labeled=True),
            **{
                name: LoadedImages(given, f"ood_data['{name}']", labeled=False)
                for name, given in ood_data.items()
            },
        },
        fit=None if fit_data is None else LoadedImages(fit_data, "fit_data", labeled=True),
        validation=None
        if validation_data is None
        else LoadedImages(validation_data, "validation_data", labeled=True),
    )
    for source in data.all:
        source.in_unit_range = in_unit_range
    return data


def check_seed(seed: Any) -> None:
    """Check that a seed is a whole number that torch takes.

    Raises:
        UserError: if it is not.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"seed: expected a whole number from 0 to 2**63 - 1, not {seed!r}.")


def kind_of(value: Any) -> str:
    """The type of a value, for messages."""
    return f"a {type(value).__name__}"


def device_of(module: nn.Module) -> torch.device | None:
    """The device of a module's parameters; None if it has no parameters.

    Raises:
        UserError: if they are in several places, or nowhere.
    """
    places = sorted({str(tensor.device) for tensor in module.parameters()})
    if places == ["meta"]:
        raise UserError(
            f"The model {model_name(module)} is on the device 'meta', without values.",
            "Load its weights.",
        )
    if len(places) > 1:
        raise UserError(
            f"The parameters of the model {model_name(module)} are on several devices: "
            f"{', '.join(places)}.",
            "Move it to one, with model.to(device).",
        )
    return torch.device(places[0]) if places else None


def stays_where_it_is(module: nn.Module) -> bool:
    """Whether a model cannot be moved to a device, because some of its tensors cannot."""
    return isinstance(module, Function) or any(
        isinstance(part, torch.jit.ScriptModule | torch.fx.GraphModule)
        or type(part).__module__.startswith(("torch.ao.nn", "torch.nn.quantized"))
        for part in module.modules()
    )
