"""What a batch is: images and labels in what a user's DataLoader or Dataset gives, checked.

Every message begins with the name of the argument that the data were given as, and names the
position of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodbench.errors import UserError, kind_of

Batch = tuple[Tensor, Tensor | None]
"""Images [B, ...], and labels [B] (int64) or None."""

_CHANNELS = (1, 3)
"""Numbers of channels of uint8 images; they tell [channels, height, width] from other orders."""
_ROUNDING = 1e-3
"""How far values of resized or decoded images may be outside of [0, 1]."""

_IMAGE_KEYS = (
    *("pixel_values", "image", "images", "img", "imgs", "inputs", "input", "x"),
    *("input_values", "input_features", "input_ids"),
    *("jpg", "jpeg", "png", "webp"),  # of WebDataset
)
"""Keys of mappings under which the images, or another input of a model, are found."""
_NEUTRAL = {"attention_mask": 1, "pixel_mask": 1, "token_type_ids": 0}
"""Entries that have no effect if all values are these: they are the models' defaults."""
LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "fine_label", "cls")
"""Keys of mappings under which the labels are found."""

_BYTES = (
    "Divide images of bytes by 255, as torchvision.transforms.ToTensor() does; images that are "
    "normalized already go with normalization=None."
)
_CONVERT = (
    "Convert them with torchvision.transforms.ToTensor(), or with "
    "v2.ToImage() and v2.ToDtype(torch.float32, scale=True)."
)
TRANSFORM = (
    "Give the data set a transform, such as torchvision.transforms.Compose("
    "[Resize(256), CenterCrop(224), ToTensor()])."
)
WITH_TRANSFORM = (
    "Give the data set a transform, such as data.with_transform(lambda batch: "
    '{"pixel_values": [transform(image) for image in batch["image"]], "label": batch["label"]}).'
)
"""The same for a data set of Hugging Face."""
ONE_SIZE = f"Images must have one size. {TRANSFORM}"


@dataclass(frozen=True, slots=True)
class BatchParts:
    """The parts of a batch, or of an item.

    Attributes:
        images: as given.
        labels: as given; None if there are none.
        others: names of other entries with numbers, which a model might need.
        key: the entry that holds the images; None if they come by position.
    """

    images: Any
    labels: Any = None
    others: frozenset[str] = frozenset()
    key: str | None = None

    @property
    def is_batch(self) -> bool:
        """Whether these are several images: with a class for each, or else [B, 1 or 3, H, W]."""
        if not is_array(self.images):
            return False
        shape, labels = self.images.shape, self.labels
        if isinstance(labels, list | tuple):
            labels = np.asarray(labels) if all(isinstance(each, int) for each in labels) else None
        if isinstance(labels, np.ndarray) and labels.dtype.kind not in "biuf":
            return False
        if is_array(labels) and labels.ndim == 1 and len(shape) > 1:
            classes = torch.as_tensor(labels)
            one_hot = len(shape) == 3 and int((classes != 0).sum()) == int(classes.sum()) == 1
            if classes.is_floating_point() or (one_hot and len(classes) > 1):
                return False  # of one image with as many channels as there are classes
            return bool(len(labels) == shape[0])
        return self.labels is None and len(shape) == 4 and shape[1] in _CHANNELS


def split_batch(given: Any, name: str, what: str) -> BatchParts:
    """Find images and labels in a batch, or the image and the label in an item.

    Args:
        given: (images, labels, ...), images alone, a mapping or an object with such entries as
            "pixel_values" and "labels", or "image" and "label".
        name: the argument that the data were given as.
        what: "a batch" or "an item", for messages.

    Raises:
        UserError: `given` is empty, or it is not clear which entry holds the images or the labels.
    """
    named = _fields(given)
    if any(key in named for key in _IMAGE_KEYS):
        return _split_mapping(named, name, what)
    if isinstance(given, tuple | list) and given:
        return BatchParts(given[0], given[1] if len(given) > 1 else None)
    if isinstance(given, Mapping) and given:
        return _split_mapping(given, name, what)
    if isinstance(given, tuple | list | Mapping):
        raise UserError(
            f"{name}: {what} is an empty {type(given).__name__}; expected (image, label).",
            "Give a Dataset, or a collate_fn, that makes pairs.",
        )
    return BatchParts(given)


