"""Networks of torchvision, timm and transformers, with the weights that these libraries publish."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from torch import nn

from oodbench.errors import UserError, did_you_mean, shown
from oodbench.models.published_weights.preprocessing import Preprocessing
from oodbench.specs import ResizeSpec

PRETRAINED = "pretrained"
"""The value of `weights` of libraries in which a network has one set of weights."""

EXTRAS = {"timm": "timm", "transformers": "transformers", "open_clip": "clip"}
"""Package -> extra of oodbench that installs it."""

_CONVNEXT = 384
"""Sizes below are resized to more and cropped by the image processor of ConvNeXt."""

_FILTERS = get_args(ResizeSpec.model_fields["filter"].annotation)
"""Names of filters that decoding knows."""

_TRANSFORMING = {"googlenet", "inception_v3"}
"""Networks of torchvision whose weights need another normalization in front."""


@dataclass(frozen=True, slots=True)
class LibraryModel:
    """A network of a library.

    Attributes:
        module: the network; maps images to logits, or to something with logits in it.
        preprocessing: what its weights expect.
        url: address of weights that are not in the module yet; "" if they are.
    """

    module: nn.Module
    preprocessing: Preprocessing
    url: str = ""


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
        return _of_torchvision(name, weights)
    if weights != PRETRAINED:
        raise UserError(
            f"Network '{network}' has no weights {shown(weights)}.",
            f"Its weights are chosen by its name: weights: {PRETRAINED}.",
        )
    return _of_timm(name, offline) if library == "timm" else _of_transformers(name, offline)


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
        return _transforms_of(_torchvision_weights(name, weights))
    if library == "timm":
        config = _timm_with(name).get_pretrained_cfg(name, allow_unregistered=False)
        return timm_preprocessing(config={} if config is None else config.to_dict())
    transformers = installed("transformers", network)
    try:
        made = transformers.AutoImageProcessor.from_pretrained(name, local_files_only=offline)
    except Exception as error:
        raise _unreachable(network, name, offline, error) from error
    return image_processing(made.to_dict())


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
        _torchvision_weights(name, weights)
    elif library == "timm":
        _timm_with(name)


def weights_name(network: str, weights: str | None) -> str:
    """The name of weights of "torchvision:NAME", checked; of its default if none is given.

    Raises:
        UserError: torchvision has no such classifier, or it has no such weights.
    """
    return str(_torchvision_weights(network.partition(":")[2], weights).name)


# --- torchvision ----------------------------------------------------------------------------------


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


def _of_torchvision(name: str, weights: str) -> LibraryModel:
    """The network without its weights, which `LibraryModel.url` has."""
    from torchvision import models

    chosen = _torchvision_weights(name, weights)
    options: dict[str, Any] = {"num_classes": len(chosen.meta["categories"])}
    if name in _TRANSFORMING:
        options |= {"transform_input": True, "aux_logits": True, "init_weights": False}
    module = models.get_model(name, weights=None, **options)
    return LibraryModel(module, _transforms_of(chosen), chosen.url)


def _torchvision_weights(name: str, weights: str | None) -> Any:
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


def _transforms_of(weights: Any) -> Preprocessing:
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


# --- timm -----------------------------------------------------------------------------------------


def timm_network(name: str, **options: Any) -> nn.Module:
    """A network of timm, without weights unless `pretrained` is among the options.

    Raises:
        UserError: timm is not installed, or does not have the network.
    """
    timm = _timm_with(name)
    try:
        module: nn.Module = timm.create_model(name, **options)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise UserError(
            f"Network 'timm:{name}' cannot be made: {first_line(error)}.",
            did_you_mean(name, tags) if tags else "",
        ) from error
    return module


def _timm_with(name: str) -> Any:
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
    if how in _FILTERS and crop == "center":
        known = ResizeSpec(filter=how, short_side=resize) if resize >= max(height, width) else None
    elif how in _FILTERS and crop == "squash" and data["crop_pct"] == 1:
        known = ResizeSpec(filter=how, crop="none")
    return Preprocessing(
        tuple(data["mean"]),
        tuple(data["std"]),
        (height, width),
        f"resize {resize} {how}, {crop} crop {height}x{width}",
        known,
    )


def _of_timm(name: str, offline: bool) -> LibraryModel:
    installed("timm", f"timm:{name}")
    try:
        with hub_access(offline):
            module = timm_network(name, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # timm, the Hub and its transport have errors of many types
        about = sys.modules["timm"].get_pretrained_cfg(name, allow_unregistered=True)
        hub = getattr(about, "hf_hub_id", None) or f"timm/{name}"
        raise _unreachable(f"timm:{name}", hub, offline, error) from error
    return LibraryModel(module, timm_preprocessing(module))


# --- transformers ---------------------------------------------------------------------------------


def _of_transformers(path: str, offline: bool) -> LibraryModel:
    library = installed("transformers", f"hf:{path}")
    try:
        # No code of the repository is run, and torch reads tensors only (`weights_only`).
        module: nn.Module = library.AutoModelForImageClassification.from_pretrained(
            path, local_files_only=offline, trust_remote_code=False
        )
        made = library.AutoImageProcessor.from_pretrained(path, local_files_only=offline)
    except Exception as error:
        raise _unreachable(f"hf:{path}", path, offline, error) from error
    return LibraryModel(module.eval(), image_processing(made.to_dict()))


def image_processing(about: Mapping[str, Any]) -> Preprocessing:
    """What an image processor of transformers does."""
    mean, std = about.get("image_mean"), about.get("image_std")
    if not about.get("do_normalize") or mean is None or std is None:
        mean, std = (0.0,) * 3, (1.0,) * 3
    size, crop = dict(about.get("size") or {}), dict(about.get("crop_size") or {})
    final = crop if crop and about.get("do_center_crop") else size
    edge = final.get("shortest_edge")
    height, width = final.get("height", edge), final.get("width", edge)
    steps = [f"resize {_side(size)} {_filter(about.get('resample'))}"] if size else []
    steps += [f"center crop {_side(crop)}"] if final is crop else []
    return Preprocessing(
        tuple(mean),
        tuple(std),
        None if height is None or width is None else (height, width),
        ", ".join(steps),
        _resizing(about, size, crop if final is crop else {}),
    )


def _resizing(
    about: Mapping[str, Any], size: Mapping[str, Any], crop: Mapping[str, Any]
) -> ResizeSpec | None:
    """The same for decoding; None if it cannot be done in this way."""
    how: Any = _filter(about.get("resample"))
    if how not in _FILTERS or not size or not about.get("do_resize", True):
        return None
    edge = size.get("shortest_edge")
    if edge is None:
        return ResizeSpec(filter=how, crop="none") if not crop else None
    if about.get("crop_pct") and edge < _CONVNEXT:  # as the image processor of ConvNeXt does
        return ResizeSpec(filter=how, short_side=int(edge / about["crop_pct"]))
    wanted = [crop[key] for key in ("height", "width") if key in crop]
    return ResizeSpec(filter=how, short_side=edge) if not wanted or max(wanted) <= edge else None


def _side(size: Mapping[str, Any]) -> str:
    if "height" in size:
        return f"{size['height']}x{size['width']}"
    return str(size.get("shortest_edge", ""))


def _filter(resample: Any) -> str:
    from PIL.Image import Resampling

    return Resampling(resample).name.lower() if resample is not None else "by its default"


# --- packages, the Hub ----------------------------------------------------------------------------


def installed(package: str, network: str) -> ModuleType:
    """A package that an extra of oodbench installs.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"Network '{network}' needs the package {package}, which is not installed.",
            f"Install it with: pip install 'oodbench[{EXTRAS[package]}]'.",
        ) from error


