"""Published tables with the measured values beside them, as frozen values.

Every table and every format shows these values; none computes its own. A cell without a measured
value stays empty: it is never filled from the publication.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from oodbench.report.published.averages import ComparedAverages
from oodbench.report.published.cells import Compared, Measure
from oodbench.storage.suite_description import MemberStatus


class Place(NamedTuple):
    """A row as published: the network, its training (ID) set, and the OOD set or None."""

    network: str
    id: str
    ood: str | None

    def __str__(self) -> str:
        return ", ".join(part for part in self if part)


@dataclass(frozen=True, slots=True)
class ComparedTable:
    """A published table.

    Attributes:
        name: its key in the suite.
        title: its title.
        about: "detection" or "training".
        place: table or figure of the publication.
        citation: the publication.
        measures: its quantities.
        columns: published column -> the method or model that measures it.
        rows: published row -> the benchmark of the suite that measures it.
        cells: by place, name of the measure, and column.
        notes: notes below the table.
        overview: whether the overview for a terminal shows it.
    """

    name: str
    title: str
    about: Literal["detection", "training"]
    place: str
    citation: str
    measures: tuple[Measure, ...]
    columns: Mapping[str, str]
    rows: Mapping[Place, str]
    cells: Mapping[tuple[Place, str, str], Compared]
    notes: tuple[str, ...]
    overview: bool

    def of(self, measure: Measure, column: str) -> dict[Place, Compared]:
        """The cells of one measure and column, row by row."""
        return {place: self.cells[place, measure.name, column] for place in self.rows}


@dataclass(frozen=True, slots=True)
class Member:
    """A benchmark of the suite.

    Attributes:
        name: its name.
        network: name of its network in the published tables.
        id: name of its ID set in the published tables.
        status: "complete", or how far it is.
        reason: why it is not complete, on one line; None without a reason.
        seeds: seeds with a value.
    """

    name: str
    network: str
    id: str
    status: MemberStatus
    reason: str | None
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PublishedComparisonData:
    """Published tables with the measured values of a suite beside them.

    Attributes:
        suite: name of the suite.
        version: its version.
        title: its title.
        members: its benchmarks.
        tables: its tables.
        deviations: how the protocol differs from the published one, one sentence each.
        caveats: limits of the published numbers, one sentence each.
        averages: published averages of its benchmarks with the measured ones.
    """

    suite: str
    version: int
    title: str
    members: tuple[Member, ...]
    tables: tuple[ComparedTable, ...]
    deviations: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    averages: tuple[ComparedAverages, ...] = ()
