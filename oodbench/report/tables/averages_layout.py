"""Published averages beside measured ones, laid out as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from oodbench.report.published.averages import (
    REPRODUCED,
    Average,
    AverageAgreement,
    AverageRow,
    ComparedAverages,
    agreement,
    population_spread,
)
from oodbench.report.seed_means import LEVEL
from oodbench.report.tables.compared_cells import (
    COVERED_SIGN,
    difference_cell,
    interval,
    number,
    signed,
)
from oodbench.report.tables.document import Cell, Document, Heading, Section, Table
from oodbench.report.tables.method_cells import METHOD, RUN
from oodbench.report.tables.values import DOWN_SIGN, SPREAD_SIGN, UP_SIGN, tuned_on_text

_TITLE = "Published beside measured"
_SPREAD = f"{SPREAD_SIGN} over checkpoints"
_INTERVAL = f"{LEVEL:.0%} interval"


def document(averages: ComparedAverages) -> Document:
    """The comparison as a report of its own."""
    return Document(
        title=f"{_TITLE}: {averages.benchmark}, version {averages.version}",
        summary=tuple(sources(averages)),
        tables=tuple(average_tables(averages)),
        notes=tuple(average_notes([averages])),
    )


def sources(averages: ComparedAverages) -> Iterator[str]:
    """The publications, one sentence each."""
    yield f"Published values: {averages.title}."
    yield from averages.citations


def average_tables(averages: ComparedAverages) -> list[Table]:
    """A table for each metric, the accuracy of the classifiers, and how well the values agree."""
    tables = _metrics(averages)
    tables += [_accuracies(averages), agreements([averages])]
    tables = [table for table in tables if any(part.rows for part in table.sections)]
    tables[-1:] = [_noted(table, _unmeasured(averages)) for table in tables[-1:]]
    return tables


def first_table(averages: ComparedAverages) -> list[Table]:
    """The table of the first metric alone, with the notes of all."""
    return [_noted(table, _unmeasured(averages)) for table in _metrics(averages)[:1]]


def _metrics(averages: ComparedAverages) -> list[Table]:
    """A table for each metric of detection, with the groups of OOD sets side by side."""
    shown = [each for each in averages.averages if each.group is not None and each.overview]
    groups = groupby(shown, key=lambda each: each.metric)
    tables = [_metric(averages, tuple(mine)) for _, mine in groups]
    tables[:1] = [_noted(table, _contested(averages)) for table in tables[:1]]
    return tables


def _noted(table: Table, notes: Iterable[str]) -> Table:
    return replace(table, notes=(*table.notes, *notes))


def _metric(averages: ComparedAverages, shown: Sequence[Average]) -> Table:
    first = shown[0]
    arrow = UP_SIGN if first.measure.higher_is_better else DOWN_SIGN
    title = f"{_TITLE}: {first.measure.title}{arrow} (%)"
    if first.origin:
        title += f"; published values: {first.origin}"
    tuned = any(row.searched or row.tuned_on not in ("", "none") for row in averages.rows)
    runs = any(row.run for row in averages.rows)
    headings = [
        METHOD,
        *([RUN] if runs else []),
        Heading("Published as", "Published as", text=True, importance=3),
    ]
    if tuned:
        headings += [
            Heading("published tuning", "paper", text=True, importance=8, group="Tuned on"),
            Heading("measured tuning", "here", text=True, importance=8, group="Tuned on"),
        ]
    for average in shown:
        group = f"{average.group}-OOD"
        headings += [
            Heading("published", "paper", group=group),
            # Columns of the same title are shown together, or left out together.
            Heading(_SPREAD, SPREAD_SIGN, importance=6, group=group),
            Heading("measured", "here", group=group),
            Heading(_SPREAD, SPREAD_SIGN, importance=6, group=group),
            Heading(_INTERVAL, _INTERVAL, importance=5, group=group),
            Heading("difference", "diff.", group=group),
        ]

    def cells(row: AverageRow) -> tuple[Cell, ...]:
        named = [Cell(row.method), *([Cell(row.run)] if runs else []), Cell(row.postprocessor)]
        if tuned:
            here = tuned_on_text(row.tuned_on)
            named += [Cell((row.searched or "-") if row.postprocessor else ""), Cell(here)]
        return (*named, *(cell for average in shown for cell in _cells(row, average)))

    def section(label: str, rows: Iterable[AverageRow]) -> Section:
        return Section(label, tuple(map(cells, rows)))

    names = {average.measure.name for average in shown}
    measured = [row for row in averages.rows if row.measured.keys() & names]
    published = [row for row in measured if row.published.keys() & names]
    sections = [
        *(
            section(
                f"{model}, published as {network}, {training}",
                (row for row in published if row.model == model and not row.contested),
            )
            for model, (training, network) in averages.models.items()
        ),
        section("Published value contested", (row for row in published if row.contested)),
        section("No published value", (row for row in measured if row not in published)),
    ]
    found = Table(title, tuple(headings), tuple(part for part in sections if part.rows))
    return _without_empty(found, _SPREAD, _INTERVAL)


def _without_empty(table: Table, *titles: str) -> Table:
    """The table without columns of these titles that are all empty, as with one checkpoint."""
    filled = {
        heading.title
        for index, heading in enumerate(table.headings)
        if any(cell.text for cell in table.column(index))
    }
    return table.without(*(title for title in titles if title not in filled))


def _cells(row: AverageRow, average: Average) -> tuple[Cell, ...]:
    """Published value and spread, measured value, spread and interval, difference."""
    measure = average.measure
    known, found = row.published.get(measure.name), row.measured.get(measure.name)
    return (
        Cell(number(known.mean if known else None, measure)),
        Cell(number(known.spread if known else None, measure)),
        Cell(number(found.mean if found else None, measure)),
        Cell(number(population_spread(found) if found else None, measure)),
        Cell(interval(found, measure)),
        difference_cell(row.compared(average), measure),
    )


def _accuracies(averages: ComparedAverages) -> Table:
    """The test accuracy of each model, one row for each published value."""
    headings = (
        Heading("Model", "Model", text=True),
        *((RUN,) if any(row.run for row in averages.rows) else ()),
        Heading("Published with", "Published with", text=True, importance=7),
        Heading("published", "paper"),
        Heading("measured", "here"),
        Heading(_SPREAD, SPREAD_SIGN, importance=6),
        Heading("difference", "diff."),
    )
    rows = []
    for average in (each for each in averages.averages if each.group is None):
        by_value: dict[tuple[str, str, float], list[AverageRow]] = {}
        for row in averages.rows:
            known = row.published.get(average.measure.name)
            if row.method and known is not None and average.measure.name in row.measured:
                by_value.setdefault((row.model, row.run, known.mean), []).append(row)
        for (model, run, _), same in by_value.items():
            known = same[0].published[average.measure.name]
            found = same[0].measured[average.measure.name]
            rows.append(
                (
                    Cell(model),
                    *((Cell(run),) if len(headings) > 6 else ()),
                    Cell(_postprocessors(same, by_value, model, run)),
                    Cell(number(known.mean, average.measure)),
                    Cell(number(found.mean, average.measure)),
                    Cell(number(population_spread(found), average.measure)),
                    difference_cell(same[0].compared(average), average.measure),
                )
            )
    table = Table(f"{_TITLE}: test accuracy (%)", headings, (Section("", tuple(rows)),))
    return _without_empty(table, _SPREAD)


def _postprocessors(
    same: Sequence[AverageRow],
    by_value: dict[tuple[str, str, float], list[AverageRow]],
    model: str,
    run: str,
) -> str:
    """The entries with one of the published accuracies of a model."""
    groups = [rows for key, rows in by_value.items() if key[:2] == (model, run)]
    if len(groups) == 1:
        return "all entries"
    if same is max(groups, key=len):
        return "all other entries"
    return ", ".join(row.postprocessor for row in same)


def agreements(found: Sequence[ComparedAverages]) -> Table:
    """How well the values agree: one section for each benchmark, contested entries apart."""
    headings = (
        Heading("Quantity", "Quantity", text=True),
        Heading("Entries", "Entries"),
        Heading("Published value in the interval", "In the interval"),
        Heading(f"Differs by at most {100 * REPRODUCED:g}", f"Within {100 * REPRODUCED:g}"),
        Heading("Mean size of the difference", "Mean |diff.|"),
        Heading("Largest difference", "Largest diff."),
        Heading("Where it is", "Where", text=True, importance=7),
    )
    sections = tuple(
        Section(each.benchmark if len(found) > 1 else "", tuple(_agreement_rows(each)))
        for each in found
    )
    title = "Agreement with the published values (points, measured minus published)"
    return Table(title, headings, tuple(part for part in sections if part.rows))


def _agreement_rows(averages: ComparedAverages) -> Iterator[tuple[Cell, ...]]:
    shown = [each for each in averages.averages if each.group is not None and each.overview]
    for label, rows in (("", averages.compared), (", contested", averages.contested)):
        for average in shown:
            found = agreement(rows, average)
            if found.entries:
                yield _agreement(found, label)


def _agreement(found: AverageAgreement, label: str) -> tuple[Cell, ...]:
    average = found.average
    return (
        Cell(f"{average.measure.title.partition(' (')[0]}, {average.group}-OOD{label}"),
        Cell(str(found.entries)),
        Cell(f"{found.covered} of {found.with_interval}" if found.with_interval else ""),
        Cell(f"{found.reproduced} of {found.entries}"),
        Cell(number(found.size, average.measure)),
        Cell(signed(found.largest, average.measure)),
        Cell(found.where),
    )


# --- words ---------------------------------------------------------------------------------------


def _contested(averages: ComparedAverages) -> Iterator[str]:
    for name, detector, reason in dict.fromkeys(
        (row.postprocessor, row.detector, row.contested) for row in averages.contested
    ):
        yield f"{name} ({detector}), contested: {reason}"


def _unmeasured(averages: ComparedAverages) -> Iterator[str]:
    for known, words in (
        (False, "have no detector here"),
        (True, "have a detector here that this run did not measure"),
    ):
        rows = [row for row in averages.unmeasured if bool(row.detector) is known]
        if rows:
            verb = words if len(rows) > 1 else words.replace("have", "has", 1)
            entries = "published entry" if len(rows) == 1 else "published entries"
            yield f"{len(rows)} {entries} of these models {verb}: {_named(rows, averages)}."
    if averages.others:
        yield (
            f"{averages.others} other entries of the publication ({averages.title}) have another "
            "training or network."
        )


def _named(rows: Sequence[AverageRow], averages: ComparedAverages) -> str:
    """Postprocessors, each with its networks if these are not those of all models."""
    networks: dict[str, list[str]] = {}
    for row in rows:
        networks.setdefault(row.postprocessor, []).append(row.network)
    every = len(set(averages.models.values()))
    return ", ".join(
        name if len(mine) == every else f"{name} ({', '.join(mine)})"
        for name, mine in networks.items()
    )


def average_notes(found: Sequence[ComparedAverages]) -> Iterator[str]:
    """How to read the tables, and the limits of the published values."""
    if not found:
        return
    yield (
        f"{_TITLE}: the mean of a group is the plain mean over its OOD sets. There "
        f"{SPREAD_SIGN} is the population standard deviation of this mean over checkpoints. "
        "Difference: measured minus published. A cell without a value is empty."
    )
    yield (
        f"{COVERED_SIGN} after a difference: the {LEVEL:.0%} interval of the measured mean has "
        "a value that rounds to the published one. With one checkpoint, the interval covers the "
        "sampling of the test images; with three or more, also the variation between checkpoints; "
        "with two, there is none and both values are shown. The uncertainty of the published value "
        "is not part of it."
    )
    yield (
        "With the published checkpoints and the published test images, neither of the two varies: "
        f"then a difference of more than {100 * REPRODUCED:g} points is a difference of detector, "
        "tuning or data, also within the interval."
    )
    yield from dict.fromkeys(caveat for averages in found for caveat in averages.caveats)