@contextmanager
def hub_access(offline: bool) -> Iterator[None]:
    """Forbid downloads from the Hugging Face Hub inside, if asked to."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _unreachable(network: str, hub: str, offline: bool, error: Exception) -> UserError:
    """The error of weights that cannot be got from the Hugging Face Hub."""
    if Path(hub).is_dir():
        return UserError(
            f"Network '{network}' cannot be made of the folder: {first_line(error)}.",
            "It needs config.json, preprocessor_config.json and model.safetensors, as "
            "save_pretrained of transformers writes them.",
        )
    why = "downloads are forbidden (OODBENCH_OFFLINE)" if offline else first_line(error)
    other = (
        "name that folder: network: hf:FOLDER"
        if network.startswith("hf:")
        else "name the file: checkpoint: {path: FILE} in place of weights"
    )
    files = _listed_files(network)
    return UserError(
        f"Network '{network}': its weights are not on this machine and cannot be downloaded: "
        f"{why}.",
        f"Download {files} of https://huggingface.co/{hub}/tree/main into a folder, and {other}.",
    )


def _listed_files(network: str) -> str:
    if network.startswith("hf:"):
        return "config.json, preprocessor_config.json and model.safetensors"
    return "model.safetensors"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    lines = str(error).splitlines() or [""]
    return lines[0].rstrip(".") or type(error).__name__
