"""Predictions of a classifier: whether it is right, and how sure, for each image with a class.

Metrics on request are computed from them and from scores.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oodbench.errors import UserError

_CORRECT, _CONFIDENCE, _LABELS = "correct/", "confidence/", "labels/"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of one classifier for the images of a data set, in their order.

    Attributes:
        correct: whether the class with the largest logit is the image's, boolean, shape [N].
        confidence: largest softmax probability, float64, shape [N], in [0, 1].
        labels: the class that each image has, int64, shape [N]; None in files of older versions.
    """

    correct: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    labels: NDArray[np.int64] | None = None


def predictions_name(model: str, seed: int) -> str:
    """`predictions/<model>/seed<k>.npz`."""
    return f"predictions/{model}/seed{seed}.npz"


def as_arrays(predictions: Mapping[str, Predictions]) -> dict[str, NDArray[np.generic]]:
    """The arrays of a file: `correct/`, `confidence/` and `labels/<data set>`, "id" for the ID set.

    Args:
        predictions: "id" and csID sets -> predictions.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, each in predictions.items():
        arrays[f"{_CORRECT}{name}"], arrays[f"{_CONFIDENCE}{name}"] = each.correct, each.confidence
        if each.labels is not None:
            arrays[f"{_LABELS}{name}"] = each.labels
    return arrays


def of_arrays(arrays: Mapping[str, NDArray[np.generic]], place: str) -> dict[str, Predictions]:
    """The predictions of a file, by data set.

    Args:
        arrays: of the file.
        place: the file, for messages.

    Raises:
        UserError: if arrays are missing or not possible.
    """
    found = {}
    for name in (key.removeprefix(_CORRECT) for key in arrays if key.startswith(_CORRECT)):
        correct, confidence = (arrays.get(f"{each}{name}") for each in (_CORRECT, _CONFIDENCE))
        if correct is None or correct.dtype != np.bool_ or correct.ndim != 1:
            raise UserError(f"{place}: '{_CORRECT}{name}' is not a list of booleans.")
        if confidence is None or confidence.dtype != np.float64:
            raise UserError(f"{place}: '{_CONFIDENCE}{name}' is not a list of float64.")
        sure: NDArray[np.float64] = confidence.astype(np.float64, copy=False)
        if sure.shape != correct.shape or not ((sure >= 0) & (sure <= 1)).all():
            raise UserError(
                f"{place}: '{_CONFIDENCE}{name}' is not one probability for each of "
                f"{correct.size:,} images."
            )
        labels: NDArray[np.int64] | None = None
        if (given := arrays.get(f"{_LABELS}{name}")) is not None:
            labels = given.astype(np.int64, copy=False) if given.dtype == np.int64 else None
            if labels is None or labels.shape != correct.shape or (labels < 0).any():
                raise UserError(
                    f"{place}: '{_LABELS}{name}' is not one class for each of {correct.size:,} "
                    "images."
                )
        found[name] = Predictions(correct.astype(np.bool_, copy=False), sure, labels)
    return found


def joined_predictions(
    predictions: Mapping[str, Predictions], csid: Collection[str]
) -> Predictions | None:
    """Predictions of all images that count as ID: those of the ID set, then of the csID sets.

    None if some are missing.
    """
    names = ("id", *csid)
    if not set(names) <= predictions.keys():
        return None
    return Predictions(
        np.concatenate([predictions[name].correct for name in names]),
        np.concatenate([predictions[name].confidence for name in names]),
    )
