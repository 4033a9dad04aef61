"""The sortable table of a leaderboard: all columns that a reader can choose, and their texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from oodbench.report.columns import Column
from oodbench.report.leaderboard import SHOWN, Entry, LeaderboardData, Row
from oodbench.report.tables.cost_tables import MEBIBYTE, unsteady
from oodbench.report.tables.values import (
    BASELINE_SIGN,
    cost_of,
    interval_text,
    interval_title,
    metric_title,
    unit_prefix,
)

_TIMES = ("relative_to_baseline", "ms_per_image_batched")
"""Costs that are marked where their repetitions vary too much."""

SHORT_REQUIREMENTS = {
    "input_preprocessing": "preproc.",
    "feature_ensemble": "ensemble",
    "ood_or_adversarial_samples": "OOD/adv.",
    "post_processing_phase": "postproc.",
    "ad_hoc_models": "ad hoc",
}
"""The requirements of `records.REQUIREMENTS` where space is scarce."""


@dataclass(frozen=True, slots=True)
class QualityColumn:
    """A metric on one OOD set, or on several.

    Attributes:
        metric: its name in `SHOWN`.
        column: the OOD sets.
        title: abbreviation of the metric, with an arrow.
        label: the OOD sets in words.
        best: which values are better.
    """

    metric: str
    column: Column
    title: str
    label: str
    best: Literal["max", "min"]

    @property
    def key(self) -> str:
        """The OOD sets in addresses and scripts: "mean", "group:near", "set:letters"."""
        column = self.column
        return column.kind if column.kind in ("mean", "worst") else f"{column.kind}:{column.name}"

    def entry(self, row: Row) -> Entry | None:
        """The value of a method."""
        return row.entries.get((self.metric, self.column))


@dataclass(frozen=True, slots=True)
class CostColumn:
    """A cost.

    Attributes:
        name: its name in `COSTS`.
        title: with its unit.
        unit: what its values are divided by.
        decimals: of its texts; None for three significant digits.
    """

    name: str
    title: str
    unit: float = 1.0
    decimals: int | None = None

    def value(self, row: Row) -> float | None:
        """The cost of a method in the unit of the column."""
        found = cost_of(row, self.name)
        return None if found is None else found / self.unit

    def text(self, row: Row) -> str:
        """The cost of a method; empty if it is unknown."""
        value = self.value(row)
        if value is None:
            return ""
        return f"{value:,.{self.decimals}f}" if self.decimals is not None else significant(value)

    def margin(self, row: Row) -> float:
        """Half the range of the repetitions of a time, in the unit of the column; else 0."""
        scatter = cost_of(row, "time_scatter") if self.name in _TIMES else None
        return (self.value(row) or 0.0) * (scatter or 0.0) / 2

    def unsteady(self, row: Row) -> bool:
        """Whether the repetitions of this time vary too much."""
        return self.name in _TIMES and unsteady(row)


def quality_columns(board: LeaderboardData) -> tuple[QualityColumn, ...]:
    """Every metric of OOD sets in every column; a group of all sets would repeat the mean."""
    mean = board.column("mean")
    columns = [c for c in board.columns if c.kind != "group" or c.sets != mean.sets]
    columns = [c for c in columns if c.kind != "id"]
    if len(mean.sets) == 1:  # the mean and the worst set would repeat the only set
        columns = [mean]
    return tuple(
        QualityColumn(
            metric,
            column,
            metric_title(metric),
            column_label(board, column),
            "max" if SHOWN[metric].higher_is_better else "min",
        )
        for metric in board.set_metrics
        for column in columns
    )


def column_label(board: LeaderboardData, column: Column) -> str:
    """A column in words: "mean", "worst set", "near-OOD", "letters"."""
    if column.kind == "mean":
        return column.sets[0] if len(column.sets) == 1 else "mean"
    if column.kind == "worst":
        return "worst set"
    return f"{column.name}-OOD" if column.kind == "group" else column.name


def cost_columns(board: LeaderboardData) -> tuple[CostColumn, ...]:
    """The costs that were measured for any method, the one to show first in front."""
    flops, prefix = unit_prefix([cost_of(row, "flops_per_image") for row in board.rows])
    columns = (
        CostColumn("relative_to_baseline", f"Time ({BASELINE_SIGN} baseline)"),
        CostColumn("ms_per_image_batched", "Time in batches (ms/image)"),
        CostColumn("latency_ms_batch1", "Latency, batch of 1 (ms)"),
        CostColumn("forwards_per_image", "Forwards per image", decimals=2),
        CostColumn("backwards_per_image", "Backwards per image", decimals=2),
        CostColumn("flops_per_image", f"{prefix}FLOPs per image", flops),
        CostColumn("fit_seconds", "Fit (s)"),
        CostColumn("tune_seconds", "Tune (s)"),
        CostColumn("peak_memory_bytes", "Peak memory (MiB)", MEBIBYTE),
    )
    return tuple(c for c in columns if any(c.value(row) is not None for row in board.rows))


def significant(value: float) -> str:
    """A number with three significant digits, or all digits of its whole part."""
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if value >= 1e-3 else f"{value:.1e}"


def interval(entry: Entry) -> str:
    """The interval of a value with its title; empty if there is none."""
    text = interval_text(entry.estimate)
    return f"{interval_title([entry])} {text}" if text else ""
