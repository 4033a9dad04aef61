"""The work of a cell: train or read a classifier, evaluate its methods, make their records."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch

from oodbench.data.loaded_splits import LoadedSplits
from oodbench.detector import Detector
from oodbench.engine.cells.grid import Cell, CellResult, Grid
from oodbench.engine.costs import Reference
from oodbench.engine.device import full_precision
from oodbench.engine.method_results import Evaluation
from oodbench.engine.mistakes import features_signs
from oodbench.engine.model_evaluation import ModelEvaluation, evaluate
from oodbench.engine.passes.image_sources import EvaluationData
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.reasons import reason_of
from oodbench.engine.recording import planned_work
from oodbench.engine.recording.recorder import Recorder
from oodbench.errors import UserError, counted
from oodbench.models.classifier import Classifier
from oodbench.planning.plan import Method
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Reporter
from oodbench.report.score_warnings import tie_notes
from oodbench.storage.predictions import Predictions
from oodbench.storage.records import QualityRecord, Status
from oodbench.training import distributed
from oodbench.training.determinism import deterministic
from oodbench.training.state import tensors_digest
from oodbench.training.trained_models import ModelStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BegunCell:
    """A cell with its classifier.

    Attributes:
        cell: the cell.
        classifier: on the device.
        methods: those that are evaluated.
        known: predictions that are stored; None if they are not, or are of other weights.
        result: the result, without what evaluation gives.
    """

    cell: Cell
    classifier: Classifier
    methods: tuple[Method, ...]
    known: Mapping[str, Predictions] | None
    result: CellResult

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing to evaluate."""
        return not self.methods and self.known is not None


