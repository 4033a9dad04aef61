"""Resuming a run: which results in its directory are finished and stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from oodbench import metrics
from oodbench.errors import UserError, listed
from oodbench.planning.plan import Plan
from oodbench.progress import Reporter
from oodbench.storage.method_lines import MethodLines
from oodbench.storage.predictions import predictions_name
from oodbench.storage.records import CostRecord, DifferenceRecord, QualityRecord, TrainingRecord
from oodbench.storage.run_description import NAME, RunDescription
from oodbench.storage.run_directory import (
    COSTS,
    DIFFERENCES,
    RECORDS,
    TRAINING,
    Key,
    RunDirectory,
    scores_name,
)
from oodbench.storage.same_work import Work, benchmark_difference


@dataclass(frozen=True, slots=True)
class Finished:
    """Results that a run does not compute again.

    Attributes:
        description: the description in the run directory; an empty one of a new run.
        records: method and seed -> quality records.
        costs: method and seed -> cost record.
        trainings: model and seed -> training records.
        predicted: models and seeds with predictions.
        differences: the differences to the best methods.
    """

    description: RunDescription = field(default_factory=RunDescription)
    records: dict[Key, list[QualityRecord]] = field(default_factory=dict)
    costs: dict[Key, CostRecord] = field(default_factory=dict)
    trainings: dict[tuple[str, int], list[TrainingRecord]] = field(default_factory=dict)
    predicted: frozenset[tuple[str, int]] = frozenset()
    differences: list[DifferenceRecord] = field(default_factory=list)


def open_directory(
    directory: RunDirectory,
    plan: Plan,
    work: Callable[[], Work],
    say: Reporter,
    *,
    resume: bool,
) -> Finished:
    """Create a run directory, or read its finished results.

    Args:
        directory: directory of the run.
        plan: plan of the run.
        work: gives what its results depend on; reads the data.
        say: takes warnings about results that are computed again.
        resume: whether to continue a run that is there.

    Raises:
        UserError: if the folder holds a run and `resume` is not set, or holds the run of other
            work, or records were changed that this plan does not make again.
    """
    folder = directory.folder
    if not directory.exists():
        directory.create()
        return Finished()
    if not resume:
        raise UserError(
            f"{folder} holds a run already.",
            "Continue it with --resume, or choose another folder with --out.",
        )
    held = directory.read_description()
    other = benchmark_difference(plan.benchmark, held) or work().difference(held)
    if other is not None:
        raise UserError(
            f"{folder} holds {other}; their results do not mix.",
            "Start a new run in another folder with --out.",
        )
    directory.clean()
    return _Reading(directory, plan, work(), held, say).finished()


def with_held_metrics(plan: Plan, directory: RunDirectory, *, resume: bool) -> Plan:
    """The plan with the metrics on request of the run that it resumes, beside its own."""
    if not resume or not directory.exists():
        return plan
    held = directory.read_description().of_benchmark.metrics
    both = metrics.requested([*plan.benchmark.metrics, *held])
    return replace(plan, benchmark=plan.benchmark.model_copy(update={"metrics": both}))


class _Reading:
    """Reads what is finished in a run directory."""

    def __init__(
        self,
        directory: RunDirectory,
        plan: Plan,
        work: Work,
        held: RunDescription,
        say: Reporter,
    ) -> None:
        self.directory, self.plan, self.held, self.say = directory, plan, held, say
        self.altered = set(directory.changed())
        self.changed_detectors = work.changed_detectors(held)
        self.planned: Mapping[Key, str] = {
            (method.name, seed): method.tuned_on for method in plan.methods for seed in plan.seeds
        }
        """Method and seed of the plan -> tuning protocol."""

    def finished(self) -> Finished:
        if NAME in self.altered:
            return self._nothing()
        differences = [] if DIFFERENCES in self.altered else self.directory.read_differences()
        trainings = self._trainings()
        records, costs = self._methods()
        return Finished(self.held, records, costs, trainings, self._predicted(), differences)

    def _nothing(self) -> Finished:
        """No result is finished: what the description says of the results may be wrong.

        Raises:
            UserError: if there are results that this plan does not make again.
        """
        path = self.directory.description_path
        try:
            there = {(each.method, each.seed) for each in self.directory.read_records()[0]}
        except UserError:
            there = set()
        self._check_lost(str(path), there)
        self.say.warn(f"{path} changed after it was written; all methods are computed again.")
        return Finished()

    def _check_lost(self, files: str, gone: Iterable[Key]) -> None:
        """Check that this plan makes results again that cannot be kept."""
        skipped = {(skip.method, seed) for skip in self.plan.skips for seed in self.plan.seeds}
        lost = [key for key in gone if key not in {*self.planned, *skipped}]
        if lost:
            raise UserError(
                f"{files} changed after the run. Lost: {listed(map(_label, lost))}; this command "
                "does not compute it again.",
                "Resume with the methods and seeds of the run, or start a new one with --out.",
            )

    def _predicted(self) -> frozenset[tuple[str, int]]:
        """Models and seeds with predictions of all images that count as ID."""
        needed = {"id", *self.plan.benchmark.csid}
        of_classes = self.plan.sets_thresholds
        others = self.altered | self.directory.unwritten()  # those may be of other weights

        def whole(model: str, seed: int) -> bool:
            if predictions_name(model, seed) in others:
                return False
            found = self.directory.read_predictions(model, seed) or {}
            if of_classes and any(each.labels is None for each in found.values()):
                return False
            return needed <= found.keys()

        pairs = ((model, seed) for model in self.plan.models for seed in self.plan.seeds)
        return frozenset(pair for pair in pairs if whole(*pair))

    def _trainings(self) -> dict[tuple[str, int], list[TrainingRecord]]:
        if TRAINING in self.altered:
            path = self.directory.folder / TRAINING
            self.say.warn(f"{path} changed after the run; it is written again.")
            return {}
        found: dict[tuple[str, int], list[TrainingRecord]] = {}
        for record in self.directory.read_training():
            found.setdefault((record.model, record.seed), []).append(record)
        return found

    def _methods(self) -> tuple[dict[Key, list[QualityRecord]], dict[Key, CostRecord]]:
        """Records and costs of finished methods, and of methods that the plan leaves out."""
        by_key, measured = self._read_unaltered()
        records: dict[Key, list[QualityRecord]] = {}
        costs: dict[Key, CostRecord] = {}
        without_thresholds: list[Key] = []
        for key, group in by_key.items():
            whole = self._is_whole(key, group, measured)
            if whole and key in self.planned and scores_name(key) in self.altered:
                self.say.warn(
                    f"{self.directory.scores_path(key)} changed after the run; computed again: "
                    f"{_label(key)}."
                )
            elif whole and key in self.planned and self._lacks_validation(key):
                without_thresholds.append(key)
            elif (
                whole
                and group[0].detector not in self.changed_detectors
                and self.directory.has_scores(key, self.plan.benchmark.names[1:])
            ):
                records[key] = group
                costs[key] = measured[key]
            elif key not in self.planned:  # kept as it is: this command does not run it
                records[key] = group
                costs |= {key: measured[key]} if key in measured else {}
        if without_thresholds:
            self.say.warn(
                "Scores of the ID validation images, which thresholds are set on, are not stored; "
                f"scored again: {listed(map(_label, without_thresholds))}."
            )
        return records, costs

    def _lacks_validation(self, key: Key) -> bool:
        """Whether thresholds are asked for and the scores that they are set on are not stored."""
        return self.plan.sets_thresholds and not self.directory.has_validation(key)

    def _is_whole(
        self, key: Key, group: list[QualityRecord], measured: Mapping[Key, CostRecord]
    ) -> bool:
        """Whether all records of a method and seed are there, with the tuning of the plan."""
        expected = len(metrics.METRICS) * len(self.plan.benchmark.ood_groups) + 1
        base = [record for record in group if record.metric not in metrics.OPTIONAL]
        return (
            len(base) == expected
            and base[0].tuned_on == self.planned.get(key, base[0].tuned_on)
            and all(record.status == "ok" for record in base)
            and key in measured
        )

    def _read_unaltered(self) -> tuple[dict[Key, list[QualityRecord]], dict[Key, CostRecord]]:
        """Records and costs in the directory, without those that were changed after the run.

        Raises:
            UserError: if records were changed that this plan does not make again.
        """
        suspect = sorted({RECORDS, COSTS} & self.altered)
        try:
            records, costs = self.directory.read_records()
        except UserError:
            if not suspect:
                raise
            records, costs = [], []
        measured = {(cost.method, cost.seed): cost for cost in costs}
        by_key: dict[Key, list[QualityRecord]] = {}
        for record in records:
            by_key.setdefault((record.method, record.seed), []).append(record)
        if not suspect:
            return by_key, measured
        digests = {(each.method, each.seed): each.sha256 for each in self.held.records}
        kept = {
            key: group
            for key, group in by_key.items()
            if digests.get(key) == MethodLines.of(group, measured.get(key)).digest
        }
        gone = [key for key in digests if key not in kept]
        files = f"{' and '.join(suspect)} in {self.directory.folder}"
        self._check_lost(files, gone)
        again = [key for key in gone if key in self.planned]
        labels = listed(map(_label, again)) or "nothing"
        self.say.warn(f"{files} changed after the run; computed again: {labels}.")
        return kept, measured


def _label(key: Key) -> str:
    method, seed = key
    return f"{method} (seed {seed})"
