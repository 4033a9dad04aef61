"""How a user's model is called with the images of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.errors import UserError

Inputs = str | Callable[[Tensor], Any] | None
"""How images are given: the name of an argument, or a function of the images that returns what the
model takes; None: as the first argument."""

_KNOWN = (
    *("attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "bbox"),
    *("pixel_mask", "pixel_attention_mask", "bool_masked_pos", "image_sizes", "spatial_shapes"),
)
"""Arguments of models of Transformers beside the images or tokens."""


class Function(nn.Module):
    """A function, or any other callable, that maps normalized images to logits, as a module.

    Args:
        function: it is called as it is; modules in it are not searched.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *images: Any, **named: Any) -> Any:
        """The value that the function returns."""
        return self.function(*images, **named)


def call(module: nn.Module, images: Tensor, inputs: Inputs = None) -> Any:
    """What a model returns for images.

    Args:
        module: the model.
        images: normalized, shape [B, ...].
        inputs: how it is given the images. A mapping that a function returns is given as keyword
            arguments if the model has arguments of these names, else as one argument.

    Raises:
        Exception: whatever the model or the function raises.
    """
    if inputs is None:
        return module(images)
    if isinstance(inputs, str):
        return module(**{inputs: images})
    given = inputs(images)
    if isinstance(given, Mapping) and _takes(module, given):
        return module(**given)
    return module(given)


def checked_inputs(module: nn.Module, inputs: Any, key: str | None) -> Inputs:
    """The argument `inputs`, checked; if it is None, found from the model's arguments.

    Images are given by name if the model takes nothing by position, or if the data have them under
    the name of an argument that is not the first.

    Args:
        module: the model.
        inputs: as given.
        key: the entry of the data that holds the images; None if the data are no mappings.

    Raises:
        UserError: it is neither a name nor a function, or the model has no such argument.
    """
    names = _arguments(module)
    if inputs is None:
        positional = any(kind is not inspect.Parameter.KEYWORD_ONLY for kind in names.values())
        if key in names and (not positional or key != next(iter(names))):
            return key
        return None if positional or not names else next(iter(names))
    if callable(inputs):
        return inputs  # type: ignore[no-any-return]
    if not isinstance(inputs, str):
        raise UserError(
            f"inputs: expected the name of an argument or a function of the images, not {inputs!r}."
        )
    if not _takes(module, {inputs: None}):
        shown = ", ".join(map(repr, names)) or "none"
        raise UserError(
            f"inputs: the model has no argument {inputs!r} that it takes alone. Its arguments: "
            f"{shown}."
        )
    return inputs


def inputs_beside_images(module: nn.Module, inputs: Inputs) -> frozenset[str]:
    """Names of the arguments of a model beside the images; none if a function makes the input.

    For a model that takes any name (`**kwargs`), the names that models of Transformers know.
    """
    if inputs is not None and not isinstance(inputs, str):
        return frozenset()
    names = _arguments(module)
    images = next(iter(names), None) if inputs is None else inputs
    known = _KNOWN if _takes_any_name(module) else ()
    return frozenset({*names, *known} - {images})


def _arguments(module: nn.Module) -> dict[str, Any]:
    """Name -> kind of the arguments of a model that can be given by name, in order."""
    if isinstance(module, torch.jit.ScriptModule):
        schema: Any = getattr(getattr(module, "forward", None), "schema", None)
        arguments = schema.arguments[1:] if schema else ()
        return {each.name: inspect.Parameter.POSITIONAL_OR_KEYWORD for each in arguments}
    signature = _signature(module)
    parameters = signature.parameters.values() if signature else ()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {each.name: each.kind for each in parameters if each.kind not in variable}


def _signature(module: nn.Module) -> inspect.Signature | None:
    function = module.function if isinstance(module, Function) else module.forward
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # one that is not written in Python
        return None


def _takes_any_name(module: nn.Module) -> bool:
    signature = None if isinstance(module, torch.jit.ScriptModule) else _signature(module)
    parameters = signature.parameters.values() if signature else ()
    return any(each.kind is each.VAR_KEYWORD for each in parameters)


def _takes(module: nn.Module, named: Mapping[Any, Any]) -> bool:
    """Whether a model can be called with these keyword arguments alone."""
    if not all(isinstance(name, str) for name in named):
        return False
    if isinstance(module, torch.jit.ScriptModule):
        return named.keys() <= _arguments(module).keys()
    signature = _signature(module)
    try:
        return signature is not None and bool(signature.bind(**named))
    except TypeError:
        return False
