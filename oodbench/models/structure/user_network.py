"""A user's model as a network of oodbench: a module, a wrapper or a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from oodbench.errors import UserError
from oodbench.models.adapted_network import AdaptedNetwork, as_logits, described
from oodbench.models.classifier import channels_axis, vectors
from oodbench.models.structure.logits_entry import HINT, Output, logits_in
from oodbench.models.structure.model_call import Function, Inputs, call


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
        inputs: how the module is given the images.
        features_function: maps normalized images to the penultimate features (`features_by`), in
            the place of a module; None: a module gives them.
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
        inputs: Inputs = None,
        features_function: Callable[[Tensor], Any] | None = None,
    ) -> None:
        super().__init__(module, tap_names, head_name, opaque_head=opaque_head)
        self.num_classes = num_classes
        self.features_name = features_name
        self.channel_axes = channel_axes
        self.tap_reason = tap_reason
        self.output = output
        self.head_note = head_note
        self.inputs = inputs
        self.features_function = features_function
        self.features_apart = features_function is not None

    @property
    def features_module(self) -> nn.Module | None:  # type: ignore[override]
        """The module whose output is the features; None if they are the last layer's input."""
        name = self.features_name
        return None if name is None else self.module.get_submodule(name)

    @property
    def has_features(self) -> bool:
        """Whether the penultimate features are known."""
        return self.features_apart or super().has_features

    def watch_features(
        self,
        take: Callable[[Tensor], None],
        whole: Callable[[Tensor, int], None] | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[RemovableHandle]:
        """As the base class; a function is called after each forward pass that wants features."""
        function = self.features_function
        if function is None:
            return super().watch_features(take, whole, wanted)
        kept: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any) -> None:
            kept[:] = [inputs[0].clone()] if wanted() else []  # the model may work in place on it

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if kept:
                value = features_by(function, kept.pop())
                take(vectors(value, self.module))
                if whole is not None:
                    whole(value, channels_axis(value, self.module))

        return [self.register_forward_pre_hook(keep), self.register_forward_hook(hook)]

    @property
    def name(self) -> str:
        """The name of the module in messages."""
        return model_name(self.module)

    def call(self, images: Tensor) -> Any:
        """What the module returns for normalized images."""
        return call(self.module, images, self.inputs)

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


def features_by(function: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """The penultimate features that a function gives, shape [B, D] or [B, D, ...].

    Args:
        function: of the user's; numpy arrays become tensors.
        images: normalized, shape [B, ...].

    Raises:
        UserError: it does not give a floating-point tensor with a row for each image.
        Exception: whatever it raises.
    """
    value = as_logits(function(images), images)
    floating = isinstance(value, Tensor) and value.is_floating_point()
    if floating and value.ndim > 1 and len(value) == len(images):
        return value  # type: ignore[no-any-return]
    shown = described(value)
    if isinstance(value, Tensor):
        shown = f"{str(value.dtype).removeprefix('torch.')} values of shape {list(value.shape)}"
    raise UserError(
        f"features: the function gave {shown} for {len(images)} images, not features [images, D]."
    )


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


def has_weights(module: nn.Module) -> bool:
    """Whether a module has parameters that are matrices, or of higher rank."""
    return any(parameter.ndim > 1 for parameter in module.parameters())
