"""The grid of a run: its cells, one for each model and seed, and their results; plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from oodbench.data.loaded_splits import ReadSplits
from oodbench.planning.plan import Plan
from oodbench.plugins.content_folders import Plugin
from oodbench.report.differences import Values
from oodbench.storage.predictions import Predictions
from oodbench.storage.records import CostRecord, QualityRecord, TrainingRecord
from oodbench.storage.run_description import TrainedOn


@dataclass(frozen=True, slots=True)
class Grid:
    """What all cells of a run have in common.

    Attributes:
        key: text that no other run of any process has.
        plan: plan of the run.
        plugins: folders of content, and detector classes.
        device: where to compute; "cuda" without an index is the current GPU of a process.
        data_root: folder of the data sets that do not come built in.
        run_id: identity of the run, for records.
        work: checksum of data and detectors (`Work.checksum`).
        title: name of the run among others that are computed with it, for messages; or "".
    """

    key: str
    plan: Plan
    plugins: tuple[Plugin, ...]
    device: torch.device
    data_root: Path | None
    run_id: str
    work: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One model and seed, with what is finished of it.

    Attributes:
        model: name of the model in the benchmark.
        seed: seed of its training and of tuning data.
        todo: names of the methods that are not finished.
        weights: checksum of the weights that the others were scored with; None without any.
        predictions: as stored; None if they are not.
        checkpoint: path of its checkpoint in the cache; "" of published weights.
    """

    model: str
    seed: int
    todo: tuple[str, ...]
    weights: str | None = None
    predictions: Mapping[str, Predictions] | None = None
    checkpoint: str = ""

    @property
    def label(self) -> str:
        """The name in messages."""
        return f"{self.model}, seed {self.seed}"


@dataclass(frozen=True)
class CellResult:
    """Results of a cell.

    Attributes:
        source: where the classifier came from, in words.
        weights: checksum of its weights.
        training: a record of each epoch.
        trained_on: as `RunDescription.trained_on`.
        records: method -> quality records, of every method that was evaluated. These are all of the
            model if the weights are not those of `Cell.weights`.
        costs: method -> cost record, of those that did not fail.
        scores: method -> data set -> scores, likewise.
        validation: method -> "id" -> scores of ID validation images, likewise, if there are any.
        notes: method -> notes, of those that have some.
        resampled: method -> metrics on the resamples that all methods share.
        predictions: "id" and csID sets -> predictions, if they are new.
        accuracy: share of correctly classified ID images, csID included; None without predictions.
        warnings: signs of a mistake in the data.
        model_warnings: the same, of the model; those of its highest seed are kept.
        read: large splits that were read in another process than the run's.
    """

    source: str
    weights: str
    training: list[TrainingRecord]
    trained_on: dict[str, TrainedOn]
    records: dict[str, list[QualityRecord]] = field(default_factory=dict)
    costs: dict[str, CostRecord] = field(default_factory=dict)
    scores: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    validation: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    resampled: dict[str, dict[str, Values]] = field(default_factory=dict)
    predictions: dict[str, Predictions] | None = None
    accuracy: float | None = None
    warnings: list[str] = field(default_factory=list)
    model_warnings: list[str] = field(default_factory=list)
    read: ReadSplits = field(default_factory=dict)
