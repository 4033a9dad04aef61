"""A whole run: every model and seed of a plan, into a run directory."""

from __future__ import annotations

import datetime
import logging
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oodbench import metrics
from oodbench.data.duplicates import digests
from oodbench.engine.device import full_precision
from oodbench.engine.evaluation import Evaluation, evaluate
from oodbench.engine.mistakes import shared_signs
from oodbench.engine.reasons import reason_of
from oodbench.engine.recording import Recorder
from oodbench.engine.scoring import Scorer
from oodbench.errors import UserError, counted, listed
from oodbench.files import canonical_json, digest
from oodbench.models.classifier import Classifier
from oodbench.planning.plan import Method, Plan
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content import source_digest
from oodbench.progress import Reporter
from oodbench.report import differences
from oodbench.report.score_warnings import tie_notes
from oodbench.specs import WORDS
from oodbench.storage.records import (
    CostRecord,
    DifferenceRecord,
    QualityRecord,
    TrainingRecord,
    to_lines,
)
from oodbench.storage.run_directory import (
    COSTS,
    DIFFERENCES,
    RECORDS,
    TRAINING,
    Key,
    RunDirectory,
    scores_content,
    scores_name,
)
from oodbench.training import distributed
from oodbench.training.determinism import deterministic
from oodbench.training.loaded_data import DataStore
from oodbench.training.precision import has_bfloat16
from oodbench.training.state import tensors_digest
from oodbench.training.trained_models import ModelStore
from oodbench.version import __version__

IN_NO_FILE = "a class that is in no file of a plug-in folder"
"""Checksum of such a detector: nobody knows all that it is made of, so it is always run again."""

