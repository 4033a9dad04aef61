"""The run of a benchmark: every model and seed of a plan, into a run directory."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from oodbench.engine import provenance, resuming
from oodbench.engine.costs import Reference
from oodbench.engine.device import full_precision
from oodbench.engine.method_results import Evaluation
from oodbench.engine.metric_intervals import Recorder, first_results
from oodbench.engine.mistakes import features_signs
from oodbench.engine.model_evaluation import evaluate
from oodbench.engine.passes.image_sources import EvaluationData
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.reasons import reason_of
from oodbench.errors import UserError, counted
from oodbench.planning.plan import Method, Plan
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Reporter
from oodbench.report import differences
from oodbench.report.score_warnings import tie_notes
from oodbench.storage.method_lines import MethodLines, record_digests, record_files
from oodbench.storage.records import (
    CostRecord,
    DifferenceRecord,
    QualityRecord,
    TrainingRecord,
    to_lines,
)
from oodbench.storage.run_description import RunDescription, RunStatus, TrainedOn
from oodbench.storage.run_directory import (
    DIFFERENCES,
    TRAINING,
    Key,
    RunDirectory,
    predictions_file,
    scores_content,
    scores_name,
)
from oodbench.storage.same_work import Work
from oodbench.training import distributed
from oodbench.training.determinism import deterministic
from oodbench.training.state import tensors_digest
from oodbench.training.trained_models import ModelStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: the run directory.
        complete: whether everything that was asked for is there.
        failures: "method (seed k): reason" of what failed.
    """

    folder: Path
    complete: bool
    failures: tuple[str, ...]


def run(
    plan: Plan,
    catalog: Catalog,
    folder: Path,
    *,
    device: torch.device,
    say: Reporter,
    resume: bool = False,
    data_root: Path | None = None,
) -> Outcome:
    """Run a plan.

    Args:
        plan: models, methods and seeds.
        catalog: gives the detectors.
        folder: the run directory.
        device: where to compute.
        say: progress reporter.
        resume: continue the run in the folder; finished methods are not computed again.
        data_root: folder of data sets that do not come built in.

    Raises:
        UserError: if the folder holds a run and `resume` is not set, or holds the run of other work
            (`storage.same_work`), or a file cannot be written.
    """
    if distributed.launched():
        raise UserError(
            "A run is one process; torchrun starts several, which can only train.",
            "Train with `torchrun ... -m oodbench train BENCHMARK`, then run as usual.",
        )
    directory = RunDirectory(folder)
    plan = resuming.with_held_metrics(plan, directory, resume=resume)
    return _Run(plan, catalog, directory, device, say, data_root).outcome(resume)


