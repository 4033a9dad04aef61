"""Networks of torchvision, with their weights and what these expect of images."""

from __future__ import annotations

from typing import Any

from oodbench.errors import UserError, did_you_mean, shown
from oodbench.models.published_weights.preprocessing import LibraryModel, Preprocessing
from oodbench.specs import ResizeSpec

_TRANSFORMING = {"googlenet", "inception_v3"}
"""Networks whose weights need another normalization in front."""


def weights_url(network: str, weights: str) -> str:
    """The address of weights of torchvision; empty for other libraries and unknown names."""
    library, _, name = network.partition(":")
    if library != "torchvision":
        return ""
    from torchvision import models

    if name not in models.list_models(module=models):
        return ""
    found = models.get_model_weights(name).__members__.get(weights)
    return "" if found is None else str(found.url)


def published(name: str, weights: str) -> LibraryModel:
    """The network without its weights, which `LibraryModel.url` has."""
    from torchvision import models

    chosen = weights_of(name, weights)
    options: dict[str, Any] = {"num_classes": len(chosen.meta["categories"])}
    if name in _TRANSFORMING:
        options |= {"transform_input": True, "aux_logits": True, "init_weights": False}
    module = models.get_model(name, weights=None, **options)
    return LibraryModel(module, preprocessing_of(chosen), chosen.url)


def weights_of(name: str, weights: str | None) -> Any:
    """The weights of a network of torchvision by name; None: its default.

    Raises:
        UserError: torchvision has no such classifier, or it has no such weights.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(
            f"Network 'torchvision:{name}': torchvision has no classifier of this name.",
            did_you_mean(name, known, "torchvision.models.list_models() lists all."),
        )
    every = models.get_model_weights(name)
    if weights is None:
        return every.DEFAULT
    if weights not in every.__members__:
        raise UserError(
            f"Network 'torchvision:{name}' has no weights {shown(weights)}.",
            did_you_mean(weights, every.__members__),
        )
    return every[weights]


def preprocessing_of(weights: Any) -> Preprocessing:
    """What weights expect of images."""
    transforms = weights.transforms()
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    how = transforms.interpolation.value
    return Preprocessing(
        tuple(transforms.mean),
        tuple(transforms.std),
        (crop, crop),
        f"resize {resize} {how}, center crop {crop}",
        ResizeSpec(filter=how, short_side=resize),
    )
