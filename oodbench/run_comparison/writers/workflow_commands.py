"""Workflow commands of GitHub Actions: annotations of a job for what a gate found."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

from oodbench.errors import visible
from oodbench.run_comparison.changes import GateResult
from oodbench.run_comparison.writers.findings import alike, sentence

_MOST = 10
"""GitHub shows this many annotations of one level for a step."""

_LEVELS = {"failure": "error", "incomparable": "error", "warning": "warning"}


def wanted() -> bool:
    """Whether the process runs in GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotation_lines(gate: GateResult) -> Iterator[str]:
    """One command a line: errors for failures and missing comparisons, then warnings.

    The tenth annotation of a level says how many more there are.
    """
    for level in ("error", "warning"):
        found = alike(each for each in gate.findings if _LEVELS[each.severity] == level)
        kept = found if len(found) <= _MOST else found[: _MOST - 1]
        for findings in kept:
            title = visible(f"oodbench {findings[0].method}".rstrip())
            yield _annotation(level, title, sentence(*findings))
        if len(kept) < len(found):
            yield _annotation(level, "oodbench", f"{len(found) - len(kept)} more findings.")


def muted(text: str) -> str:
    """Text between commands that keep GitHub from reading it as workflow commands.

    Names in records may look like commands.
    """
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}\n{text}\n::{token}::"


def _annotation(level: str, title: str, message: str) -> str:
    return f"::{level} title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
