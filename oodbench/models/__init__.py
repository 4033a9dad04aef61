"""Networks by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from oodbench.errors import UserError, did_you_mean, see_list
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
    from oodbench.models.ensemble import Ensemble
    from oodbench.models.vision_language.zero_shot import VisionLanguageClassifier

__all__ = [
    "Ensemble",
    "VisionLanguageClassifier",
    "adapt",
    "code_version",
    "create",
    "create_loss",
    "head_info",
    "network_info",
]


def __getattr__(name: str) -> Any:
    """Import the class when it is first used: lists of networks import no torch."""
    if name == "Ensemble":
        from oodbench.models.ensemble import Ensemble

        return Ensemble
    if name == "VisionLanguageClassifier":
        from oodbench.models.vision_language.zero_shot import VisionLanguageClassifier

        return VisionLanguageClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def network_info(name: str) -> NetworkInfo:
    """The description of a network.

    Raises:
        UserError: if there is no network of this name.
    """
    if name not in NETWORKS:
        hint = did_you_mean(name, NETWORKS, see_list("models"))
        if ":" in name:
            hint = (
                "One of your own is given as module:callable or FILE.py:callable, as in "
                "'my_package.nets:make'."
            )
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
    loss_options: Mapping[str, float] | None = None,
) -> Network:
    """A network with fresh weights from torch's global generator.

    Args:
        name: a name of `oodbench list models`; "torchvision:NAME" or "timm:NAME"; or for your own
            "FILE.py:callable" or "module:callable", imported from the working directory or from
            the installed packages. This runs that code. The head replaces the last linear layer of
            the network that the callable returns.
        num_classes: C.
        head: "softmax" (linear), "dismax" (distances to prototypes), "isomax_plus" (scaled
            distances between directions), "dismax2022" (those and their mean, with a
            temperature), "logitnorm", "oe", "vos" (linear, for their losses), "t2fnorm" (linear, of
            directions in training) or "rotpred" (linear, with a second layer for rotations).
        in_channels: channels of the images. It is not passed to a callable: use `options`.
        taps: for "module:callable", names of the modules whose output is a tap, in order; without
            taps, detectors that need them do not run.
        options: for "module:callable", keyword arguments of the callable. Networks of torchvision
            and timm have fresh weights whatever the options.
        loss_options: options of the head and its loss, such as `tau`; those of the loss are left
            out.

    Returns:
        A module that maps normalized images [B, in_channels, H, W] to logits [B, C]. Its last layer
        is `head`; `tap_names` are its taps.

    Raises:
        UserError: if a name is unknown, taps or options are given for a network that takes none,
            the callable does not make a network with a linear layer, or the head does not take a
            loss option or its value.
    """
    import oodbench.losses

    layer = getattr(oodbench.losses, head_info(head).layer)
    head_options = _options_of(head, loss_options or {}, layer=True)

    def make_head(features: int) -> nn.Module:
        with _valid_options(head):
            return cast("nn.Module", layer(features, num_classes, **head_options))

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


@cache
def feature_layers_of(name: str) -> tuple[str, ...]:
    """Names of the feature layers of one of oodbench's networks, which is made without weights.

    Raises:
        UserError: if the name is unknown.
    """
    import torch

    with torch.device("meta"):
        return create(name, num_classes=2).tap_names


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


def create_loss(head: str, layer: nn.Module | None = None, **options: float) -> Loss:
    """The loss that belongs to a head.

    Args:
        head: name of the head.
        layer: the head of the network; "vos" and "rotpred" need it.
        options: options of the loss; those of the head's layer, which `create` takes, are left out.

    Raises:
        UserError: if the head is unknown, its loss does not take an option or its value, or needs
            the layer.
    """
    import oodbench.losses

    chosen, info = _options_of(head, options, layer=False), head_info(head)
    if info.bound and not isinstance(layer, getattr(oodbench.losses, info.layer)):
        raise UserError(
            f"The loss of head '{head}' is made with the {info.layer} that it trains.",
            f"Write create_loss('{head}', network.head).",
        )
    with _valid_options(head):
        loss = getattr(oodbench.losses, info.loss)
        return cast("Loss", loss(layer, **chosen) if info.bound else loss(**chosen))


def _options_of(head: str, options: Mapping[str, float], *, layer: bool) -> dict[str, float]:
    """The options that the layer of a head takes, or those that its loss takes."""
    info = head_info(head)
    for option in options:
        if option not in info.loss_options:
            raise UserError(
                f"The loss of head '{head}' has no option '{option}'.",
                did_you_mean(option, info.loss_options),
            )
    return {key: value for key, value in options.items() if (key in info.layer_options) == layer}


@contextmanager
def _valid_options(head: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UserError(f"The loss of head '{head}': {error}.") from error