class _Run:
    def __init__(
        self,
        plan: Plan,
        catalog: Catalog,
        directory: RunDirectory,
        device: torch.device,
        say: Reporter,
        data_root: Path | None,
    ) -> None:
        self.data_root = data_root
        self.plan = plan
        self.benchmark = plan.benchmark
        self.catalog = catalog
        self.directory = directory
        self.device = device
        self.say = say
        self.data = provenance.data_of(plan, data_root, say)
        self.models = ModelStore(plan.benchmark, self.data, device, say)
        self.records: dict[Key, list[QualityRecord]] = {}
        self.costs: dict[Key, CostRecord] = {}
        self.lines: dict[Key, MethodLines] = {}
        self.trainings: dict[tuple[str, int], list[TrainingRecord]] = {}
        self.predicted: set[tuple[str, int]] = set()
        self.before = RunDescription()
        self.checkpoints: dict[str, str] = {}
        self.trained_on: dict[str, TrainedOn] = {}
        self.notes: dict[str, list[str]] = {}
        self.unwritten: dict[str, bytes] = {}
        self.duplicates: dict[str, int] = {}
        self.warnings: dict[str, list[str]] = {}
        self.differences: list[DifferenceRecord] = []

    # --- the run -------------------------------------------------------------------------------

    def outcome(self, resume: bool) -> Outcome:
        """Run all units, then compare the methods."""
        units = [(model, seed) for seed in self.plan.seeds for model in self.plan.models]
        with self.say.work(len(units) + 1):
            self.say.stage("data")
            self._open(resume)
            self.duplicates |= provenance.duplicates(self.plan, self.data, self.warnings, self.say)
            self._write("running")
            self.say.done(f"data: {', '.join(self.plan.datasets)}")
            self.warnings |= self.models.check(self.plan.models, self.plan.seeds)
            with deterministic(self.device):
                for model, seed in units:
                    self._unit(model, seed)
            self.duplicates |= provenance.duplicates(self.plan, self.data, self.warnings, self.say)
        for skip in self.plan.skips:
            for seed in self.plan.seeds:
                self.records[skip.method, seed] = self.recorder.missing(
                    skip.method, skip.model, skip.detector, seed, "skipped", skip.reason
                )
        self._write("running")  # predictions that finished methods lacked
        resuming.add_optional(self.records, self.recorder, self.directory, self.say)
        self._compare()
        failures = [
            f"{method} (seed {seed}): {group[0].reason}"
            for (method, seed), group in self.records.items()
            if group[0].status == "failed"
        ]
        complete = not failures and not any(skip.asked_for for skip in self.plan.skips)
        self._write("complete" if complete else "incomplete")
        return Outcome(self.directory.folder, complete, tuple(failures))

    def _unit(self, model: str, seed: int) -> None:
        """Train or read one model for one seed, and evaluate its methods that are not finished."""
        todo = [m for m in self.plan.methods_of(model) if (m.name, seed) not in self.records]
        if not todo and (model, seed) in self.trainings and (model, seed) in self.predicted:
            self.say.done(f"{model}, seed {seed}: finished before")
            return
        label = f"{model}, seed {seed}"
        self.say.stage(label)
        source = self.models.source(model, seed)
        classifier = self.models.trained(model, seed)
        self.trainings[model, seed] = self.recorder.training(
            model, seed, self.models.history(model, seed)
        )
        self.trained_on |= self.models.trained_on(model, seed)
        weights = {name: tensor.cpu() for name, tensor in classifier.state_dict().items()}
        todo = self._without_other_weights(model, seed, tensors_digest(weights), todo)
        if not todo and (model, seed) in self.predicted:
            self.say.done(f"{label}: finished before, with the same weights")
            return
        detectors = {
            method.name: self.catalog.load_detector(method.detector.name, method.arguments)
            for method in todo
        }
        with full_precision(self.device):
            evaluation = evaluate(
                NetworkRunner(classifier, batch_size=self.benchmark.evaluation.batch_size),
                todo,
                detectors,
                EvaluationData.of_benchmark(self.plan, self.data.images),
                self.data.num_classes(self.benchmark.id),
                tuning=self.benchmark.tuning,
                seed=seed,
                reference=self._reference(seed),
                report=self.say.detail,
            )
        self.say.detail("confidence intervals")
        signs = features_signs(self.plan.methods_of(model), evaluation.negative_features)
        for where, found in ((label, [*evaluation.warnings]), (model, [*signs])) if todo else ():
            for sign in () if where in self.warnings else found:
                self.say.warn(f"{where}: {sign}")
            self.warnings |= {where: found} if found else {}
        if (model, seed) not in self.predicted:
            self.unwritten |= predictions_file(model, seed, evaluation.predictions)
        elif known := self.directory.read_predictions(model, seed):  # the same for all methods
            evaluation = replace(evaluation, predictions=known)
        self.predicted.add((model, seed))
        self._store(todo, seed, evaluation)
        for line in first_results({m.name: self.records[m.name, seed] for m in todo}):
            self.say.result(f"{label}: {line}")
        self._write("running")
        accuracy = f"test accuracy {100 * evaluation.correct.mean():.1f} %"
        self.say.done(f"{label}: {source}, {accuracy}, {counted(len(todo), 'method')}")

    def _without_other_weights(
        self, model: str, seed: int, weights: str, todo: list[Method]
    ) -> list[Method]:
        """The methods to evaluate: all of them if the finished ones had other weights."""
        label = f"{model}/seed{seed}"
        before = self.checkpoints.get(label, weights)
        self.predicted -= {(model, seed)} if before != weights else set()
        self.checkpoints[label] = weights
        methods = list(self.plan.methods_of(model))
        if before == weights or len(todo) == len(methods):
            return todo
        self.say.warn(f"{label} has other weights than before: its methods run again.")
        for method in methods:
            self.records.pop((method.name, seed), None)
            self.costs.pop((method.name, seed), None)
        return methods

    def _reference(self, seed: int) -> Reference | None:
        """The method that times are divided by, untrained: weights do not change the times."""
        if (method := self.plan.reference) is None:
            return None
        detector = self.catalog.load_detector(method.detector.name, method.arguments)
        return Reference(method.name, self.models.untrained(method.model, seed), detector)

    # --- results to records --------------------------------------------------------------------

    def _store(self, methods: Sequence[Method], seed: int, evaluation: Evaluation) -> None:
        """Make scores, costs and records from the results of a model and seed."""
        measured = [m for m in methods if evaluation.results[m.name].error is None]
        # Numpy computes confidence intervals without holding the interpreter's lock.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            quality = pool.map(
                lambda method: list(self.recorder.quality(method, seed, evaluation)), measured
            )
            records = {}
            for method, found in zip(measured, quality, strict=True):
                records[method.name] = found
                self.say.detail(
                    f"confidence intervals of {len(records)} of {counted(len(measured), 'method')}"
                )
        for method in methods:
            result = evaluation.results[method.name]
            if notes := [*result.notes, *tie_notes(records.get(method.name, ()))]:
                self.notes[f"{method.name}/seed{seed}"] = notes
            if result.error is not None:
                log.debug("%s, seed %d failed", method.name, seed, exc_info=result.error)
                self.records[method.name, seed] = self.recorder.missing(
                    method.name,
                    method.model,
                    method.detector.name,
                    seed,
                    "skipped" if result.unsuitable and not method.asked_for else "failed",
                    reason_of(result.error),
                    method.tuned_on,
                )
                continue
            key = method.name, seed
            self.unwritten[scores_name(key)] = scores_content(result.scores, result.validation)
            self.costs[key] = self.recorder.cost(method, seed, result)
            self.records[key] = records[method.name]

    def _compare(self) -> None:
        """Compare every method with the best ones, including the methods finished before."""
        records = [record for group in self.records.values() for record in group]
        if differences.belong(self.differences, records):
            return
        try:
            resuming.resample_finished(records, self.recorder, self.directory)
        except UserError as error:
            self.say.warn(f"{error.message} Without them, ties are not shown.")
            return
        found = differences.differences_to_best(records, self.recorder.resampled.__getitem__)
        self.unwritten[DIFFERENCES] = to_lines(found).encode()

    # --- the run directory ---------------------------------------------------------------------

    @cached_property
    def recorder(self) -> Recorder:
        """Makes this run's records."""
        return Recorder(
            benchmark=self.benchmark.name,
            version=self.benchmark.version,
            id_dataset=self.benchmark.id,
            csid=self.benchmark.csid,
            ood_groups=self.benchmark.ood_groups,
            same_source=self.plan.same_source,
            heads={name: model.head for name, model in self.benchmark.models.items()},
            published=[m for m in self.benchmark.models if self.models.is_published(m)],
            resamples=self.benchmark.evaluation.resamples,
            run_id=self.work.run_id,
            device=distributed.device_name(self.device),
            optional=self.benchmark.metrics,
        )

    @cached_property
    def work(self) -> Work:
        """What the results of this run depend on."""
        return provenance.work_of(self.plan, self.catalog, self.data)

    def _open(self, resume: bool) -> None:
        """Create the directory, or keep what is finished in it."""
        found = resuming.open_directory(
            self.directory, self.plan, lambda: self.work, self.say, resume=resume
        )
        held = self.before = found.description
        self.records, self.costs, self.differences = found.records, found.costs, found.differences
        self.trainings, self.predicted = found.trainings, set(found.predicted)
        self.checkpoints, self.notes = dict(held.checksums.checkpoints), dict(held.notes)
        self.trained_on, self.warnings = dict(held.trained_on), dict(held.warnings)
        self.duplicates = dict(held.duplicates_of_id_images)
        threads, now = held.environment.threads, torch.get_num_threads()
        if held.run_id and threads != now:
            self.say.warn(
                f"{self.directory.folder} was begun with {threads} threads and continues with "
                f"{now}: new results may differ in the last digits."
            )

    def _write(self, status: RunStatus) -> None:
        """Write the description and all records; in an order that depends on the plan alone."""
        models = list(self.benchmark.models)
        trainings = [
            record
            for key in sorted(self.trainings, key=lambda key: (models.index(key[0]), key[1]))
            for record in self.trainings[key]
        ]
        order = {method.name: index for index, method in enumerate(self.plan.methods)}
        order |= {skip.method: len(order) + i for i, skip in enumerate(self.plan.skips)}
        keys = sorted(self.records, key=lambda key: (order.get(key[0], len(order)), *key))
        contents: dict[str, bytes | str] = {
            **self.unwritten,
            TRAINING: to_lines(trainings),
            **record_files({key: self._lines(key) for key in keys}),
        }
        self.directory.write(self._description(status), contents)
        self.unwritten.clear()

    def _lines(self, key: Key) -> MethodLines:
        """The lines of a method and seed, made once: they are written after each unit."""
        records, cost = self.records[key], self.costs.get(key)
        known = self.lines.get(key)
        if known is None or known.made_from[0] is not records or known.made_from[1] is not cost:
            known = self.lines[key] = MethodLines.of(records, cost)
        return known

    def _description(self, status: RunStatus) -> RunDescription:
        pixels = provenance.merged(self.before.checksums.pixels, self.data.pixels())
        checksums = {"checkpoints": dict(sorted(self.checkpoints.items())), "pixels": pixels}
        return self.described.model_copy(
            update={
                **provenance.published(self.plan, self.models, self.data_root, self.before, status),
                "status": status,
                "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "checksums": self.described.checksums.model_copy(update=checksums),
                "trained_on": dict(sorted(self.trained_on.items())),
                "records": record_digests({key: self._lines(key) for key in self.records}),
                "duplicates_of_id_images": self.duplicates,
                "notes": self.notes,
                "warnings": self.warnings,
            }
        )

    @cached_property
    def described(self) -> RunDescription:
        """The description without what changes during the run."""
        return provenance.description(
            self.plan, self.work, self.catalog, self.device, self.data_root, self.before
        )
