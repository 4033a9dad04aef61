"""Tables of the costs and the requirements of methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from oodbench.report.leaderboard import Cost, LeaderboardData, Row
from oodbench.report.tables.document import UNSTEADY_SIGN, Cell, Heading, Table
from oodbench.report.tables.method_cells import name_headings, named, sections
from oodbench.report.tables.values import (
    BASELINE_SIGN,
    cost_of,
    decimal,
    metric_title,
    parameters_text,
    same_decimals,
    unit_prefix,
    value_cell,
)
from oodbench.storage.records import REQUIREMENTS

SCATTER_LIMIT = 0.2
"""Times are marked if the range of their repetitions is more than this share of the median."""

MEBIBYTE = 2.0**20

STEP = "epsilon"
"""Name of the parameter with the step of the input perturbation, in every detector."""

_SCATTERING = ("ms_per_image_batched", "relative_to_baseline")
"""Costs whose repetitions have the scatter `time_scatter`."""

UNSTEADY_NOTE = (
    f"{UNSTEADY_SIGN} after a time: its repetitions vary by more than {SCATTER_LIMIT:.0%} (range "
    "divided by median), for example because other processes ran."
)

REQUIREMENT_TITLES = {
    "input_preprocessing": "Input preprocessing",
    "feature_ensemble": "Feature ensemble",
    "ood_or_adversarial_samples": "OOD or adversarial samples",
    "post_processing_phase": "Post-processing phase",
    "ad_hoc_models": "Ad-hoc models",
}

_Show = Callable[[float | None], str]


def cost_table(board: LeaderboardData, split: bool) -> Table:
    """What each method costs, sorted by its batched time."""
    mean = board.column("mean")
    costs = [row.cost for row in board.rows if row.cost is not None]

    columns, auroc = _columns(costs), metric_title("auroc")

    def cells(row: Row) -> tuple[Cell, ...]:
        return (
            *named(row, board, split),
            value_cell(row.entries.get(("auroc", mean))),
            *(
                Cell(
                    show(cost_of(row, name)),
                    "unsteady" if name in _SCATTERING and unsteady(row) else None,
                )
                for name, show, _ in columns
            ),
        )

    def key(row: Row) -> tuple[float, str]:
        time = cost_of(row, "ms_per_image_batched")
        return math.inf if time is None else time, row.method

    headings = (
        *name_headings(board, split),
        Heading(f"{auroc} mean (%)", f"{auroc} mean (%)", importance=6),
        *(heading for _, _, heading in columns),
    )
    ordered = order_is_clear(costs)
    notes = []
    if not ordered:
        notes.append(
            "Where times differ by less than their repetitions vary, their order is uncertain."
        )
    if any(map(unsteady, board.rows)):
        notes.append(UNSTEADY_NOTE)
    return Table(
        "Cost, fastest first" if ordered else "Cost, sorted by measured time",
        headings,
        sections(board, cells, key) if costs else (),
        tuple(notes),
    )


def _columns(costs: Sequence[Cost]) -> list[tuple[str, _Show, Heading]]:
    """Cost, how it is shown, and its heading."""

    def aligned(name: str, unit: float = 1.0) -> _Show:
        show = same_decimals(
            [None if (v := each.values[name]) is None else v / unit for each in costs]
        )
        return lambda value: show(None if value is None else value / unit)

    def passes(value: float | None) -> str:
        return decimal(value, 2 if fractional else 0)

    fractional = any(
        (each.values[name] or 0) % 1
        for each in costs
        for name in ("forwards_per_image", "backwards_per_image")
    )
    operations, prefix = unit_prefix([each.values["flops_per_image"] for each in costs])
    batched = "Batched (ms/image)"
    times = f"Time ({BASELINE_SIGN} baseline)"
    flops = f"{prefix}FLOPs per image"
    return [
        (
            "ms_per_image_batched",
            aligned("ms_per_image_batched"),
            Heading(batched, batched),
        ),
        (
            "relative_to_baseline",
            lambda value: decimal(value, 1),
            Heading(times, f"Time {BASELINE_SIGN}base", importance=8),
        ),
        (
            "latency_ms_batch1",
            aligned("latency_ms_batch1"),
            Heading("Latency, batch of 1 (ms)", "Latency, batch 1 (ms)", importance=7),
        ),
        (
            "forwards_per_image",
            passes,
            Heading("Forwards per image", "Fwd per image", importance=5),
        ),
        (
            "backwards_per_image",
            passes,
            Heading("Backwards per image", "Bwd per image", importance=5),
        ),
        (
            "flops_per_image",
            aligned("flops_per_image", operations),
            Heading(flops, flops, importance=4),
        ),
        ("fit_seconds", aligned("fit_seconds"), Heading("Fit (s)", "Fit (s)", importance=3)),
        ("tune_seconds", aligned("tune_seconds"), Heading("Tune (s)", "Tune (s)", importance=3)),
        (
            "peak_memory_bytes",
            lambda value: decimal(None if value is None else value / MEBIBYTE, 1),
            Heading("Peak memory (MiB)", "Peak mem. (MiB)", importance=2),
        ),
    ]


def unsteady(row: Row) -> bool:
    """Whether the repetitions of a method's time vary by more than `SCATTER_LIMIT`."""
    return (cost_of(row, "time_scatter") or 0.0) > SCATTER_LIMIT


def relative_time(row: Row) -> Cell:
    """Time relative to the baseline, marked if it is unsteady."""
    text = decimal(cost_of(row, "relative_to_baseline"), 1)
    return Cell(text, "unsteady" if text and unsteady(row) else None)


def order_is_clear(costs: Sequence[Cost]) -> bool:
    """Whether times differ by more than their repetitions vary.

    Each time is taken as an interval, of half its scatter on either side. The order is clear if no
    two intervals overlap; it is not clear if the scatter of a time is unknown.
    """
    intervals = []
    for cost in costs:
        time, scatter = cost.values["ms_per_image_batched"], cost.values["time_scatter"]
        if time is None or scatter is None:
            return False
        intervals.append((time * (1 - scatter / 2), time * (1 + scatter / 2), time))
    intervals.sort(key=lambda interval: interval[2])
    return all(before[1] < after[0] for before, after in pairwise(intervals))


def requirements_table(board: LeaderboardData, split: bool) -> Table:
    """The requirements of each method: Table 1 of the DisMax paper."""

    def cells(row: Row) -> tuple[Cell, ...]:
        return *named(row, board, split), *(Cell(_required(row, name)) for name in REQUIREMENTS)

    titles = [REQUIREMENT_TITLES[name] for name in REQUIREMENTS]
    headings = (
        *name_headings(board, split),
        *(Heading(title, title, text=True, importance=5) for title in titles),
    )
    known = any(row.cost is not None for row in board.rows)
    return Table("What each method requires", headings, sections(board, cells) if known else ())


def _required(row: Row, name: str) -> str:
    """Whether a method has a requirement, with its chosen steps if it was tuned."""
    if row.cost is None:
        return ""
    if not row.cost.requires[name]:
        return "-"
    steps = {choice.values.get(STEP) for choice in row.choices}
    if name != "input_preprocessing" or row.tuned_on == "none" or steps <= {None}:
        return "Required"
    chosen = parameters_text(row.choices, (STEP,))
    return f"Required; chosen: {f'none ({chosen})' if steps == {0} else chosen}"