DESCRIPTION_SCHEMA = 1

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
    """Carry out a plan.

    Args:
        plan: what to do.
        catalog: gives the detectors.
        folder: the run directory.
        device: where to compute.
        say: takes progress.
        resume: continue what is in the folder: finished work is not done again.
        data_root: folder of data sets that do not come built in, for the description.

    Raises:
        UserError: if the folder holds a run and `resume` is not set, or holds the run of something
            else, or a file cannot be written.
    """
    if distributed.launched():
        raise UserError(
            "A run is one process; several (torchrun) only train.",
            "Train with `torchrun ... -m oodbench train BENCHMARK`, then run as usual.",
        )
    return _Run(plan, catalog, RunDirectory(folder), device, say, data_root).carry_out(resume)


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
        self.data = DataStore(plan.datasets, data_root, say, plan.benchmark.most_images)
        self.models = ModelStore(plan.benchmark, self.data, device, say)
        self.records: dict[Key, list[QualityRecord]] = {}
        self.costs: dict[Key, CostRecord] = {}
        self.lines: dict[Key, _Lines] = {}
        self.trainings: dict[tuple[str, int], list[TrainingRecord]] = {}
        self.before: Mapping[str, Any] = {}
        self.checkpoints: dict[str, str] = {}
        self.notes: dict[str, list[str]] = {}
        self.unwritten: dict[str, bytes] = {}
        self.duplicates: dict[str, int] = {}
        self.warnings: dict[str, list[str]] = {}
        self.differences: list[DifferenceRecord] = []

    # --- the run -------------------------------------------------------------------------------

    def carry_out(self, resume: bool) -> Outcome:
        units = [(model, seed) for seed in self.plan.seeds for model in self.plan.models]
        with self.say.work(len(units) + 1):
            self.say.stage("data")
            self._open(resume)
            self.duplicates = self._find_duplicates()
            self._write("running")
            self.say.done(f"data: {', '.join(self.plan.datasets)}")
            self.models.check(self.plan.models)
            with deterministic(self.device):
                for model, seed in units:
                    self._unit(model, seed)
        for skip in self.plan.skips:
            for seed in self.plan.seeds:
                self.records[skip.method, seed] = self.recorder.missing(
                    skip.method, skip.model, skip.detector, seed, "skipped", skip.reason
                )
        self._compare()
        failures = self._failures()
        complete = not failures and not any(skip.asked_for for skip in self.plan.skips)
        self._write("complete" if complete else "incomplete")
        return Outcome(self.directory.folder, complete, tuple(failures))

    def _unit(self, model: str, seed: int) -> None:
        todo = [m for m in self.plan.methods_of(model) if (m.name, seed) not in self.records]
        if not todo and (model, seed) in self.trainings:
            self.say.done(f"{model}, seed {seed}: finished before")
            return
        label = f"{model}, seed {seed}"
        self.say.stage(label)
        key = self.models.key(model, seed)
        trained_before = key.path.exists()
        classifier = self.models.trained(model, seed)
        self.trainings[model, seed] = self.recorder.training(
            model, seed, self.models.history(model, seed)
        )
        weights = {name: tensor.cpu() for name, tensor in classifier.state_dict().items()}
        todo = self._without_other_weights(model, seed, tensors_digest(weights), todo)
        if not todo:
            self.say.done(f"{label}: finished before; its training history is made again")
            return
        detectors = {
            method.name: self.catalog.load_detector(method.detector.name, method.parameters)
            for method in todo
        }
        with full_precision(self.device):
            evaluation = evaluate(
                classifier,
                todo,
                detectors,
                self.benchmark,
                self.data.get,
                seed=seed,
                num_classes=self.data.num_classes(self.benchmark.id),
                reference=self._reference(seed),
                on_stage=self.say.detail,
            )
        self.say.detail("confidence intervals")
        if evaluation.warnings:
            self.warnings[label] = list(evaluation.warnings)
            for sign in evaluation.warnings:
                self.say.warn(f"{label}: {sign}")
        self._store(todo, seed, evaluation)
        self._write("running")
        accuracy = 100 * evaluation.correct.mean()
        source = "checkpoint from the cache" if trained_before else "trained"
        failed = [m.name for m in todo if evaluation.results[m.name].error is not None]
        self.say.done(
            f"{label}: {source}, test accuracy {accuracy:.1f} %, {counted(len(todo), 'method')}"
            + (f"; FAILED: {', '.join(failed)}" if failed else "")
        )

    def _without_other_weights(
        self, model: str, seed: int, weights: str, todo: list[Method]
    ) -> list[Method]:
        """What is to do; all methods again if the finished ones had another checkpoint."""
        label = f"{model}/seed{seed}"
        before = self.checkpoints.get(label, weights)
        self.checkpoints[label] = weights
        methods = list(self.plan.methods_of(model))
        if before == weights or len(todo) == len(methods):
            return todo
        self.say.warn(f"{label} was trained anew with another result: its methods are done again.")
        for method in methods:
            self.records.pop((method.name, seed), None)
            self.costs.pop((method.name, seed), None)
        return methods

    def _reference(self, seed: int) -> tuple[Classifier, Scorer] | None:
        """The method that times are divided by, on a network of its own.

        The time of a pass does not depend on the weights, so the initial ones serve: the reference
        need not be among the methods of this run.
        """
        method = self.plan.reference
        if method is None:
            return None
        detector = self.catalog.load_detector(method.detector.name, method.parameters)
        return self.models.untrained(method.model, seed), Scorer(method, detector)

    # --- results to records --------------------------------------------------------------------

    def _store(self, methods: Sequence[Method], seed: int, evaluation: Evaluation) -> None:
        """Turn the results of a model and seed into scores, costs and records."""
        measured = [m for m in methods if evaluation.results[m.name].error is None]
        # Confidence intervals are numpy's work, which lets other threads go on.
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
            notes = [*result.notes, *tie_notes(records.get(method.name, ()))]
            if notes:
                self.notes[f"{method.name}/seed{seed}"] = notes
            if result.error is not None:
                log.debug("%s, seed %d failed", method.name, seed, exc_info=result.error)
                self.records[method.name, seed] = self.recorder.missing(
                    method.name,
                    method.model,
                    method.detector.name,
                    seed,
                    "failed",
                    reason_of(result.error),
                    method.tuned_on,
                )
                continue
            key = method.name, seed
            self.unwritten[scores_name(key)] = scores_content(result.scores)
            self.costs[key] = self.recorder.cost(method, seed, result)
            self.records[key] = records[method.name]

    def _compare(self) -> None:
        """Compare every method with the best ones, also those that were finished before."""
        records = [record for group in self.records.values() for record in group]
        if differences.belong(self.differences, records):
            return
        before = {
            (record.method, record.seed)
            for record in records
            if record.status == "ok" and record.tuned_on != differences.ORACLE
        } - self.recorder.resampled.keys()
        try:
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                for _ in pool.map(
                    lambda key: self.recorder.resample(key, self.directory.read_scores(key)),
                    sorted(before),
                ):
                    pass
        except UserError as error:
            self.say.warn(f"{error.message} No ties are shown without them.")
            return
        found = differences.differences_to_best(records, self.recorder.resampled.__getitem__)
        self.unwritten[DIFFERENCES] = to_lines(found).encode()

    # --- the run directory ---------------------------------------------------------------------

    @cached_property
    def recorder(self) -> Recorder:
        """Makes this run's records."""
        return Recorder(self.benchmark, self.run_id, _device_name(self.device))

    @cached_property
    def run_id(self) -> str:
        """The same work has the same id: spec, data, package version."""
        return digest(
            canonical_json(self.benchmark.identity()),
            canonical_json(data_checksums(self.plan, self.data)),
            __version__,
        )[:16]

    def _find_duplicates(self) -> dict[str, int]:
        """OOD set -> number of its test images that are, byte for byte, ID images seen before.

        Seen are the images that are trained on and those set apart for tuning.
        """
        id_set = self.benchmark.id
        splits = [(id_set, split) for split in self.plan.datasets[id_set].splits]
        splits += [(name, "test") for name in self.benchmark.ood_groups]
        images = {
            f"the {split} images of '{name}'": digests(self.data.get(name, split))
            for name, split in splits
        }
        if signs := list(shared_signs(images)):
            self.warnings["data"] = signs
        for sign in signs:
            self.say.warn(sign)
        seen = [
            images[f"the {split} images of '{id_set}'"] for _, split in splits if split != "test"
        ]
        return {
            name: sum(
                int(np.isin(images[f"the test images of '{name}'"], part).sum()) for part in seen
            )
            for name in self.benchmark.ood_groups
        }

    def _detector_checksums(self) -> dict[str, str]:
        names = sorted({method.detector.name for method in self.plan.methods})
        return {name: detector_checksum(self.catalog, name) for name in names}

    def _open(self, resume: bool) -> None:
        """Create the directory, or take up what is finished in it."""
        if not self.directory.exists():
            self.directory.create()
            return
        folder = self.directory.folder
        if not resume:
            raise UserError(
                f"{folder} holds a run already.",
                "Continue it with --resume, or choose another folder with --out.",
            )
        before = self.directory.read_description()
        held = before.get("benchmark", {})
        if without_words(held) != self.benchmark.identity():
            name, number = held.get("name"), held.get("version")
            other = f"'{name}' version {number}"
            if (name, number) == (self.benchmark.name, self.benchmark.version):
                keys = listed(_different(without_words(held), self.benchmark.identity()), 3)
                other = f"another state of '{name}' ({keys})"
            raise UserError(
                f"{folder} holds a run of benchmark {other}, not of '{self.benchmark.name}' "
                f"version {self.benchmark.version} as it is now; their results do not mix.",
                "Start a new run in another folder with --out.",
            )
        if before.get("run_id") != self.run_id:
            raise UserError(
                f"{folder} holds a run with other data, or of oodbench "
                f"{before.get('versions', {}).get('oodbench')}; their results do not mix.",
                "Start a new run in another folder with --out.",
            )
        self.directory.clean()
        self.before = before
        threads = before.get("environment", {}).get("threads")
        if threads != torch.get_num_threads():
            self.say.warn(
                f"{folder} was begun with {threads} threads and goes on with "
                f"{torch.get_num_threads()}: what is done now may differ in the last digits."
            )
        self.checkpoints = dict(before.get("checksums", {}).get("checkpoints", {}))
        self.notes = dict(before.get("notes", {}))
        self.warnings = dict(before.get("warnings", {}))
        altered = set(self.directory.changed())
        if DIFFERENCES not in altered:
            self.differences = self.directory.read_differences()
        if TRAINING in altered:
            self.say.warn(f"{folder / TRAINING} changed after the run; it is made again.")
        else:
            for record in self.directory.read_training():
                self.trainings.setdefault((record.model, record.seed), []).append(record)
        changed = {
            name
            for name, checksum in self._detector_checksums().items()
            if before.get("checksums", {}).get("detectors", {}).get(name, checksum) != checksum
            or checksum == IN_NO_FILE
        }
        self._take_up(changed, altered)

    def _take_up(self, changed_detectors: set[str], altered: set[str]) -> None:
        """Keep what is finished.

        Args:
            changed_detectors: names of detectors that are others now.
            altered: files that were changed after the run.
        """
        by_key, measured = self._read_unaltered(altered)
        expected = len(metrics.METRICS) * len(self.benchmark.ood_groups) + 1
        for key, group in by_key.items():
            whole = (
                len(group) == expected
                and group[0].tuned_on == self._planned.get(key, group[0].tuned_on)
                and all(record.status == "ok" for record in group)
                and key in measured
            )
            if whole and key in self._planned and scores_name(key) in altered:
                self.say.warn(
                    f"{self.directory.scores_path(key)} changed after the run; done again: "
                    f"{_label(key)}."
                )
            elif (
                whole
                and group[0].detector not in changed_detectors
                and self.directory.has_scores(key, self.benchmark.ood_groups)
            ):
                self.records[key] = group
                self.costs[key] = measured[key]
            elif key not in self._planned:  # and not tried again now
                self.records[key] = group
                self.costs |= {key: measured[key]} if key in measured else {}

    @cached_property
    def _planned(self) -> dict[Key, str]:
        """What is to be done, and what it is tuned on."""
        return {(m.name, seed): m.tuned_on for m in self.plan.methods for seed in self.plan.seeds}

    def _read_unaltered(
        self, altered: set[str]
    ) -> tuple[dict[Key, list[QualityRecord]], dict[Key, CostRecord]]:
        """Records and costs in the directory, without those that were changed after the run.

        Raises:
            UserError: if records were changed that this plan does not make again.
        """
        suspect = sorted({RECORDS, COSTS} & altered)
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
        digests = {
            (entry["method"], entry["seed"]): entry["sha256"]
            for entry in self.before.get("records", ())
        }
        kept = {
            key: group
            for key, group in by_key.items()
            if digests.get(key) == _Lines.of(group, measured.get(key)).digest
        }
        gone = [key for key in digests if key not in kept]
        skipped = {(skip.method, seed) for skip in self.plan.skips for seed in self.plan.seeds}
        lost = [key for key in gone if key not in {*self._planned, *skipped}]
        files = f"{' and '.join(suspect)} in {self.directory.folder}"
        if lost:
            raise UserError(
                f"{files} changed after the run; what was lost is {listed(map(_label, lost))}, "
                "which is not to be done now.",
                "Resume with the methods and seeds of the run, or start a new one with --out.",
            )
        again = [key for key in gone if key in self._planned]
        self.say.warn(
            f"{files} changed after the run; done again: {listed(map(_label, again)) or 'nothing'}."
        )
        return kept, measured

    def _write(self, status: str) -> None:
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
            COSTS: "".join(self._lines(key).cost for key in keys),
            RECORDS: "".join(self._lines(key).records for key in keys),
        }
        self.directory.write(self._description(status), contents)
        self.unwritten.clear()

    def _lines(self, key: Key) -> _Lines:
        """What the files say of a method and seed, made once: they are written after each unit."""
        records, cost = self.records[key], self.costs.get(key)
        known = self.lines.get(key)
        if known is None or known.made_from[0] is not records or known.made_from[1] is not cost:
            known = self.lines[key] = _Lines.of(records, cost)
        return known

    def _description(self, status: str) -> Mapping[str, Any]:
        """What `run.json` says; of a resumed run also what this plan left out."""
        planned = {method.name for method in self.plan.methods}
        others = [entry for entry in self.before.get("methods", ()) if entry["name"] not in planned]
        detectors = self.before.get("checksums", {}).get("detectors", {})
        return {
            "schema_version": DESCRIPTION_SCHEMA,
            "run_id": self.run_id,
            "status": status,
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["oodbench", *sys.argv[1:]]),
            "benchmark": self.benchmark.model_dump(mode="json"),
            "seeds": sorted({*self.plan.seeds, *self.before.get("seeds", ())}),
            "methods": [
                {
                    "name": method.name,
                    "model": method.model,
                    "detector": method.detector.name,
                    "tuned_on": method.tuned_on,
                    "untuned": list(method.untuned),
                    "reference": method.detector.reference,
                    "url": method.detector.url,
                }
                for method in self.plan.methods
            ]
            + others,
            "skipped": {skip.method: skip.reason for skip in self.plan.skips},
            "data_root": None if self.data_root is None else str(self.data_root),
            "plugins": [
                *(_shown(folder) for folder in self.catalog.plugins),
                *(f"class {cls.__module__}.{cls.__qualname__}" for cls in self.catalog.classes),
            ],
            "versions": _versions(),
            "environment": {
                "platform": platform.platform(),
                "processor": platform.machine(),
                "threads": torch.get_num_threads(),
                "device": _device_name(self.device),
                "bfloat16": has_bfloat16(self.device),
            },
            "checksums": {
                "data": data_checksums(self.plan, self.data),
                "checkpoints": dict(sorted(self.checkpoints.items())),
                "detectors": {**detectors, **self._detector_checksums()},
            },
            "records": [
                {
                    "method": key[0],
                    "seed": key[1],
                    "sha256": self._lines(key).digest,
                }
                for key in sorted(self.records)
            ],
            "duplicates_of_id_images": self.duplicates,
            "notes": self.notes,
            "warnings": self.warnings,
        }

    def _failures(self) -> list[str]:
        return [
            f"{method} (seed {seed}): {group[0].reason}"
            for (method, seed), group in self.records.items()
            if group[0].status == "failed"
        ]


