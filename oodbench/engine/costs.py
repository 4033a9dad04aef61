"""Costs of each method: measured alone, after warm-up, alternating with the reference.

A method costs one forward pass, with what it captures, and its own work on the outputs. Both are
measured; methods that capture the same share the measurement of the forward pass, round by round,
so that they differ by their own work and not by the load of the machine at that moment. A method
with passes of its own, for gradients of its input or with a layer replaced, is measured end to end.
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

from oodbench.detector import Detector, Outputs
from oodbench.engine.meters import PassMeter, count_flops, peak_memory, tensor_bytes
from oodbench.engine.passes.capture import NOTHING, Capture
from oodbench.engine.passes.folding import Folding, find_folding
from oodbench.engine.passes.modes import evaluating, settings_kept
from oodbench.engine.passes.own_passes import kept_taps, passes_alone
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import raw_scores, score_batch
from oodbench.errors import counted
from oodbench.models.classifier import Classifier

_REFERENCE = "(reference)"


@dataclass(frozen=True, slots=True)
class Reference:
    """The method that times are divided by.

    Attributes:
        method: its name. If it is among the measured methods, their measurement is used.
        classifier: its network.
        detector: its detector.
    """

    method: str
    classifier: Classifier
    detector: Detector


@dataclass(frozen=True, slots=True)
class InferenceCost:
    """Costs of scoring. Counts are per image; times are medians.

    Attributes:
        forwards, backwards: passes of the network.
        flops: floating-point operations.
        latency_ms: one image alone.
        ms_per_image: a batch, over its size.
        scatter: scatter of the repetitions of `ms_per_image` (`scatter`).
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
    """Costs of scoring a few images, or of a part of the scoring, for all images together."""

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
        detectors: method -> detector.
    """

    classifier: Classifier
    runner: NetworkRunner
    detectors: dict[str, Detector] = field(default_factory=dict)

    def outputs(self, images: Tensor) -> Outputs:
        with torch.inference_mode(), self.runner.reading(self.detectors):
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
            for key, detector in self.detectors.items():
                if key in errors:
                    continue
                try:
                    if passes_alone(detector, self.classifier.network):
                        whole = functools.partial(score_batch, self.runner, key, detector, images)
                        yield key, _seconds(whole)
                        continue
                    if shared is None:
                        shared = self._timed_outputs(images)
                    outputs, forward = shared
                    own = functools.partial(raw_scores, key, detector, outputs)
                    yield key, forward + _seconds(own)
                except Exception as error:
                    errors[key] = error

    def counts(
        self, images: Tensor, few: Tensor, errors: dict[str, Exception]
    ) -> dict[str, _Counts]:
        """What each method does: passes and operations for a few images, memory for the batch."""
        found: dict[str, _Counts] = {}
        with self.runner.attached():
            shared: tuple[_Counts, Outputs, Outputs] | None = None
            for key, detector in self.detectors.items():
                if key in errors:
                    continue
                try:
                    if passes_alone(detector, self.classifier.network):
                        whole = functools.partial(score_batch, self.runner, key, detector)
                        with settings_kept():
                            found[key] = self._counted(whole, images, few)
                        continue
                    if shared is None:
                        forward = self._counted(self.outputs, images, few)
                        shared = forward, self.outputs(images), self.outputs(few)
                    with settings_kept():
                        found[key] = _with_own_work(key, detector, *shared)
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


def _with_own_work(
    method: str, detector: Detector, forward: _Counts, batch: Outputs, few: Outputs
) -> _Counts:
    """A forward pass and the method's own work on the outputs."""
    needed = batch.only(detector.info.needs).replaced(head=None, features=batch.features)
    own = peak_memory(lambda: raw_scores(method, detector, batch), batch.logits.device)
    return _Counts(
        forward.forwards,
        forward.backwards,
        forward.flops + count_flops(lambda: raw_scores(method, detector, few)),
        max(forward.peak_bytes, tensor_bytes(needed) + own),
    )


def measure(
    classifier: Classifier,
    detectors: Mapping[str, Detector],
    reference: Reference | None,
    images: Tensor,
    *,
    capture: Capture = NOTHING,
    folding: Folding | None = None,
    rounds: int = 4,
    report: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, InferenceCost], dict[str, Exception]]:
    """Measure every method of a model.

    Each round measures all methods in turn, also the reference, so that a slow moment of the
    machine does not affect a single method.

    Args:
        classifier: the model.
        detectors: method -> detector, fitted and tuned.
        reference: the method that times are divided by, or None.
        images: one batch, on the device.
        capture: what all of them together capture; each alone captures its part of it.
        folding: BatchNorms of the model that are folded; those of the reference are found here.
        rounds: timed repetitions after one that warms up.
        report: progress messages go here, between measurements.

    Returns:
        method -> cost, and method -> error of those that failed.
    """
    passes = _passes(classifier, detectors, len(images), capture, folding)
    divisor = None if reference is None else reference.method
    others: list[_Pass] = []
    if reference is not None and divisor not in detectors:
        divisor = _REFERENCE
        alone = {divisor: reference.detector}
        if reference.classifier is not classifier:
            with evaluating(reference.classifier):
                folding = find_folding(reference.classifier, images[:4])
        others = _passes(reference.classifier, alone, len(images), NOTHING, folding)
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
                + tensor_bytes(detectors[key])
                + counts.peak_bytes,
            )
    return costs, errors


def _passes(
    classifier: Classifier,
    detectors: Mapping[str, Detector],
    batch_size: int,
    whole: Capture,
    folding: Folding | None,
) -> list[_Pass]:
    """One for each set of activations that a method captures."""
    grouped: dict[Capture, dict[str, Detector]] = defaultdict(dict)
    for key, detector in detectors.items():
        readers = [reader for reader in whole.readers if reader.method == key]
        kept = kept_taps(classifier.network, {key: detector})
        needs = detector.info.needs
        alone = Capture.of(
            needs,
            whole.map_name,
            readers,
            kept,
            whole.sampled,
            features_apart=classifier.network.features_apart,
        )
        grouped[alone][key] = detector
    return [
        _Pass(
            classifier,
            NetworkRunner(classifier, batch_size=batch_size, capture=capture, folding=folding),
            mine,
        )
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
    with settings_kept():
        started = time.perf_counter()
        score().cpu()
        return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
