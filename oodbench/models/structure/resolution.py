"""The axes of an activation: the channel axis, and the number of places (pixels or tokens)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from oodbench.models.activations import activation_of, axis_by_sides, equal, usual_axis
from oodbench.models.structure.forward_pass import ForwardPass

_STEP = 3
"""A module that divides height or width by more than this contains several stages."""
_EXTRA = 1.5
"""Sequences have one resolution if their lengths differ by a smaller factor: class tokens vary."""
_CHANNELS_FIRST = ("Conv1d", "Conv2d", "BatchNorm1d", "BatchNorm2d", "GroupNorm", "InstanceNorm2d")


@dataclass(frozen=True, slots=True)
class Size:
    """Number of places (pixels or tokens) of an activation; height and width if it is a map."""

    places: int
    sides: tuple[int, int] | None

    def larger(self, other: Size) -> bool:
        """Whether this size has more places than another."""
        maps = self.sides is not None and other.sides is not None
        return self.places > other.places * (1 if maps else _EXTRA)

    def like(self, other: Size) -> bool:
        """Whether both have one resolution."""
        if self.sides is not None and other.sides is not None:
            return self.sides == other.sides
        return not self.larger(other) and not other.larger(self)

    def step_from(self, before: Size) -> bool:
        """Whether this size is one step smaller than the size before."""
        if not before.larger(self):
            return False
        if self.sides is None or before.sides is None:
            return before.places <= _STEP**2 * self.places
        return max(b / s for b, s in zip(before.sides, self.sides, strict=True)) <= _STEP


def size_of(seen: ForwardPass, value: Any) -> Size | None:
    """Size of a map [B, D, H, W] or [B, H, W, D] or of tokens; None of anything else."""
    tensor = activation_of(value, seen.images)
    if tensor is None or tensor.ndim not in (3, 4) or not tensor.numel():
        return None
    axis = _likely_axis(tensor, seen.size) or usual_axis(tensor)
    sides = [n for index, n in enumerate(tensor.shape[1:], 1) if index != axis]
    if tensor.ndim == 3:
        return Size(sides[0], None)
    return Size(sides[0] * sides[1], (sides[0], sides[1]))


def channel_axis(seen: ForwardPass, value: Tensor) -> int:
    """The axis of the channels in an activation.

    In a map, height and width are in the ratio of the images' height and width. Where that does
    not decide, and in a sequence, the layers before or after the activation do: convolutions have
    their channels first, linear layers last.
    """
    likely = _likely_axis(value, seen.size)
    if likely is not None:
        return likely
    for call in seen.calls.values():
        kind = type(call.module)
        if kind in (nn.Linear, nn.LayerNorm):
            axis = value.ndim - 1
        elif kind.__name__ in _CHANNELS_FIRST:
            axis = 1
        else:
            continue
        ends = [activation_of(end, seen.images) for end in (call.given, call.output)]
        if any(equal(end, value) for end in ends):
            return axis
    return usual_axis(value)


def _likely_axis(value: Tensor, size: tuple[int, int]) -> int | None:
    """The axis of the channels by shape alone; None if two axes fit, or for a sequence."""
    if value.ndim == 4:
        return axis_by_sides(value, size)
    return None if value.ndim == 3 else usual_axis(value)
