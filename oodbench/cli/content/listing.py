"""The command `oodbench list`."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from oodbench.cli.parameters import Plugins
from oodbench.errors import UserError


class Listing(StrEnum):
    """What can be listed."""

    detectors = "detectors"
    benchmarks = "benchmarks"
    datasets = "datasets"
    models = "models"


def list_(
    kind: Annotated[Listing, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array, for machines.")] = False,
    as_bibtex: Annotated[
        bool, typer.Option("--bibtex", help="Of detectors: BibTeX entries of their papers.")
    ] = False,
    plugins: Plugins = None,
) -> None:
    """List detectors, benchmarks, datasets or models by name."""
    from oodbench.cli.content.list_rows import LISTERS, table
    from oodbench.detector.citations import bibtex
    from oodbench.plugins.catalog import Catalog
    from oodbench.report.writers.terminal import print_list

    catalog = Catalog(plugins or ())
    if as_bibtex:
        if kind is not Listing.detectors or as_json:
            raise UserError("--bibtex is for `oodbench list detectors`, without --json.")
        print(bibtex(status.info for status in catalog.detectors.values() if status.info))
        return
    rows = LISTERS[kind.value](catalog)
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print_list(table(kind.value, rows))
