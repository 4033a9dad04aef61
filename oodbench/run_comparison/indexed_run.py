"""One side of a comparison: the records, checksums and scores of a run by method, seed and set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from oodbench.errors import UserError, counted
from oodbench.metrics import Array
from oodbench.report.aggregation import aggregate
from oodbench.report.differences import Scores, id_key, joined
from oodbench.report.leaderboard import FPR, TNR, LeaderboardData, Row
from oodbench.report.seed_means import Measurement
from oodbench.run_comparison.changes import Side
from oodbench.storage.records import QualityRecord
from oodbench.storage.stored_run import StoredRun

Name = Literal["base", "head"]

ID_ALONE = ""
"""Stands for the OOD set of records of the ID images alone."""


class IndexedRun:
    """A run that is compared with another one.

    Args:
        run: as it is stored.
        name: its side.

    Attributes:
        run: as it is stored.
        name: its side, for messages.
        board: its leaderboard.
        rows: methods with values, by name, in the order of the leaderboard.
        absences: methods and seeds without values: method -> seed -> "skipped: reason".

    Raises:
        UserError: if its records contradict each other.
    """

    def __init__(self, run: StoredRun, name: Name) -> None:
        self.run, self.name = run, name
        try:
            self.board: LeaderboardData = aggregate(run.records, run.costs)
        except UserError as error:
            error.say_first(str(run.folder))
            raise
        self.rows: dict[str, Row] = {row.method: row for row in self.board.rows}
        self.absences: dict[str, dict[int, str]] = defaultdict(dict)
        for each in self.board.absences:
            for seed in each.seeds:
                self.absences[each.method][seed] = f"{each.status}: {each.reason}"
        self._records: dict[str, dict[str, dict[int, dict[str, QualityRecord]]]] = {}
        for record in run.records:
            if record.status == "ok":
                by_set = self._records.setdefault(record.method, {})
                by_seed = by_set.setdefault(record.ood_dataset or ID_ALONE, {})
                by_seed.setdefault(record.seed, {})[record.metric] = record
        self.has_scores = all(
            run.has_scores(method, seed) for method, row in self.rows.items() for seed in row.seeds
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """Its methods in the order of the leaderboard, then those without values."""
        return tuple(dict.fromkeys([*self.rows, *self.absences]))

    @property
    def sets(self) -> Mapping[str, str | None]:
        """OOD set -> its group."""
        return {each.name: each.group for each in self.board.ood_sets}

    def side(self) -> Side:
        """What reports say of it."""
        described = self.run.description
        return Side(
            folder=self.run.folder,
            benchmark=self.board.benchmark,
            version=self.board.version,
            id_dataset=self.board.id_dataset,
            seeds=self.board.seeds,
            methods=self.methods,
            has_scores=self.has_scores,
            revision=(described.versions.get("oodbench_revision") or None) if described else None,
            written=(described.written or None) if described else None,
        )

    def measured(self, method: str, metric: str, ood: str) -> dict[int, Measurement]:
        """Seed -> value and interval, as recorded."""
        if metric == FPR:
            return {seed: _complement(m) for seed, m in self.measured(method, TNR, ood).items()}
        found = {}
        for seed, records in self._records.get(method, {}).get(ood, {}).items():
            record = records.get(metric)
            if record is not None and record.value is not None:
                found[seed] = Measurement(record.value, record.ci_low, record.ci_high)
        return found

    def has_id_records(self, method: str) -> bool:
        """Whether a method has values of the ID images alone."""
        return ID_ALONE in self._records.get(method, {})

    def sets_of(self, method: str) -> tuple[str, ...]:
        """OOD sets that a method has values on."""
        by_set = self._records.get(method, {})
        return tuple(ood for ood in self.sets if ood in by_set)

    def seeds(self, method: str, sets: Iterable[str]) -> set[int]:
        """Seeds with records on all of these OOD sets."""
        by_set = self._records.get(method, {})
        found = [set(by_set.get(ood, ())) for ood in sets]
        return set.intersection(*found) if found else set()

    def images(self, method: str, ood: str) -> tuple[int, int]:
        """Numbers of ID and OOD images of a set that the method has values on."""
        record = self._any_record(method, ood)
        return record.n_id or 0, record.n_ood or 0

    def untuned(self, method: str) -> frozenset[str]:
        """Parameters with a search space that kept their defaults."""
        return frozenset(self.rows[method].untuned)

    def data_checksum(self, dataset: str, split: str = "test") -> str | None:
        """Checksum of a split; None if it is not known."""
        described = self.run.description
        return described.checksums.images.get(dataset, {}).get(split) if described else None

    def weights(self, method: str, seed: int) -> str | None:
        """Checksum of the weights of a method's network; None if it is not known."""
        described = self.run.description
        key = f"{self.rows[method].model}/seed{seed}"
        return described.checksums.checkpoints.get(key) if described else None

    def scores(self, method: str, seed: int, sets: Iterable[str]) -> Scores | None:
        """Scores on these OOD sets and on the ID test images, checked; None if they are not stored.

        Raises:
            UserError: if they cannot be read, are not those of the records, or are not finite.
        """
        stored = self.run.scores(method, seed)
        if stored is None:
            return None
        try:
            known = joined(stored, self.board.csid)
        except UserError as error:
            where = f"{self.run.folder}: scores of {method}, seed {seed}:"
            raise UserError(f"{where} {error.message}", _HINT) from error
        found: dict[str, Array] = {}
        for ood in sets:
            n_id, n_ood = self.images(method, ood)
            key = id_key(ood) if id_key(ood) in known else "id"
            for name, images in ((key, n_id), (ood, n_ood)):
                where = f"{self.run.folder}: scores of {method}, seed {seed}, on '{name}'"
                if name not in known:
                    raise UserError(f"{where} are missing, but there are records of them.", _HINT)
                array = known[name]
                if array.shape != (images,):
                    raise UserError(
                        f"{where} have shape {list(array.shape)}, but the records are of "
                        f"{counted(images, 'image')}.",
                        _HINT,
                    )
                if array.dtype.kind != "f" or not np.isfinite(array).all():
                    raise UserError(f"{where} are not all finite numbers.", _HINT)
                found[name] = array.astype(np.float64, copy=False)
        return found

    def _any_record(self, method: str, ood: str) -> QualityRecord:
        by_metric = next(iter(self._records[method][ood].values()))
        return next(iter(by_metric.values()))


_HINT = "Restore the file, or make the run again: `oodbench run` with --resume."


def _complement(found: Measurement) -> Measurement:
    """The measurement of 1 minus the value."""
    low, high = found.ci_low, found.ci_high
    return Measurement(
        1 - found.value, None if high is None else 1 - high, None if low is None else 1 - low
    )
