"""Networks by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from oodbench.errors import UserError, did_you_mean
from oodbench.models.registry import (
    HEADS,
    NETWORKS,
    HeadInfo,
    NetworkInfo,
    is_callable_name,
    library_of,
)

if TYPE_CHECKING:
    from torch import nn

    from oodbench.losses import Loss
    from oodbench.models.classifier import Network

__all__ = ["adapt", "code_version", "create", "create_loss", "head_info", "network_info"]


def network_info(name: str) -> NetworkInfo:
    """The description of a network.

    Raises:
        UserError: if there is no network of this name.
    """
    if name not in NETWORKS:
        hint = did_you_mean(name, NETWORKS)
        if ":" in name:
            hint = "One of your own is given as module:callable, as in 'my_package.nets:make'."
        raise UserError(f"There is no network '{name}'.", hint)
    return NETWORKS[name]


def head_info(name: str) -> HeadInfo:
    """The description of a head.

    Raises:
        UserError: if there is no head of this name.
    """
    if name not in HEADS:
        raise UserError(f"There is no head '{name}'.", did_you_mean(name, HEADS))
    return HEADS[name]


def create(
    name: str,
    num_classes: int,
    head: str = "softmax",
    in_channels: int = 3,
    *,
    taps: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Network:
    """A network with fresh weights from torch's global generator.

    Args:
        name: a name of `oodbench list models`; "torchvision:NAME" or "timm:NAME"; or
            "module:callable" for your own, imported from the working directory or from the
            installed packages. This runs that code. The head replaces the last linear layer of the
            network that the callable returns.
        num_classes: C.
        head: "softmax" (linear), "dismax" (distances to prototypes), "isomax_plus" (scaled
            distances between directions) or "dismax2022" (those and their mean, with a
            temperature).
        in_channels: channels of the images. It is not passed to a callable: use `options`.
        taps: for "module:callable", names of the modules whose output is a tap, in order; without
            taps, detectors that need them do not run.
        options: for "module:callable", keyword arguments of the callable. Networks of torchvision
            and timm have fresh weights whatever the options.

    Returns:
        A module that maps normalized images [B, in_channels, H, W] to logits [B, C]. Its last layer
        is `head`; `tap_names` are its taps.

    Raises:
        UserError: if a name is unknown, taps or options are given for a network that takes none, or
            the callable does not make a network with a linear layer.
    """
    import oodbench.losses

    layer = getattr(oodbench.losses, head_info(head).layer)

    def make_head(features: int) -> nn.Module:
        return cast("nn.Module", layer(features, num_classes))

    if is_callable_name(name) or library_of(name):
        from oodbench.models import callables

        return callables.create(name, make_head, taps, options or {})
    info = network_info(name)
    if taps or options:
        raise UserError(
            f"Network '{name}' takes no taps and no options.",
            "They are for networks given as module:callable.",
        )
    module, factory = info.factory.split(":")
    make = getattr(importlib.import_module(module), factory)
    return cast("Network", make(make_head=make_head, in_channels=in_channels, **info.options))


def adapt(module: nn.Module, *, taps: Sequence[str] = (), head: str | None = None) -> Network:
    """A trained classifier of your own as a network of oodbench.

    Args:
        module: maps normalized images [B, channels, H, W] to logits [B, C]; it is not changed.
        taps: names of modules inside it whose output is a tap, in order.
        head: name of its last layer; default: its last linear (or distance) layer.

    Raises:
        UserError: if a name is unknown, or no last layer is found.
    """
    from oodbench.models import adapted_network

    return adapted_network.adapt(module, taps=taps, head=head)


def code_version(name: str) -> str:
    """The version of the code of a network given as "module:callable"; "" for other networks.

    Raises:
        UserError: if there is no such module.
    """
    if not is_callable_name(name) and library_of(name) is None:
        return ""
    from oodbench.models import callables

    return callables.code_version(name)


def create_loss(head: str, **options: float) -> Loss:
    """The loss that belongs to a head.

    Raises:
        UserError: if the head is unknown, or its loss does not take an option or its value.
    """
    import oodbench.losses

    info = head_info(head)
    for option in options:
        if option not in info.loss_options:
            raise UserError(
                f"The loss of head '{head}' has no option '{option}'.",
                did_you_mean(option, info.loss_options),
            )
    try:
        return cast("Loss", getattr(oodbench.losses, info.loss)(**options))
    except ValueError as error:
        raise UserError(f"The loss of head '{head}': {error}.") from error