def item_image(image: Any, name: str, position: int, transform: str = TRANSFORM) -> Tensor:
    """The image of one item as a tensor.

    Args:
        image: as the user's data give it.
        name: the argument that the data were given as.
        position: number of images before this one.
        transform: what to do with PIL images.

    Raises:
        UserError: it is neither a tensor nor a floating-point or uint8 array.
    """
    if isinstance(image, np.ndarray) and (image.dtype.kind == "f" or image.dtype == np.uint8):
        return torch.from_numpy(image)  # as torch's default_collate does
    if not isinstance(image, Tensor):
        raise UserError(
            f"{name}: image {position} is {described(image)}, not a tensor.",
            transform if described(image) == "a PIL image" else _CONVERT,
        )
    return image


def image_batch(images: Any, name: str, done: int) -> Tensor:
    """The images of a batch; uint8 is scaled to float32 in [0, 1], other types are kept.

    Args:
        images: as the user's data give them.
        name: the argument that the data were given as.
        done: number of images before this batch.

    Returns:
        Shape [B, ...], floating-point; or integers [B, T] (tokens).

    Raises:
        UserError: type or shape are not usable.
    """
    if not isinstance(images, Tensor):
        hint = _CONVERT
        if isinstance(images, tuple | list) and any(isinstance(i, Tensor) for i in images):
            hint = "A batch is (images, labels), each stacked, as torch's own collate_fn does."
        raise UserError(f"{name}: images are {described(images)}, not tensors.", hint)
    if images.ndim < 2:
        raise UserError(
            f"{name}: images from {done} on have shape {list(images.shape)}; expected "
            "[images, channels, height, width], or [images, ...].",
            "A Dataset gives single images [channels, height, width]; a DataLoader batches.",
        )
    tokens = images.ndim == 2 and images.dtype in (torch.int32, torch.int64)
    if not (images.is_floating_point() or images.dtype == torch.uint8 or tokens):
        raise UserError(
            f"{name}: images are {_dtype_name(images.dtype)}, neither floating-point nor uint8.",
            _CONVERT,
        )
    if len(images) and not images.numel():
        raise UserError(
            f"{name}: images from {done} on have shape {list(images.shape[1:])}, without a pixel."
        )
    if images.dtype != torch.uint8:
        return images
    channels = (images.shape[1], images.shape[-1])
    if images.ndim == 2 or (channels[1] in _CHANNELS and channels[0] not in _CHANNELS):
        last = images.ndim > 2
        raise UserError(
            f"{name}: images of type uint8 have shape {list(images.shape[1:])}; expected "
            "[channels, height, width].",
            f"{'Their channels come last. ' * last}{_CONVERT}",
        )
    return images.float().div_(255)


def label_batch(given: Any, count: int, name: str, done: int) -> Tensor:
    """The labels of a batch.

    Args:
        given: as the user's data give them.
        count: number of images in the batch.
        name: the argument that the data were given as.
        done: number of images before this batch.

    Returns:
        Shape [count], int64.

    Raises:
        UserError: they are not integers, or not one per image.
    """
    expected = "expected the class of each image, a whole number"
    if isinstance(given, Tensor):
        labels = given
    else:
        labels = torch.stack(
            [
                _label(label, f"{name}: the label of image {done + i}", expected)
                for i, label in enumerate(given)
            ]
        )
    hint = ""
    if labels.ndim == 2:
        wide = labels.shape[1] > 1
        hint = "Of one-hot labels give labels.argmax(dim=1)." if wide else "Give labels.flatten()."
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(f"{name}: labels are {_dtype_name(labels.dtype)}; {expected}.", hint)
    if tuple(labels.shape) != (count,):
        raise UserError(
            f"{name}: labels of {count} images have shape {list(labels.shape)}; "
            f"expected [{count}], the class of each.",
            hint,
        )
    return labels.long()


def check_values(images: Tensor, name: str, done: int, *, in_unit_range: bool) -> None:
    """Raise UserError if an image has values that are not finite, or not in [0, 1].

    Args:
        images: shape [B, ...], not empty.
        name: the argument that the data were given as.
        done: number of images before this batch.
        in_unit_range: whether values must be in [0, 1], up to rounding.
    """
    low, high = torch.aminmax(images)
    if not bool(low.isfinite() & high.isfinite()):
        finite = images.isfinite().flatten(1).all(dim=1)
        raise UserError(
            f"{name}: image {done + int(finite.int().argmin())} has values that are not finite."
        )
    if in_unit_range and not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        inside = ((images >= -_ROUNDING) & (images <= 1 + _ROUNDING)).flatten(1).all(dim=1)
        index = int(inside.int().argmin())
        seen = images[index].aminmax()
        raise UserError(
            f"{name}: image {done + index} has values from {float(seen.min):.3g} to "
            f"{float(seen.max):.3g}; with normalization given, images are in [0, 1].",
            _BYTES
            if float(low) >= 0
            else "Images that are normalized already go with normalization=None.",
        )


