"""The results of a run so far, and those of the run that it resumes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oodbench.engine.cells.grid import Cell, CellResult
from oodbench.engine.mistakes import in_order
from oodbench.engine.runs.resuming import Finished
from oodbench.planning.plan import Plan
from oodbench.storage.method_lines import MethodLines, record_digests, record_files
from oodbench.storage.record_lines import to_lines
from oodbench.storage.records import QualityRecord
from oodbench.storage.run_directory import (
    TRAINING,
    Key,
    predictions_file,
    scores_content,
    scores_name,
)


class RunResults:
    """Results of a run, in memory until they are written.

    Args:
        plan: of the run.
        found: what is finished in its directory.

    Attributes:
        before: the description of the run that is resumed.
        records: method and seed -> quality records.
        costs: method and seed -> cost record.
        differences: differences to the best methods that were found.
        trainings: model and seed -> training records.
        predicted: models and seeds with predictions that are stored.
        checkpoints: "MODEL/seedK" -> digest of the weights.
        trained_on: "MODEL/seedK" -> where it was trained.
        notes: "METHOD/seedK" -> notes.
        warnings: model, cell or "data" -> signs of a mistake.
        duplicates: data set -> number of images that are ID images, too.
        unwritten: file -> content that is not written yet.
    """

    def __init__(self, plan: Plan, found: Finished) -> None:
        held = found.description
        self._plan, self.before = plan, held
        self.records, self.costs, self.differences = found.records, found.costs, found.differences
        self.trainings, self.predicted = found.trainings, set(found.predicted)
        self.checkpoints, self.notes = dict(held.checksums.checkpoints), dict(held.notes)
        self.trained_on, self.warnings = dict(held.trained_on), dict(held.warnings)
        self.duplicates = dict(held.duplicates_of_id_images)
        self.unwritten: dict[str, bytes] = {}
        self._lines: dict[Key, MethodLines] = {}
        signs_of = held.warned_by.items()
        self._signs_of = {model: seed for model, seed in signs_of if seed in plan.seeds}

    def lacking(self, model: str, seed: int) -> tuple[str, ...]:
        """Names of the methods of a model and seed without records."""
        methods = (method.name for method in self._plan.methods_of(model))
        return tuple(name for name in methods if (name, seed) not in self.records)

    def drop_finished(self, cell: Cell) -> bool:
        """Forget the methods of a cell that were finished before; returns whether there are any."""
        names = [method.name for method in self._plan.methods_of(cell.model)]
        if len(cell.todo) == len(names):
            return False
        for name in names:
            self.records.pop((name, cell.seed), None)
            self.costs.pop((name, cell.seed), None)
        return True

    def take(self, cell: Cell, result: CellResult, *, sharing: int) -> list[tuple[str, str]]:
        """Take the results of a cell.

        Args:
            cell: the cell.
            result: its result.
            sharing: how many workers share a device: their times are not compared with others.

        Returns:
            New signs of a mistake: where, and what.
        """
        model, seed = cell.model, cell.seed
        self.trainings[model, seed] = result.training
        self.trained_on |= result.trained_on
        self.checkpoints[f"{model}/seed{seed}"] = result.weights
        if result.accuracy is None:
            return []
        if result.predictions is not None:
            self.unwritten |= predictions_file(model, seed, result.predictions)
        for name, records in result.records.items():
            self.records[name, seed] = records
        for name, cost in result.costs.items():
            if sharing > 1:
                cost = replace(cost, device=f"{cost.device} shared by {sharing} workers")
            self.costs[name, seed] = cost
            content = scores_content(result.scores[name], result.validation[name])
            self.unwritten[scores_name((name, seed))] = content
        for name, notes in result.notes.items():
            self.notes[f"{name}/seed{seed}"] = notes
        return self._take_signs(cell, result)

    def _take_signs(self, cell: Cell, result: CellResult) -> list[tuple[str, str]]:
        signs = {cell.label: result.warnings}
        if result.model_warnings and cell.seed >= self._signs_of.get(cell.model, cell.seed):
            self._signs_of[cell.model] = cell.seed
            signs[cell.model] = result.model_warnings
        new = [(w, sign) for w, found in signs.items() if w not in self.warnings for sign in found]
        self.warnings |= {where: found for where, found in signs.items() if found}
        return new

    # --- what is written, in an order that depends on the plan alone ----------------------------

    def in_order(self) -> list[tuple[Key, list[QualityRecord]]]:
        """Methods and seeds with their records."""
        names = [each.name for each in self._plan.methods] + [e.method for e in self._plan.skips]
        order = {name: index for index, name in enumerate(names)}
        return sorted(
            self.records.items(), key=lambda pair: (order.get(pair[0][0], len(order)), *pair[0])
        )

    def files(self) -> dict[str, bytes | str]:
        """File -> content, of all records and of what is not written yet."""
        models = list(self._plan.benchmark.models)
        trainings = [
            record
            for key in sorted(self.trainings, key=lambda key: (models.index(key[0]), key[1]))
            for record in self.trainings[key]
        ]
        lines = {key: self._lines_of(key) for key, _ in self.in_order()}
        return {**self.unwritten, TRAINING: to_lines(trainings), **record_files(lines)}

    def described(self) -> dict[str, Any]:
        """The keys of `run.json` that change with the results."""
        return {
            "trained_on": dict(sorted(self.trained_on.items())),
            "records": record_digests({key: self._lines_of(key) for key in self.records}),
            "duplicates_of_id_images": self.duplicates,
            "notes": dict(sorted(self.notes.items())),
            "warnings": in_order(self.warnings, self._plan),
            "warned_by": dict(sorted(self._signs_of.items())),
        }

    def _lines_of(self, key: Key) -> MethodLines:
        """The lines of a method and seed, made once: they are written after each unit."""
        records, cost = self.records[key], self.costs.get(key)
        known = self._lines.get(key)
        if known is None or known.made_from[0] is not records or known.made_from[1] is not cost:
            known = self._lines[key] = MethodLines.of(records, cost)
        return known
