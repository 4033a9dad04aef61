"""What each method costs: measured standing alone, warm, in turns with the reference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from oodbench.engine.meters import SweepMeter, count_flops, peak_memory, tensor_bytes
from oodbench.engine.network import Capture, NetworkRunner
from oodbench.engine.scoring import Scorer, score_batch
from oodbench.models.classifier import Classifier

_REFERENCE = "(reference)"


@dataclass(frozen=True, slots=True)
class InferenceCost:
    """What scoring costs. Counts are per image; times are medians.

    Attributes:
        forwards, backwards: sweeps of the network.
        flops: floating-point operations.
        latency_ms: one image alone.
        ms_per_image: a batch, over its size.
        relative: `ms_per_image` over the reference's.
        peak_memory_bytes: weights, detector state, live tensors.
    """

    forwards: float
    backwards: float
    flops: float
    latency_ms: float
    ms_per_image: float
    relative: float | None
    peak_memory_bytes: int


class _Standalone:
    """One method by itself: its own hooks, its own sweeps, nothing shared."""

    def __init__(
        self, classifier: Classifier, scorer: Scorer, batch_size: int, map_name: str | None
    ) -> None:
        self.classifier = classifier
        self.scorer = scorer
        self.runner = NetworkRunner(
            classifier,
            batch_size=batch_size,
            capture=Capture.of(scorer.method.detector.needs, map_name),
        )

    def score(self, images: Tensor) -> Tensor:
        return score_batch(self.runner, self.scorer, images)

    def seconds(self, images: Tensor) -> float:
        """Time of scoring a batch, up to having the scores in main memory."""
        # Attached for this call alone: the hooks of the other methods would slow this one down.
        with self.runner.attached():
            _synchronise(images.device)
            started = time.perf_counter()
            self.score(images).cpu()
            return time.perf_counter() - started


def measure(
    classifier: Classifier,
    scorers: Mapping[str, Scorer],
    reference: tuple[Classifier, Scorer] | None,
    images: Tensor,
    *,
    map_name: str | None = None,
    rounds: int = 5,
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
        map_name: name of the classifier's module that gives the map before pooling.
        rounds: timed repetitions after one that warms up.

    Returns:
        method -> cost, and method -> error of those that failed.
    """
    methods = {
        key: _Standalone(classifier, scorer, len(images), map_name)
        for key, scorer in scorers.items()
    }
    contestants = dict(methods)
    divisor = None if reference is None else reference[1].method.name
    if reference is not None and divisor not in methods:
        divisor = _REFERENCE
        contestants[divisor] = _Standalone(*reference, len(images), None)
    errors: dict[str, Exception] = {}
    batched = _rounds(contestants, lambda method: method.seconds(images), rounds, errors)
    single = _rounds(contestants, lambda method: method.seconds(images[:1]), rounds + 2, errors)
    divided_by = batched.get(divisor) if divisor else None
    costs = {}
    for key, method in methods.items():
        if key in errors:
            continue
        try:
            with method.runner.attached():
                costs[key] = _cost(method, images, single[key], batched[key], divided_by)
        except Exception as error:
            errors[key] = error
    return costs, errors


def _rounds(
    contestants: Mapping[str, _Standalone],
    clock: Callable[[_Standalone], float],
    rounds: int,
    errors: dict[str, Exception],
) -> dict[str, float]:
    """Median seconds of each; the first round warms up and does not count.

    A method that raises is entered in `errors` and left out from then on.
    """
    times: dict[str, list[float]] = {key: [] for key in contestants}
    for number in range(rounds + 1):
        for key, contestant in contestants.items():
            if key in errors:
                continue
            try:
                seconds = clock(contestant)
            except Exception as error:
                errors[key] = error
                continue
            if number:
                times[key].append(seconds)
    return {key: statistics.median(found) for key, found in times.items() if key not in errors}


def _cost(
    method: _Standalone,
    images: Tensor,
    single_seconds: float,
    batch_seconds: float,
    reference_seconds: float | None,
) -> InferenceCost:
    network = method.classifier.network
    few = images[:16]  # counts per image do not depend on how many there are
    meter = SweepMeter(network, method.classifier.normalised(few))
    with meter.counting(len(few)):
        method.score(few)
    return InferenceCost(
        forwards=round(meter.forwards, 6),
        backwards=round(meter.backwards, 6),
        flops=count_flops(lambda: method.score(few)) / len(few),
        latency_ms=1e3 * single_seconds,
        ms_per_image=1e3 * batch_seconds / len(images),
        relative=None if reference_seconds is None else batch_seconds / reference_seconds,
        peak_memory_bytes=tensor_bytes(method.classifier)
        + tensor_bytes(method.scorer.detector)
        + peak_memory(lambda: method.score(images), images.device),
    )


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
