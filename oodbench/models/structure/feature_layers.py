"""The feature layers of a user's model: the modules that the user names, or the ends of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from oodbench.errors import UserError, kind_of
from oodbench.models.activations import activation_of, usual_axis
from oodbench.models.adapted_network import check_taps
from oodbench.models.classifier import Network
from oodbench.models.structure.forward_pass import ForwardPass, shape_of
from oodbench.models.structure.resolution import channel_axis
from oodbench.models.structure.stages import find_stages
from oodbench.models.structure.user_network import model_name


@dataclass(frozen=True, slots=True)
class FeatureLayers:
    """The feature layers of a network.

    Attributes:
        names: names of the modules, in order.
        reason: how they were chosen.
        axes: name -> axis of the channels, where it is not the usual one (`activations`).
    """

    names: tuple[str, ...]
    reason: str
    axes: Mapping[str, int]


def find_feature_layers(
    seen: ForwardPass,
    head: str | None,
    taps: Literal["auto"] | Sequence[str],
) -> FeatureLayers:
    """The feature layers: named by `taps`, named by an oodbench network, or found.

    Args:
        seen: the pass.
        head: name of the last layer; None if it is not known.
        taps: names of modules in the order of the network, or "auto".

    Raises:
        UserError: a named module is unknown, does not run exactly once, or returns no activation.
    """
    module = seen.module
    if taps != "auto":
        chosen = _names(module, (taps,) if isinstance(taps, str) else taps)
        check_taps(module, chosen)
        for name in chosen:
            _check_tap(seen, name)
        return FeatureLayers(chosen, "those that taps= names", _axes(seen, chosen))
    if isinstance(module, Network) and module.names_taps:
        names = {id(part): name for name, part in module.named_modules()}
        chosen = tuple(names[id(part)] for part in module.tap_modules.values())
        return FeatureLayers(chosen, "those that the network names", {})
    found, reason = find_stages(seen, head)
    return FeatureLayers(tuple(found), reason, _axes(seen, found))


def _axes(seen: ForwardPass, names: Sequence[str]) -> dict[str, int]:
    """Name -> axis of the channels, of modules where it is not the usual one."""
    found = {}
    for name in names:
        activation = seen.activation(name)
        if activation is not None:
            axis = channel_axis(seen, activation)
            if axis != usual_axis(activation):
                found[name] = axis
    return found


def _names(module: nn.Module, taps: Any) -> tuple[str, ...]:
    """Names of modules in `taps`, without the prefix of a wrapper that was removed."""
    expected = "expected 'auto', or names of modules in the order of the network"
    if not isinstance(taps, Sequence):
        raise UserError(
            f"taps: {expected}, not {taps!r}.", "For no taps, give []." if taps is None else ""
        )
    inside = {name for name, _ in module.named_modules()}
    names: list[str] = []
    for tap in taps:
        if isinstance(tap, nn.Module):
            known = [name for name, part in module.named_modules() if part is tap and name]
            raise UserError(
                f"taps: {expected}, not {kind_of(tap)} itself.",
                f"Name it: '{known[0]}'." if known else "",
            )
        if not isinstance(tap, str):
            raise UserError(f"taps: {expected}, not {tap!r}.")
        name = tap
        for wrapper in ("_orig_mod.", "module."):
            if name not in inside:
                name = name.removeprefix(wrapper)
        if name in names:
            raise UserError(f"taps: '{tap}' is named twice.", "Name each module once.")
        names.append(name)
    return tuple(names)


def _check_tap(seen: ForwardPass, name: str) -> None:
    model = model_name(seen.module)
    call = seen.call(name)
    if call is None:
        raise UserError(
            f"Tap '{name}' does not run when {model} computes its logits.",
            "Name a module that runs once, or leave it to taps='auto'.",
        )
    if call.count > 1:
        raise UserError(
            f"Tap '{name}' runs {call.count} times in one forward pass of {model}.",
            "Name a module that runs once, such as the module that contains it.",
        )
    if activation_of(call.output, seen.images) is None:
        raise UserError(
            f"Tap '{name}' returns {shape_of(call.output)} for {seen.images} images, not a "
            "floating-point tensor [images, ...] or a container of one.",
            "Name a module with such an output.",
        )
