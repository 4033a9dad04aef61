"""A user's model as a network of oodbench: a module, a wrapper or a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.errors import UserError
from oodbench.models.adapted_network import AdaptedNetwork
from oodbench.models.structure.logits_entry import HINT, Output, logits_in


class UserNetwork(AdaptedNetwork):
    """A user's classifier with the results of `oodbench.models.structure.analysis`.

    Args:
        module: maps normalized images [B, channels, H, W] to something with logits [B, C] in it.
        tap_names: names of modules inside it whose output is a tap, in order.
        head_name: name of the module inside it that is its last layer; None if it is not known.
        num_classes: C.
        features_name: name of the module inside it whose output is the penultimate features; None
            if they are the input of the last layer.
        opaque_head: whether the logits differ from what the last layer's weights give.
        channel_axes: tap -> axis of its channels, where it is not the usual one.
        tap_reason: how the taps were chosen.
        output: where the logits are in what the module returns.
        head_note: how the last layer was found, or why it was not; "" if there is nothing to say.
    """

    output_hint = HINT

    def __init__(
        self,
        module: nn.Module,
        tap_names: Sequence[str],
        head_name: str | None,
        num_classes: int,
        *,
        features_name: str | None = None,
        opaque_head: bool = False,
        channel_axes: Mapping[str, int] = MappingProxyType({}),
        tap_reason: str = "",
        output: Output = None,
        head_note: str = "",
    ) -> None:
        super().__init__(module, tap_names, head_name, opaque_head=opaque_head)
        self.num_classes = num_classes
        self.features_name = features_name
        self.channel_axes = channel_axes
        self.tap_reason = tap_reason
        self.output = output
        self.head_note = head_note

    @property
    def features_module(self) -> nn.Module | None:  # type: ignore[override]
        """The module whose output is the features; None if they are the last layer's input."""
        name = self.features_name
        return None if name is None else self.module.get_submodule(name)

    @property
    def name(self) -> str:
        """The name of the module in messages."""
        return model_name(self.module)

    def logits_of(self, returned: Any, images: Tensor) -> Any:
        """The logits in the value that the module returned (`logits_in`)."""
        return logits_in(returned, self.output, images)

    def check_classes(self, classes: int) -> None:
        """Check that the number of logits is that of the first images.

        Raises:
            UserError: if the numbers differ.
        """
        if classes != self.num_classes:
            raise UserError(
                f"The network {self.name} returned {classes} logits for an image, and "
                f"{self.num_classes} for those before."
            )


class Function(nn.Module):
    """A function, or any other callable, that maps normalized images to logits, as a module.

    Args:
        function: it is called as it is; modules in it are not searched.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        """The value that the function returns."""
        return self.function(images)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside the wrappers that spread it over devices or compile it."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, wrappers) or type(module).__name__ == "OptimizedModule":
        # A compiled module runs none of the hooks on its parts.
        inside: Any = module.module if isinstance(module, wrappers) else module._orig_mod
        module = inside
    return module


def model_name(module: nn.Module) -> str:
    """The name of a model: its class, before a conversion to TorchScript, or its function."""
    if isinstance(module, Function):
        name = getattr(module.function, "__name__", type(module.function).__name__)
        return "lambda" if name == "<lambda>" else str(name)
    if isinstance(module, torch.jit.ScriptModule):
        return str(getattr(module, "original_name", type(module).__name__))
    return type(module).__name__


_KNOWN_INPUTS = (
    *("attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "bbox"),
    *("pixel_mask", "pixel_attention_mask", "bool_masked_pos", "image_sizes", "spatial_shapes"),
)
"""Arguments of models of Transformers beside the images or tokens."""


def inputs_beside_images(module: nn.Module) -> frozenset[str]:
    """Names of the arguments of a model after the first one.

    For a model that takes any name (`**kwargs`), the names that models of Transformers know.
    """
    if isinstance(module, torch.jit.ScriptModule):
        forward = getattr(module, "forward", None)
        schema: Any = getattr(forward, "schema", None)
        return frozenset(each.name for each in schema.arguments[2:]) if schema else frozenset()
    function = module.function if isinstance(module, Function) else module.forward
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # one that is not written in Python
        return frozenset()
    named = {
        each.name
        for each in parameters[1:]
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
    return frozenset({*named, *(_KNOWN_INPUTS if anything else ())})


def has_weights(module: nn.Module) -> bool:
    """Whether a module has parameters that are matrices, or of higher rank."""
    return any(parameter.ndim > 1 for parameter in module.parameters())
