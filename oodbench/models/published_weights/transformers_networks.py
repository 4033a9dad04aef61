"""Image classifiers of transformers, with their weights and what these expect of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from oodbench.models.published_weights.library_access import installed, unreachable
from oodbench.models.published_weights.preprocessing import FILTERS, LibraryModel, Preprocessing
from oodbench.specs import ResizeSpec

_CONVNEXT = 384
"""Sizes below are resized to more and cropped by the image processor of ConvNeXt."""


def published(path: str, offline: bool) -> LibraryModel:
    """A classifier of the Hugging Face Hub, or of a folder, with its weights.

    Raises:
        UserError: transformers is not installed, or the network or its weights cannot be had.
    """
    library = installed("transformers", f"hf:{path}")
    try:
        # No code of the repository is run, and torch reads tensors only (`weights_only`).
        module: nn.Module = library.AutoModelForImageClassification.from_pretrained(
            path, local_files_only=offline, trust_remote_code=False
        )
        made = library.AutoImageProcessor.from_pretrained(path, local_files_only=offline)
    except Exception as error:
        raise unreachable(f"hf:{path}", path, offline, error) from error
    return LibraryModel(module.eval(), image_processing(made.to_dict()))


def preprocessing_of(path: str, offline: bool) -> Preprocessing:
    """What the weights of a classifier expect of images; they are not loaded.

    Raises:
        UserError: transformers is not installed, or the files cannot be had.
    """
    library = installed("transformers", f"hf:{path}")
    try:
        made = library.AutoImageProcessor.from_pretrained(path, local_files_only=offline)
    except Exception as error:
        raise unreachable(f"hf:{path}", path, offline, error) from error
    return image_processing(made.to_dict())


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
    if how not in FILTERS or not size or not about.get("do_resize", True):
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
