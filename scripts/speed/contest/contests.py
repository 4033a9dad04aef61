"""Who runs against whom, in turns."""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from speed.contest.case import STD, Case
from speed.contest.ours import our_cycle, our_fit, our_runner
from speed.contest.pairs import (
    COMPARED,
    LISTS,
    PAIRS,
    SHARED,
    STEP,
    WITHOUT_GRADIENTS,
    our_detector,
)
from speed.contest.theirs import Loaders, ready_batches, their_detector, their_run, their_shared_run
from torch import Tensor

import oodbench
from oodbench.engine.scoring import score_split
from oodbench.models.classifier import Classifier

Contest = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Seconds:
    """By the wall clock, and of processor time over all threads."""

    wall: float
    processor: float


def in_turns(contest: Contest, rounds: int, often: Contest | None = None) -> dict[str, Seconds]:
    """Median seconds of each.

    Args:
        contest: what has one turn in each round.
        rounds: how many.
        often: what has a turn before every sixth of those, too.
    """
    order: list[str] = []
    for number, name in enumerate(contest):
        order += [*(often or {})] * (number % 6 == 0) + [name]
    work = {**(often or {}), **contest}
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for name in order * rounds:
        started = time.perf_counter(), time.process_time()
        work[name]()
        turns[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
        print(f"  {name:40}{turns[name][-1][0]:8.2f} s", file=sys.stderr, flush=True)
    return {
        name: Seconds(*(statistics.median(clock) for clock in zip(*values, strict=True)))
        for name, values in turns.items()
    }


def added(times: Mapping[str, Seconds], names: Sequence[str]) -> Seconds:
    """Seconds of several contestants."""
    return Seconds(
        sum(times[name].wall for name in names), sum(times[name].processor for name in names)
    )


BARE, CHANNELS_LAST = "bare", "bare, channels_last"


def bare_contest(case: Case, loaders: Loaders) -> dict[str, Callable[[], object]]:
    """The plain loop in both memory layouts."""
    batches = [
        images for data in case.splits.values() for images, _ in ready_batches(data, case.batch)
    ]
    last = [images.to(memory_format=torch.channels_last) for images in batches]

    def this_pass(classifier: Classifier, batches: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for images in batches:
                classifier(images)

    return {
        BARE: functools.partial(this_pass, loaders.classifier, batches),
        CHANNELS_LAST: functools.partial(this_pass, case.classifier, last),
    }


def our_contest(case: Case) -> dict[str, Callable[[], object]]:
    """One cycle of each list of detectors."""

    def cycle(names: Sequence[str]) -> None:
        our_cycle(case, [our_detector(name) for name in names])

    return {list_name: functools.partial(cycle, names) for list_name, names in LISTS.items()}


def their_contest(loaders: Loaders) -> dict[str, Callable[[], object]]:
    """Every detector by itself."""

    def run(name: str) -> None:
        detector = their_detector(name, loaders.parts)
        their_run(loaders, detector, validation=PAIRS[name].validation)

    return {name: functools.partial(run, name) for name in WITHOUT_GRADIENTS}


def their_shared_contest(case: Case, loaders: Loaders) -> dict[str, Callable[[], object]]:
    """`Benchmark.evaluate` with each list of detectors."""
    return {
        SHARED[list_name]: functools.partial(their_shared_run, loaders, names, case.batch)
        for list_name, names in COMPARED.items()
    }


def one_by_one(case: Case, loaders: Loaders) -> dict[str, tuple[str, Contest]]:
    """Methods with gradients or of several layers: what -> names, and ours against theirs."""
    from pytorch_ood import detector as peer

    last = case.classifier.network.tap_names[-1]

    def last_layer_only() -> None:
        """Mahalanobis with input perturbation of one layer, which is what theirs has."""
        detector = oodbench.load_detector("mahalanobis", epsilon=STEP)
        with our_runner(case, [detector]) as runner:
            our_fit(case, runner, {"mahalanobis": detector})
            detector.gaussians = {last: detector.gaussians[last]}  # type: ignore[attr-defined]
            scorers = {"M": detector}
            for split in ("id", "ood"):
                scored = score_split(runner, case.splits[split], scorers, dataset=split)
                assert not scored.errors, scored.errors

    def ours(name: str, **parameters: Any) -> Callable[[], object]:
        return lambda: our_cycle(case, [oodbench.load_detector(name, **parameters)])

    def theirs(make: Callable[[], Any], *, gradients: bool = True) -> Callable[[], object]:
        return lambda: their_run(loaders, make(), gradients=gradients)

    parts, std = loaders.parts, list(STD)
    contests = {
        "ODIN": (
            "odin / ODIN",
            ours("odin", epsilon=STEP, temperature=1000.0),
            theirs(lambda: their_detector("odin", parts)),
        ),
        "Mahalanobis, one layer, with input perturbation": (
            "mahalanobis / MahalanobisODIN",
            last_layer_only,
            theirs(lambda: peer.MahalanobisODIN(parts.features, eps=STEP, norm_std=std)),
        ),
        "Mahalanobis, ensemble of 4 layers": (
            "mahalanobis / MultiMahalanobis",
            ours("mahalanobis", epsilon=0.0),
            theirs(lambda: their_detector("mahalanobis", parts), gradients=False),
        ),
        "GradNorm, last layer": (
            "gradnorm / GradNorm",
            ours("gradnorm"),
            theirs(lambda: peer.GradNorm(parts.model, lambda name: name == "head.weight")),
        ),
    }
    return {
        what: (names, {"ours": our_work, "theirs": their_work})
        for what, (names, our_work, their_work) in contests.items()
    }
