"""Detectors with gradients, fitted and scored as in a run."""

from __future__ import annotations

from typing import Any

import numpy as np
from engine_steps import fit_all
from numpy.typing import NDArray

import oodbench
from oodbench import Detector
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.own_passes import kept_taps
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_split
from oodbench.models.classifier import Classifier


def runner_of(classifier: Classifier, detectors: dict[str, Detector], size: int) -> NetworkRunner:
    kept = kept_taps(classifier.network, detectors)
    needs = frozenset().union(*(each.info.needs for each in detectors.values()))
    capture = Capture.of(needs, None, (), kept)
    return NetworkRunner(classifier, batch_size=size, capture=capture)


def fit(runner: NetworkRunner, detectors: dict[str, Detector], data: Any) -> None:
    """All on the same images."""
    fit_all(detectors, lambda _, mine: pass_outputs(runner, data, mine), 3)


def scored(
    classifier: Classifier, detectors: dict[str, Detector], training: Any, tested: Any, size: int
) -> dict[str, NDArray[np.float64]]:
    runner = runner_of(classifier, detectors, size)
    with runner.attached():
        fit(runner, detectors, training)
        result = score_split(runner, tested, detectors, dataset="tested", check_batches=True)
    assert not result.errors, result.errors
    return result.scores


def load(*names: str, **parameters: Any) -> dict[str, Detector]:
    return {name: oodbench.load_detector(name, **parameters) for name in names}
