"""A leaderboard for programs and spreadsheets: JSON, CSV, and a pandas data frame.

Values have the units of the records: fractions in [0, 1], milliseconds, seconds, bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from oodbench.metrics import of_id_images
from oodbench.report.columns import Column
from oodbench.report.leaderboard import (
    COSTS,
    FPR,
    ORACLE_LABEL,
    RANKED_BY,
    Absence,
    Cost,
    Entry,
    LeaderboardData,
    Row,
)
from oodbench.report.seed_means import LEVEL, Estimate
from oodbench.report.tables.values import parameters_text
from oodbench.report.threshold_transfer import PART_KINDS, part_columns, threshold_facts
from oodbench.report.writers import averages_exports
from oodbench.report.writers.csv_text import csv_text
from oodbench.report.writers.json_text import json_text
from oodbench.storage.records import ID_ACCURACY, REQUIREMENTS

if TYPE_CHECKING:
    import pandas as pd

JSON_SCHEMA_VERSION = 1

_METHOD_FIELDS = ("section", "rank", "method", "model", "loss", "detector", "tuned_on")
_TUNING_FIELDS = ("tuning_ood", "fit_split")
_QUALITY_FIELDS = ("metric", "column_kind", "column", "mean", "std", "ci_low", "ci_high", "seeds")
_BEHIND_FIELDS = ("behind_best", "probit_shift", "probit_shift_low", "probit_shift_high")
_TIDY_COSTS = (
    "forwards_per_image",
    "backwards_per_image",
    "ms_per_image_batched",
    "latency_ms_batch1",
    "relative_to_baseline",
)
CSV_FIELDS = (
    *_METHOD_FIELDS,
    *_TUNING_FIELDS,
    "parameters",
    "status",
    "reason",
    *_QUALITY_FIELDS,
    "mark",
    *_BEHIND_FIELDS,
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
                **_identity(row),
                "seeds": row.seeds,
                "complete": row.complete,
                "parameters": [choice._asdict() for choice in row.choices],
                "untuned": row.untuned,
                "same_source": row.same_source,
                **threshold_facts(row.validation_images, row.validation_use),
                **({"weights": row.weights} if row.weights else {}),
                "quality": [
                    {**values, "by_seed": each.by_seed}
                    for values, each, _ in _quality(row, leaderboard)
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
        "methods": [{**_identity(row), "cost": _cost(row.cost)} for row in leaderboard.rows],
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
            **_identity(row),
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
        for name, entry in _on_request(row, leaderboard):
            line |= _ends(name, None if entry is None else entry.estimate)
        rows.append(line | _ends(ID_ACCURACY, row.id_accuracy))
    fields = dict.fromkeys(key for row in rows for key in row)
    rows += [fields | line for line in _absent(leaderboard)]
    return json_text({**_about(leaderboard), "methods": rows})


def _on_request(row: Row, leaderboard: LeaderboardData) -> Iterator[tuple[str, Entry | None]]:
    """The metrics on request of a method: of the ID images, or the mean over the OOD sets."""
    for metric in leaderboard.optional:
        column = leaderboard.column("id" if of_id_images(metric) else "mean")
        yield metric, row.entries.get((metric, column))


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


def _absent(leaderboard: LeaderboardData) -> Iterator[dict[str, Any]]:
    """A line for each method without values."""
    present = {(row.method, row.run) for row in leaderboard.rows}
    for each in leaderboard.absences:
        if (each.method, each.run) not in present:
            present.add((each.method, each.run))
            yield _absent_line(each)


def _absent_line(each: Absence) -> dict[str, Any]:
    return {
        "section": each.status,
        **_run(each),
        "method": each.method,
        "detector": each.detector,
        "status": each.status,
        "reason": each.reason,
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


def to_pandas(leaderboard: LeaderboardData, *, wide: bool = False) -> pd.DataFrame:
    """One row for each method: the ranked ones first, then oracles, then absent ones.

    The columns are those of the first table of a report: rank and names; `auroc`, the mean over OOD
    sets and seeds, with `auroc_std`, `auroc_ci_low`, `auroc_ci_high`; `auroc_<group>` for each
    group, or `auroc_<set>` for each set if there are no groups; `auroc_worst` and `worst_set`;
    `fpr95` with ID as the positive class (`leaderboard.FPR`); `id_accuracy`; the metrics on request
    by their names; the counts and times of cost records. A method without values has the `status`
    "skipped" or "failed" and a `reason`. Metrics are fractions in [0, 1], times are in ms.

    Args:
        leaderboard: the leaderboard.
        wide: return all values instead, in columns with longer names (`_wide`).
    """
    import pandas as pd

    frame = pd.DataFrame(_wide(leaderboard) if wide else _tidy(leaderboard))
    # These types have a value for "unknown", so that whole numbers and booleans keep their type.
    kinds = {"rank": "Int64", **dict.fromkeys(REQUIREMENTS, "boolean")}
    return frame.astype({name: kind for name, kind in kinds.items() if name in frame})


def _tidy(leaderboard: LeaderboardData) -> list[dict[str, Any]]:
    """A row for each method, with the columns of the first table of a report."""
    mean, worst = leaderboard.column("mean"), leaderboard.column("worst")
    sets = [column for column in leaderboard.columns if column.kind == "set"]
    parts = list(leaderboard.groups or (sets if len(sets) > 1 else ()))
    rows: list[dict[str, Any]] = []
    for row in leaderboard.rows:
        entry, lowest = row.entries.get((RANKED_BY, mean)), row.entries.get((RANKED_BY, worst))
        found = None if entry is None else entry.estimate
        fpr = row.entries.get((FPR, mean))
        line: dict[str, Any] = {
            **{name: value for name, value in _identity(row).items() if name != "section"},
            "status": "ok",
            "reason": None,
            "seeds": len(row.seeds),
            "auroc": None if found is None else found.mean,
            "auroc_std": None if found is None else found.std,
            "auroc_ci_low": None if found is None else found.ci_low,
            "auroc_ci_high": None if found is None else found.ci_high,
        }
        for part in parts:
            one = row.entries.get((RANKED_BY, part))
            line[f"auroc_{part.name}"] = None if one is None else one.estimate.mean
        line |= {
            "auroc_worst": None if lowest is None else lowest.estimate.mean,
            "worst_set": None if lowest is None else lowest.set_name,
            "fpr95": None if fpr is None else fpr.estimate.mean,
            ID_ACCURACY: None if row.id_accuracy is None else row.id_accuracy.mean,
        }
        for metric, entry in _on_request(row, leaderboard):
            line[metric] = None if entry is None else entry.estimate.mean
        if any(each.cost is not None for each in leaderboard.rows):
            for name in _TIDY_COSTS:
                line[name] = None if row.cost is None else row.cost.values[name]
        rows.append(line)
    absent = ({**each, "seeds": 0} for each in _absent(leaderboard))
    rows += [{name: value for name, value in each.items() if name != "section"} for each in absent]
    return rows


def _wide(leaderboard: LeaderboardData) -> list[dict[str, Any]]:
    """A row for each method, with all values.

    Columns are named `<metric>.mean`, `<metric>.worst`, `<metric>.group.<group>` and
    `<metric>.set.<set>` for means over seeds, followed by `.std`, `.ci_low` or `.ci_high` for their
    uncertainty; `<metric>.worst.set` is the name of the worst set. Then come `id_accuracy`, the
    costs and the requirements by their names in cost records. A method without values has the
    `status` "skipped" or "failed" and a `reason`.
    """
    rows = []
    for row in leaderboard.rows:
        flat: dict[str, Any] = {
            **_identity(row),
            "status": "ok",
            "reason": None,
            "seeds": len(row.seeds),
            "parameters": parameters_text(row.choices),
        }
        for values, _, name in _quality(row, leaderboard):
            flat[name] = values["mean"]
            flat |= {f"{name}.{end}": values[end] for end in ("std", "ci_low", "ci_high")}
            if values["worst_set"] is not None:
                flat[f"{name}.set"] = values["worst_set"]
        rows.append(flat | (_flat_cost(row.cost) if row.cost is not None else {}))
    rows += [{**line, "seeds": 0} for line in _absent(leaderboard)]
    return rows


def _identity(row: Row) -> dict[str, Any]:
    return {
        "section": ORACLE_LABEL if row.oracle else "ranked",
        "rank": row.rank,
        **_run(row),
        "method": row.method,
        "model": row.model,
        "loss": row.loss,
        "detector": row.detector,
        "tuned_on": row.tuned_on,
        "tuning_ood": row.tuning_ood or None,
        "fit_split": row.fit_split or None,
    }


def _run(of: Row | Absence) -> dict[str, str]:
    """The label of the run, on leaderboards of several runs."""
    return {"run": of.run} if of.run else {}


def _absence(absence: Absence) -> dict[str, Any]:
    values = absence._asdict()
    del values["run"]
    return _run(absence) | values


def _quality(row: Row, board: LeaderboardData) -> Iterator[tuple[dict[str, Any], Estimate, str]]:
    """For each metric and column: its values, its estimate, and a flat name for it."""
    for metric in board.metrics:
        for column in board.columns:
            entry = row.entries.get((metric, column))
            if entry is not None:
                about = {"metric": metric, "column_kind": column.kind, "column": column.name}
                yield about | _entry(entry), entry.estimate, f"{metric}.{_flat_name(column)}"
    for metric, kind, name, found in part_columns(row.accepted_parts):
        about = {"metric": metric, "column_kind": kind, "column": name}
        yield about | _entry(Entry(found, None, None)), found, f"{metric}.{kind}.{name}"
    if row.id_accuracy is not None:
        about = {"metric": ID_ACCURACY, "column_kind": "id", "column": board.id_dataset}
        yield about | _entry(Entry(row.id_accuracy, None, None)), row.id_accuracy, ID_ACCURACY


def _entry(entry: Entry) -> dict[str, Any]:
    found, behind = entry.estimate, entry.behind
    ends = (
        ()
        if behind is None
        else (behind.difference, behind.shift, behind.shift_low, behind.shift_high)
    )
    return {
        "mean": found.mean,
        "std": found.std,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "seeds": found.seeds,
        "mark": entry.mark,
        **dict(zip_longest(_BEHIND_FIELDS, ends)),
        "worst_set": entry.set_name,
    }


def _flat_name(column: Column) -> str:
    # The kind is in the name, because a group may have the name of a set, or "mean".
    in_full = column.kind in ("group", "set")
    return f"{column.kind}.{column.name}" if in_full else column.kind


def _flat_cost(cost: Cost) -> dict[str, Any]:
    return {**cost.values, **cost.requires}


def _cost(cost: Cost | None) -> dict[str, Any] | None:
    if cost is None:
        return None
    return {"seeds": cost.seeds, "devices": cost.devices, **_flat_cost(cost)}


def _csv_lines(board: LeaderboardData) -> Iterator[dict[str, Any]]:
    sizes = {each.name: each.images for each in board.ood_sets}
    for row in board.rows:
        method = {
            **_identity(row),
            "parameters": parameters_text(row.choices),
            "status": "ok",
            **(_flat_cost(row.cost) if row.cost is not None else {}),
        }
        for values, _, _ in _quality(row, board):
            yield {
                **method,
                **values,
                "n_id": None if values["column_kind"] in PART_KINDS else board.id_images,
                "n_ood": sizes.get(values["worst_set"] or values["column"]),
            }
    for each in board.absences:
        yield {**_absent_line(each), "seeds": len(each.seeds)}
