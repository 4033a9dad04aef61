"""CSV files of reports."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A text that begins so is a formula for spreadsheets; an apostrophe before it makes it a text."""


def csv_text(fields: Iterable[str], found: Iterable[Mapping[str, Any]]) -> str:
    """Lines of a CSV file below a heading; numbers have at most six decimals."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(fields), restval="", lineterminator="\n")
    writer.writeheader()
    for line in found:
        writer.writerow({key: _plain(value) for key, value in line.items()})
    return file.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA) and value != "-":
        return f"'{value}"
    return round(value, 6) if isinstance(value, float) else value
