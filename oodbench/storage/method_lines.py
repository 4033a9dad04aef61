"""The records of methods and seeds as lines of files, and their digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from oodbench.files import digest
from oodbench.storage.record_lines import to_lines
from oodbench.storage.records import CostRecord, QualityRecord
from oodbench.storage.run_description import RecordDigest
from oodbench.storage.run_directory import COSTS, RECORDS, Key


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


def record_files(lines: Mapping[Key, MethodLines]) -> dict[str, str]:
    """The files of costs and of records, in the order in which a run writes them."""
    return {
        COSTS: "".join(each.cost for each in lines.values()),
        RECORDS: "".join(each.records for each in lines.values()),
    }


def record_digests(lines: Mapping[Key, MethodLines]) -> list[RecordDigest]:
    """The digests for `run.json`, sorted by method and seed."""
    return [
        RecordDigest(method=method, seed=seed, sha256=each.digest)
        for (method, seed), each in sorted(lines.items(), key=lambda item: item[0])
    ]
