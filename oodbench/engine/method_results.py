"""Results of methods on one model and seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.detector import Detector
from oodbench.engine import costs
from oodbench.engine.passes.contract import DetectorError
from oodbench.errors import UnsuitableError
from oodbench.storage.predictions import Predictions


@dataclass
class MethodResult:
    """Result of evaluating one method.

    Attributes:
        detectors: OOD set -> the detector that scores it.
        scores: "id", csID and OOD sets -> scores; for a method tuned on each OOD set "id@SET" each.
        validation: "id" -> scores of ID validation images, if thresholds are set; for a method
            tuned on each OOD set those of each set's detector, by the set.
        cost: measured; None if it was not measured.
        fit_seconds, tune_seconds: as if the method were evaluated alone.
        error: why it failed, or None.
        notes: remarks for readers of the tables, such as warnings of libraries.
    """

    detectors: dict[str, Detector] = field(default_factory=dict)
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    validation: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    cost: costs.InferenceCost | None = None
    fit_seconds: float = 0.0
    tune_seconds: float = 0.0
    error: Exception | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def unsuitable(self) -> bool:
        """Whether it cannot run on the network, and there is nothing to repair."""
        return isinstance(self.error, UnsuitableError)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of one model and seed.

    Attributes:
        results: method -> result.
        predictions: "id" and csID sets -> predictions of the classifier; empty without labels.
        warnings: signs of a mistake in the data (`engine.mistakes`).
        negative_features: share of the penultimate features of ID test images that are negative.
    """

    results: Mapping[str, MethodResult]
    predictions: Mapping[str, Predictions]
    warnings: tuple[str, ...] = ()
    negative_features: float = 0.0

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the classifier is right, for each image that counts as ID."""
        return np.concatenate([each.correct for each in self.predictions.values()])


NO_MAP = (
    "no module of the network gives a map whose mean is the penultimate features, so it works on "
    "these features, after pooling"
)


def note_missing_map(
    results: Mapping[str, MethodResult], detectors: Mapping[str, Detector], map_name: str | None
) -> None:
    """Add a note to the results of detectors that work on maps, if there is no map.

    Args:
        results: method -> result.
        detectors: method -> detector.
        map_name: name of the module that gives the map; None if none does.
    """
    if map_name is None:
        for name, detector in detectors.items():
            if name in results and detector.works_on_map:
                results[name].notes.append(NO_MAP)


def fail_constant_scores(results: Mapping[str, MethodResult]) -> None:
    """Mark methods that give all images the same score as failed: they rank nothing.

    Args:
        results: scored on every test set.
    """
    for result in results.values():
        if result.error is not None or not result.scores:
            continue
        scores = np.concatenate([*result.scores.values()])
        if len(scores) > 1 and _is_constant(scores):
            rounding = "" if (scores == scores[0]).all() else " up to rounding"
            result.error = DetectorError(
                f"all {len(scores)} test images, ID and OOD, have the same score{rounding}, "
                f"{scores[0] + 0.0:.6g}: "
                "the detector tells none apart"
            )


_CONSTANT_ULPS = 4
"""Scores of equal outputs may differ by as many units in the last place: vectorized functions round
differently at the end of a batch."""


def _is_constant(scores: NDArray[np.float64]) -> bool:
    """Whether scores differ by no more than the rounding of the type they were computed in."""
    with np.errstate(over="ignore"):  # of float64 that has no float32
        single = bool((scores.astype(np.float32) == scores).all())
    unit = float(np.finfo(np.float32 if single else np.float64).eps)
    low, high = float(scores.min()), float(scores.max())
    return high == low or high - low <= _CONSTANT_ULPS * unit * max(abs(low), abs(high))


def chosen_parameters(detector: Detector) -> dict[str, Any]:
    """The parameters of a fitted and tuned detector, as plain JSON values."""
    return {name: plain_value(value) for name, value in detector.parameters.items()}


def plain_value(value: Any) -> str | float | None:
    """The value of a parameter as records have it."""
    if isinstance(value, str | int | float | None):
        return value
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
