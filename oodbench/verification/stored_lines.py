"""The lines of the files of a run: records with their line numbers, and lines that are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

from oodbench.errors import UserError
from oodbench.files import canonical_json
from oodbench.storage.record_lines import R, parse_line, text_lines
from oodbench.storage.records import CostRecord, DifferenceRecord, QualityRecord, TrainingRecord
from oodbench.storage.run_directory import COSTS, DIFFERENCES, RECORDS, TRAINING, require_folder
from oodbench.verification.outcome import Discrepancy

Key = tuple[str, int]
"""A method's name and a seed."""


@dataclass(frozen=True, slots=True)
class Line(Generic[R]):
    """A record and the number of its line, from 1."""

    number: int
    record: R


@dataclass(frozen=True)
class StoredLines:
    """All lines of a run's files.

    Attributes:
        records, costs, training, differences: the records of each file; empty without the file.
        unreadable: one for each line that is no record.
    """

    records: Sequence[Line[QualityRecord]]
    costs: Sequence[Line[CostRecord]]
    training: Sequence[Line[TrainingRecord]]
    differences: Sequence[Line[DifferenceRecord]]
    unreadable: tuple[Discrepancy, ...]

    @cached_property
    def by_key(self) -> Mapping[Key, Sequence[Line[QualityRecord]]]:
        """Method and seed -> its quality records."""
        found: dict[Key, list[Line[QualityRecord]]] = {}
        for line in self.records:
            found.setdefault((line.record.method, line.record.seed), []).append(line)
        return found

    @cached_property
    def cost_by_key(self) -> Mapping[Key, Line[CostRecord]]:
        """Method and seed -> its first cost record."""
        found: dict[Key, Line[CostRecord]] = {}
        for line in self.costs:
            found.setdefault((line.record.method, line.record.seed), line)
        return found


def read_lines(folder: Path) -> StoredLines:
    """Read the files of a run directory.

    Raises:
        UserError: if a file cannot be read, there is no quality record in the folder, or no line of
            it is one of this version of oodbench.
    """
    require_folder(folder)
    if not (folder / RECORDS).is_file():
        raise UserError(
            f"{folder} holds no records of a run: there is no {RECORDS} in it.",
            "Give the folder that `oodbench run` printed, or a folder with its records.",
        )
    unreadable: list[Discrepancy] = []
    records = _read(QualityRecord, folder, RECORDS, unreadable)
    if not records and not unreadable:
        raise UserError(
            f"{folder / RECORDS} is empty: the run stopped before its first result.",
            "Continue it with `oodbench run ... --resume`.",
        )
    if not records:
        raise UserError(
            f"{folder / RECORDS} holds no record of this version of oodbench. {unreadable[0]}"
        )
    return StoredLines(
        records,
        _read(CostRecord, folder, COSTS, unreadable),
        _read(TrainingRecord, folder, TRAINING, unreadable),
        _read(DifferenceRecord, folder, DIFFERENCES, unreadable),
        tuple(unreadable),
    )


def _read(kind: type[R], folder: Path, name: str, unreadable: list[Discrepancy]) -> list[Line[R]]:
    found = []
    for number, line in enumerate(text_lines(folder / name), start=1):
        try:
            found.append(Line(number, parse_line(kind, line)))
        except (ValueError, RecursionError) as error:
            problem = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
            unreadable.append(
                Discrepancy(file=name, line=number, reason=f"not a possible record: {problem}")
            )
    return found


def label(record: Any) -> str:
    """What a record is about, in a message."""
    if isinstance(record, QualityRecord):
        on = f" on {record.ood_dataset}" if record.ood_dataset else ""
        return f"{record.method}, seed {record.seed}, {record.metric}{on}"
    if isinstance(record, CostRecord):
        return f"{record.method}, seed {record.seed}"
    return f"{record.model}, seed {record.seed}, epoch {record.epoch}"


def wrong_value(
    file: str, number: int, record: str, field: str, found: Any, wanted: Any, reason: str
) -> Discrepancy:
    """The discrepancy of one field; an empty text for `wanted` means that it is not known."""
    return Discrepancy(
        file=file,
        line=number,
        record=record,
        field=field,
        stored=canonical_json(found),
        expected="" if wanted == "" else canonical_json(wanted),
        reason=reason,
    )
