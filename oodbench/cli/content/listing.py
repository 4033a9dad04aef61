"""The command `oodbench list`."""

from __future__ import annotations

import json
from enum import StrEnum
from textwrap import indent
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.parameters import Plugins
from oodbench.errors import UserError

if TYPE_CHECKING:
    from oodbench.cli.content.list_rows import Row
    from oodbench.plugins.catalog import Catalog

_WIDEST = 100
"""Most characters of a line of details."""


class Listing(StrEnum):
    """What can be listed."""

    detectors = "detectors"
    benchmarks = "benchmarks"
    datasets = "datasets"
    models = "models"


def list_(
    kind: Annotated[
        Listing,
        typer.Argument(metavar="detectors|benchmarks|datasets|models", help="What to list."),
    ],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these, with all details.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array, for machines.")] = False,
    as_bibtex: Annotated[
        bool, typer.Option("--bibtex", help="Of detectors: BibTeX entries of their papers.")
    ] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Of detectors: tables for a page.")
    ] = False,
    plugins: Plugins = None,
) -> None:
    """List detectors, benchmarks, datasets or models by name; or everything about some of them."""
    from oodbench.cli.content.list_rows import LISTERS, chosen
    from oodbench.plugins.catalog import Catalog

    if sum((as_json, as_bibtex, as_markdown)) > 1:
        raise UserError("--json, --bibtex and --markdown are three formats: give one of them.")
    if (as_bibtex or as_markdown) and kind is not Listing.detectors:
        raise UserError("--bibtex and --markdown are for `oodbench list detectors`.")
    catalog = Catalog(plugins or ())
    rows = LISTERS[kind.value](catalog)
    if names:
        rows = chosen(rows, names, kind.value)
    if as_json:
        print(json.dumps(rows, indent=2))
    elif as_bibtex:
        from oodbench.detector.citations import bibtex

        infos = (catalog.detectors[row["name"]].info for row in rows)
        print(bibtex(info for info in infos if info))
    elif as_markdown:
        from oodbench.cli.content.detector_tables import markdown

        print(markdown(catalog, rows), end="")
    else:
        _print(kind.value, rows, catalog, details=bool(names))


def _print(kind: str, rows: list[Row], catalog: Catalog, *, details: bool) -> None:
    """A table, or everything about each row."""
    from rich.console import Console

    from oodbench.cli.content import list_rows, list_tables
    from oodbench.report.writers.terminal import print_list

    console = Console()
    if not details:
        print_list(list_tables.table(kind, rows, grouped=console.is_terminal))
        return
    for row in rows:
        print(list_tables.details(row, min(console.width, _WIDEST)))
        if kind == Listing.detectors and row["status"] == "ok":
            print(f"\n{indent(list_rows.docstring(catalog, row['name']), '  ')}")
        print()
