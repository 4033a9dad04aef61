"""Tables of detectors in Markdown, from declarations: most of docs/reference/detectors/index.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from oodbench.cli.content.list_rows import Row
from oodbench.detector import FAMILIES
from oodbench.plugins.catalog import Catalog

_HEAD = ("Name", "Score", "Published", "Authors' code", "Needs", "Cost")
_PARAMETERS = (
    "## Parameters",
    "*Tried* lists the candidate values of tuning. Each detector's file explains its parameters. "
    "Detectors that are not listed have no parameters.",
)


def markdown(catalog: Catalog, rows: Sequence[Row]) -> str:
    """A table for each family of detectors, and one of all parameters.

    This runs the files of the detectors: defaults of parameters are not in their declarations.

    Args:
        catalog: gives the detectors.
        rows: those to list (`list_rows.detectors`); broken ones are left out.
    """
    good = [row for row in rows if row["status"] == "ok"]
    parts = []
    for family, title in FAMILIES.items():
        members = [_cells(row) for row in good if row["family"] == family]
        parts += [f"### {title}", _table(_HEAD, members)] if members else []
    parameters = []
    for row in good:
        for name, default in catalog.load_detector(row["name"]).parameters.items():
            tried = ", ".join(map(_value, row["search_space"].get(name, ()))) or "-"
            parameters.append((f"`{row['name']}`", f"`{name}`", _value(default), tried))
    if parameters:
        parts += [*_PARAMETERS, _table(("Detector", "Parameter", "Default", "Tried"), parameters)]
    return "\n\n".join(parts) + "\n"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    published = ", ".join(each for each in (row["paper"], row["reference"]) if each)
    code = str(row["code"]).removeprefix("https://").removeprefix("github.com/")
    needs = [
        f"`{need}` >= 0" if need == "features" and row["nonnegative_features"] else f"`{need}`"
        for need in row["needs"]
    ]
    return (
        ", ".join(f"`{name}`" for name in (row["name"], *row["aliases"])),
        row["summary"],
        f"[{published}]({row['url']})" if row["url"] else published or "-",
        f"[{code}]({row['code']})" if code else "-",
        ", ".join(needs) or "logits only",
        row["cost"],
    )


def _value(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if number else str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([_line(head), f"|{'---|' * len(head)}", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    text = " | ".join(cell.replace("|", "\\|") for cell in cells)
    return f"| {text} |"
