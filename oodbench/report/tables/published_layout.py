"""Which tables the report of a comparison has, and how a published table is laid out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from oodbench.errors import counted
from oodbench.report.published.agreement import Agreement, Order, agreements, orders
from oodbench.report.published.averages import ComparedAverages
from oodbench.report.published.cells import Compared, Measure
from oodbench.report.published.compared_tables import (
    ComparedTable,
    Member,
    Place,
    PublishedComparisonData,
)
from oodbench.report.seed_means import LEVEL
from oodbench.report.tables.averages_layout import agreements as average_agreements
from oodbench.report.tables.averages_layout import average_notes, average_tables, first_table
from oodbench.report.tables.compared_cells import (
    COVERED_SIGN,
    difference_cell,
    interval,
    measure_title,
    number,
    signed,
)
from oodbench.report.tables.document import Cell, Document, Heading, Section, Table

_MODEL = Heading("Network", "Network", text=True)
_ID = Heading("ID", "ID", text=True)
_OOD = Heading("OOD", "OOD", text=True)


def overview(comparison: PublishedComparisonData) -> Document:
    """The report for a terminal: progress, the main tables, how well the values agree."""
    chosen = [table for table in comparison.tables if table.overview]
    return _document(comparison, chosen, first_table)


def full(comparison: PublishedComparisonData) -> Document:
    """The report for a file: all tables."""
    return _document(comparison, comparison.tables, average_tables)


def _document(
    comparison: PublishedComparisonData,
    chosen: Sequence[ComparedTable],
    tables_of: Callable[[ComparedAverages], list[Table]],
) -> Document:
    measured = [table for table in chosen if any(each.measured for each in table.cells.values())]
    empty = [table.title for table in chosen if table not in measured]
    chosen = measured
    titles = {table.title for table in chosen}
    tables = [
        _members(comparison.members),
        average_agreements(comparison.averages),
        *(
            replace(table, title=f"{each.benchmark}: {table.title}")
            for each in comparison.averages
            for table in tables_of(each)
        ),
        *(table for each in chosen for table in _laid_out(each)),
        _agreements(each for each in agreements(comparison) if each.table in titles),
        _orders(each for each in orders(comparison) if each.table in titles),
    ]
    return Document(
        title=f"Suite {comparison.suite}, version {comparison.version}: {comparison.title}",
        summary=tuple(_summary(comparison)),
        tables=tuple(table for table in tables if any(part.rows for part in table.sections)),
        notes=tuple(_notes(comparison, chosen, empty)),
    )


def _summary(comparison: PublishedComparisonData) -> Iterator[str]:
    complete = sum(member.status == "complete" for member in comparison.members)
    verb = "is" if len(comparison.members) == 1 else "are"
    yield f"{complete} of {counted(len(comparison.members), 'benchmark')} {verb} complete."
    seeds = sorted({seed for member in comparison.members for seed in member.seeds})
    if seeds:
        yield f"Seeds: {', '.join(map(str, seeds))}."
    for deviation in comparison.deviations:
        yield f"NOT THE PUBLISHED PROTOCOL. {deviation}"
    citations = [table.citation for table in comparison.tables]
    citations += [citation for each in comparison.averages for citation in each.citations]
    for citation in dict.fromkeys(citations):
        yield f"Published values: {citation}"


def _members(members: Sequence[Member]) -> Table:
    headings = tuple(
        Heading(title, title, text=True)
        for title in ("Benchmark", "Network", "ID", "Seeds", "Status", "Reason")
    )
    rows = tuple(
        tuple(
            map(
                Cell,
                (
                    member.name,
                    member.network,
                    member.id,
                    ", ".join(map(str, member.seeds)),
                    member.status,
                    member.reason or "",
                ),
            )
        )
        for member in members
    )
    found = Table("Benchmarks", headings, (Section("", rows),))
    return found if any(member.network for member in members) else found.without("Network", "ID")


# --- the published tables ----------------------------------------------------------------------


def _laid_out(table: ComparedTable) -> list[Table]:
    """A published table as tables of a page's width.

    There is one table for each metric of detection, or one table with a section for each measure of
    training. All metrics side by side, as printed, would be three times as wide as a page.
    """
    if table.about == "training":
        sections = tuple(
            Section(measure_title(measure), tuple(_rows(table, measure, table.rows, (0, 1))))
            for measure in table.measures
        )
        found = [Table(table.title, (_MODEL, _ID, *_columns(table)), sections)]
    else:
        found = []
        for measure in table.measures:
            sections = tuple(
                Section(network, tuple(_rows(table, measure, places, (1, 2))))
                for network, places in groupby(table.rows, key=lambda place: place.network)
            )
            title = f"{table.title}, {measure_title(measure)}"
            found.append(Table(title, (_ID, _OOD, *_columns(table)), sections))
    if found:
        last = found[-1]
        found[-1] = Table(last.title, last.headings, last.sections, table.notes)
    return found


def _columns(table: ComparedTable) -> Iterator[Heading]:
    for group in table.columns.values():
        yield Heading("published", "paper", group=group)
        yield Heading("measured", "here", group=group)
        yield Heading(f"{LEVEL:.0%} interval", f"{LEVEL:.0%} interval", importance=5, group=group)
        yield Heading("difference", "diff.", group=group)


def _rows(
    table: ComparedTable, measure: Measure, places: Iterable[Place], labels: tuple[int, int]
) -> Iterator[tuple[Cell, ...]]:
    """Rows of one measure; a label equal to the one above it is left out, as in print."""
    before: str | None = None
    for place in places:
        outer, inner = (place[index] or "" for index in labels)
        cells = [
            cell
            for column in table.columns
            for cell in _cells(table.cells[place, measure.name, column], measure)
        ]
        yield Cell("" if outer == before else outer), Cell(inner), *cells
        before = outer


def _cells(compared: Compared, measure: Measure) -> tuple[Cell, Cell, Cell, Cell]:
    """Published value, measured value, interval, difference; empty if not measured."""
    found = compared.measured
    return (
        Cell(number(compared.published, measure)),
        Cell(number(None if found is None else found.mean, measure)),
        Cell(interval(found, measure)),
        difference_cell(compared, measure),
    )


# --- how well they agree -----------------------------------------------------------------------


def _agreements(found: Iterable[Agreement]) -> Table:
    headings = (
        Heading("Measure", "Measure", text=True),
        Heading("Published column", "Column", text=True),
        Heading("Measured cells", "Measured"),
        Heading("Published value in the interval", "In the interval"),
        Heading("Mean difference", "Mean diff."),
        Heading("Largest difference", "Largest diff."),
        Heading("Where it is", "Where", text=True, importance=7),
    )
    sections = tuple(
        Section(title, tuple(_agreement(each) for each in mine))
        for title, mine in groupby(found, key=lambda each: each.table)
    )
    return Table("Agreement of the values (measured minus published)", headings, sections)


def _agreement(each: Agreement) -> tuple[Cell, ...]:
    return (
        Cell(measure_title(each.measure)),
        Cell(each.column),
        Cell(f"{each.measured} of {each.cells}"),
        Cell(f"{each.covered} of {each.with_interval}" if each.with_interval else ""),
        Cell(signed(each.mean, each.measure)),
        Cell(signed(each.largest, each.measure)),
        Cell(str(each.where or "")),
    )


def _orders(found: Iterable[Order]) -> Table:
    headings = (
        Heading("Measure", "Measure", text=True),
        Heading("Is ahead of", "Is ahead of", text=True),
        Heading("Published: in rows", "Paper"),
        Heading("Measured: in rows", "Here"),
        Heading("Measured: on every seed", "Every seed"),
    )
    sections = tuple(
        Section(
            title,
            tuple(
                (
                    Cell(each.measure.title),
                    Cell(f"{each.ahead} > {each.behind}"),
                    Cell(f"{each.published} of {each.rows}"),
                    Cell(f"{each.here} of {each.measured}" if each.measured else ""),
                    Cell(f"{each.every_seed} of {each.measured}" if each.measured else ""),
                )
                for each in mine
            ),
        )
        for title, mine in groupby(found, key=lambda each: each.table)
    )
    return Table("Which method is ahead", headings, sections)


# --- words and numbers -------------------------------------------------------------------------


def _notes(
    comparison: PublishedComparisonData, chosen: Sequence[ComparedTable], empty: Sequence[str]
) -> Iterator[str]:
    if empty:
        yield f"Nothing is measured yet for: {'; '.join(empty)}."
    if chosen:
        yield from _table_notes(chosen)
    yield from average_notes(comparison.averages)
    if chosen or comparison.averages:
        yield from comparison.caveats


def _table_notes(chosen: Sequence[ComparedTable]) -> Iterator[str]:
    """How to read the published tables."""
    yield (
        "Higher is better, except for losses. ID is the positive class. Measured: mean over seeds. "
        "Difference: measured minus published. Cells that were not measured are empty."
    )
    yield (
        f"The {LEVEL:.0%} interval is the confidence interval of the mean over seeds. For "
        "detection it combines the sampling of the test images and the variation between seeds, as "
        "on the leaderboards. For training it covers the variation between seeds only, and one "
        "seed has no interval. 2 seeds: no interval over seeds; both values are shown in its place."
    )
    yield (
        f"{COVERED_SIGN} after a difference: the interval contains a value that rounds to the "
        "published one, so no difference is shown. With few seeds, intervals are wide and this is "
        "common. The variation of the published values is unknown: a published value outside the "
        "interval does not prove that the protocols differ."
    )
    if any(table.about == "detection" for table in chosen):
        yield (
            "All methods of a model were measured on the same checkpoints. On every seed: number "
            "of rows in which the method is ahead on each of two or more seeds. The leaderboard of "
            "each benchmark shows which methods are tied."
        )
    seeds = {
        cell.measured.seeds
        for table in chosen
        for cell in table.cells.values()
        if cell.measured is not None
    }
    if len(seeds) > 1:
        yield (
            f"The number of seeds differs between cells ({min(seeds)} to {max(seeds)}); the JSON "
            "and CSV files give it for each cell."
        )
