"""Tables of what differs between two runs, and how their figures are written.

All text from records is made visible here: line feeds, escapes of terminals and other characters
that do not print are shown as escapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from oodbench.errors import listed, visible
from oodbench.report.leaderboard import SHOWN
from oodbench.report.tables.document import Cell, Heading, Section, Table
from oodbench.report.tables.values import metric_title, short_decimal
from oodbench.run_comparison.changes import Change, CostChange, RunComparison, Verdict

_DIRECTED: dict[Verdict, Literal["better", "worse"]] = {
    Verdict.WORSE: "worse",
    Verdict.BETTER: "better",
}
REST = (Verdict.GONE, Verdict.NEW, Verdict.NOT_COMPARABLE)
_ONE_SIDE = {Verdict.GONE: "only in the base", Verdict.NEW: "only in the head"}
_KINDS = ("mean", "group", "set", "id")


def changed_table(changes: Sequence[Change]) -> Table:
    """What is worse and what is better, a row for each method and metric."""
    headings = (
        Heading("Method", "Method", text=True),
        Heading("Metric", "Metric", text=True),
        Heading("On", "On", text=True),
        Heading("Base (%)", "Base", importance=7),
        Heading("Head (%)", "Head", importance=7),
        Heading("Change (points)", "Change"),
        Heading("95% interval", "95% interval", importance=6),
        Heading("p, corrected", "p", importance=5),
        Heading("Also on", "Also on", text=True, importance=4),
        Heading("Test", "Test", text=True, importance=3),
    )
    places = {(change.kind, change.column) for change in changes}
    sections, tests = [], set()
    for verdict, mark in _DIRECTED.items():
        rows = _by_method_and_metric(changes, verdict)
        tests |= {each[0].test for each in rows}
        if rows:
            cells = tuple(_changed_row(each, mark, len(places)) for each in rows)
            sections.append(Section(verdict.value.capitalize(), cells))
    note = "Change: head minus base, in percentage points. p: Holm's correction over all tests."
    table = Table("Worse and better", headings, tuple(sections), (note,))
    if len(tests) > 1:
        return table
    return replace(table.without("Test"), notes=(f"{note} Test: {''.join(tests)}.",))


def _by_method_and_metric(changes: Sequence[Change], verdict: Verdict) -> list[list[Change]]:
    """Changes with one verdict; methods with the largest differences first, means before sets."""
    found: dict[tuple[str, str], list[Change]] = {}
    largest: dict[str, float] = {}
    for change in changes:
        if change.verdict == verdict:
            found.setdefault((change.method, change.metric), []).append(change)
            size = abs(change.difference or 0.0)
            largest[change.method] = max(size, largest.get(change.method, 0.0))
    for each in found.values():
        each.sort(key=lambda change: (_KINDS.index(change.kind), -abs(change.difference or 0.0)))
    return sorted(found.values(), key=lambda each: -largest[each[0].method])


def _changed_row(
    changes: Sequence[Change], mark: Literal["better", "worse"], places: int
) -> tuple[Cell, ...]:
    first = changes[0]
    others = "all others" if len(changes) == places > 1 else listed(x.column for x in changes[1:])
    return (
        Cell(visible(first.method)),
        Cell(metric_name(first.metric)),
        Cell(visible(first.column)),
        Cell(percent(first.base)),
        Cell(percent(first.head)),
        Cell(points(first.difference), mark=mark),
        Cell(interval(first)),
        Cell(_p_value(first.p_adjusted)),
        Cell(visible(others)),
        Cell(first.test),
    )


def rest_table(changes: Sequence[Change]) -> Table:
    """What exists on one side only or cannot be compared, a row for each reason."""
    headings = (
        Heading("Methods", "Methods", text=True),
        Heading("Metrics", "Metrics", text=True, importance=5),
        Heading("On", "On", text=True, importance=6),
        Heading("Reason", "Reason", text=True),
    )
    sections = []
    for verdict in REST:
        found: dict[str, list[Change]] = {}
        for change in changes:
            if change.verdict == verdict:
                found.setdefault(change.reason, []).append(change)
        rows = tuple(
            (
                Cell(_several(some, changes, lambda each: each.method, visible, "methods")),
                Cell(_several(some, changes, lambda each: each.metric, metric_name, "metrics")),
                Cell(_several(some, changes, lambda each: each.column, visible, "OOD sets")),
                Cell(visible(reason or _ONE_SIDE.get(verdict, ""))),
            )
            for reason, some in found.items()
        )
        if rows:
            sections.append(Section(verdict.value.capitalize(), rows))
    return Table("New, gone, not comparable", headings, tuple(sections))


def _several(
    some: Iterable[Change],
    every: Iterable[Change],
    part: Callable[[Change], str],
    shown: Callable[[str], str],
    things: str,
) -> str:
    """Distinct names among some changes, or "all ..." if they are the names of all changes."""
    names, total = dict.fromkeys(map(part, some)), set(map(part, every))
    if len(names) == len(total) > 1:
        return f"all {len(names)} {things}" if things == "methods" else f"all {things}"
    return listed(map(shown, names))


_COSTS = (
    Heading("Method", "Method", text=True),
    Heading("Forwards per image", "Forwards", text=True),
    Heading("Backwards per image", "Backwards", text=True),
    Heading("Time over the baseline's", "Time", text=True, importance=6),
    Heading("Slower by the factor", "Slower", importance=5),
    Heading("Verdict", "Verdict", text=True, importance=7),
    Heading("Reason", "Reason", text=True, importance=4),
)


def costs_table(costs: Sequence[CostChange]) -> Table:
    """Methods that need another number of passes."""
    rows = tuple(map(_cost_row, (each for each in costs if each.verdict in _DIRECTED)))
    sections = (Section("", rows),) if rows else ()
    title = "Passes per image that changed"
    return Table(title, _COSTS, sections).without("Reason")


def _cost_row(cost: CostChange) -> tuple[Cell, ...]:
    return (
        Cell(visible(cost.method)),
        Cell(_both(cost.base_forwards, cost.head_forwards)),
        Cell(_both(cost.base_backwards, cost.head_backwards)),
        Cell(_both(cost.base_relative, cost.head_relative)),
        Cell("" if cost.slower is None else f"{cost.slower:.2f}"),
        Cell(cost.verdict.value, mark=_DIRECTED.get(cost.verdict)),
        Cell(visible(cost.reason)),
    )


def _both(base: float | None, head: float | None) -> str:
    """Two values, or one if they are shown alike."""
    texts = ["-" if value is None else short_decimal(value) or "0" for value in (base, head)]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


def full_tables(comparison: RunComparison) -> Iterator[Table]:
    """For each metric a table of methods and OOD sets, then the costs."""
    by_metric: dict[str, list[Change]] = {}
    for change in comparison.changes:
        by_metric.setdefault(change.metric, []).append(change)
    for metric, changes in by_metric.items():
        places = sorted(
            dict.fromkeys((change.kind, change.column) for change in changes),
            key=lambda place: _KINDS.index(place[0]),
        )
        rows: dict[str, dict[tuple[str, str], Cell]] = {}
        for change in changes:
            rows.setdefault(change.method, {})[change.kind, change.column] = _full_cell(change)
        yield Table(
            f"{metric_name(metric)}: head in percent (change in points, if any)",
            (
                Heading("Method", "Method", text=True),
                *(Heading(visible(column), visible(column)) for _, column in places),
            ),
            (
                Section(
                    "",
                    tuple(
                        (Cell(visible(name)), *(cells.get(place, Cell()) for place in places))
                        for name, cells in rows.items()
                    ),
                ),
            ),
        )
    if comparison.costs:
        section = Section("", tuple(map(_cost_row, comparison.costs)))
        yield Table("Costs: base to head", _COSTS, (section,))


def _full_cell(change: Change) -> Cell:
    mark = _DIRECTED.get(change.verdict)
    word = change.verdict.value if change.verdict != Verdict.SAME else ""
    difference = f"({points(change.difference)})" if change.difference else ""
    parts = (percent(change.head), difference, word)
    return Cell(" ".join(part for part in parts if part), mark=mark)


def percent(fraction: float | None) -> str:
    """A fraction in percent with two decimals, as fine as differences are shown; empty for None."""
    return "" if fraction is None else f"{100 * fraction:.2f}"


def points(difference: float | None) -> str:
    """A difference in percentage points, with its sign; empty for None."""
    return "" if difference is None else f"{round(100 * difference, 2) + 0.0:+.2f}"


def interval(change: Change) -> str:
    """The interval of a difference, in percentage points; empty if there is none."""
    if change.ci_low is None or change.ci_high is None:
        return ""
    return f"{points(change.ci_low)} to {points(change.ci_high)}"


def _p_value(p: float | None) -> str:
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def metric_name(metric: str) -> str:
    """The abbreviation of a metric, with an arrow that says which way is better."""
    return metric_title(metric) if metric in SHOWN else visible(metric)
