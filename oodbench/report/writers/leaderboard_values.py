"""The values of a leaderboard, plain and with names, as its files and data frames have them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from oodbench.metrics import of_id_images
from oodbench.report.columns import Column
from oodbench.report.leaderboard import ORACLE_LABEL, Absence, Cost, Entry, LeaderboardData, Row
from oodbench.report.seed_means import Estimate
from oodbench.report.threshold_transfer import part_columns
from oodbench.storage.records import ID_ACCURACY

BEHIND_FIELDS = ("behind_best", "probit_shift", "probit_shift_low", "probit_shift_high")


def identity(row: Row) -> dict[str, Any]:
    """What a method is: its place, names, tuning."""
    return {
        "section": ORACLE_LABEL if row.oracle else "ranked",
        "rank": row.rank,
        **run_label(row),
        "method": row.method,
        "model": row.model,
        "loss": row.loss,
        "detector": row.detector,
        "tuned_on": row.tuned_on,
        "tuning_ood": row.tuning_ood or None,
        "fit_split": row.fit_split or None,
    }


def run_label(of: Row | Absence) -> dict[str, str]:
    """The label of the run, on leaderboards of several runs."""
    return {"run": of.run} if of.run else {}


def on_request(row: Row, leaderboard: LeaderboardData) -> Iterator[tuple[str, Entry | None]]:
    """The metrics on request of a method: of the ID images, or the mean over the OOD sets."""
    for metric in leaderboard.optional:
        column = leaderboard.column("id" if of_id_images(metric) else "mean")
        yield metric, row.entries.get((metric, column))


def quality(row: Row, board: LeaderboardData) -> Iterator[tuple[dict[str, Any], Estimate, str]]:
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
        **dict(zip_longest(BEHIND_FIELDS, ends)),
        "worst_set": entry.set_name,
    }


def _flat_name(column: Column) -> str:
    # The kind is in the name, because a group may have the name of a set, or "mean".
    in_full = column.kind in ("group", "set")
    return f"{column.kind}.{column.name}" if in_full else column.kind


def flat_cost(cost: Cost) -> dict[str, Any]:
    """Costs and requirements, by their names in cost records."""
    return {**cost.values, **cost.requires}


def absent_lines(leaderboard: LeaderboardData) -> Iterator[dict[str, Any]]:
    """A line for each method without values."""
    present = {(row.method, row.run) for row in leaderboard.rows}
    for each in leaderboard.absences:
        if (each.method, each.run) not in present:
            present.add((each.method, each.run))
            yield absent_line(each)


def absent_line(each: Absence) -> dict[str, Any]:
    """A method without values, and why."""
    return {
        "section": each.status,
        **run_label(each),
        "method": each.method,
        "detector": each.detector,
        "status": each.status,
        "reason": each.reason,
    }
