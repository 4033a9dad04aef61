"""What a reader of a comparison sees: the verdict first, then only what differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from oodbench.errors import counted, listed, visible
from oodbench.report.tables.document import Table
from oodbench.run_comparison.changes import (
    Change,
    CostChange,
    GateResult,
    RunComparison,
    Severity,
    Side,
    Verdict,
)
from oodbench.run_comparison.writers.change_tables import (
    REST,
    changed_table,
    costs_table,
    full_tables,
    rest_table,
)
from oodbench.run_comparison.writers.findings import alike, sentence

State = Literal["passed", "failed", "incomplete"]

_COUNTED: dict[Severity, str] = {
    "failure": "failure",
    "incomparable": "missing comparison",
    "warning": "warning",
}
_ONE_SIDED = (Verdict.GONE, Verdict.NEW)
_SEVERITIES = {"failure": "FAILURE", "warning": "WARNING", "incomparable": "NOT COMPARABLE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A comparison laid out for readers.

    Attributes:
        title: names the benchmark.
        verdict: how many methods are worse, better, new, gone; one or two sentences.
        gate: result of the gate, one sentence.
        rules: what the gate asked for, likewise; may be empty.
        state: the same in one word.
        findings: severity and sentence of each finding of the gate, the most severe first.
        sides: the two runs, one sentence each.
        changed: tables of what differs; empty if nothing does.
        unchanged: the methods without a shown difference, one sentence; may be empty.
        full: for each metric, all methods on all OOD sets; and all costs.
        notes: what a reader has to know.
    """

    title: str
    verdict: str
    gate: str
    rules: str
    state: State
    findings: tuple[tuple[str, str], ...]
    sides: tuple[str, ...]
    changed: tuple[Table, ...]
    unchanged: str
    full: tuple[Table, ...]
    notes: tuple[str, ...]


def overview(comparison: RunComparison, gate: GateResult) -> Overview:
    """Lay out a comparison and what a gate found in it."""
    left_out = _left_out(comparison)
    changes = [each for each in comparison.changes if each.method not in left_out]
    groups = _methods_by_verdict(changes)
    tables = (changed_table(changes), rest_table(changes), costs_table(comparison.costs))
    fewer = ""
    if left_out:
        base = {each.method for each in comparison.changes if each.base is not None}
        kept = counted(len(base), "method")
        fewer = f"The head has only {len(base) - len(left_out)} of {kept} of the base. "
    return Overview(
        title=_title(comparison.base, comparison.head),
        verdict=(
            "The two runs cannot be compared."
            if comparison.reason
            else fewer + _verdict(groups, changes, comparison.costs)
        ),
        gate=_gate(gate),
        rules=visible(f"Rules: {', '.join(gate.rules)}." if gate.rules else ""),
        state=_state(gate),
        findings=tuple(
            (_SEVERITIES[each[0].severity], sentence(*each)) for each in alike(gate.findings)
        ),
        sides=(_side("Base", comparison.base), _side("Head", comparison.head)),
        changed=tuple(table for table in tables if table.sections and not comparison.reason),
        unchanged=" ".join(_unchanged(groups, comparison)),
        full=tuple(full_tables(comparison)),
        notes=tuple(map(visible, comparison.notes)),
    )


def _title(base: Side, head: Side) -> str:
    """The benchmark of both runs, or the two benchmarks."""
    names = [f"{side.benchmark}, version {side.version}" for side in (base, head)]
    if names[0] == names[1]:
        return visible(f"Comparison of two runs of {names[0]}")
    return visible(f"Comparison of a run of {names[0]}, and one of {names[1]}")


def _methods_by_verdict(changes: Iterable[Change]) -> dict[Verdict, list[str]]:
    """Each method once: below "worse" if it is worse anywhere, and so on."""
    found: dict[str, set[Verdict]] = {}
    for change in changes:
        found.setdefault(change.method, set()).add(change.verdict)
    order = (Verdict.WORSE, Verdict.BETTER, *REST, Verdict.SAME)
    groups: dict[Verdict, list[str]] = {verdict: [] for verdict in order}
    for method, verdicts in found.items():
        groups[next(each for each in order if each in verdicts)].append(visible(method))
    return groups


