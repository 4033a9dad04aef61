"""Networks by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from oodbench.errors import UserError, did_you_mean
from oodbench.models.registry import HEADS, NETWORKS, HeadInfo, NetworkInfo

if TYPE_CHECKING:
    from torch import nn

    from oodbench.models.classifier import Network

__all__ = ["create", "create_loss", "head_info", "network_info"]


def network_info(name: str) -> NetworkInfo:
    """What is known of a network.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in NETWORKS:
        raise UserError(f"There is no network '{name}'.", did_you_mean(name, NETWORKS))
    return NETWORKS[name]


def head_info(name: str) -> HeadInfo:
    """What is known of a head.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in HEADS:
        raise UserError(f"There is no head '{name}'.", did_you_mean(name, HEADS))
    return HEADS[name]


def create(name: str, num_classes: int, head: str = "softmax", in_channels: int = 3) -> Network:
    """A network with fresh weights from torch's global generator.

    Args:
        name: a name of `oodbench list models`.
        num_classes: C.
        head: "softmax" (linear) or "dismax" (distances to prototypes).
        in_channels: channels of the images.

    Returns:
        A module that maps normalised images [B, in_channels, H, W] to logits [B, C]. Its last layer
        is `head`; `tap_names` are its taps.

    Raises:
        UserError: if a name is unknown.
    """
    import oodbench.losses

    info = network_info(name)
    layer = getattr(oodbench.losses, head_info(head).layer)
    module, factory = info.factory.split(":")
    make = getattr(importlib.import_module(module), factory)
    network = make(
        make_head=lambda features: layer(features, num_classes),
        in_channels=in_channels,
        **info.options,
    )
    return cast("Network", network)


def create_loss(head: str, **options: float) -> nn.Module:
    """The loss that belongs to a head.

    Raises:
        UserError: if the head is unknown or does not take an option.
    """
    import oodbench.losses

    info = head_info(head)
    for option in options:
        if option not in info.loss_options:
            raise UserError(
                f"The loss of head '{head}' has no option '{option}'.",
                did_you_mean(option, info.loss_options),
            )
    return cast("nn.Module", getattr(oodbench.losses, info.loss)(**options))
