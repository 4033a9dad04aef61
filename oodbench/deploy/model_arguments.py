"""A model as it is given: the module in it, its device, its normalization; checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from oodbench.engine.device import find_device
from oodbench.errors import UserError, kind_of
from oodbench.models.structure.model_call import Function
from oodbench.models.structure.user_network import model_name, unwrapped
from oodbench.models.user_classifier import Scaling


def module_of(model: Any) -> nn.Module:
    """A model as a module.

    Raises:
        UserError: if it is neither a module nor a function, or has no weights yet.
    """
    if isinstance(model, type) or not callable(model):
        what, hint = kind_of(model), ""
        if isinstance(model, type):
            what, hint = f"the class {model.__name__}", f"Give an instance of {model.__name__}."
        elif isinstance(model, Tensor | Mapping):
            hint = "Load weights into their network: network.load_state_dict(weights)."
        elif isinstance(model, list | tuple):
            hint = 'Name several models: {"name": model, ...}.'
        raise UserError(
            f"model: expected a torch.nn.Module, or a function that gives logits, not {what}.", hint
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
    if max(mean) > 1:
        raise UserError(
            f"normalization: a mean of {max(mean):g} is not that of images in [0, 1].",
            "Divide mean and standard deviation of images of bytes by 255.",
        )
    return mean, std


def _real(value: Any) -> float:
    if isinstance(value, str | bytes | bool):
        raise TypeError
    return float(value)


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
