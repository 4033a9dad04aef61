"""The file of a fitted cell: what the workers that score its shards need of the one that fitted.

It has the states of the detectors (`storage.fitted_state`), the outcome of fitting and tuning, and
a digest of all. It is in the cache while shards of the cell are scored.
"""

from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from oodbench.data.loaded_splits import ReadSplits
from oodbench.detector import Detector
from oodbench.engine.method_results import MethodResult
from oodbench.engine.model_evaluation import ModelEvaluation
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.reasons import ReportedError, ReportedUnsuitableError, reported
from oodbench.files import cache_folder, parsed_json, write_atomic
from oodbench.storage.fitted_state.detector_state import stored_states
from oodbench.storage.fitted_state.state_reading import detectors_of
from oodbench.training.state import tensors_digest

FOLDER = "fitted"
"""Folder of these files in the cache."""

_KEPT_DAYS = 14
"""Age at which files are removed that a killed run has left."""
_DESCRIPTION, _READ, _DIGEST = "description", "read/", "digest"


def fitted_path(name: str) -> str:
    """Path of a file in the cache, with "/"."""
    return f"{FOLDER}/{name}.safetensors"


def write_fitted(
    file: str, evaluation: ModelEvaluation, source: str, weights: str, read: ReadSplits
) -> None:
    """Write the file of a cell that is fitted and tuned.

    Args:
        file: path in the cache, with "/".
        evaluation: of its model.
        source: where the classifier came from, in words.
        weights: checksum of the classifier's weights.
        read: large splits that were read so far.

    Raises:
        UserError: if the state of a detector is of a kind that is not stored, or the file cannot be
            written.
    """
    results = evaluation.results
    groups = {
        name: _distinct(evaluation.fitted[name], result)
        for name, result in results.items()
        if result.error is None
    }
    states, tensors = stored_states(groups)
    for place, (_, digests) in enumerate(read.values()):
        tensors[f"{_READ}{place}"] = torch.from_numpy(digests.view(np.int64).copy())
    described = {
        "source": source,
        "weights": weights,
        "batch_size": evaluation.runner.batch_size,
        "folded": len(evaluation.runner.folding) > 0,
        "warnings": evaluation.warnings,
        "read": [[*key, fingerprint] for key, (fingerprint, _) in read.items()],
        "results": {name: _described(each, groups.get(name)) for name, each in results.items()},
        "states": states,
    }
    text = json.dumps(described).encode()
    tensors[_DESCRIPTION] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    path = cache_folder() / file
    write_atomic(path, save(tensors, {_DIGEST: tensors_digest(tensors)}))
    remove_old(path.parent)


def _distinct(fitted: Detector, result: MethodResult) -> list[Detector]:
    """The fitted detector, and those that tuning made of it."""
    return [*{id(each): each for each in (fitted, *result.detectors.values())}.values()]


def _described(result: MethodResult, group: list[Detector] | None) -> dict[str, Any]:
    error = None if result.error is None else reported(result.error)
    places = {id(each): place for place, each in enumerate(group or ())}
    return {
        "detectors": {ood: places[id(each)] for ood, each in result.detectors.items()}
        if group
        else {},
        "fit_seconds": result.fit_seconds,
        "tune_seconds": result.tune_seconds,
        "notes": result.notes,
        "error": None if error is None else str(error),
        "unsuitable": result.unsuitable,
    }


class FittedFile:
    """A file that was read whole, with its digest checked.

    Args:
        described: its description.
        tensors: all others.

    Attributes:
        source: as of `write_fitted`.
        weights: as of `write_fitted`.
        read: as of `write_fitted`.
    """

    def __init__(self, described: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._described, self._tensors = described, tensors
        self.source: str = described["source"]
        self.weights: str = described["weights"]
        self.read: ReadSplits = {
            (dataset, split): (print_, tensors[f"{_READ}{place}"].numpy().view(np.uint64))
            for place, (dataset, split, print_) in enumerate(described["read"])
        }

    def restore(self, evaluation: ModelEvaluation) -> None:
        """Make an evaluation of the same cell, which is prepared, what the fitted one was."""
        runner: NetworkRunner = evaluation.runner
        classes = {name: type(evaluation.fitted[name]) for name in self._described["states"]}
        made = detectors_of(classes, self._described["states"], self._tensors, runner.device)
        results = {
            name: _result(each, made.get(name, []))
            for name, each in self._described["results"].items()
        }
        fitted = {name: group[0] for name, group in made.items()}
        evaluation.restore(fitted, results, self._described["warnings"])
        runner.batch_size = self._described["batch_size"]
        if not self._described["folded"]:
            runner.folding.drop()


def _result(described: dict[str, Any], group: list[Detector]) -> MethodResult:
    kind = ReportedUnsuitableError if described["unsuitable"] else ReportedError
    return MethodResult(
        detectors={ood: group[place] for ood, place in described["detectors"].items()},
        fit_seconds=described["fit_seconds"],
        tune_seconds=described["tune_seconds"],
        notes=list(described["notes"]),
        error=None if described["error"] is None else kind(described["error"]),
    )


def read_fitted(file: str) -> FittedFile | None:
    """A file in the cache; None if it is missing or damaged.

    Args:
        file: its path in the cache, with "/".
    """
    path = cache_folder() / file
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            expected = opened.metadata()[_DIGEST]
        if tensors_digest(tensors) != expected:
            return None
        os.utime(path)
        return FittedFile(parsed_json(tensors.pop(_DESCRIPTION).numpy().tobytes()), tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def remove_fitted(beginning: str) -> None:
    """Remove the files whose names have a beginning."""
    for path in (cache_folder() / FOLDER).glob(f"{glob.escape(beginning)}*"):
        with suppress(OSError):
            path.unlink()


def remove_old(folder: Path) -> None:
    """Remove files that were not read for `_KEPT_DAYS`."""
    oldest = time.time() - _KEPT_DAYS * 86_400
    for path in folder.glob("*.safetensors"):
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
