"""Fitting several detectors from one pass.

A detector's `fit(batches)` is an ordinary loop over batches, and the loops of all detectors must
advance together so that each batch is computed once. Each `fit` runs in a greenlet, which has a
stack of its own: to ask for a batch it switches to the engine, and goes on when the engine switches
back. All are in one thread, so nothing is concurrent, results do not depend on timing, and one pool
of OpenMP workers serves all: with threads, each would have its own pool.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor

from oodbench.detector import Batches, Detector, Outputs


@dataclass(frozen=True, slots=True)
class Fitted:
    """Outcome of fitting one detector.

    Attributes:
        seconds: spent inside the detector.
        error: the exception that it raised, or None.
        shared_seconds: spent by other detectors on shared statistics, which this detector would
            have spent if it were fitted alone.
    """

    seconds: float
    error: Exception | None
    shared_seconds: float = 0.0


class _Asked(Enum):
    """What a `fit` asks of the engine."""

    PASS = auto()
    BATCH = auto()
    FINISHED = auto()


S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Called:
    """A call of a method of a shared object, and its outcome."""

    place: int
    arguments: tuple[Any, ...]
    value: Any
    error: Exception | None
    seconds: float


class _Statistics:
    """Objects that several detectors share, and the last result of each of their methods."""

    def __init__(self) -> None:
        self._objects: dict[Any, Any] = {}
        self._called: dict[tuple[int, str], _Called] = {}

    def get(self, kind: Callable[..., S], arguments: tuple[Any, ...], of: str) -> S:
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
            if before.place == place and not all(map(_equal, before.arguments, arguments)):
                raise RuntimeError(
                    f"{method.__qualname__} was given other values by another detector: name what "
                    "they are with batches.shared(..., of=...)"
                )
        if called.error is not None:
            raise called.error
        return called.value, shared


def _equal(first: Any, second: Any) -> bool:
    """Whether two arguments are the same, if they are tensors."""
    return not isinstance(first, Tensor) or torch.equal(first, second)


class _Reader(Batches):
    """The batches that one detector sees, and its greenlet."""

    def __init__(
        self,
        name: str,
        detector: Detector,
        num_classes: int,
        statistics: _Statistics,
        needs: Sequence[str],
    ) -> None:
        self._name = name
        self.num_classes = num_classes
        self._statistics = statistics
        self._place = 0
        self.shared_seconds = 0.0
        self.wants_pass = False
        self.finished = False
        self.error: Exception | None = None
        self.seconds = 0.0
        self._passes = 0
        self._needs = detector.info.needs
        self._methods = [
            detector.fit_validation if need == "validation" else detector.fit for need in needs
        ]
        self._modes = _Modes(grad=False)
        self._greenlet = greenlet(self._fit)
        self._greenlet.gr_context = copy_context()

    # --- in the detector's greenlet ------------------------------------------------------------

    def _fit(self) -> _Asked:
        try:
            for method in self._methods:
                method(self)
        except Exception as error:
            self.error = error
        return _Asked.FINISHED

    def __iter__(self) -> Iterator[Outputs]:
        self._passes += 1
        this_pass = self._passes
        self._place = 0
        outputs = self._ask(_Asked.PASS)
        while outputs is not None:
            yield outputs
            if this_pass != self._passes:  # zip(batches, batches) would get every other batch
                raise RuntimeError("fit went on with a pass after it had begun another")
            outputs = self._ask(_Asked.BATCH)
            self._place += 1

    def shared(self, kind: Callable[..., S], *arguments: Any, of: str = "features") -> S:
        """As the base class says."""
        return self._statistics.get(kind, arguments, of)

    def once(self, method: Callable[..., R], *arguments: Any) -> R:
        """As the base class says."""
        value: R
        value, seconds = self._statistics.once(self._place, method, arguments)
        self.shared_seconds += seconds
        return value

    def _ask(self, asked: _Asked) -> Outputs | None:
        """The next batch, or None at the end of the pass."""
        if getcurrent() is not self._greenlet:
            raise RuntimeError("batches can be had only while fit runs, and only in its own thread")
        engine = self._greenlet.parent
        assert engine is not None
        self._modes = _Modes.now()
        given: Outputs | None = engine.switch(asked)
        return given

    # --- in the engine's greenlet --------------------------------------------------------------

    def start(self) -> None:
        self._go_on()

    def give(self, outputs: Outputs) -> None:
        """Hand over a batch; back when the detector is done with it."""
        try:
            # A copy: what a detector does in place is not to reach the next one.
            given = outputs.copied(self._needs, self._name)
        except ValueError as error:
            self.error, self.finished, self.wants_pass = error, True, False
        else:
            self._go_on(given)

    def end_pass(self) -> None:
        """End the pass, and wait until the detector starts another pass or returns."""
        self._go_on(None)

    def abandon(self) -> None:
        """End a detector that still waits: there will be no more batches."""
        if self._greenlet:
            with self._modes.restored():
                self._greenlet.throw(GreenletExit)

    def _go_on(self, *given: Outputs | None) -> None:
        started = time.perf_counter()
        with self._modes.restored():
            asked = self._greenlet.switch(*given)
        self.seconds += time.perf_counter() - started
        self.wants_pass = asked is _Asked.PASS
        self.finished = asked is _Asked.FINISHED


@dataclass(frozen=True, slots=True)
class _Modes:
    """Modes of torch, which belong to the thread: a `fit` may be inside of such a context.

    Attributes:
        grad: gradients are recorded.
        inference: in inference mode.
        autocast: device type -> whether operations choose their precision.
    """

    grad: bool
    inference: bool = False
    autocast: tuple[tuple[str, bool], ...] = (("cpu", False), ("cuda", False))

    @staticmethod
    def now() -> _Modes:
        """The present ones."""
        return _Modes(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            tuple((device, torch.is_autocast_enabled(device)) for device in ("cpu", "cuda")),
        )

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Back to these, and at the end to the present ones, whatever happens in between."""
        before = _Modes.now()
        with torch.inference_mode(self.inference):  # puts grad mode back, too
            torch.set_grad_enabled(self.grad)
            self._set_autocast()
            try:
                yield
            finally:
                before._set_autocast()

    def _set_autocast(self) -> None:
        for device, enabled in self.autocast:
            torch.set_autocast_enabled(device, enabled)


