"""Which tables the report of a leaderboard has, and what stands around them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from oodbench.errors import counted
from oodbench.report.columns import Column
from oodbench.report.leaderboard import FPR, RANKED_BY, Absence, JoinedRun, LeaderboardData, Row
from oodbench.report.tables.averages_layout import average_notes, average_tables, sources
from oodbench.report.tables.cost_tables import (
    UNSTEADY_NOTE,
    cost_table,
    relative_time,
    requirements_table,
    unsteady,
)
from oodbench.report.tables.document import TIED_SIGN, Cell, Document, Heading, Section, Table
from oodbench.report.tables.method_cells import RUN, name_headings, named, sections
from oodbench.report.tables.notes import cost_notes, mark_notes, notes, tuning_notes
from oodbench.report.tables.optional_tables import optional_set_tables, optional_tables
from oodbench.report.tables.ranking_table import ranking_table
from oodbench.report.tables.threshold_tables import transfer_overview, transfer_tables
from oodbench.report.tables.values import (
    BASELINE_SIGN,
    metric_title,
    parameters_text,
    seeds_text,
    tuned_on_text,
    value_cell,
)

_UNNAMED = "id"
"""Name of the ID set of `oodbench.evaluate`, whose data have no names."""


def overview(board: LeaderboardData, *, best: str, split: bool = False) -> Document:
    """The report for a terminal: quality, cost, requirements, tuned parameters, absent methods.

    Args:
        board: the leaderboard.
        best: how the format shows the best value of a column, in words.
        split: whether a method is named in two columns, the trained model and the detector.
    """
    tables = [
        ranking_table(board, split),
        *optional_tables(board, split=split, whole=False),
        *transfer_overview(board, split=split),
        cost_table(board, split),
        requirements_table(board, split),
        _chosen(board, split),
        _absences(board),
    ]
    return _with_published(_document(board, tables, best), board)


def full(board: LeaderboardData, *, best: str, split: bool = False) -> Document:
    """The report for a file: the overview, and each OOD set, each metric, each method.

    Args:
        board: the leaderboard.
        best: how the format shows the best value of a column, in words.
        split: whether a method is named in two columns, the trained model and the detector.
    """
    sets = [column for column in board.columns if column.kind == "set"]
    groups = {each.name: each.group for each in board.ood_sets}
    per_set = [
        (metric, column, f"{column.name} ({groups[column.name]})" if groups[column.name] else "")
        for metric in board.metrics
        for column in sets
    ]
    tables = [
        ranking_table(board, split),
        *(
            _details(
                board,
                split,
                f"{metric_title(metric)} on each OOD set (%)",
                [
                    (metric, column, title or column.name)
                    for m, column, title in per_set
                    if m == metric
                ],
            )
            for metric in ("auroc", FPR)
            if metric in board.metrics and len(sets) > 1  # the first table has the only set's
        ),
        _details(
            board,
            split,
            "All metrics, mean over the OOD sets (%)" if len(sets) > 1 else "All metrics (%)",
            [
                (metric, board.column("mean"), metric_title(metric))
                for metric in board.metrics
                if metric not in board.optional
            ],
        ),
        *optional_tables(board, split=split),
        *optional_set_tables(board, split=split),
        *transfer_tables(board, split=split),
        cost_table(board, split),
        requirements_table(board, split),
        _methods(board),
        _absences(board),
    ]
    document = _document(board, tables, best)
    if {"aupr_in", "aupr_out"} & set(board.metrics):
        note = "AUPR depends on the numbers of ID and OOD images (listed at the top)."
        document = replace(document, notes=(*document.notes, note))
    return _with_published(document, board)


def compact(board: LeaderboardData, *, best: str, methods: int = 10) -> Table:
    """The best methods in five columns at most: a table for one column of a paper.

    Args:
        board: the leaderboard.
        best: how the format shows the best value of a column, in words.
        methods: number of methods.
    """
    mean, worst = board.column("mean"), board.column("worst")
    several = len(mean.sets) != 1
    ranked = [row for row in board.rows if not row.oracle and row.rank is not None]
    headings = (
        *name_headings(board, split=False),
        Heading("AUROC", "AUROC"),
        *((Heading("Worst AUROC", "Worst AUROC"),) if several else ()),
        Heading("FPR95", "FPR95"),
        Heading("Time", "Time"),
    )
    rows = tuple(
        (
            *named(row, board, split=False),
            value_cell(row.entries.get((RANKED_BY, mean))),
            *((value_cell(row.entries.get((RANKED_BY, worst))),) if several else ()),
            value_cell(row.entries.get((FPR, mean))),
            relative_time(row),
        )
        for row in ranked[:methods]
    )
    shown = (
        f"the {counted(len(rows), 'method')} of {len(ranked)} with the highest AUROC"
        if len(rows) < len(ranked)
        else f"all {counted(len(rows), 'method')}"
    )
    sets = counted(len(board.ood_sets), "OOD set")
    notes = (
        f"AUROC (higher is better) and FPR95 (lower is better) in %, means over {sets} and "
        f"{counted(len(board.seeds), 'seed')}; {shown}. Time per image of a "
        f"batch: {BASELINE_SIGN} the baseline's.",
        f"Best of its column: {best}"
        + (f"; {TIED_SIGN}: tied with the best (paired differences)." if board.tested else "."),
        *tuning_notes(board),
        *((UNSTEADY_NOTE,) if any(map(unsteady, ranked[:methods])) else ()),
    )
    title = f"Benchmark {board.benchmark}, version {board.version}"
    return Table(title, headings, (Section("", rows),), notes)


def cost(board: LeaderboardData, *, best: str, split: bool = False) -> Document:
    """Costs and requirements only, as in the overview."""
    tables = [cost_table(board, split), requirements_table(board, split)]
    document = _document(board, tables, best)
    return replace(document, notes=(*mark_notes(board, best), *cost_notes(board)))


# --- the document --------------------------------------------------------------------------------


def _document(board: LeaderboardData, tables: Sequence[Table], best: str) -> Document:
    return Document(
        title=f"Benchmark {board.benchmark}, version {board.version}",
        summary=_summary(board),
        tables=tuple(table for table in tables if any(part.rows for part in table.sections)),
        notes=notes(board, best),
        warnings=board.warnings,
        about=board.about,
    )


def _with_published(document: Document, board: LeaderboardData) -> Document:
    """The document with the published averages beside the measured ones."""
    found = board.published
    if found is None:
        return document
    return replace(
        document,
        tables=(*document.tables, *average_tables(found)),
        notes=(*document.notes, *sources(found), *average_notes([found])),
    )


def _summary(board: LeaderboardData) -> tuple[str, ...]:
    by_group: dict[str | None, list[str]] = defaultdict(list)
    for each in board.ood_sets:
        size = "" if each.images is None else f" ({each.images:,})"
        by_group[each.group].append(each.name + size)
    shifted = f"; images of {', '.join(board.csid)} (csID) count as ID" if board.csid else ""
    size = "" if board.id_images is None else f", {board.id_images:,} test images"
    together = " in all" if size and shifted else ""
    name = "" if board.id_dataset == _UNNAMED else board.id_dataset
    known = f"{name}{shifted}{size}{together}".lstrip(",; ") or board.id_dataset
    lines = [f"In-distribution (ID): {known}."]
    for group, names in by_group.items():
        kind = "OOD" if group is None else f"{group}-OOD"
        lines.append(f"{kind[0].upper()}{kind[1:]}: {', '.join(names)}.")
    if board.seeds:
        lines.append(f"Seeds: {seeds_text(board.seeds)}.")
    lines += [_described(run) for run in board.runs]
    accuracies = {
        f"{row.model} ({row.run})" if row.run else row.model: row.id_accuracy
        for row in board.rows
        if row.id_accuracy is not None
    }
    if accuracies:
        said = (f"{name} {100 * each.mean:.1f} %" for name, each in sorted(accuracies.items()))
        over = " on all of these ID images" if board.csid else ""
        lines.append(f"Test accuracy of the models{over}: {', '.join(said)}.")
    return tuple(lines)


def _described(run: JoinedRun) -> str:
    """One run of several, in a sentence."""
    known = {"made on ": run.date, "with oodbench ": run.version, "on ": run.machine}
    parts = [f"{words}{value}" for words, value in known.items() if value]
    if not run.scores:
        parts.append("without scores")
    return f"Run {run.label}: {', '.join(parts)}." if parts else f"Run {run.label}."


# --- tables --------------------------------------------------------------------------------------


def _details(
    board: LeaderboardData, split: bool, title: str, columns: Sequence[tuple[str, Column, str]]
) -> Table:
    """One row for each method, one column for each (metric, column, title)."""
    headings = (*name_headings(board, split), *(Heading(title, title) for _, _, title in columns))

    def cells(row: Row) -> tuple[Cell, ...]:
        values = (
            value_cell(row.entries.get((metric, column)), spread=True)
            for metric, column, _ in columns
        )
        return *named(row, board, split), *values

    return Table(title, headings, sections(board, cells))


def _chosen(board: LeaderboardData, split: bool) -> Table:
    """The parameters of the methods that were tuned."""

    def cells(row: Row) -> tuple[Cell, ...]:
        tuned_on = tuned_on_text(row.tuned_on, row.tuning_ood)
        chosen = parameters_text(row.choices)
        return *named(row, board, split), Cell(tuned_on), Cell(chosen), Cell(seeds_text(row.seeds))

    titles = ("Tuned on", "Detector parameters", "Seeds")
    headings = (
        *name_headings(board, split),
        *(Heading(title, title, text=True) for title in titles),
    )
    tuned = replace(board, rows=tuple(row for row in board.rows if row.tuned_on != "none"))
    return Table("Chosen by tuning", headings, sections(tuned, cells))


def _methods(board: LeaderboardData) -> Table:
    titles = ("Method", "Model", "Loss", "Detector", "Tuned on", "Detector parameters", "Seeds")

    def cells(row: Row) -> tuple[Cell, ...]:
        return (
            Cell(row.method),
            *((Cell(row.run),) if board.runs else ()),
            Cell(row.model),
            Cell(row.loss),
            Cell(row.detector),
            Cell(tuned_on_text(row.tuned_on, row.tuning_ood)),
            Cell(parameters_text(row.choices)),
            Cell(seeds_text(row.seeds)),
        )

    headings = tuple(Heading(title, title, text=True) for title in titles)
    headings = headings[:1] + ((RUN,) if board.runs else ()) + headings[1:]
    return Table("Methods", headings, sections(board, cells))


def _absences(board: LeaderboardData) -> Table:
    titles = ("Method", "Status", "Seeds", "Reason")
    present = {(row.method, row.run) for row in board.rows}

    def seeds(each: Absence) -> str:
        whole = each.status == "skipped" and (each.method, each.run) not in present
        return "all" if whole else seeds_text(each.seeds)

    rows = tuple(
        (
            Cell(each.method),
            *((Cell(each.run),) if board.runs else ()),
            Cell(each.status),
            Cell(seeds(each)),
            Cell(each.reason),
        )
        for each in board.absences
    )
    headings = tuple(
        Heading(title, title, text=True, importance=5 if title == "Seeds" else 9)
        for title in titles
    )
    headings = headings[:1] + ((RUN,) if board.runs else ()) + headings[1:]
    return Table("Skipped and failed", headings, (Section("", rows),))
