"""The last layer and the feature layers of any classifier, found by running it.

The modules of a network do not tell which one gives the logits. Therefore a few images pass through
the network, and hooks record the input and output of every module. The network is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oodbench.errors import UserError, did_you_mean
from oodbench.models.classifier import first_tensor, vectors
from oodbench.models.structure.feature_layers import find_feature_layers
from oodbench.models.structure.forward_pass import (
    ForwardPass,
    is_activation,
    shape_of,
    steady_calls,
    watch_pass,
)
from oodbench.models.structure.head import find_head, gives_logits, is_transparent
from oodbench.models.structure.logits_entry import Output
from oodbench.models.structure.model_call import Inputs
from oodbench.models.structure.user_network import UserNetwork, features_by, model_name

_APART = (
    "The features come from the function given as features=, which is called for each batch. Times "
    "include it; counts of forward passes include it only if it runs modules of the model."
)


@dataclass(frozen=True, slots=True)
class Analysis:
    """Result of the analysis of a module.

    Attributes:
        network: shares the module's weights; its last layer and its taps are named.
        logits: logits of the images, shape [B, C].
        channels_last: whether it runs in torch's channels_last order.
        note: which of several outputs is used as the logits; "" if there is only one.
    """

    network: UserNetwork
    logits: Tensor
    channels_last: bool
    note: str = ""

    @property
    def num_classes(self) -> int:
        """C."""
        return self.logits.shape[1]


def analyze(
    module: nn.Module,
    images: Tensor,
    taps: Literal["auto"] | Sequence[str] = "auto",
    *,
    head: str | None = None,
    features: str | Callable[[Tensor], Any] | None = None,
    output: Output = None,
    inputs: Inputs = None,
    num_classes: int | None = None,
    batch: Tensor | None = None,
) -> Analysis:
    """Find the logits, the last layer and the taps of a classifier by running it once.

    `structure.head` describes how the last layer is found. Its input, averaged over space, is the
    penultimate features f. If the logits are not W f + b, the layer is marked as opaque, and
    detectors do not see its weights. For a model whose layers are hidden, such as a function or a
    TorchScript module, only the logits are known.

    With "auto", taps are the ends of stages or blocks (`structure.stages`). A module that runs
    several times in one forward pass is never a tap; an oodbench network keeps the taps it names.

    Args:
        module: in evaluation mode, on the device of `images`, and not wrapped.
        images: a few, normalized and in the module's type, shape [B, channels, H, W]; or other
            inputs of the module, shape [B, ...].
        taps: "auto", or names of modules in the order of the network.
        head: name of the last layer; None: found.
        features: name of the module whose output is the penultimate features, or a function of
            `images` that gives them; None: they are the input of the last layer.
        output: where the logits are in what the module returns (`structure.logits_entry`).
        inputs: how the module is given the images (`structure.model_call`).
        num_classes: C, if it is known.
        batch: images of a whole batch, as `images`. A module that runs a different number of times
            for them than for a few images is not used as a tap.

    Raises:
        UserError: the model returns no logits [B, C]; a named module is unknown, does not run
            exactly once, or returns no floating-point tensor with an entry for each image.
        NotFiniteError: logits are not finite.
        Exception: whatever the module raises for these images.
    """
    function = features if callable(features) else None
    named = None if callable(features) else features
    for argument, name in (("head", head), ("features", named)):
        _check_name(module, argument, name)
    seen = watch_pass(module, images, output, num_classes, inputs)
    last, why = find_head(seen) if head is None else (head, "")
    if head is not None:
        _check_part(seen, head, "head", of="given")
    given: str | Tensor | None = named
    if function is not None:
        given = _tried(function, module, images)
    if named is not None:
        _check_part(seen, named, "features", of="output")
    if features is not None:
        last = last if head is not None or gives_logits(seen, last) else None
    layers = find_feature_layers(seen, last, taps)
    if taps == "auto" and layers.names and batch is not None and len(batch) > len(images):
        steady = steady_calls(seen, batch)
        if len(steady) < len(seen.calls):
            layers = find_feature_layers(replace(seen, calls=steady), last, taps)
    network = UserNetwork(
        module,
        layers.names,
        last,
        seen.logits.shape[1],
        features_name=named,
        opaque_head=last is not None and not is_transparent(seen, last, given),
        channel_axes=layers.axes,
        tap_reason=layers.reason,
        output=seen.output,
        head_note=why if function is None else _APART,
        inputs=inputs,
        features_function=function,
    )
    return Analysis(network, seen.logits, seen.channels_last, seen.note)


def _tried(function: Callable[[Tensor], Any], module: nn.Module, images: Tensor) -> Tensor:
    """The features that a user's function gives for the first images, shape [B, D]."""
    try:
        with torch.no_grad():
            return vectors(features_by(function, images.clone()), module)
    except UserError:
        raise
    except Exception as error:  # of the user's code
        line = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise UserError(
            f"features: the function cannot take images of shape {list(images.shape)}: "
            f"{type(error).__name__}: {line}."
        ) from error


def _check_name(module: nn.Module, argument: str, name: Any) -> None:
    if name is None:
        return
    known = [inside for inside, _ in module.named_modules() if inside]
    if not isinstance(name, str):
        raise UserError(f"{argument}: expected the name of a module, not {name!r}.")
    if name not in known:
        raise UserError(
            f"{argument}: the model {model_name(module)} has no module '{name}'.",
            did_you_mean(name, known),
        )


def _check_part(
    seen: ForwardPass, name: str, argument: str, *, of: Literal["given", "output"]
) -> None:
    """Refuse a named module that does not run once, or has no vector for each image."""
    call = seen.call(name)
    if call is None:
        raise UserError(
            f"{argument}: '{name}' does not run when {model_name(seen.module)} computes its "
            "logits, or runs without hooks.",
            "Name a module that runs once.",
        )
    if call.count > 1:
        raise UserError(
            f"{argument}: '{name}' runs {call.count} times in one forward pass of "
            f"{model_name(seen.module)}.",
            "Name a module that runs once.",
        )
    value = first_tensor(call.given if of == "given" else call.output)
    if not is_activation(value, seen.images):
        verb = "is given" if of == "given" else "gives"
        raise UserError(
            f"{argument}: '{name}' {verb} {shape_of(value)} for {seen.images} images, not a "
            "floating-point tensor [images, ...].",
            "Name another module.",
        )
