"""Findings of a gate in words."""

from __future__ import annotations

from collections.abc import Iterable

from oodbench.errors import listed, visible
from oodbench.run_comparison.changes import Finding


def alike(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings that differ in their columns only, together: the mean first."""
    found: dict[tuple[str, ...], list[Finding]] = {}
    for each in findings:
        columns = each.column != ""
        key = (each.severity, each.rule, each.method, each.metric, "" if columns else each.message)
        found.setdefault(key, []).append(each)
    return [sorted(group, key=lambda each: each.column != "mean") for group in found.values()]


def sentence(first: Finding, *others: Finding) -> str:
    """Findings on one line: what was found, where else, and the rule that asked for it."""
    about = "" if first.method in first.message else f"{first.method}: "
    also = f" Also on {listed((each.column for each in others), 3)}." if others else ""
    return visible(f"{about}{first.message}{also} [{first.rule}]")