def fit_together(
    detectors: Mapping[str, Detector],
    this_pass: Callable[[], Iterator[Outputs]],
    num_classes: int,
    needs: str | Mapping[str, Sequence[str]] = "fit",
) -> dict[str, Fitted]:
    """Fit detectors from shared passes: as many as the one that iterates most often.

    Args:
        detectors: name -> detector with a `fit`, or a `fit_validation`.
        this_pass: makes one pass over the training images, or over the validation ones.
        num_classes: C.
        needs: "fit" or "validation": what is called, `fit` or `fit_validation`; or name -> these,
            in the order of the calls.

    Returns:
        name -> outcome; an exception in one detector does not affect the others.
    """
    statistics = _Statistics()
    readers = {
        name: _Reader(
            name,
            detector,
            num_classes,
            statistics,
            (needs,) if isinstance(needs, str) else needs[name],
        )
        for name, detector in detectors.items()
    }
    try:
        for reader in readers.values():
            reader.start()
        while waiting := [reader for reader in readers.values() if reader.wants_pass]:
            in_pass = waiting
            for outputs in this_pass():
                for reader in in_pass:
                    reader.give(outputs)
                # One that finished, or left its loop to begin another pass, gets no more of this.
                in_pass = [r for r in in_pass if not (r.finished or r.wants_pass)]
                if not in_pass:
                    break
            for reader in in_pass:
                reader.end_pass()
    finally:
        for reader in readers.values():
            reader.abandon()
    return {
        name: Fitted(reader.seconds, reader.error, reader.shared_seconds)
        for name, reader in readers.items()
    }
