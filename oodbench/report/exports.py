"""A leaderboard for programs and spreadsheets: JSON, CSV, and a pandas data frame.

Values are as in the records: fractions in [0, 1], milliseconds, seconds, bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from oodbench.records import ID_ACCURACY, REQUIREMENTS
from oodbench.report.estimates import LEVEL
from oodbench.report.leaderboard import COSTS, ORACLE_LABEL, Column, Cost, Leaderboard, Row
from oodbench.report.tables import parameters_text

if TYPE_CHECKING:
    import pandas as pd

JSON_SCHEMA_VERSION = 1

_METHOD_FIELDS = ("section", "rank", "method", "model", "loss", "detector", "tuned_on")
_QUALITY_FIELDS = ("metric", "column_kind", "column", "mean", "std", "ci_low", "ci_high", "seeds")
CSV_FIELDS = (
    *_METHOD_FIELDS,
    "parameters",
    "status",
    "reason",
    *_QUALITY_FIELDS,
    "mark",
    "worst_set",
    "n_id",
    "n_ood",
    *COSTS,
    *REQUIREMENTS,
)
"""Columns of the CSV file."""


def to_json(leaderboard: Leaderboard) -> str:
    """Everything on the leaderboard, indented, keys and entries in a fixed order.

    `methods[*].quality` has an entry for each metric and column; `column_kind` is "mean" (of all
    OOD sets), "worst", "group", "set" or "id" (for `id_accuracy`), and `mark` is "best", "tied" or
    null. What is unknown is null; there is never a NaN.
    """
    content = {
        "schema_version": JSON_SCHEMA_VERSION,
        "benchmark": leaderboard.benchmark,
        "benchmark_version": leaderboard.version,
        "id_dataset": leaderboard.id_dataset,
        "id_images": leaderboard.id_images,
        "ood_sets": [each._asdict() for each in leaderboard.ood_sets],
        "seeds": leaderboard.seeds,
        "confidence_level": LEVEL,
        "metrics": leaderboard.metrics,
        "methods": [
            {
                **_identity(row),
                "seeds": row.seeds,
                "complete": row.complete,
                "parameters": [choice._asdict() for choice in row.choices],
                "quality": [
                    {**values, "mark": mark, "worst_set": worst}
                    for values, mark, worst, _ in _quality(row, leaderboard)
                ],
                "cost": _cost(row.cost),
            }
            for row in leaderboard.rows
        ],
        "absences": [each._asdict() for each in leaderboard.absences],
        "warnings": leaderboard.warnings,
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def to_csv(leaderboard: Leaderboard) -> str:
    """A long table: a line for each method, metric and column, made to be filtered and pivoted.

    Each line repeats what identifies its method and what the method costs. Methods and seeds that
    were skipped or failed have a line of their own, with `status`, `reason`, in `seeds` how many
    seeds that is, and no values. Numbers have six decimals at most; the JSON has them all.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for line in _csv_lines(leaderboard):
        writer.writerow({key: _plain(value) for key, value in line.items()})
    return file.getvalue()


def to_pandas(leaderboard: Leaderboard) -> pd.DataFrame:
    """A wide table: one row for each method, the ranked ones first, then oracles, then absent ones.

    Columns are named `<metric>.mean`, `<metric>.worst`, `<metric>.group.<group>` and
    `<metric>.set.<set>` for means over seeds; with `.std`, `.ci_low` or `.ci_high` after these for
    their uncertainty; `<metric>.worst.set` for the name of the worst set; then `id_accuracy`, the
    costs and the requirements by the names of cost records. A method without values has
    the `status` "skipped" or "failed" and its `reason`.
    """
    import pandas as pd

    rows = []
    for row in leaderboard.rows:
        flat: dict[str, Any] = {
            **_identity(row),
            "status": "ok",
            "reason": None,
            "seeds": len(row.seeds),
            "parameters": parameters_text(row.choices),
        }
        for values, _, worst, name in _quality(row, leaderboard):
            flat[name] = values["mean"]
            flat |= {f"{name}.{end}": values[end] for end in ("std", "ci_low", "ci_high")}
            if worst is not None:
                flat[f"{name}.set"] = worst
        rows.append(flat | (_flat_cost(row.cost) if row.cost is not None else {}))
    present = {row.method for row in leaderboard.rows}
    for each in leaderboard.absences:
        if each.method not in present:
            present.add(each.method)
            rows.append(
                {
                    "section": each.status,
                    "method": each.method,
                    "detector": each.detector,
                    "status": each.status,
                    "reason": each.reason,
                    "seeds": 0,
                }
            )
    # Types with a value for "unknown", so that whole numbers and booleans stay what they are.
    kinds = {"rank": "Int64", **dict.fromkeys(REQUIREMENTS, "boolean")}
    frame = pd.DataFrame(rows)
    return frame.astype({name: kind for name, kind in kinds.items() if name in frame})


def _identity(row: Row) -> dict[str, Any]:
    return {
        "section": ORACLE_LABEL if row.oracle else "ranked",
        "rank": row.rank,
        "method": row.method,
        "model": row.model,
        "loss": row.loss,
        "detector": row.detector,
        "tuned_on": row.tuned_on,
    }


def _quality(
    row: Row, board: Leaderboard
) -> Iterator[tuple[dict[str, Any], str | None, str | None, str]]:
    """For each metric and column: its values, its mark, its worst set, and a flat name for it."""
    for metric in board.metrics:
        for column in board.columns:
            entry = row.entries.get((metric, column))
            if entry is not None:
                values = {"metric": metric, "column_kind": column.kind, "column": column.name}
                yield (
                    values | asdict(entry.estimate),
                    entry.mark,
                    entry.set_name,
                    f"{metric}.{_flat_name(column)}",
                )
    if row.id_accuracy is not None:
        values = {"metric": ID_ACCURACY, "column_kind": "id", "column": board.id_dataset}
        yield values | asdict(row.id_accuracy), None, None, ID_ACCURACY


def _flat_name(column: Column) -> str:
    # The kind is in the name because a group may be called as a set is, or "mean".
    in_full = column.kind in ("group", "set")
    return f"{column.kind}.{column.name}" if in_full else column.kind


def _flat_cost(cost: Cost) -> dict[str, Any]:
    return {**cost.values, **cost.requires}


def _cost(cost: Cost | None) -> dict[str, Any] | None:
    if cost is None:
        return None
    return {"seeds": cost.seeds, "devices": cost.devices, **_flat_cost(cost)}


def _csv_lines(board: Leaderboard) -> Iterator[dict[str, Any]]:
    sizes = {each.name: each.images for each in board.ood_sets}
    for row in board.rows:
        method = {
            **_identity(row),
            "parameters": parameters_text(row.choices),
            "status": "ok",
            **(_flat_cost(row.cost) if row.cost is not None else {}),
        }
        for values, mark, worst, _ in _quality(row, board):
            yield {
                **method,
                **values,
                "mark": mark,
                "worst_set": worst,
                "n_id": board.id_images,
                "n_ood": sizes.get(worst or values["column"]),
            }
    for each in board.absences:
        yield {
            "section": each.status,
            "method": each.method,
            "detector": each.detector,
            "status": each.status,
            "reason": each.reason,
            "seeds": len(each.seeds),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return round(value, 6) if isinstance(value, float) else value
