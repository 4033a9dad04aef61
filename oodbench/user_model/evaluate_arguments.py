"""The arguments of `oodbench.evaluate`, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from oodbench import argument_checks
from oodbench.engine.device import find_device
from oodbench.engine.passes.image_sources import ID
from oodbench.errors import UserError, did_you_mean
from oodbench.models.structure.user_network import Function, model_name, unwrapped
from oodbench.user_data.dataloader import LoadedImages
from oodbench.user_model.session import OOD_DATA, DataSets
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
    id_data: Any,
    ood_data: Any,
    fit_data: Any,
    validation_data: Any,
    ood_validation_data: Any = None,
    *,
    in_unit_range: bool,
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
        ood_validation=None
        if ood_validation_data is None
        else LoadedImages(ood_validation_data, OOD_DATA, labeled=False),
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
