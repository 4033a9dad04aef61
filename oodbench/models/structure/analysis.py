"""The last layer and the feature layers of any classifier, found by running it.

The modules of a network do not tell which one gives the logits. Therefore a few images pass through
the network, and hooks record the input and output of every module. The network is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from oodbench.errors import UserError, did_you_mean
from oodbench.models.classifier import first_tensor
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
from oodbench.models.structure.user_network import UserNetwork, model_name


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
    features: str | None = None,
    output: Output = None,
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
        features: name of the module whose output is the penultimate features; None: they are the
            input of the last layer.
        output: where the logits are in what the module returns (`structure.output`).
        num_classes: C, if it is known.
        batch: images of a whole batch, as `images`. A module that runs a different number of times
            for them than for a few images is not used as a tap.

    Raises:
        UserError: the model returns no logits [B, C]; a named module is unknown, does not run
            exactly once, or returns no floating-point tensor with an entry for each image.
        NotFiniteError: logits are not finite.
        Exception: whatever the module raises for these images.
    """
    for argument, name in (("head", head), ("features", features)):
        _check_name(module, argument, name)
    seen = watch_pass(module, images, output, num_classes)
    last, why = find_head(seen) if head is None else (head, "")
    if head is not None:
        _check_part(seen, head, "head", of="given")
    if features is not None:
        _check_part(seen, features, "features", of="output")
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
        features_name=features,
        opaque_head=last is not None and not is_transparent(seen, last, features),
        channel_axes=layers.axes,
        tap_reason=layers.reason,
        output=seen.output,
        head_note=why,
    )
    return Analysis(network, seen.logits, seen.channels_last, seen.note)


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
