"""The activation in the output of a module, and the order of its axes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from math import log
from typing import Any

import torch
from torch import Tensor


def activation_of(value: Any, images: int) -> Tensor | None:
    """The activation in the output or the input of a module.

    Modules may return a tuple, a mapping or a data class, as those of Hugging Face do: the
    activation is the first floating-point tensor in it with an entry for each image.

    Args:
        value: any output of a module, or its arguments.
        images: number of images in the batch.

    Returns:
        Shape [images, ...] with two axes or more; None if there is no such tensor.
    """
    for tensor in _tensors(value):
        if tensor.ndim > 1 and len(tensor) == images and tensor.is_floating_point():
            return tensor
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))


def with_activation(value: Any, activation: Tensor, new: Tensor) -> Any:
    """The output of a module, with another tensor in place of its activation.

    Args:
        value: any output of a module; it is not changed.
        activation: the tensor that `activation_of` found in it.
        new: the tensor that replaces it.
    """
    if value is activation:
        return new
    if isinstance(value, Mapping):
        made: Any = copy.copy(value)
        for key, part in value.items():
            made[key] = with_activation(part, activation, new)
        return made
    if isinstance(value, tuple | list):
        parts = [with_activation(part, activation, new) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)
        for field in fields(value):
            part = with_activation(getattr(value, field.name), activation, new)
            object.__setattr__(made, field.name, part)
        return made
    return value


def usual_axis(activation: Tensor) -> int:
    """The axis of the channels in [B, D], [B, tokens, D] and [B, D, ...]."""
    return 2 if activation.ndim == 3 else 1


def axis_by_sides(activation: Tensor, size: tuple[int, int]) -> int | None:
    """The axis of the channels in a map, whose sides are in the ratio of the images' sides.

    Args:
        activation: shape [B, D, H, W] or [B, H, W, D].
        size: height and width of the images.

    Returns:
        1 or 3; None if both fit equally well.
    """
    if not activation.numel():
        return 1
    shape = log(size[0] / size[1])
    first, second, third = activation.shape[1:]
    error_first = abs(log(second / third) - shape)
    error_last = abs(log(first / second) - shape)
    if error_first == error_last:
        return None
    return 3 if error_first > error_last else 1


def equal(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two activations are there and have the same values."""
    if first is None or second is None or first.shape != second.shape:
        return False
    return first is second or torch.equal(first, second)


def in_usual_order(activation: Tensor, axis: int | None) -> Tensor:
    """An activation with its channels where detectors expect them.

    Args:
        activation: shape [B, ...].
        axis: axis of its channels; None: the usual one.

    Returns:
        Shape [B, D], [B, tokens, D] or [B, D, ...].
    """
    usual = usual_axis(activation)
    return activation if axis in (None, usual) else activation.movedim(axis, usual)


def in_own_order(activation: Tensor, axis: int | None) -> Tensor:
    """The inverse of `in_usual_order`."""
    usual = usual_axis(activation)
    return activation if axis in (None, usual) else activation.movedim(usual, axis)
