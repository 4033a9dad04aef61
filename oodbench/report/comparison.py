"""Published tables with what was measured beside them, as frozen values.

Every format shows these values; none computes its own. A cell that was not measured is empty: it is
never filled from the publication.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, NamedTuple

from oodbench.errors import UserError
from oodbench.metrics import METRICS
from oodbench.report.columns import Column
from oodbench.report.estimates import Estimate, of_runs
from oodbench.report.leaderboard import Leaderboard
from oodbench.report.training import Histories, histories, last_epochs
from oodbench.specs import ComparisonSpec, PublishedSpec, PublishedTable, SuiteSpec
from oodbench.storage.records import QualityRecord, TrainingRecord
from oodbench.storage.suite_directory import MemberRecords, MemberStatus

_TRAINING_TITLES = {
    "train_loss": "Train loss",
    "train_accuracy": "Train accuracy",
    "test_loss": "Test loss",
    "test_accuracy": "Test accuracy",
}


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


class Agreement(NamedTuple):
    """How one column of one measure agrees with what was published, over its rows.

    Attributes:
        table: title of the table.
        measure: the quantity.
        column: the column, as published.
        cells: number of cells.
        measured: how many of them were measured.
        judged: how many of these have an interval.
        covered: how many of these intervals cover the published value.
        mean: mean difference, measured minus published; None if nothing was measured.
        largest: the largest difference, with its sign.
        where: the row it is in.
    """

    table: str
    measure: Measure
    column: str
    cells: int
    measured: int
    judged: int
    covered: int
    mean: float | None
    largest: float | None
    where: Place | None


class Order(NamedTuple):
    """In how many rows one method is ahead of another.

    Attributes:
        table: title of the table.
        measure: the metric.
        ahead: the column that is asked to be ahead, as published.
        behind: the other one.
        rows: number of rows.
        published: in how many of them it is ahead by the published values.
        measured: how many rows have both methods measured.
        here: in how many of these it is ahead.
        every_seed: in how many of these it is ahead on each seed that both have, two at least.
    """

    table: str
    measure: Measure
    ahead: str
    behind: str
    rows: int
    published: int
    measured: int
    here: int
    every_seed: int


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
class Comparison:
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

    # --- how well they agree -------------------------------------------------------------------

    @property
    def agreements(self) -> list[Agreement]:
        """For each measure and column of each table."""
        return [
            _agreement(table, measure, column)
            for table in self.tables
            for measure in table.measures
            for column in table.columns
        ]

    @property
    def orders(self) -> list[Order]:
        """For each metric and each two methods of each table about detection.

        The one that comes later in the published table is asked to be ahead: it is the one that the
        publication argues for, or the one that costs more.
        """
        return [
            _order(table, measure, ahead, behind)
            for table in self.tables
            if table.about == "detection"
            for measure in table.measures
            for index, ahead in enumerate(table.columns)
            for behind in list(table.columns)[:index]
        ]

    # --- formats -------------------------------------------------------------------------------

    def to_text(self, width: int = 120) -> str:
        """Plain text, no line wider than `width` characters, of which there are 20 or more."""
        from oodbench.report.tables import comparison as comparison_tables
        from oodbench.report.writers import terminal

        return terminal.render_document(comparison_tables.overview(self), width)

    def to_markdown(self) -> str:
        """GitHub-flavored Markdown."""
        from oodbench.report.tables import comparison as comparison_tables
        from oodbench.report.writers import markdown

        return markdown.render_document(comparison_tables.full(self))

    def to_html(self) -> str:
        """One web page that needs no other file."""
        from oodbench.report.tables import comparison as comparison_tables
        from oodbench.report.writers import html

        return html.render_document(comparison_tables.full(self))

    def to_latex(self) -> str:
        """LaTeX tables for a document that loads the packages booktabs and graphicx."""
        from oodbench.report.tables import comparison as comparison_tables
        from oodbench.report.writers import latex

        return latex.render_document(comparison_tables.full(self))

    def to_csv(self) -> str:
        """A long table: one line for each cell (`report.comparison_exports`)."""
        from oodbench.report.writers import comparison_exports

        return comparison_exports.to_csv(self)

    def to_json(self) -> str:
        """Everything, for programs (`report.comparison_exports`)."""
        from oodbench.report.writers import comparison_exports

        return comparison_exports.to_json(self)

    # --- from records --------------------------------------------------------------------------

    @classmethod
    def from_records(
        cls,
        suite: SuiteSpec,
        published: PublishedSpec | None,
        members: Iterable[MemberRecords],
    ) -> Comparison:
        """Lay the records of a suite beside the published tables.

        Args:
            suite: what is compared with what.
            published: the published numbers; None if the suite has no tables.
            members: records of the suite's benchmarks, in order; those that are not there are left
                out or have none.

        Raises:
            UserError: if records are of another benchmark or contradict each other.
        """
        measured = {
            each.member: _measured(each, suite.benchmark_name(each.member)) for each in members
        }
        tables = []
        if published is not None:
            for name, table in suite.tables.items():
                printed = published.tables[table.published]
                tables.append(_table(name, table, printed, published, suite, measured))
        return cls(
            suite=suite.name,
            version=suite.version,
            title=suite.title,
            members=tuple(
                Member(
                    name=found.records.name,
                    network=suite.members[member].network,
                    id=suite.members[member].id,
                    status=found.records.status,
                    reason=found.records.reason,
                    seeds=() if found.board is None else found.board.seeds,
                )
                for member, found in measured.items()
            ),
            tables=tuple(tables),
            deviations=tuple(_deviations(suite)),
            caveats=(*suite.deviations, *(() if published is None else published.caveats)),
        )


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was measured of one member."""

    records: MemberRecords
    board: Leaderboard | None = None
    trainings: Histories = field(default_factory=dict)

    def detection(self, method: str, measure: str, datasets: Iterable[str]) -> Estimate | None:
        """A metric of a method on whichever of these data sets it was tested against."""
        columns = [Column("set", dataset, (dataset,)) for dataset in datasets]
        for row in () if self.board is None else self.board.rows:
            for column in columns:
                if row.method == method and (measure, column) in row.entries:
                    return row.entries[measure, column].estimate
        return None

    def training(self, model: str, measure: str) -> Estimate | None:
        """What the last epochs of a model ended with."""
        ceiling = {"ceiling": 1.0} if measure.endswith("accuracy") else {}
        return of_runs(last_epochs(self.trainings, model, measure), **ceiling)


