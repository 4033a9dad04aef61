"""A comparison for programs and spreadsheets: JSON and CSV.

All values have the units of the records: fractions in [0, 1], losses in nats. Published values have
the printed digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oodbench.report.published.agreement import Agreement, Order, agreements, orders
from oodbench.report.published.compared_tables import Place, PublishedComparisonData
from oodbench.report.seed_means import LEVEL
from oodbench.report.writers import averages_exports
from oodbench.report.writers.csv_text import csv_text
from oodbench.report.writers.json_text import json_text

JSON_SCHEMA_VERSION = 1

CSV_FIELDS = (
    "suite",
    "suite_version",
    "table",
    "about",
    "network",
    "id",
    "ood",
    "measure",
    "column",
    "benchmark",
    "measured_as",
    "published",
    "measured",
    "std",
    "ci_low",
    "ci_high",
    "seeds",
    "difference",
    "covered",
)
"""Columns of the CSV file: `column` is the published one, `measured_as` its method or model."""


def to_csv(comparison: PublishedComparisonData) -> str:
    """A long table, one line for each cell. Numbers have at most six decimals."""
    suite = {"suite": comparison.suite, "suite_version": comparison.version}
    found = [*_cells(comparison)]
    fields = [] if comparison.averages and not found else [*CSV_FIELDS]
    if comparison.averages:
        found += [line for each in comparison.averages for line in averages_exports.lines(each)]
        fields = [*dict.fromkeys((*suite, *fields, *averages_exports.CSV_FIELDS))]
    return csv_text(fields, ({**suite, **line} for line in found))


def to_json(comparison: PublishedComparisonData) -> str:
    """All values of the comparison, indented, in a fixed order. Unknown values are null."""
    content = {
        "schema_version": JSON_SCHEMA_VERSION,
        "suite": comparison.suite,
        "suite_version": comparison.version,
        "title": comparison.title,
        "confidence_level": LEVEL,
        "deviations": comparison.deviations,
        "caveats": comparison.caveats,
        "members": [
            {
                "name": member.name,
                "network": member.network,
                "id": member.id,
                "status": member.status,
                "reason": member.reason,
                "seeds": member.seeds,
            }
            for member in comparison.members
        ],
        "tables": [
            {
                "name": table.name,
                "title": table.title,
                "about": table.about,
                "place": table.place,
                "citation": table.citation,
                "notes": table.notes,
            }
            for table in comparison.tables
        ],
        "cells": list(_cells(comparison)),
        "agreement": [_agreement(each) for each in agreements(comparison)],
        "order": [_order(each) for each in orders(comparison)],
    }
    if comparison.averages:
        content["averages"] = [averages_exports.content(each) for each in comparison.averages]
    return json_text(content)


def _cells(comparison: PublishedComparisonData) -> Iterator[dict[str, Any]]:
    for table in comparison.tables:
        for place, benchmark in table.rows.items():
            for measure in table.measures:
                for column, ours in table.columns.items():
                    cell = table.cells[place, measure.name, column]
                    found = cell.measured
                    yield {
                        "table": table.name,
                        "about": table.about,
                        **place._asdict(),
                        "measure": measure.name,
                        "column": column,
                        "benchmark": benchmark,
                        "measured_as": ours,
                        "published": cell.published,
                        "measured": None if found is None else found.mean,
                        "std": None if found is None else found.std,
                        "ci_low": None if found is None else found.ci_low,
                        "ci_high": None if found is None else found.ci_high,
                        "seeds": 0 if found is None else found.seeds,
                        "difference": cell.difference,
                        "covered": cell.covered,
                    }


def _agreement(each: Agreement) -> dict[str, Any]:
    return {**each._asdict(), "measure": each.measure.name, "where": _place(each.where)}


def _order(each: Order) -> dict[str, Any]:
    return {**each._asdict(), "measure": each.measure.name}


def _place(place: Place | None) -> dict[str, str | None] | None:
    return None if place is None else place._asdict()
