"""Statistics that several detectors share while they are fitted: computed once, given to each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class _Called:
    """A call of a method of a shared object, and its outcome."""

    place: int
    arguments: tuple[Any, ...]
    value: Any
    error: Exception | None
    seconds: float


class SharedStatistics:
    """Objects that several detectors share, and the last result of each of their methods."""

    def __init__(self) -> None:
        self._objects: dict[Any, Any] = {}
        self._called: dict[tuple[int, str], _Called] = {}

    def get(self, kind: Callable[..., S], arguments: tuple[Any, ...], of: str) -> S:
        """The object of a kind, made with these arguments, of what `of` names."""
        key = kind, arguments, of
        if key not in self._objects:
            self._objects[key] = kind(*arguments)
        found: S = self._objects[key]
        return found

    def once(self, place: int, method: Any, arguments: tuple[Any, ...]) -> tuple[Any, float]:
        """What a method returns at a place of a pass; and the seconds if another had it called.

        Raises:
            RuntimeError: the other gave it other tensors.
            Exception: what the method raised.
        """
        owner = getattr(method, "__self__", None)
        if not any(owner is each for each in self._objects.values()):
            return method(*arguments), 0.0
        key = id(owner), method.__name__
        before = self._called.get(key)
        if before is None or before.place < place:
            started, value, error = time.perf_counter(), None, None
            try:
                value = method(*arguments)
            except Exception as raised:
                error = raised
            seconds = time.perf_counter() - started
            called = self._called[key] = _Called(place, arguments, value, error, seconds)
            shared = 0.0
        else:  # of a place before, only a detector that passes again asks
            called = before
            shared = before.seconds if before.place == place else 0.0
            pairs = zip(before.arguments, arguments, strict=True)
            tensors = [pair for pair in pairs if isinstance(pair[0], Tensor)]
            if before.place == place and not all(torch.equal(*pair) for pair in tensors):
                raise RuntimeError(
                    f"{method.__qualname__} was given other values by another detector: name what "
                    "they are with batches.shared(..., of=...)"
                )
        if called.error is not None:
            raise called.error
        return called.value, shared
