"""The records of one method and seed as lines of files, and their digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oodbench.files import digest
from oodbench.storage.records import CostRecord, QualityRecord, to_lines


@dataclass(frozen=True, slots=True)
class MethodLines:
    """The records of a method and seed as text.

    Attributes:
        made_from: the records and the cost.
        records: one line for each quality record.
        cost: the line of the cost record; empty without one.
        digest: SHA-256 of both, to find later changes.
    """

    made_from: tuple[Sequence[QualityRecord], CostRecord | None]
    records: str
    cost: str
    digest: str

    @classmethod
    def of(cls, records: Sequence[QualityRecord], cost: CostRecord | None) -> MethodLines:
        """The lines of some records."""
        texts = to_lines(records), to_lines([] if cost is None else [cost])
        return cls((records, cost), *texts, digest(*texts))
