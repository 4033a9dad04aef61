"""What each method costs: measured standing alone, warm, in turns with the reference.

A method costs one forward, with what it captures, and its own work on what the forward gives. Both
are measured; methods that capture the same share the forward's measurement, round by round, so that
what sets them apart is their own work and not the weather of the machine. A method that passes the
network for itself, for gradients of its input or with a layer replaced, is measured as a whole.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oodbench.detector import Outputs
from oodbench.engine.meters import PassMeter, count_flops, peak_memory, tensor_bytes
from oodbench.engine.passes.capture import NOTHING, Capture
from oodbench.engine.passes.network import NetworkRunner
from oodbench.engine.passes.replacement import kept_taps, passes_alone
from oodbench.engine.scoring import Scorer, raw_scores, score_batch
from oodbench.errors import counted
from oodbench.models.classifier import Classifier

_REFERENCE = "(reference)"


@dataclass(frozen=True, slots=True)
class InferenceCost:
    """What scoring costs. Counts are per image; times are medians.

    Attributes:
        forwards, backwards: passes of the network.
        flops: floating-point operations.
        latency_ms: one image alone.
        ms_per_image: a batch, over its size.
        scatter: of the repetitions of `ms_per_image` (`scatter`).
        relative: `ms_per_image` over the reference's.
        peak_memory_bytes: weights, detector state, live tensors.
    """

    forwards: float
    backwards: float
    flops: float
    latency_ms: float
    ms_per_image: float
    scatter: float
    relative: float | None
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class _Counts:
    """Of scoring a few images, or a part of it: all of them together."""

    forwards: float = 0.0
    backwards: float = 0.0
    flops: int = 0
    peak_bytes: int = 0


@dataclass
class _Pass:
    """A forward, with the hooks it takes, and the methods that start from it.

    Attributes:
        classifier: the network.
        runner: its own, attached for a measurement alone: hooks of others would slow it down.
        scorers: method -> scorer.
    """

    classifier: Classifier
    runner: NetworkRunner
    scorers: dict[str, Scorer] = field(default_factory=dict)

    def outputs(self, images: Tensor) -> Outputs:
        methods = [scorer.method.name for scorer in self.scorers.values()]
        with torch.inference_mode(), self.runner.reading(methods):
            return self.runner.outputs(images)

    def _timed_outputs(self, images: Tensor) -> tuple[Outputs, float]:
        _synchronize(images.device)
        started = time.perf_counter()
        outputs = self.outputs(images)
        _synchronize(images.device)
        return outputs, time.perf_counter() - started

    def seconds(self, images: Tensor, errors: dict[str, Exception]) -> Iterator[tuple[str, float]]:
        """Method and seconds of scoring a batch, up to having the scores in main memory.

        A method that raises is entered in `errors` and left out from then on.
        """
        with self.runner.attached():
            shared: tuple[Outputs, float] | None = None
            for key, scorer in self.scorers.items():
                if key in errors:
                    continue
                try:
                    if passes_alone(scorer.detector, self.classifier.network):
                        whole = functools.partial(score_batch, self.runner, scorer, images)
                        yield key, _seconds(whole)
                        continue
                    if shared is None:
                        shared = self._timed_outputs(images)
                    outputs, forward = shared
                    yield key, forward + _seconds(functools.partial(raw_scores, scorer, outputs))
                except Exception as error:
                    errors[key] = error

    def counts(
        self, images: Tensor, few: Tensor, errors: dict[str, Exception]
    ) -> dict[str, _Counts]:
        """What each method does: passes and operations for a few images, memory for the batch."""
        found: dict[str, _Counts] = {}
        with self.runner.attached():
            shared: tuple[_Counts, Outputs, Outputs] | None = None
            for key, scorer in self.scorers.items():
                if key in errors:
                    continue
                try:
                    if passes_alone(scorer.detector, self.classifier.network):
                        whole = functools.partial(score_batch, self.runner, scorer)
                        found[key] = self._counted(whole, images, few)
                        continue
                    if shared is None:
                        forward = self._counted(self.outputs, images, few)
                        shared = forward, self.outputs(images), self.outputs(few)
                    found[key] = _with_own_work(scorer, *shared)
                except Exception as error:
                    errors[key] = error
        return found

    def _counted(self, compute: Callable[[Tensor], object], images: Tensor, few: Tensor) -> _Counts:
        meter = PassMeter(self.classifier.network, self.classifier.normalized(few))
        with meter.counting(len(few)):
            flops = count_flops(lambda: compute(few))
        return _Counts(
            round(meter.forwards, 6),
            round(meter.backwards, 6),
            flops,
            peak_memory(lambda: compute(images), images.device),
        )


def _with_own_work(scorer: Scorer, forward: _Counts, batch: Outputs, few: Outputs) -> _Counts:
    """A forward and what a method does with what it gives."""
    needed = batch.only(scorer.method.detector.needs).replaced(head=None, features=batch.features)
    own = peak_memory(lambda: raw_scores(scorer, batch), batch.logits.device)
    return _Counts(
        forward.forwards,
        forward.backwards,
        forward.flops + count_flops(lambda: raw_scores(scorer, few)),
        max(forward.peak_bytes, tensor_bytes(needed) + own),
    )


def measure(
    classifier: Classifier,
    scorers: Mapping[str, Scorer],
    reference: tuple[Classifier, Scorer] | None,
    images: Tensor,
    *,
    capture: Capture = NOTHING,
    rounds: int = 4,
    report: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, InferenceCost], dict[str, Exception]]:
    """Measure every method of a model.

    Rounds go through all methods in turn, the reference among them, so that a slow moment of the
    machine does not fall on one method alone.

    Args:
        classifier: the model.
        scorers: method -> fitted and tuned detector.
        reference: the method that times are divided by, or None. Used if it is not one of the
            scorers, which then is.
        images: one batch, on the device.
        capture: what all of them together capture; each alone captures its part of it.
        rounds: timed repetitions after one that warms up.
        report: takes how far it is, between measurements.

    Returns:
        method -> cost, and method -> error of those that failed.
    """
    passes = _passes(classifier, scorers, len(images), capture)
    divisor = None if reference is None else reference[1].method.name
    others: list[_Pass] = []
    if reference is not None and divisor not in scorers:
        divisor = _REFERENCE
        others = _passes(reference[0], {divisor: reference[1]}, len(images), NOTHING)
    errors: dict[str, Exception] = {}
    batched = _rounds([*passes, *others], images, rounds, errors, report)
    single = _rounds([*passes, *others], images[:1], rounds + 1, errors, report)
    divided_by = batched.get(divisor) if divisor else None
    few = images[:16]  # counts per image do not depend on how many there are
    costs = {}
    for this_pass in passes:
        for key, counts in this_pass.counts(images, few, errors).items():
            costs[key] = InferenceCost(
                forwards=counts.forwards,
                backwards=counts.backwards,
                flops=counts.flops / len(few),
                latency_ms=1e3 * statistics.median(single[key]),
                ms_per_image=1e3 * statistics.median(batched[key]) / len(images),
                scatter=scatter(batched[key]),
                relative=None
                if divided_by is None
                else statistics.median(batched[key]) / statistics.median(divided_by),
                peak_memory_bytes=tensor_bytes(classifier)
                + tensor_bytes(scorers[key].detector)
                + counts.peak_bytes,
            )
    return costs, errors


def _passes(
    classifier: Classifier, scorers: Mapping[str, Scorer], batch_size: int, whole: Capture
) -> list[_Pass]:
    """One for each set of activations that a method captures."""
    grouped: dict[Capture, dict[str, Scorer]] = defaultdict(dict)
    for key, scorer in scorers.items():
        readers = [reader for reader in whole.readers if reader.method == scorer.method.name]
        kept, _ = kept_taps(classifier.network, {key: scorer.detector})
        alone = Capture.of(scorer.method.detector.needs, whole.map_name, readers, kept)
        grouped[alone][key] = scorer
    return [
        _Pass(classifier, NetworkRunner(classifier, batch_size=batch_size, capture=capture), mine)
        for capture, mine in grouped.items()
    ]


def _rounds(
    passes: Sequence[_Pass],
    images: Tensor,
    rounds: int,
    errors: dict[str, Exception],
    report: Callable[[str], None],
) -> dict[str, list[float]]:
    """Seconds of each method, a repetition after the other; the first warms up and is left out."""
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for this_pass in passes:
            report(
                f"measuring costs of {counted(len(images), 'image')} at a time, "
                f"repetition {number + 1} of {rounds + 1}"
            )
            for key, seconds in this_pass.seconds(images, errors):
                if number:
                    times[key].append(seconds)
    return {key: found for key, found in times.items() if key not in errors}


def scatter(times: Sequence[float]) -> float:
    """How far repetitions of a measurement are apart: longest less shortest, over their median."""
    return (max(times) - min(times)) / statistics.median(times)


def _seconds(score: Callable[[], Tensor]) -> float:
    """Time up to having the scores in main memory."""
    started = time.perf_counter()
    score().cpu()
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
