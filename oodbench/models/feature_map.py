"""Finding the map that a network averages over space to get its penultimate features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from oodbench.models.classifier import Classifier


def find_map(classifier: Classifier, images: Tensor) -> str | None:
    """The module whose output, averaged over space, is the input of the last layer.

    Found by looking at what every module gives for a few images: which it is cannot be read off a
    network's structure.

    Args:
        classifier: in evaluation mode.
        images: a few, shape [B, channels, H, W] in [0, 1], that differ from place to place.

    Returns:
        The last such module's name within `classifier.network`; None if there is none (a
        transformer; a network with several layers after pooling).
    """
    maps: dict[str, Tensor] = {}
    features: list[Tensor] = []

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                maps.pop(name, None)  # the order is that of the last call
                maps[name] = output

        return hook

    network = classifier.network
    handles = network.watch_features(features.append)
    if not handles:
        return None
    handles += [
        module.register_forward_hook(keep(name))
        for name, module in network.named_modules()
        if name and not isinstance(module, torch.jit.ScriptModule)  # their parts run no hooks
    ]
    try:
        with torch.no_grad():
            classifier(images)
    finally:
        for handle in handles:
            handle.remove()
    found = None
    for name, output in maps.items():
        if output.shape[:2] == features[-1].shape and output[0, 0].numel() > 1:
            # In a network of two types, each may have another.
            pooled, expected = output.float().mean(dim=(2, 3)), features[-1].float()
            if torch.allclose(pooled, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
                found = name
    return found
