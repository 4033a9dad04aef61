"""Finding the map that a network averages over space to get its penultimate features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from oodbench.models.activations import activation_of
from oodbench.models.classifier import Classifier
from oodbench.models.hooks import watched
from oodbench.models.rounding_tolerance import within_rounding


def find_map(classifier: Classifier, images: Tensor) -> str | None:
    """The module whose output, averaged over places, is the input of the last layer.

    It is found from the outputs of all modules for a few images: a network's structure does not
    show it. The output may be a map, with its channels first or last, or tokens, and may be in a
    tuple or a mapping; its mean has to be the features up to rounding.

    Args:
        classifier: in evaluation mode.
        images: a few, shape [B, channels, H, W] in [0, 1], that differ from place to place.

    Returns:
        The last such module's name within `classifier.network`; None if there is none (a
        transformer that classifies by a class token; a network with several layers after pooling).
    """
    maps: dict[str, Tensor] = {}
    features: list[Tensor] = []

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        activation = activation_of(output, len(images))
        if activation is not None and activation.ndim in (3, 4):
            maps.pop(name, None)  # the order is that of the last call
            maps[name] = activation

    network = classifier.network
    if not network.has_features:
        return None
    handles = network.watch_features(features.append)
    try:
        with watched(network, keep, lambda name, _: bool(name)), torch.no_grad():
            classifier(images)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[int, str] = {}
    for name, activation in maps.items():
        arranged = _arrangements(activation, features[-1])
        if any(_averages_to(each, features[-1]) for each in arranged):
            found[activation.ndim] = name
    return found.get(4, found.get(3))  # a sequence may be a map of which one side was averaged


def as_map(activation: Tensor, features: Tensor) -> Tensor:
    """The output of the module of `find_map`, as a map.

    Args:
        activation: a map or tokens, channels first or last.
        features: the penultimate features, shape [B, D].

    Returns:
        Shape [B, D, H, W]; of tokens [B, D, N, 1].
    """
    found = _arrangements(activation, features)
    if len(found) == 1:
        return found[0]
    errors = [float((each.mean(dim=(2, 3)) - features).abs().sum()) for each in found]
    return found[errors.index(min(errors))]


def _arrangements(activation: Tensor, features: Tensor) -> list[Tensor]:
    """An activation as maps [B, D, H, W], in all ways that have D channels and several places."""
    size = features.shape[1]
    axes = [axis for axis in (1, activation.ndim - 1) if activation.shape[axis] == size]
    maps = [activation.movedim(axis, 1) for axis in axes]
    maps = [each[..., None] if each.ndim == 3 else each for each in maps]
    return [each for each in maps if each[0, 0].numel() > 1]


def _averages_to(feature_map: Tensor, features: Tensor) -> bool:
    """Whether the mean of a map [B, D, H, W] over its places is the features [B, D]."""
    values = feature_map.double().flatten(2)
    return within_rounding(
        values.mean(dim=2),
        feature_map,
        given=features,
        scale=values.abs().mean(dim=2),
        terms=values.shape[2],
    )
