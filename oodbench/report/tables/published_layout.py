"""Which tables the report of a comparison has, and how a published table is laid out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from oodbench.errors import counted
from oodbench.report.agreement import Agreement, Order, agreements, orders
from oodbench.report.published_comparison import (
    Compared,
    ComparedTable,
    Measure,
    Member,
    Place,
    PublishedComparisonData,
)
from oodbench.report.seed_means import LEVEL
from oodbench.report.tables.document import TIED_SIGN, Cell, Document, Heading, Section, Table

COVERED_SIGN = TIED_SIGN
"""Follows a difference if the interval covers the published value: no difference is shown."""

_MODEL = Heading("Network", "Network", text=True)
_ID = Heading("ID", "ID", text=True)
_OOD = Heading("OOD", "OOD", text=True)


def overview(comparison: PublishedComparisonData) -> Document:
    """The report for a terminal: progress, the main tables, how well the values agree."""
    return _document(comparison, [table for table in comparison.tables if table.overview])


def full(comparison: PublishedComparisonData) -> Document:
    """The report for a file: all tables."""
    return _document(comparison, comparison.tables)


def _document(comparison: PublishedComparisonData, chosen: Sequence[ComparedTable]) -> Document:
    measured = [table for table in chosen if any(each.measured for each in table.cells.values())]
    empty = [table.title for table in chosen if table not in measured]
    chosen = measured
    titles = {table.title for table in chosen}
    tables = [
        _members(comparison.members),
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
    for citation in dict.fromkeys(table.citation for table in comparison.tables):
        yield f"Published values: {citation}"


def _members(members: Iterable[Member]) -> Table:
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
    return Table("Benchmarks", headings, (Section("", rows),))


# --- the published tables ----------------------------------------------------------------------


def _laid_out(table: ComparedTable) -> list[Table]:
    """A published table as tables of a page's width.

    There is one table for each metric of detection, or one table with a section for each measure of
    training. All metrics side by side, as printed, would be three times as wide as a page.
    """
    if table.about == "training":
        sections = tuple(
            Section(_measure_title(measure), tuple(_rows(table, measure, table.rows, (0, 1))))
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
            title = f"{table.title}, {_measure_title(measure)}"
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
    published = Cell(_number(compared.published, measure))
    found = compared.measured
    if found is None or compared.difference is None:
        return published, Cell(), Cell(), Cell()
    interval = ""
    if found.ci_low is not None and found.ci_high is not None:
        interval = f"{_number(found.ci_low, measure)}-{_number(found.ci_high, measure)}"
    elif len(found.by_seed) > 1:
        interval = ", ".join(_number(value, measure) for value in found.by_seed.values())
    return (
        published,
        Cell(_number(found.mean, measure)),
        Cell(interval),
        # Shown as on a leaderboard, where one method is tied with another.
        Cell(_signed(compared.difference, measure), "tied" if compared.covered else None),
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
        Cell(_measure_title(each.measure)),
        Cell(each.column),
        Cell(f"{each.measured} of {each.cells}"),
        Cell(f"{each.covered} of {each.with_interval}" if each.with_interval else ""),
        Cell("" if each.mean is None else _signed(each.mean, each.measure)),
        Cell("" if each.largest is None else _signed(each.largest, each.measure)),
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
    if not chosen:
        return
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
    yield from comparison.caveats


def _measure_title(measure: Measure) -> str:
    return f"{measure.title} ({'%' if measure.unit == 'percent' else 'nats'})"


def _number(value: float, measure: Measure) -> str:
    return f"{value * measure.scale:.{measure.decimals}f}"


def _signed(value: float, measure: Measure) -> str:
    """With a sign, unless it rounds to zero."""
    text = f"{abs(value) * measure.scale:.{measure.decimals}f}"
    sign = "-" if value < 0 else "+"
    return text if float(text) == 0 else sign + text
