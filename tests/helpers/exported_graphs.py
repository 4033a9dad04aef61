"""Detectors that are fitted on a small network, and their graph in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import engine_steps
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from oodbench.data import ImageArray
from oodbench.deploy.graph.onnx_file import OnnxGraph, write_onnx
from oodbench.deploy.graph.scored_network import ScoredNetwork, scoring_runner, traced
from oodbench.detector import Detector, Outputs
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.scoring import score_batch
from oodbench.models.classifier import Classifier

TOLERANCE = 1e-5
"""Relative to the largest score."""

BATCH_SIZES = (1, 2, 7)


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
        splits = {"train": train, "validation": validation}
        engine_steps.fit_all(
            detectors, lambda split, mine: pass_outputs(runner, splits[split], mine), classes
        )
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


def program_of(
    classifier: Classifier, detectors: Mapping[str, Detector], images: Tensor
) -> ExportedProgram:
    """One graph of torch.export with the scores of all detectors, after the logits."""
    runner = scoring_runner(classifier, detectors, images)
    with runner.attached():
        return traced(ScoredNetwork(runner, detectors), images)


def onnx_of(program: ExportedProgram, names: Iterable[str], folder: Path) -> OnnxGraph:
    """The graph as ONNX, in onnxruntime."""
    write_onnx(program, folder / "all.onnx", ["images"], ["logits", *names], {})
    return OnnxGraph(folder / "all.onnx")


def differences(
    graph: Callable[[Tensor], Sequence[Any]],
    expected: Mapping[str, NDArray[np.float64]],
    images: Tensor,
) -> dict[str, dict[int, float]]:
    """Detector -> batch size -> largest difference, relative to the detector's largest score."""
    found: dict[str, dict[int, float]] = {name: {} for name in expected}
    for size in BATCH_SIZES:
        with torch.no_grad():
            _, *scores = graph(images[:size])
        for (name, own), given in zip(expected.items(), map(np.asarray, scores), strict=True):
            assert given.dtype == np.float64
            assert given.shape == (size,)
            largest = np.abs(own).max() or 1.0
            found[name][size] = float(np.abs(given - own[:size]).max() / largest)
    return found
