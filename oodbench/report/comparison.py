"""Published tables with the measured values beside them, as frozen values.

Every table and every format shows these values; none computes its own. A cell without a measured
value stays empty: it is never filled from the publication.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from oodbench.report.estimates import Estimate
from oodbench.storage.suite_directory import MemberStatus


class Measure(NamedTuple):
    """A quantity of a table.

    Attributes:
        name: as in records.
        title: for people.
        unit: "percent" or "nats", as it is shown; values are fractions or nats.
        decimals: as printed.
        higher_is_better: whether the better one has the larger value.
    """

    name: str
    title: str
    unit: Literal["percent", "nats"]
    decimals: int
    higher_is_better: bool

    @property
    def scale(self) -> float:
        """What a value is multiplied with to be shown."""
        return 100.0 if self.unit == "percent" else 1.0


class Place(NamedTuple):
    """A row: a network, what it was trained on, what it was tested against; as published."""

    network: str
    id: str
    ood: str | None

    def __str__(self) -> str:
        return ", ".join(part for part in self if part)


@dataclass(frozen=True, slots=True)
class Compared:
    """One cell: fractions in [0, 1], or nats.

    Attributes:
        published: the value printed.
        rounding: half of the last digit printed: the true value may be off by that much.
        measured: None if it was not measured.
    """

    published: float
    rounding: float
    measured: Estimate | None

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.measured is None else self.measured.mean - self.published

    @property
    def covered(self) -> bool | None:
        """Whether the interval of the mean reaches a value that is printed so; None without one."""
        found = self.measured
        if found is None or found.ci_low is None or found.ci_high is None:
            return None
        slack = self.rounding + 1e-12  # ends that are equal but for binary fractions
        return found.ci_low - slack <= self.published <= found.ci_high + slack


@dataclass(frozen=True, slots=True)
class ComparedTable:
    """A published table.

    Attributes:
        name: its key in the suite.
        title: its title.
        about: "detection" or "training".
        place: where it was published.
        citation: the publication.
        measures: its quantities.
        columns: as published -> the method or model that was measured.
        rows: place -> the benchmark of the suite that measures it.
        cells: by place, name of the measure, and column.
        notes: what stands under it.
        overview: whether a terminal shows it.
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
        name: what it is called.
        network: what the tables call its network.
        id: what they call its ID set.
        status: how far it is.
        reason: why it is not complete, on one line; None if nothing is to be said.
        seeds: seeds with a value.
    """

    name: str
    network: str
    id: str
    status: MemberStatus
    reason: str | None
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ComparisonData:
    """What the records of a suite say beside what was published.

    Attributes:
        suite: name of the suite.
        version: its version.
        title: its title.
        members: its benchmarks.
        tables: its tables.
        deviations: how it departs from what the tables were published of, a sentence each.
        caveats: what a reader of the published numbers should know, a sentence each.
    """

    suite: str
    version: int
    title: str
    members: tuple[Member, ...]
    tables: tuple[ComparedTable, ...]
    deviations: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
