"""A comparison as JSON, with all changes and findings."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from oodbench.report.writers.json_text import json_text
from oodbench.run_comparison.changes import (
    Change,
    CostChange,
    Finding,
    GateResult,
    RunComparison,
    Side,
)
from oodbench.run_comparison.writers.overview import overview

SCHEMA_VERSION = 1


def render(comparison: RunComparison, gate: GateResult) -> str:
    """Strict JSON: the verdict, the gate's result, both runs, all changes; one change a line.

    Values and differences are fractions, as in records.
    """
    found = overview(comparison, gate)
    return json_text(
        {
            "schema_version": SCHEMA_VERSION,
            "verdict": found.verdict,
            "gate": found.state,
            "exit_code": int(gate.exit_code),
            "rules": list(gate.rules),
            "findings": [_values(finding) for finding in gate.findings],
            "base": _side(comparison.base),
            "head": _side(comparison.head),
            "level": comparison.level,
            "notes": list(comparison.notes),
            "missing_seeds": {name: list(each) for name, each in comparison.missing_seeds.items()},
            "changes": [_values(change) for change in comparison.changes],
            "costs": [_values(cost) for cost in comparison.costs],
        }
    )


def _values(each: Change | CostChange | Finding) -> dict[str, Any]:
    return {field.name: getattr(each, field.name) for field in fields(each)}


def _side(side: Side) -> dict[str, Any]:
    return asdict(side) | {"folder": side.folder.as_posix()}
