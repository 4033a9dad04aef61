"""The formats of `oodbench compare --format`, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from oodbench.run_comparison.changes import GateResult, RunComparison
from oodbench.run_comparison.writers import (
    console_text,
    job_summary,
    json_export,
    junit_xml,
    web_page,
)

WRITERS: Mapping[str, Callable[[RunComparison, GateResult], str]] = MappingProxyType(
    {
        "table": console_text.render,
        "md": job_summary.render,
        "json": json_export.render,
        "junit": junit_xml.render,
        "html": web_page.render,
    }
)
"""Name -> function that returns the whole comparison as text in this format."""
