"""Fitting several detectors from one pass.

A detector's `fit(batches)` is an ordinary loop over batches, and the loops of all detectors must
advance together so that each batch is computed once. Each `fit` runs in a greenlet, which has a
stack of its own: to ask for a batch it switches to the engine, and goes on when the engine switches
back. All are in one thread, so nothing is concurrent, results do not depend on timing, and one pool
of OpenMP workers serves all: with threads, each would have its own pool.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

import torch
from greenlet import GreenletExit, getcurrent, greenlet

from oodbench.detector import Batches, Detector, Outputs
from oodbench.detector.batches import View, named_layer
from oodbench.engine.kept_out import KeptOut
from oodbench.engine.passes.modes import TorchModes
from oodbench.engine.shared_statistics import SharedStatistics


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


class _Loop(Batches):
    """The batches that one `fit` sees, and its greenlet.

    Args:
        name: for messages.
        num_classes: C.
        methods: called in this order.
    """

    def __init__(
        self, name: str, num_classes: int, methods: Sequence[Callable[[Batches], None]]
    ) -> None:
        self._name = name
        self.num_classes = num_classes
        self._methods = methods
        self._method = 0
        self._place = 0
        self.wants_pass = False
        self.finished = False
        self.error: Exception | None = None
        self.seconds = 0.0
        self._passes = 0
        self._modes = TorchModes(grad=False)
        self._greenlet = greenlet(self._fit)
        self._greenlet.gr_context = copy_context()

    def _shown(self, outputs: Outputs) -> Outputs | None:
        """A batch as this `fit` sees it; None if it sees nothing of it."""
        raise NotImplementedError

    # --- in the greenlet of the fit ------------------------------------------------------------

    def _fit(self) -> _Asked:
        try:
            for number, method in enumerate(self._methods):
                self._method = number
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

    def _ask(self, asked: _Asked) -> Outputs | None:
        """The next batch, or None at the end of the pass."""
        if getcurrent() is not self._greenlet:
            raise RuntimeError("batches can be had only while fit runs, and only in its own thread")
        engine = self._greenlet.parent
        assert engine is not None
        self._modes = TorchModes.now()
        given: Outputs | None = engine.switch(asked)
        return given

    # --- in the greenlet around it -------------------------------------------------------------

    def start(self) -> None:
        self._go_on()

    def give(self, outputs: Outputs) -> None:
        """Hand over a batch; back when the detector is done with it."""
        try:
            given = self._shown(outputs)
        except Exception as error:
            self.error, self.finished, self.wants_pass = error, True, False
        else:
            if given is not None:
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


class _Reader(_Loop):
    """The batches that one detector sees.

    Args:
        name: of the method.
        detector: is fitted.
        num_classes: C.
        statistics: shared by all detectors.
        needs: "fit" or "validation": what is called, in this order.
        keeps_out: show a part of the images to `fit_validation` only, and the others to `fit`.
    """

    def __init__(
        self,
        name: str,
        detector: Detector,
        num_classes: int,
        statistics: SharedStatistics,
        needs: Sequence[str],
        keeps_out: bool = False,
    ) -> None:
        methods = {"fit": detector.fit, "validation": detector.fit_validation}
        super().__init__(name, num_classes, [methods[need] for need in needs])
        self._statistics = statistics
        self.shared_seconds = 0.0
        self._needs, self._called, self._keeps_out = detector.info.needs, needs, keeps_out
        self._sample = "" if detector.fitting_images is None else f", {detector.fitting_images}"
        self._part = KeptOut()

    def __iter__(self) -> Iterator[Outputs]:
        self._part = KeptOut()
        return super().__iter__()

    def shared(self, kind: Callable[..., S], *arguments: Any, of: str = "features") -> S:
        """As the base class says."""
        seen = f"{', in part' if self._keeps_out else ''}{self._sample}"
        return self._statistics.get(kind, arguments, of + seen)

    def once(self, method: Callable[..., R], *arguments: Any) -> R:
        """As the base class says."""
        value: R
        value, seconds = self._statistics.once(self._place, method, arguments)
        self.shared_seconds += seconds
        return value

    def fit_each(
        self,
        fits: Mapping[str, Callable[[Batches], None]],
        view: Callable[[str, Outputs], Outputs],
        started: Iterator[Outputs],
    ) -> None:
        """As the base class says, in the passes of this detector."""
        parts = [_Part(self, name, fit, view) for name, fit in fits.items()]
        passes: Iterator[Iterable[Outputs]] = itertools.chain([started], itertools.repeat(self))
        _advance(parts, lambda: iter(next(passes)))
        for name, part in zip(fits, parts, strict=True):
            with named_layer(name):
                if part.error is not None:
                    raise part.error

    def _shown(self, outputs: Outputs) -> Outputs | None:
        own = outputs.given_to(self._name)
        if not len(own):
            return None
        # A copy: what a detector does in place is not to reach the next one.
        given = own.copied(self._needs, self._name)
        if not self._keeps_out:
            return given
        kept_out = self._part.of(own)
        rows = kept_out if self._called[self._method] == "validation" else ~kept_out
        return given.map(lambda tensor: tensor[rows]) if rows.any() else None


class _Part(_Loop):
    """The batches of a detector as one of its parts sees them."""

    def __init__(
        self,
        reader: _Reader,
        name: str,
        fit: Callable[[Batches], None],
        view: Callable[[str, Outputs], Outputs],
    ) -> None:
        super().__init__(name, reader.num_classes, [fit])
        self._seen = View(reader, name, view)

    def shared(self, kind: Callable[..., S], *arguments: Any, of: str = "features") -> S:
        """As the base class says."""
        return self._seen.shared(kind, *arguments, of=of)

    def once(self, method: Callable[..., R], *arguments: Any) -> R:
        """As the base class says."""
        return self._seen.once(method, *arguments)

    def _shown(self, outputs: Outputs) -> Outputs:
        return self._seen.shown(outputs).map(torch.clone)


def fit_together(
    detectors: Mapping[str, Detector],
    this_pass: Callable[[], Iterator[Outputs]],
    num_classes: int,
    needs: str | Mapping[str, Sequence[str]] = "fit",
    keeping_out: Collection[str] = (),
) -> dict[str, Fitted]:
    """Fit detectors from shared passes: as many as the one that iterates most often.

    Args:
        detectors: name -> detector with a `fit`, or a `fit_validation`.
        this_pass: makes one pass over the training images, or over the validation ones.
        num_classes: C.
        needs: "fit" or "validation": what is called, `fit` or `fit_validation`; or name -> these,
            in the order of the calls.
        keeping_out: names of detectors that are fitted and validated on the same images: a part of
            them, `KEPT_OUT`, is given to `fit_validation` only, the others to `fit` only.

    Returns:
        name -> outcome; an exception in one detector does not affect the others.
    """
    statistics = SharedStatistics()
    readers = {
        name: _Reader(
            name,
            detector,
            num_classes,
            statistics,
            (needs,) if isinstance(needs, str) else needs[name],
            name in keeping_out,
        )
        for name, detector in detectors.items()
    }
    _advance([*readers.values()], this_pass)
    return {
        name: Fitted(reader.seconds, reader.error, reader.shared_seconds)
        for name, reader in readers.items()
    }


def _advance(loops: Sequence[_Loop], this_pass: Callable[[], Iterator[Outputs]]) -> None:
    """Give all loops the batches of as many passes as the one that iterates most often."""
    try:
        for loop in loops:
            loop.start()
        while waiting := [loop for loop in loops if loop.wants_pass]:
            in_pass = waiting
            for loop in in_pass:
                loop.wants_pass = False
            for outputs in this_pass():
                for loop in in_pass:
                    loop.give(outputs)
                # One that finished, or left its loop to begin another pass, gets no more of this.
                in_pass = [each for each in in_pass if not (each.finished or each.wants_pass)]
                if not in_pass:
                    break
            for loop in in_pass:
                loop.end_pass()
    finally:
        for loop in loops:
            loop.abandon()
