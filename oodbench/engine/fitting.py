"""Fitting several detectors from one sweep.

A detector's `fit(batches)` is an ordinary loop over batches, and the loops of all detectors must
advance together so that each batch is computed once. Each `fit` runs in a thread of its own that
waits for the next batch; exactly one thread runs at any moment, so nothing is concurrent and
results do not depend on timing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

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


class _Abandoned(BaseException):
    """Raised inside a waiting `fit` when there will be no more batches."""


class _Reader(Batches):
    """The batches that one detector sees, and its thread."""

    def __init__(self, detector: Detector, num_classes: int, *, held_out: bool) -> None:
        self.num_classes = num_classes
        self.wants_sweep = False
        self.finished = False
        self.error: Exception | None = None
        self.seconds = 0.0
        self._sweeps = 0
        self._needs = detector.info.needs
        self._learn = detector.fit_held_out if held_out else detector.fit
        self._given: queue.Queue[Outputs | type[StopIteration] | type[_Abandoned]] = queue.Queue(1)
        self._asked: queue.Queue[str] = queue.Queue(1)
        self._thread = threading.Thread(target=self._fit, daemon=True, name="oodbench-fit")

    # --- in the detector's thread --------------------------------------------------------------

    def _fit(self) -> None:
        try:
            with torch.no_grad():  # grad mode belongs to a thread
                self._learn(self)
        except _Abandoned:
            pass
        except Exception as error:
            self.error = error
        self._asked.put("finished")

    def __iter__(self) -> Iterator[Outputs]:
        self._sweeps += 1
        this_sweep = self._sweeps
        self._asked.put("sweep")
        while True:
            given = self._given.get()
            if given is _Abandoned:
                raise _Abandoned
            if given is StopIteration:
                return
            assert isinstance(given, Outputs)
            yield given
            if this_sweep != self._sweeps:  # zip(batches, batches) would get every other batch
                raise RuntimeError("fit went on with a sweep after it had begun another")
            self._asked.put("batch")

    # --- in the engine's thread ----------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        self._wait()

    def give(self, outputs: Outputs) -> None:
        """Hand over a batch and wait until the detector is done with it."""
        # A copy: what a detector does in place is not to reach the next one.
        self._given.put(outputs.only(self._needs).map(torch.clone))
        self._wait()

    def end_sweep(self) -> None:
        """Say that the sweep is over and wait for what the detector does next."""
        self._given.put(StopIteration)
        self._wait()

    def abandon(self) -> None:
        """End the thread of a detector that is still waiting."""
        if not self.finished and self._thread.is_alive():
            self._given.put(_Abandoned)
            self._wait()

    def _wait(self) -> None:
        started = time.perf_counter()
        asked = self._asked.get()
        self.seconds += time.perf_counter() - started
        self.wants_sweep = asked == "sweep"
        self.finished = asked == "finished"


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
