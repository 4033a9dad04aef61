"""A leaderboard as a pandas data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oodbench.report.leaderboard import FPR, RANKED_BY, LeaderboardData
from oodbench.report.tables.values import parameters_text
from oodbench.report.writers.leaderboard_values import (
    absent_lines,
    flat_cost,
    identity,
    on_request,
    quality,
)
from oodbench.storage.records import ID_ACCURACY, REQUIREMENTS

if TYPE_CHECKING:
    import pandas as pd

_TIDY_COSTS = (
    "forwards_per_image",
    "backwards_per_image",
    "ms_per_image_batched",
    "latency_ms_batch1",
    "relative_to_baseline",
)


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
            **{name: value for name, value in identity(row).items() if name != "section"},
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
        for metric, entry in on_request(row, leaderboard):
            line[metric] = None if entry is None else entry.estimate.mean
        if any(each.cost is not None for each in leaderboard.rows):
            for name in _TIDY_COSTS:
                line[name] = None if row.cost is None else row.cost.values[name]
        rows.append(line)
    for absent in absent_lines(leaderboard):
        del absent["section"]
        rows.append(absent | {"seeds": 0})
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
            **identity(row),
            "status": "ok",
            "reason": None,
            "seeds": len(row.seeds),
            "parameters": parameters_text(row.choices),
        }
        for values, _, name in quality(row, leaderboard):
            flat[name] = values["mean"]
            flat |= {f"{name}.{end}": values[end] for end in ("std", "ci_low", "ci_high")}
            if values["worst_set"] is not None:
                flat[f"{name}.set"] = values["worst_set"]
        rows.append(flat | (flat_cost(row.cost) if row.cost is not None else {}))
    rows += [{**line, "seeds": 0} for line in absent_lines(leaderboard)]
    return rows
