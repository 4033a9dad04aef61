"""A leaderboard for programs and spreadsheets: JSON and CSV.

Values have the units of the records: fractions in [0, 1], milliseconds, seconds, bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oodbench.report.leaderboard import COSTS, FPR, RANKED_BY, Absence, Cost, LeaderboardData
from oodbench.report.seed_means import LEVEL, Estimate
from oodbench.report.tables.values import parameters_text
from oodbench.report.threshold_transfer import PART_KINDS, threshold_facts
from oodbench.report.writers import averages_exports
from oodbench.report.writers.csv_text import csv_text
from oodbench.report.writers.json_text import json_text
from oodbench.report.writers.leaderboard_values import (
    BEHIND_FIELDS,
    absent_line,
    absent_lines,
    flat_cost,
    identity,
    on_request,
    quality,
    run_label,
)
from oodbench.storage.records import ID_ACCURACY, REQUIREMENTS

JSON_SCHEMA_VERSION = 1

_METHOD_FIELDS = ("section", "rank", "method", "model", "loss", "detector", "tuned_on")
_TUNING_FIELDS = ("tuning_ood", "fit_split")
_QUALITY_FIELDS = ("metric", "column_kind", "column", "mean", "std", "ci_low", "ci_high", "seeds")
CSV_FIELDS = (
    *_METHOD_FIELDS,
    *_TUNING_FIELDS,
    "parameters",
    "status",
    "reason",
    *_QUALITY_FIELDS,
    "mark",
    *BEHIND_FIELDS,
    "worst_set",
    "n_id",
    "n_ood",
    *COSTS,
    *REQUIREMENTS,
    "benchmark",
)
"""Columns of the CSV file."""


def to_json(leaderboard: LeaderboardData) -> str:
    """All values of the leaderboard, indented, with keys and entries in a fixed order.

    `methods[*].quality` has an entry for each metric and column; `column_kind` is "mean" (of all
    OOD sets), "worst", "group", "set", "id" (ID images alone), "csid" or "class", and `mark` is
    "best", "tied" or null. `behind_best` is the mean paired difference to the best method, positive
    if the best method is better; `probit_shift` is the same for probits, with its interval.
    `by_seed` has the value of each seed. Unknown values are null; there is no NaN.
    """
    content = {
        **_about(leaderboard),
        "id_images": leaderboard.id_images,
        "ood_sets": [each._asdict() for each in leaderboard.ood_sets],
        "seeds": leaderboard.seeds,
        **({"runs": [each._asdict() for each in leaderboard.runs]} if leaderboard.runs else {}),
        "confidence_level": LEVEL,
        "metrics": leaderboard.metrics,
        "ties_tested": leaderboard.tested,
        "methods": [
            {
                **identity(row),
                "seeds": row.seeds,
                "complete": row.complete,
                "parameters": [choice._asdict() for choice in row.choices],
                "untuned": row.untuned,
                "same_source": row.same_source,
                **threshold_facts(row.validation_images, row.validation_use),
                **({"weights": row.weights} if row.weights else {}),
                "quality": [
                    {**values, "by_seed": each.by_seed}
                    for values, each, _ in quality(row, leaderboard)
                ],
                "cost": _cost(row.cost),
            }
            for row in leaderboard.rows
        ],
        "absences": [_absence(each) for each in leaderboard.absences],
        "warnings": leaderboard.warnings,
        **({"left_out": leaderboard.left_out} if leaderboard.left_out else {}),
        **(
            {"published": averages_exports.content(found)}
            if (found := leaderboard.published)
            else {}
        ),
    }
    return json_text(content)


def cost_json(leaderboard: LeaderboardData) -> str:
    """Costs of each method, for programs: means over seeds, maximum of the memory."""
    content = {
        **_about(leaderboard),
        "methods": [{**identity(row), "cost": _cost(row.cost)} for row in leaderboard.rows],
    }
    return json_text(content)


def summary_json(leaderboard: LeaderboardData) -> str:
    """One row for each method, for programs: its quality as in the first table.

    `auroc` and `fpr95` are means over the OOD sets and seeds with their intervals and marks,
    `fpr95` with ID as the positive class (`leaderboard.FPR`); metrics on request have their
    own names and no marks. Methods without values have the `status` "skipped" or "failed" and a
    `reason`. The file is the same for all runs with the same scores.
    """
    rows: list[dict[str, Any]] = []
    mean = leaderboard.column("mean")
    for row in leaderboard.rows:
        line = {
            **identity(row),
            "status": "ok",
            "reason": None,
            "parameters": parameters_text(row.choices),
            "seeds": row.seeds,
            "complete": row.complete,
        }
        for name, metric in (("auroc", RANKED_BY), ("fpr95", FPR)):
            entry = row.entries.get((metric, mean))
            line |= _ends(name, None if entry is None else entry.estimate)
            line[f"{name}_mark"] = None if entry is None else entry.mark
        for name, entry in on_request(row, leaderboard):
            line |= _ends(name, None if entry is None else entry.estimate)
        rows.append(line | _ends(ID_ACCURACY, row.id_accuracy))
    fields = dict.fromkeys(key for row in rows for key in row)
    rows += [fields | line for line in absent_lines(leaderboard)]
    return json_text({**_about(leaderboard), "methods": rows})


def _ends(name: str, found: Estimate | None) -> dict[str, float | None]:
    return {
        name: None if found is None else found.mean,
        f"{name}_ci_low": None if found is None else found.ci_low,
        f"{name}_ci_high": None if found is None else found.ci_high,
    }


def _about(leaderboard: LeaderboardData) -> dict[str, Any]:
    return {
        "schema_version": JSON_SCHEMA_VERSION,
        "benchmark": leaderboard.benchmark,
        "benchmark_version": leaderboard.version,
        "id_dataset": leaderboard.id_dataset,
        **({"csid": list(leaderboard.csid)} if leaderboard.csid else {}),
    }


def to_csv(leaderboard: LeaderboardData) -> str:
    """A long table for filters and pivots: one line for each method, metric and column.

    Each line repeats the identity and the costs of its method. Skipped and failed methods and seeds
    have their own line, with `status`, `reason` and, in `seeds`, their number. Published averages
    are beside the measured ones. Numbers have at most six decimals; the JSON file has all digits.
    """
    fields = (*CSV_FIELDS, "run") if leaderboard.runs else CSV_FIELDS
    lines = _csv_lines(leaderboard)
    if leaderboard.published is not None:
        fields = (*fields, *averages_exports.BESIDE_FIELDS)
        lines = averages_exports.with_published(lines, leaderboard.published)
    return csv_text(fields, ({**line, "benchmark": leaderboard.benchmark} for line in lines))


def _absence(absence: Absence) -> dict[str, Any]:
    values = absence._asdict()
    del values["run"]
    return run_label(absence) | values


def _cost(cost: Cost | None) -> dict[str, Any] | None:
    if cost is None:
        return None
    return {"seeds": cost.seeds, "devices": cost.devices, **flat_cost(cost)}


def _csv_lines(board: LeaderboardData) -> Iterator[dict[str, Any]]:
    sizes = {each.name: each.images for each in board.ood_sets}
    for row in board.rows:
        method = {
            **identity(row),
            "parameters": parameters_text(row.choices),
            "status": "ok",
            **(flat_cost(row.cost) if row.cost is not None else {}),
        }
        for values, _, _ in quality(row, board):
            yield {
                **method,
                **values,
                "n_id": None if values["column_kind"] in PART_KINDS else board.id_images,
                "n_ood": sizes.get(values["worst_set"] or values["column"]),
            }
    for each in board.absences:
        yield {**absent_line(each), "seeds": len(each.seeds)}
