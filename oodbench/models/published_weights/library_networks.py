"""Networks of torchvision, timm and transformers, with the weights that these libraries publish."""

from __future__ import annotations

from oodbench.errors import UserError, shown
from oodbench.models.published_weights import (
    timm_networks,
    torchvision_networks,
    transformers_networks,
)
from oodbench.models.published_weights.preprocessing import LibraryModel, Preprocessing

PRETRAINED = "pretrained"
"""The value of `weights` of libraries in which a network has one set of weights."""


def published(network: str, weights: str, *, offline: bool) -> LibraryModel:
    """A network with the weights that its library publishes.

    Args:
        network: "torchvision:NAME", "timm:NAME" or "hf:PATH".
        weights: name of the weights (torchvision), else "pretrained".
        offline: whether downloads are forbidden.

    Raises:
        UserError: the library is not installed, has no such network or weights, or they cannot be
            downloaded.
    """
    library, _, name = network.partition(":")
    if library == "torchvision":
        return torchvision_networks.published(name, weights)
    if weights != PRETRAINED:
        raise UserError(
            f"Network '{network}' has no weights {shown(weights)}.",
            f"Its weights are chosen by its name: weights: {PRETRAINED}.",
        )
    if library == "timm":
        return timm_networks.published(name, offline)
    return transformers_networks.published(name, offline)


def preprocessing_of(network: str, weights: str | None, *, offline: bool) -> Preprocessing:
    """What a library says that its weights expect of images; no weights are loaded.

    Args:
        network: "torchvision:NAME", "timm:NAME" or "hf:PATH".
        weights: of torchvision; None: its default.
        offline: whether downloads are forbidden.

    Raises:
        UserError: the library is not installed, or has no such network or weights.
    """
    library, _, name = network.partition(":")
    if library == "torchvision":
        return torchvision_networks.preprocessing_of(torchvision_networks.weights_of(name, weights))
    if library == "timm":
        return timm_networks.preprocessing_of(name)
    return transformers_networks.preprocessing_of(name, offline)


def check_name(network: str, weights: str | None) -> None:
    """Check that a library has a network and its weights, as far as is known without a download.

    Args:
        network: "torchvision:NAME" or "timm:NAME"; others are not checked.
        weights: of torchvision; None: it is trained, or has a checkpoint.

    Raises:
        UserError: it has not, or the library is not installed.
    """
    library, _, name = network.partition(":")
    if library == "torchvision":
        torchvision_networks.weights_of(name, weights)
    elif library == "timm":
        timm_networks.timm_with(name)


def weights_name(network: str, weights: str | None) -> str:
    """The name of weights of "torchvision:NAME", checked; of its default if none is given.

    Raises:
        UserError: torchvision has no such classifier, or it has no such weights.
    """
    return str(torchvision_networks.weights_of(network.partition(":")[2], weights).name)
