"""Cycles of oodbench's engine, and the parts that their time goes into."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from engine_steps import fit_all, runner_of
from speed.contest.case import CLASSES, Case
from speed.contest.pairs import our_detector

from oodbench.detector import Detector, Outputs
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_split
from oodbench.planning.plan import FITTED_ON


def our_runner(case: Case, detectors: Sequence[Detector]) -> AbstractContextManager[NetworkRunner]:
    """A runner of the network, attached."""
    named = {detector.info.name: detector for detector in detectors}
    images = case.splits["id"]
    return runner_of(case.classifier, named, images, case.batch, folded=True).attached()


def our_fit(
    case: Case, runner: NetworkRunner, detectors: Mapping[str, Detector]
) -> dict[str, float]:
    """Fit detectors; gives the seconds that each took for itself."""
    return fit_all(
        detectors, lambda split, mine: pass_outputs(runner, case.splits[split], mine), CLASSES
    )


def our_cycle(case: Case, detectors: Sequence[Detector]) -> dict[str, dict[str, np.ndarray]]:
    """One engine cycle: fit together, score both sets; gives set -> detector -> scores."""
    by_name = {detector.info.name: detector for detector in detectors}
    found = {}
    with our_runner(case, detectors) as runner:
        our_fit(case, runner, by_name)
        for split in ("id", "ood"):
            scored = score_split(
                runner, case.splits[split], by_name, dataset=split, check_batches=split == "id"
            )
            for error in scored.errors.values():
                raise error
            found[split] = scored.scores
    return found


@dataclass
class Work:
    """Where the time of a cycle goes, in seconds.

    Attributes:
        passes: the network, with images made and activations captured.
        fit, score: detector -> its own work.
        copies: detector -> the copies it is given.
    """

    passes: float
    fit: dict[str, float]
    score: dict[str, float]
    copies: dict[str, float]


def our_work(case: Case, names: Sequence[str]) -> Work:
    """The same cycle taken to pieces."""
    detectors = {name: our_detector(name) for name in names}
    score, copies = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    passes = 0.0

    def copied(name: str, outputs: Outputs) -> Outputs:
        started = time.perf_counter()
        view = outputs.copied(detectors[name].info.needs, name)
        copies[name] += time.perf_counter() - started
        return view

    with our_runner(case, list(detectors.values())) as runner:
        fit = our_fit(case, runner, detectors)
        for split, images in case.splits.items():
            started = time.perf_counter()
            need = {split: need for need, split in FITTED_ON.items()}.get(split)
            for outputs in pass_outputs(runner, images):
                passes += time.perf_counter() - started
                for name, detector in detectors.items():
                    if need is not None:
                        if need in detector.info.needs:
                            copied(name, outputs)
                        continue
                    view = copied(name, outputs)
                    began = time.perf_counter()
                    with torch.no_grad():
                        detector.score(view)
                    score[name] += time.perf_counter() - began
                started = time.perf_counter()
    return Work(passes, fit, score, copies)
