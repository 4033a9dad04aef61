"""Fitting several detectors from one sweep.

A detector's `fit(batches)` is an ordinary loop over batches, and the loops of all detectors must
advance together so that each batch is computed once. Each `fit` runs in a greenlet, which has a
stack of its own: to ask for a batch it switches to the engine, and goes on when the engine switches
back. All are in one thread, so nothing is concurrent, results do not depend on timing, and one pool
of OpenMP workers serves them all: threads would have one each, asleep when it is wanted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from enum import Enum, auto

import torch
from greenlet import GreenletExit, getcurrent, greenlet

from oodbench.detector import Batches, Detector, Outputs


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a fit went.

    Attributes:
        seconds: spent inside the detector.
        error: what it raised, or None.
    """

    seconds: float
    error: Exception | None


class _Asked(Enum):
    """What a `fit` switches to the engine with."""

    SWEEP = auto()
    BATCH = auto()
    FINISHED = auto()


class _Reader(Batches):
    """The batches that one detector sees, and its greenlet."""

    def __init__(self, detector: Detector, num_classes: int, *, held_out: bool) -> None:
        self.num_classes = num_classes
        self.wants_sweep = False
        self.finished = False
        self.error: Exception | None = None
        self.seconds = 0.0
        self._sweeps = 0
        self._needs = detector.info.needs
        self._learn = detector.fit_held_out if held_out else detector.fit
        self._modes = _Modes(grad=False)
        self._greenlet = greenlet(self._fit)
        self._greenlet.gr_context = copy_context()

    # --- in the detector's greenlet ------------------------------------------------------------

    def _fit(self) -> _Asked:
        try:
            self._learn(self)
        except Exception as error:
            self.error = error
        return _Asked.FINISHED

    def __iter__(self) -> Iterator[Outputs]:
        self._sweeps += 1
        this_sweep = self._sweeps
        outputs = self._ask(_Asked.SWEEP)
        while outputs is not None:
            yield outputs
            if this_sweep != self._sweeps:  # zip(batches, batches) would get every other batch
                raise RuntimeError("fit went on with a sweep after it had begun another")
            outputs = self._ask(_Asked.BATCH)

    def _ask(self, asked: _Asked) -> Outputs | None:
        """The next batch, or None at the end of the sweep."""
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
        # A copy: what a detector does in place is not to reach the next one.
        self._go_on(outputs.copied(self._needs))

    def end_sweep(self) -> None:
        """Say that the sweep is over; back when the detector has done what it does next."""
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
        self.wants_sweep = asked is _Asked.SWEEP
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
    sweep: Callable[[], Iterator[Outputs]],
    num_classes: int,
    *,
    held_out: bool = False,
) -> dict[str, Fitted]:
    """Fit detectors from shared sweeps: as many as the one that iterates most often.

    Args:
        detectors: name -> detector with a `fit`, or a `fit_held_out`.
        sweep: makes one sweep over the training images, or over the held-out ones.
        num_classes: C.
        held_out: call `fit_held_out` instead of `fit`.

    Returns:
        name -> how it went; an exception in one detector does not disturb the others.
    """
    readers = {
        name: _Reader(detector, num_classes, held_out=held_out)
        for name, detector in detectors.items()
    }
    try:
        for reader in readers.values():
            reader.start()
        while waiting := [reader for reader in readers.values() if reader.wants_sweep]:
            in_sweep = waiting
            for outputs in sweep():
                for reader in in_sweep:
                    reader.give(outputs)
                # One that finished, or left its loop to begin another sweep, gets no more of this.
                in_sweep = [r for r in in_sweep if not (r.finished or r.wants_sweep)]
                if not in_sweep:
                    break
            for reader in in_sweep:
                reader.end_sweep()
    finally:
        for reader in readers.values():
            reader.abandon()
    return {name: Fitted(reader.seconds, reader.error) for name, reader in readers.items()}