def _label(key: Key) -> str:
    method, seed = key
    return f"{method} (seed {seed})"


@dataclass(frozen=True, slots=True)
class _Lines:
    """The records of a method and seed as text.

    Attributes:
        made_from: the records and the cost.
        records: a line for each.
        cost: its line, or nothing.
        digest: what tells when these have been changed.
    """

    made_from: tuple[Sequence[QualityRecord], CostRecord | None]
    records: str
    cost: str
    digest: str

    @classmethod
    def of(cls, records: Sequence[QualityRecord], cost: CostRecord | None) -> _Lines:
        texts = to_lines(records), to_lines([] if cost is None else [cost])
        return cls((records, cost), *texts, digest(*texts))


def detector_checksum(catalog: Catalog, name: str) -> str:
    """What changes with the source of a detector and of the helper files that it imports."""
    entry = catalog.entry("detector", name)
    return source_digest(entry.path) if entry.cls is None else IN_NO_FILE


def without_words(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark as `run.json` has it, without what no result depends on."""
    return {key: value for key, value in benchmark.items() if key not in WORDS}


def _different(held: Any, now: Any, key: str = "") -> list[str]:
    """Keys whose values differ, with dots between them."""
    if not isinstance(held, dict) or not isinstance(now, dict):
        return [] if held == now else [key]
    return [
        each
        for name in {**held, **now}
        for each in _different(held.get(name), now.get(name), f"{key}.{name}".lstrip("."))
    ]


def data_checksums(plan: Plan, data: DataStore) -> dict[str, dict[str, str]]:
    """Fingerprints of the data a plan is about, whichever methods are run.

    All splits of the ID set and the test splits of the OOD sets, by data set and split.
    """
    return {
        name: {
            split: data.fingerprint(name, split)
            for split in spec.splits
            if split == "test" or name == plan.benchmark.id
        }
        for name, spec in plan.datasets.items()
    }


def _shown(folder: Path) -> str:
    """A folder as it is recorded: below the working directory without what is above that."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def _revision() -> dict[str, str]:
    """The git revision of oodbench's source tree, if it runs from one."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return {}
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"oodbench_revision": done.stdout.strip()}


def _versions() -> dict[str, str]:
    packages: Sequence[str] = ("torch", "numpy", "scikit-learn", "scipy", "pillow")
    return {
        "oodbench": __version__,
        **_revision(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
