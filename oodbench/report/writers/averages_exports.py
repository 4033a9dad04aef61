"""Published averages beside measured ones for programs and spreadsheets: JSON and CSV.

All values are fractions in [0, 1]. Published values have the printed digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from oodbench.report.published.averages import (
    AverageRow,
    ComparedAverages,
    agreement,
    population_spread,
)
from oodbench.report.seed_means import LEVEL
from oodbench.report.writers.csv_text import csv_text
from oodbench.report.writers.json_text import json_text

JSON_SCHEMA_VERSION = 1

CSV_FIELDS = (
    "benchmark",
    "benchmark_version",
    "publication",
    "published_benchmark",
    "training",
    "network",
    "postprocessor",
    "method",
    "run",
    "model",
    "detector",
    "published_tuning",
    "tuned_on",
    "measure",
    "metric",
    "group",
    "origin",
    "published",
    "published_spread",
    "measured",
    "measured_spread",
    "ci_low",
    "ci_high",
    "checkpoints",
    "difference",
    "covered",
    "contested",
    "remark",
)
"""Columns of the CSV file. Spreads are population standard deviations over checkpoints."""

BESIDE_FIELDS = (
    "published",
    "published_spread",
    "published_tuning",
    "difference",
    "covered",
    "origin",
    "contested",
)
"""Columns beside those of a leaderboard."""


def to_csv(averages: ComparedAverages) -> str:
    """A line for each method or entry and each measure. Numbers have at most six decimals."""
    return csv_text(CSV_FIELDS, lines(averages))


def to_json(averages: ComparedAverages) -> str:
    """All values of the comparison, indented, in a fixed order. Unknown values are null."""
    return json_text({"schema_version": JSON_SCHEMA_VERSION, **content(averages)})


def content(averages: ComparedAverages) -> dict[str, Any]:
    """All values of the comparison, for a JSON file."""
    return {
        "benchmark": averages.benchmark,
        "benchmark_version": averages.version,
        "publication": averages.publication,
        "published_benchmark": averages.published_benchmark,
        "title": averages.title,
        "citations": averages.citations,
        "caveats": averages.caveats,
        "confidence_level": LEVEL,
        "models": {
            model: {"training": training, "network": network}
            for model, (training, network) in averages.models.items()
        },
        "entries_of_other_models": averages.others,
        "cells": [_without_benchmark(line) for line in lines(averages)],
        "agreement": [
            {
                "measure": average.measure.name,
                "contested": contested,
                **{
                    key: value
                    for key, value in agreement(rows, average)._asdict().items()
                    if key != "average"
                },
            }
            for contested, rows in ((False, averages.compared), (True, averages.contested))
            for average in averages.averages
            if average.group is not None
        ],
    }


def lines(averages: ComparedAverages) -> Iterator[dict[str, Any]]:
    """The cells, under the names of `CSV_FIELDS`.

    A cell has a published or a measured value; measures that tables do not show, a published one.
    """
    for row in averages.rows:
        for average in averages.averages:
            name = average.measure.name
            known, found = row.published.get(name), row.measured.get(name)
            if known is None and (found is None or (not average.overview)):
                continue
            compared = row.compared(average)
            yield {
                "benchmark": averages.benchmark,
                "benchmark_version": averages.version,
                "publication": averages.publication,
                "published_benchmark": averages.published_benchmark,
                **_names(row),
                "measure": name,
                "metric": average.metric,
                "group": average.group,
                "origin": average.origin,
                "published": None if known is None else known.mean,
                "published_spread": None if known is None else known.spread,
                "measured": None if found is None else found.mean,
                "measured_spread": None if found is None else population_spread(found),
                "ci_low": None if found is None else found.ci_low,
                "ci_high": None if found is None else found.ci_high,
                "checkpoints": 0 if found is None else found.seeds,
                "difference": None if compared is None else compared.difference,
                "covered": None if compared is None else compared.covered,
                "contested": row.contested,
                "remark": row.remark,
            }


def with_published(
    found: Iterable[Mapping[str, Any]], averages: ComparedAverages
) -> Iterator[dict[str, Any]]:
    """Lines of a leaderboard with the published values beside the measured ones.

    Args:
        found: lines with `method`, `metric`, `column_kind`, `column` and, on a board of several
            runs, `run`.
        averages: the comparison.
    """
    shown = {each.measure.name for each in averages.averages if each.overview}
    by_place = {
        (line["method"], line["run"], line["metric"], line["group"]): line
        for line in lines(averages)
        if line["measure"] in shown and line["published"] is not None
    }
    for line in found:
        group = line.get("column") if line.get("column_kind") == "group" else None
        beside = {}
        if line.get("column_kind") in ("group", "id"):
            place = line["method"], line.get("run", ""), line["metric"], group
            beside = by_place.get(place, {})
        yield {**line, **{name: beside.get(name) for name in BESIDE_FIELDS}}


def _names(row: AverageRow) -> dict[str, str]:
    return {
        "training": row.training,
        "network": row.network,
        "postprocessor": row.postprocessor,
        "method": row.method,
        "run": row.run,
        "model": row.model,
        "detector": row.detector,
        "published_tuning": row.searched,
        "tuned_on": row.tuned_on,
    }


def _without_benchmark(line: dict[str, Any]) -> dict[str, Any]:
    named = {"benchmark", "benchmark_version", "publication", "published_benchmark"}
    return {key: value for key, value in line.items() if key not in named}