def _left_out(comparison: RunComparison) -> set[str]:
    """Methods that only the base has, if there are more of them than methods of both runs.

    The head is then a run of few methods, and the comparison is about these.
    """
    verdicts: dict[str, set[Verdict]] = {}
    for change in comparison.changes:
        verdicts.setdefault(change.method, set()).add(change.verdict)
    gone = {method for method, found in verdicts.items() if found == {Verdict.GONE}}
    new = {method for method, found in verdicts.items() if found == {Verdict.NEW}}
    both = len(verdicts) - len(gone) - len(new)
    return gone if 0 < both < len(gone) else set()


def _unchanged(groups: dict[Verdict, list[str]], comparison: RunComparison) -> Iterator[str]:
    """What needs no table, a sentence each."""
    same = groups[Verdict.SAME]
    if same and len(same) < sum(map(len, groups.values())):
        yield f"No difference is shown for {counted(len(same), 'method')}."
    named = dict.fromkeys((*comparison.head.methods, *comparison.base.methods))
    absent = named.keys() - {change.method for change in comparison.changes}
    if names := [visible(name) for name in named if name in absent]:
        subject = _subject(len(names), "has", "have")
        yield f"{subject} no values in either run: {listed(names)}."


def _verdict(
    groups: dict[Verdict, list[str]], changes: Sequence[Change], costs: Sequence[CostChange]
) -> str:
    """How many methods are worse, better, ...: the whole comparison in a few words."""
    total = sum(map(len, groups.values()))
    more = [each.method for each in costs if each.verdict == Verdict.WORSE]
    costly = f" {_subject(len(more), 'needs', 'need')} more passes per image." if more else ""
    if not total:
        return "Neither run has values to compare."
    if len(groups[Verdict.SAME]) == total:
        return f"No difference is shown for any of {counted(total, 'method')}.{costly}"
    if all(change.verdict == Verdict.NOT_COMPARABLE for change in changes):
        return f"None of {counted(total, 'method')} can be compared."
    words = {
        Verdict.WORSE: ("is worse", "are worse"),
        Verdict.BETTER: ("is better", "are better"),
        Verdict.GONE: ("is gone", "are gone"),
        Verdict.NEW: ("is new", "are new"),
        Verdict.NOT_COMPARABLE: ("cannot be compared in full",) * 2,
    }
    parts: list[str] = []
    partly = {visible(each.method) for each in changes if each.verdict not in _ONE_SIDED}
    for verdict, (one, several) in words.items():
        here = [each for each in groups[verdict] if verdict in _ONE_SIDED and each in partly]
        whole = [each for each in groups[verdict] if each not in here]
        for names, place in ((whole, ""), (here, f" on {_columns(changes, verdict)}")):
            if names:
                of = f" of {counted(total, 'method')}" if not parts else ""
                are = one if len(names) == 1 else several
                parts.append(f"{len(names)}{of} {are}{place}: {listed(names)}.")
    return " ".join(parts) + costly


def _columns(changes: Sequence[Change], verdict: Verdict) -> str:
    """The OOD sets with a verdict."""
    found = (each.column for each in changes if each.verdict == verdict and each.kind == "set")
    return visible(listed(dict.fromkeys(found)))


def _subject(count: int, one: str, several: str) -> str:
    return f"{counted(count, 'method')} {one if count == 1 else several}"


def _state(gate: GateResult) -> State:
    severities = {finding.severity for finding in gate.findings}
    if "failure" in severities:
        return "failed"
    return "incomplete" if "incomparable" in severities else "passed"


def _gate(gate: GateResult) -> str:
    severities = [each[0].severity for each in alike(gate.findings)]
    counts = [(severities.count(severity), word) for severity, word in _COUNTED.items()]
    found = ", ".join(counted(count, word) for count, word in counts if count)
    return f"Gate {_state(gate)}{f': {found}' if found else ''}."


def _side(label: str, side: Side) -> str:
    parts = [
        f"{label}: {side.folder}",
        f"seeds {', '.join(map(str, side.seeds))}",
        "with scores" if side.has_scores else "without scores",
        *([f"revision {side.revision}"] if side.revision else []),
        *([f"made {side.written[:16].replace('T', ' ')} UTC"] if side.written else []),
    ]
    return visible("; ".join(parts) + ".")