def _measured(member: MemberRecords, benchmark: str) -> _Measured:
    records: tuple[QualityRecord | TrainingRecord, ...] = (*member.quality, *member.training)
    for record in records:
        if record.benchmark != benchmark:
            raise UserError(
                f"Records in the folder of '{member.name}' are of benchmark '{record.benchmark}', "
                f"not of '{benchmark}'.",
                "Give the records of one suite.",
            )
    ok = any(record.status == "ok" for record in member.quality)
    board = Leaderboard.from_records(member.quality, []) if ok else None
    return _Measured(member, board, histories(member.training))


def _deviations(suite: SuiteSpec) -> Iterator[str]:
    if suite.training:
        changes = ", ".join(f"{key}: {value}" for key, value in suite.training.items())
        yield (
            f"The training of every model was changed ({changes}): this is not the protocol that "
            "the published values were measured with, and differences from them are expected."
        )


def _table(
    name: str,
    spec: ComparisonSpec,
    printed: PublishedTable,
    published: PublishedSpec,
    suite: SuiteSpec,
    measured: Mapping[str, _Measured],
) -> ComparedTable:
    member_of = {(row.network, row.id): member for member, row in suite.members.items()}
    measures = tuple(_measure(spec, printed, each) for each in spec.measures)
    rows: dict[Place, str] = {}
    cells: dict[tuple[Place, str, str], Compared] = {}
    for row in printed.rows:
        member = member_of.get((row.network, row.id))
        if member is None:
            continue  # the suite leaves this benchmark out
        place = Place(row.network, row.id, row.ood)
        rows[place] = suite.member_name(member)
        for measure in measures:
            for column, ours in spec.columns.items():
                value = row.values[measure.name][printed.columns.index(column)]
                found = measured.get(member)
                if found is None:
                    estimate = None
                elif spec.about == "training":
                    estimate = found.training(ours, measure.name)
                else:
                    sets = [dataset for dataset, label in suite.ood.items() if label == row.ood]
                    estimate = found.detection(ours, measure.name, sets)
                cells[place, measure.name, column] = Compared(
                    published=round(value / measure.scale, measure.decimals + 2),
                    rounding=0.5 * 10**-measure.decimals / measure.scale,
                    measured=estimate,
                )
    source = published.sources[printed.source]
    return ComparedTable(
        name=name,
        title=spec.title,
        about=spec.about,
        place=printed.place,
        citation=source.citation,
        measures=measures,
        columns=spec.columns,
        rows=rows,
        cells=cells,
        notes=printed.notes,
        overview=spec.overview,
    )


def _measure(spec: ComparisonSpec, printed: PublishedTable, name: str) -> Measure:
    about = printed.measures[name]
    if spec.about == "detection":
        metric = METRICS[name]
        return Measure(
            name, metric.short_title, about.unit, about.decimals, metric.higher_is_better
        )
    title = _TRAINING_TITLES[name]
    return Measure(name, title, about.unit, about.decimals, name.endswith("accuracy"))


# --- how well they agree -----------------------------------------------------------------------


def _agreement(table: ComparedTable, measure: Measure, column: str) -> Agreement:
    cells = table.of(measure, column)
    gaps = {place: cell.difference for place, cell in cells.items() if cell.difference is not None}
    where = max(gaps, key=lambda place: abs(gaps[place])) if gaps else None
    verdicts = [cell.covered for cell in cells.values() if cell.covered is not None]
    return Agreement(
        table=table.title,
        measure=measure,
        column=column,
        cells=len(cells),
        measured=len(gaps),
        judged=len(verdicts),
        covered=sum(verdicts),
        mean=fmean(gaps.values()) if gaps else None,
        largest=None if where is None else gaps[where],
        where=where,
    )


def _order(table: ComparedTable, measure: Measure, ahead: str, behind: str) -> Order:
    sign = 1 if measure.higher_is_better else -1
    first, second = table.of(measure, ahead), table.of(measure, behind)
    both = [
        (one.measured, other.measured)
        for one, other in zip(first.values(), second.values(), strict=True)
        if one.measured is not None and other.measured is not None
    ]
    here = [(one, other) for one, other in both if sign * (one.mean - other.mean) > 0]
    return Order(
        table=table.title,
        measure=measure,
        ahead=ahead,
        behind=behind,
        rows=len(first),
        published=sum(
            sign * (first[place].published - second[place].published) > 0 for place in first
        ),
        measured=len(both),
        here=len(here),
        every_seed=sum(_on_every_seed(one, other, sign) for one, other in here),
    )


def _on_every_seed(one: Estimate, other: Estimate, sign: int) -> bool:
    """Whether the first is ahead on each seed that both have; one seed shows nothing."""
    seeds = one.by_seed.keys() & other.by_seed.keys()
    ahead = [sign * (one.by_seed[seed] - other.by_seed[seed]) > 0 for seed in seeds]
    return len(ahead) > 1 and all(ahead)