class CellEvaluator:
    """Evaluates cells of one run; images, models and resamples serve all of them.

    Args:
        grid: what the cells have in common.
        catalog: gives the detectors.
        data: images of the benchmark.
        models: its classifiers.
        say: takes the progress within a cell.

    Attributes:
        in_steps: what evaluates cells in shards with this (`ShardEvaluator`); None if nothing does.
    """

    def __init__(
        self, grid: Grid, catalog: Catalog, data: LoadedSplits, models: ModelStore, say: Reporter
    ) -> None:
        self.plan, self._benchmark = grid.plan, grid.plan.benchmark
        self.device = grid.device
        self._catalog, self._models, self.say = catalog, models, say
        self.data = data
        self.recorder = _recorder(grid)
        self.in_steps: Any = None

    @classmethod
    def of(cls, grid: Grid, say: Reporter) -> CellEvaluator:
        """As in the process that began the run, with images and models that are read again.

        Raises:
            UserError: if data or detectors differ from those of the run, as on another machine.
        """
        data, catalog = planned_work.data_of(grid.plan, grid.data_root, say), Catalog(grid.plugins)
        if planned_work.work_of(grid.plan, catalog, data).checksum != grid.work:
            raise UserError(
                f"Data sets or detectors on {socket.gethostname()} are not those that the run was "
                "begun with: their checksums differ.",
                "Give all machines the same files, and do not change them during a run.",
            )
        models = ModelStore(grid.plan.benchmark, data, grid.device, say)
        return cls(grid, catalog, data, models, say)

    def result(self, cell: Cell) -> CellResult:
        """Train or read the classifier of a cell, and evaluate the methods that are not finished.

        If the classifier has other weights than the finished methods were scored with, all methods
        of the model are evaluated.

        Raises:
            UserError: if the training fails, or data are damaged.
        """
        with deterministic(self.device):
            begun = self.begin(cell)
            if begun.is_finished:
                return begun.result
            with full_precision(self.device):
                evaluation = evaluate(
                    *self._steps(begun),
                    tuning=self._benchmark.tuning,
                    seed=cell.seed,
                    reference=self.reference(cell.seed),
                    report=self.say.detail,
                )
            return self.recorded(begun, evaluation)

    def begin(self, cell: Cell) -> BegunCell:
        """Train or read the classifier of a cell.

        Raises:
            UserError: if the training fails.
        """
        model, seed = cell.model, cell.seed
        source = self._models.source(model, seed)
        classifier = self._models.trained(model, seed)
        weights = tensors_digest({n: each.cpu() for n, each in classifier.state_dict().items()})
        other = cell.weights not in (None, weights)
        result = CellResult(
            source,
            weights,
            self.recorder.training(model, seed, self._models.history(model, seed)),
            self._models.trained_on(model, seed),
        )
        methods = [m for m in self.plan.methods_of(model) if other or m.name in cell.todo]
        known = None if other else cell.predictions
        return BegunCell(cell, classifier, tuple(methods), known, result)

    def evaluation(self, begun: BegunCell) -> ModelEvaluation:
        """What fits, tunes and scores the methods of a cell step by step; `result` does all."""
        return ModelEvaluation(
            *self._steps(begun),
            tuning=self._benchmark.tuning,
            seed=begun.cell.seed,
            report=self.say.detail,
        )

    def _steps(
        self, begun: BegunCell
    ) -> tuple[NetworkRunner, Sequence[Method], Mapping[str, Detector], EvaluationData, int]:
        """The first arguments of `evaluate` and of `ModelEvaluation`."""
        detectors = {
            method.name: self._catalog.load_detector(method.detector.name, method.arguments)
            for method in begun.methods
        }
        return (
            NetworkRunner(begun.classifier, batch_size=self._benchmark.evaluation.batch_size),
            begun.methods,
            detectors,
            EvaluationData.of_benchmark(self.plan, self.data.images),
            self.data.num_classes(self._benchmark.id),
        )

    def recorded(self, begun: BegunCell, evaluation: Evaluation) -> CellResult:
        """The result of a cell with the records of its evaluation."""
        self.say.detail("confidence intervals")
        known, methods = begun.known, begun.methods
        new = None if known is not None else dict(evaluation.predictions)
        accuracy = float(evaluation.correct.mean())
        signs = features_signs(self.plan.methods_of(begun.cell.model), evaluation.negative_features)
        if known is not None:  # the same for all methods
            evaluation = replace(evaluation, predictions=known)
        return replace(
            begun.result,
            **self._recorded(methods, begun.cell.seed, evaluation),
            predictions=new,
            accuracy=accuracy,
            warnings=[*evaluation.warnings] if methods else [],
            model_warnings=[*signs] if methods else [],
        )

    def reference(self, seed: int) -> Reference | None:
        """The method that times are divided by, untrained: weights do not change the times."""
        if (method := self.plan.reference) is None:
            return None
        detector = self._catalog.load_detector(method.detector.name, method.arguments)
        return Reference(method.name, self._models.untrained(method.model, seed), detector)

    def _recorded(
        self, methods: Sequence[Method], seed: int, evaluation: Evaluation
    ) -> dict[str, Any]:
        """Records, costs, scores, notes and resampled metrics, as in `CellResult`."""
        measured = [m for m in methods if evaluation.results[m.name].error is None]
        quality = self._quality(measured, seed, evaluation)
        records, notes = {}, {}
        for method in methods:
            result = evaluation.results[method.name]
            if found := [*result.notes, *tie_notes(quality.get(method.name, ()))]:
                notes[method.name] = found
            if result.error is None:
                records[method.name] = quality[method.name]
                continue
            log.debug("%s, seed %d failed", method.name, seed, exc_info=result.error)
            status: Status = "skipped" if result.unsuitable and not method.asked_for else "failed"
            reason = reason_of(result.error)
            records[method.name] = self.recorder.missing_of(method, seed, status, reason)
        results = [(method, evaluation.results[method.name]) for method in measured]
        resampled = self.recorder.resampled
        return {
            "records": records,
            "costs": {m.name: self.recorder.cost(m, seed, each) for m, each in results},
            "scores": {method.name: each.scores for method, each in results},
            "validation": {method.name: each.validation for method, each in results},
            "notes": notes,
            "resampled": {
                method.name: resampled[method.name, seed]
                for method in measured
                if (method.name, seed) in resampled
            },
        }

    def _quality(
        self, methods: Sequence[Method], seed: int, evaluation: Evaluation
    ) -> Mapping[str, list[QualityRecord]]:
        # Numpy computes confidence intervals without holding the interpreter's lock.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            quality = pool.map(
                lambda method: list(self.recorder.quality(method, seed, evaluation)), methods
            )
            records = {}
            for method, found in zip(methods, quality, strict=True):
                records[method.name] = found
                self.say.detail(
                    f"confidence intervals of {len(records)} of {counted(len(methods), 'method')}"
                )
        return records


def _recorder(grid: Grid) -> Recorder:
    """Makes the records of the run."""
    benchmark = grid.plan.benchmark
    return Recorder(
        benchmark=benchmark.name,
        version=benchmark.version,
        id_dataset=benchmark.id,
        csid=benchmark.csid,
        ood_groups=benchmark.ood_groups,
        same_source=grid.plan.same_source,
        heads={name: model.head for name, model in benchmark.models.items()},
        published=[name for name, model in benchmark.models.items() if model.training is None],
        resamples=benchmark.evaluation.resamples,
        run_id=grid.run_id,
        device=distributed.device_name(grid.device),
        optional=benchmark.metrics,
    )