def check_classes(labels: Tensor, name: str, done: int, num_classes: int, declared: str) -> None:
    """Raise UserError if a label is not in 0 .. num_classes - 1.

    Args:
        labels: shape [B].
        name: the argument that the data were given as.
        done: number of images before this batch.
        num_classes: number of classes that labels may have.
        declared: classes that the data set declares, if these decide; "": the model's classes do.
    """
    wrong = (labels < 0) | (labels >= num_classes)
    if not bool(wrong.any()):
        return
    index = int(wrong.int().argmax())
    if declared:
        raise UserError(
            f"{name}: image {done + index} has label {int(labels[index])}; the data set says that "
            f"its classes are {declared}.",
            "Correct its `classes` and `class_to_idx`, or its labels.",
        )
    raise UserError(
        f"{name}: image {done + index} has label {int(labels[index])}; the model has "
        f"{num_classes} classes, so labels are 0 to {num_classes - 1}.",
        "Labels that count from 1 are to be reduced by 1."
        if int(labels[index]) == num_classes
        else "",
    )


def described(value: Any) -> str:
    """The kind of a value, for messages: "a PIL image", "a str"."""
    kind = type(value)
    if isinstance(value, np.ndarray):
        return f"a numpy array of {value.dtype}"
    if kind.__module__.startswith("PIL."):
        return "a PIL image"
    return kind_of(value)


def is_array(value: Any) -> bool:
    """Whether a value is a tensor or a NumPy array."""
    return isinstance(value, Tensor | np.ndarray)


def _split_mapping(given: Mapping[Any, Any], name: str, what: str) -> BatchParts:
    """Images, labels and other entries of a mapping, as Hugging Face's data sets give it."""
    images, labels = ([key for key in keys if key in given] for keys in (_IMAGE_KEYS, LABEL_KEYS))
    arrays = [key for key in images if is_array(given[key])]
    if len(arrays) == 1:
        images = arrays  # the tensor, not the PIL image that it was made from
    for kind, known, found in (("images", _IMAGE_KEYS, images), ("labels", LABEL_KEYS, labels)):
        if len(found) > 1 or (not found and kind == "images"):
            named = f"{', '.join(map(repr, found))} may be" if found else "none is known to be"
            raise UserError(
                f"{name}: {what} has the entries {', '.join(map(repr, given))}, of which {named} "
                f"the {kind}.",
                f"Name one of them {known[0]!r} or {known[1]!r}, or give a Dataset, or a "
                "collate_fn, that makes pairs.",
            )
    others = frozenset(
        key
        for key, value in given.items()
        if key != images[0] and key not in LABEL_KEYS and _has_effect(key, value)
    )
    return BatchParts(
        given[images[0]], given[labels[0]] if labels else None, others, str(images[0])
    )


def _fields(given: Any) -> Mapping[str, Any]:
    """The fields of a named tuple, or the attributes of another object; {} for containers."""
    if isinstance(given, tuple) and hasattr(given, "_fields"):
        return dict(zip(given._fields, given, strict=True))
    if is_dataclass(given) and not isinstance(given, type):
        return {each.name: getattr(given, each.name) for each in fields(given)}
    if isinstance(given, Tensor | Mapping) or not hasattr(given, "__dict__"):
        return {}
    found: Mapping[str, Any] = vars(given)
    return found


def _has_effect(key: Any, value: Any) -> bool:
    """Whether an entry of a mapping holds numbers that a model may need."""
    if not isinstance(value, Tensor | np.ndarray | tuple | list | int | float):
        return False
    try:
        values = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # lists of unequal length
        return True
    return values.dtype.kind in "biuf" and not bool((values == _NEUTRAL.get(key)).all())


def _label(label: Any, what: str, expected: str) -> Tensor:
    try:
        return torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{what} is {described(label)}; {expected}.") from error


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
