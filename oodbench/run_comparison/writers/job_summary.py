"""A comparison as GitHub-flavored Markdown, for files and for the summary of a CI job."""

from __future__ import annotations

import os
from pathlib import Path

from oodbench.files import explained
from oodbench.report.tables.document import Table
from oodbench.report.writers.markdown import escaped, table_text
from oodbench.run_comparison.changes import GateResult, RunComparison
from oodbench.run_comparison.writers.overview import overview

LIMIT = 1024 * 1024
"""Largest summary of a step that GitHub shows, in bytes; a larger one is rejected as a whole."""

_SIGNS = {"passed": "\N{WHITE HEAVY CHECK MARK}", "failed": "\N{CROSS MARK}"}
_OTHER_SIGN = "\N{WARNING SIGN}\N{VARIATION SELECTOR-16}"
_MOST_FINDINGS = 10
"""Findings that are not folded."""

_NOTICE = "**Cut here: the summary of a step has at most 1 MiB.** `--out FILE` writes all of it."


def render(comparison: RunComparison, gate: GateResult) -> str:
    """The verdict, the gate's findings, what differs; the full tables are folded."""
    found = overview(comparison, gate)
    sign = _SIGNS.get(found.state, _OTHER_SIGN)
    parts = [f"## {sign} {escaped(found.title)}", f"**{escaped(found.verdict)}**"]
    parts.append(escaped(f"{found.gate} {found.rules}".rstrip()))
    findings = [f"- **{severity}** {escaped(text)}" for severity, text in found.findings]
    if findings:
        parts.append("\n".join(findings[:_MOST_FINDINGS]))
    if more := findings[_MOST_FINDINGS:]:
        folded = "\n".join(more)
        parts += [f"<details><summary>{len(more)} more</summary>", folded, "</details>"]
    for table in found.changed:
        parts += [f"### {escaped(table.title)}", *_sections(table)]
    if found.unchanged:
        parts.append(escaped(found.unchanged))
    for title, lines in (("Notes", found.notes), ("Runs", found.sides)):
        if lines:
            parts += [f"### {title}", "\n".join(f"- {escaped(line)}" for line in lines)]
    for table in found.full:
        # A blank line before the table: without it, the table would be text of the HTML element.
        parts += [f"<details><summary>{_html(table.title)}</summary>", *_sections(table)]
        parts.append("</details>")
    return "\n\n".join(parts) + "\n"


def append(path: Path, text: str) -> None:
    """Append a summary to a file of GitHub's, and cut it at a line where it exceeds the limit.

    Raises:
        UserError: if the file cannot be written.
    """
    with explained(path):
        written = path.stat().st_size if path.exists() else 0
        with path.open("ab") as file:
            file.write(shortened(text, LIMIT - written).encode(errors="backslashreplace"))


def step_summary() -> Path | None:
    """The file that GitHub shows as the summary of this step; None outside of GitHub Actions."""
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    return Path(name) if name else None


def shortened(text: str, limit: int) -> str:
    """The lines that fit into `limit` bytes of UTF-8, and a notice if some do not.

    A section that is folded is closed, so that the notice is seen. Nothing is left if not even the
    notice fits.
    """
    if len(text.encode(errors="backslashreplace")) <= limit:
        return text
    kept: list[str] = []
    left = limit - len(f"\n</details>\n\n{_NOTICE}\n".encode())
    for line in text.splitlines(keepends=True):
        left -= len(line.encode(errors="backslashreplace"))
        if left < 0:
            break
        kept.append(line)
    start = "".join(kept)
    is_open = start.count("<details>") > start.count("</details>")
    end = f"\n</details>\n\n{_NOTICE}\n" if is_open else f"\n{_NOTICE}\n"
    return start + end if len((start + end).encode()) <= limit else ""


def _sections(table: Table) -> list[str]:
    parts = []
    for section in table.sections:
        parts += [f"**{escaped(section.label)}**"] if section.label else []
        parts.append(table_text(table, section))
    return parts + [escaped(note) for note in table.notes]


def _html(text: str) -> str:
    """Text inside an HTML element that Markdown leaves alone."""
    from markupsafe import escape

    return str(escape(text))
