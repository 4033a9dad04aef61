"""Networks of timm, with their weights and what these expect of images."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from math import floor
from typing import Any

from torch import nn

from oodbench.errors import UserError, did_you_mean
from oodbench.models.published_weights.library_access import (
    first_line,
    hub_access,
    installed,
    unreachable,
)
from oodbench.models.published_weights.preprocessing import FILTERS, LibraryModel, Preprocessing
from oodbench.specs import ResizeSpec


def timm_network(name: str, **options: Any) -> nn.Module:
    """A network of timm, without weights unless `pretrained` is among the options.

    Raises:
        UserError: timm is not installed, or does not have the network.
    """
    timm = timm_with(name)
    try:
        module: nn.Module = timm.create_model(name, **options)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise UserError(
            f"Network 'timm:{name}' cannot be made: {first_line(error)}.",
            did_you_mean(name, tags) if tags else "",
        ) from error
    return module


def timm_with(name: str) -> Any:
    """timm, which has the network.

    Raises:
        UserError: timm is not installed, or does not have the network.
    """
    timm = installed("timm", f"timm:{name}")
    if not timm.is_model(name.partition(".")[0]):
        raise UserError(
            f"Network 'timm:{name}': timm has no network of this name.",
            did_you_mean(name, timm.list_models(), "timm.list_models() lists all."),
        )
    return timm


def preprocessing_of(name: str) -> Preprocessing:
    """What the weights of a network expect of images; they are not loaded.

    Raises:
        UserError: timm is not installed, or does not have the network.
    """
    config = timm_with(name).get_pretrained_cfg(name, allow_unregistered=False)
    return timm_preprocessing(config={} if config is None else config.to_dict())


def timm_preprocessing(
    module: nn.Module | None = None, config: Mapping[str, Any] | None = None
) -> Preprocessing:
    """What timm says that the weights of a network expect (`resolve_data_config`).

    Args:
        module: the network; None: `config` is given.
        config: its `pretrained_cfg`.
    """
    resolve = importlib.import_module("timm.data").resolve_data_config
    data = resolve({}, model=module, pretrained_cfg=config)
    _, height, width = data["input_size"]
    resize = floor(min(height, width) / data["crop_pct"])
    crop, how = data["crop_mode"], data["interpolation"]
    known: ResizeSpec | None = None
    if how in FILTERS and crop == "center":
        known = ResizeSpec(filter=how, short_side=resize) if resize >= max(height, width) else None
    elif how in FILTERS and crop == "squash" and data["crop_pct"] == 1:
        known = ResizeSpec(filter=how, crop="none")
    return Preprocessing(
        tuple(data["mean"]),
        tuple(data["std"]),
        (height, width),
        f"resize {resize} {how}, {crop} crop {height}x{width}",
        known,
    )


def published(name: str, offline: bool) -> LibraryModel:
    """A network with the weights that timm publishes.

    Raises:
        UserError: timm is not installed, or the network or its weights cannot be had.
    """
    installed("timm", f"timm:{name}")
    try:
        with hub_access(offline):
            module = timm_network(name, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # timm, the Hub and its transport have errors of many types
        about = sys.modules["timm"].get_pretrained_cfg(name, allow_unregistered=True)
        hub = getattr(about, "hf_hub_id", None) or f"timm/{name}"
        raise unreachable(f"timm:{name}", hub, offline, error) from error
    return LibraryModel(module, timm_preprocessing(module))
