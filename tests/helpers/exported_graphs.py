"""Detectors that are fitted on a small network, and their graph in onnxruntime."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.data import ImageArray
from oodbench.deploy.graph.onnx_file import OnnxGraph, write_onnx
from oodbench.deploy.graph.scored_network import ScoredNetwork, scoring_runner, traced
from oodbench.detector import Detector, Outputs
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.scoring import score_batch
from oodbench.models.classifier import Classifier

TOLERANCE = 1e-5
"""Relative to the largest score."""


def fit_all(
    classifier: Classifier,
    detectors: Mapping[str, Detector],
    train: ImageArray,
    validation: ImageArray,
    classes: int,
) -> None:
    """Fit detectors as the engine does; the inverted images are the negatives to calibrate with."""
    runner = scoring_runner(classifier, detectors, torch.from_numpy(train.images[:4]))
    with runner.attached():
        for need, images in {"fit": train, "validation": validation}.items():
            to_fit = {name: each for name, each in detectors.items() if need in each.info.needs}
            if not to_fit:
                continue
            outcomes = fit_together(
                to_fit, functools.partial(pass_outputs, runner, images, to_fit), classes, needs=need
            )
            for outcome in outcomes.values():
                if outcome.error is not None:
                    raise outcome.error
        inverted = ImageArray(1 - validation.images, validation.labels)
        for detector in detectors.values():
            needs = detector.info.needs
            if "calibration" in needs:
                sides = [
                    Outputs.concatenate(list(pass_outputs(runner, each)))
                    for each in (validation, inverted)
                ]
                detector.calibrate(*(side.copied(needs) for side in sides))


def own_scores(
    classifier: Classifier, detectors: Mapping[str, Detector], images: Tensor
) -> dict[str, NDArray[np.float64]]:
    """The detectors' own scores of a batch."""
    runner = scoring_runner(classifier, detectors, images[:4])
    with runner.attached(), torch.no_grad():
        return {
            name: score_batch(runner, name, detector, images).double().numpy()
            for name, detector in detectors.items()
        }


def onnx_graph(
    classifier: Classifier, detectors: Mapping[str, Detector], images: Tensor, folder: Path
) -> OnnxGraph:
    """One graph with the scores of all detectors, after the logits."""
    runner = scoring_runner(classifier, detectors, images)
    with runner.attached():
        program = traced(ScoredNetwork(runner, detectors), images)
    write_onnx(program, folder / "all.onnx", ["images"], ["logits", *detectors], {})
    return OnnxGraph(folder / "all.onnx")


def differences(
    classifier: Classifier, detectors: Mapping[str, Detector], images: Tensor, folder: Path
) -> dict[str, float]:
    """Detector -> largest difference of its scores in onnxruntime, in batches of 1, 2 and 7.

    Relative to its largest score.
    """
    expected = own_scores(classifier, detectors, images)
    graph = onnx_graph(classifier, detectors, images[:3], folder)
    found = dict.fromkeys(detectors, 0.0)
    for size in (1, 2, 7):
        _, *scores = graph(images[:size])
        for (name, own), given in zip(expected.items(), scores, strict=True):
            assert given.dtype == np.float64
            assert given.shape == (size,)
            relative = np.abs(given - own[:size]).max() / np.abs(own).max()
            found[name] = max(found[name], float(relative))
    return found
