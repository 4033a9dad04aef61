"""Repetitions of a measurement: their median, how far they scatter, what a report says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.records import cost, quality

from oodbench.engine import costs
from oodbench.report import Leaderboard
from oodbench.report.formats import FORMATS
from oodbench.report.tables.cost_tables import order_is_clear
from oodbench.report.writers import latex

REPETITIONS = {
    # repetitions, scatter by hand
    "steady": ([1.0, 1.01, 0.99, 1.0], 0.02),
    "one slow moment": ([1.0, 1.0, 1.0, 1.5], 0.5),
    "drifting": ([1.0, 1.1, 1.2, 1.3], 0.3 / 1.15),
    "two alike": ([2.0, 2.0], 0.0),
}


@pytest.mark.parametrize("case", REPETITIONS)
def test_scatter_is_the_range_over_the_median(case: str) -> None:
    times, expected = REPETITIONS[case]
    assert costs.scatter(times) == pytest.approx(expected, abs=1e-12)
    assert costs.scatter([1000 * time for time in times[::-1]]) == pytest.approx(expected)


class Pass:
    """Gives times instead of measuring them; the first warms up."""

    def __init__(self, times: dict[str, list[float]]) -> None:
        self._times = {key: iter([99.0, *values]) for key, values in times.items()}

    def seconds(self, images: Any, errors: dict[str, Exception]) -> Iterator[tuple[str, float]]:
        for key, times in self._times.items():
            yield key, next(times)


def test_repetitions_are_kept_without_the_one_that_warms_up() -> None:
    times = {case: values for case, (values, _) in REPETITIONS.items() if len(values) == 4}
    passes: Any = [Pass(times)]
    said: list[str] = []
    assert costs._rounds(passes, torch.empty(1), 4, {}, said.append) == times
    assert said[-1] == "measuring costs of 1 image at a time, repetition 5 of 5"


def board(*methods: tuple[float, float | None], seeds: int = 1) -> Leaderboard:
    """Methods "A0", "A1" ... of these times and scatters."""
    records, measured = [], []
    for number, (time, scatter) in enumerate(methods):
        for seed in range(seeds):
            records.append(quality(f"A{number}", seed, "letters", 0.9 - number / 100))
            changes = {"ms_per_image_batched": time, "time_scatter": scatter}
            measured.append(cost(f"A{number}", seed, **changes))
    return Leaderboard.from_records(records, measured)


@pytest.mark.parametrize(
    ("methods", "clear"),
    [
        ([(1.0, 0.05), (2.0, 0.05)], True),
        ([(1.0, 0.05), (1.04, 0.05)], False),
        ([(2.0, 0.05), (1.0, 0.05), (1.5, 0.05)], True),
        ([(1.0, 0.05), (1.5, 0.05), (1.52, 0.05)], False),
        ([(1.0, 0.9), (1.4, 0.05)], False),
        ([(1.0, 0.0), (1.0, 0.0)], False),
        ([(1.0, None), (9.0, 0.05)], False),
        ([(1.0, 0.05)], True),
    ],
)
def test_an_order_that_noise_decides_is_not_called_the_fastest_first(
    methods: list[tuple[float, float | None]], clear: bool
) -> None:
    made = board(*methods)
    assert order_is_clear([row.cost for row in made.rows if row.cost is not None]) is clear
    text = made.to_text(120)
    assert ("Cost, fastest first" in text) is clear
    assert ("Cost, sorted by measured time" in text) is not clear
    assert ("their order is uncertain" in text) is not clear


def test_times_that_scatter_are_marked_in_every_document() -> None:
    made = board((1.0, 0.05), (2.0, 0.21), (4.0, 0.20), (8.0, 3.0))
    for name in ("table", "md", "html", "latex"):
        text = FORMATS[name](made)
        assert "vary by more than 20" in re.sub(r"\s+", " ", text), name
    lines = made.to_text(120).split("Cost, ")[1].splitlines()
    rows = [line.split() for line in lines if re.match(r"A\d", line)]
    assert [row[2] for row in rows[:4]] == ["1", "2~", "4", "8~"]
    # Time and ratio of two and the note with the costs; the ratio of two and a note with quality.
    assert made.to_markdown().count(r"\~") == 5 + 3
    assert "~" not in board((1.0, 0.05), (2.0, 0.20)).to_text(120)


@pytest.mark.parametrize(
    ("scatters", "marked"), [((0.05, 0.21, 3.0), [1, 2]), ((0.5, 0.1, 0.2), [0])]
)
def test_the_first_table_and_the_compact_one_mark_times(
    scatters: tuple[float, ...], marked: list[int]
) -> None:
    made = board(*((1.0, scatter) for scatter in scatters))
    first = made.to_text(120).split("\nCost")[0]
    rows = [line.split()[-1] for line in first.splitlines() if re.match(r"1? *\d +A\d", line)]
    assert [number for number, last in enumerate(rows) if last.endswith("~")] == marked
    assert len(rows) == len(scatters)
    assert "~ after a time: its repetitions vary by more than 20%" in first
    sign = r"$^{\sim}$"
    for text in (latex.render_compact(made), made.to_latex().split(r"\end{table}")[0]):
        lines = [line for line in text.splitlines() if re.match(r"(\d+ & )?A\d", line)]
        assert [number for number, line in enumerate(lines) if sign in line] == marked
        assert "after a time: its repetitions vary" in text
    steady = board((1.0, 0.05), (2.0, 0.20))
    assert "repetitions vary" not in latex.render_compact(steady)


def test_of_several_seeds_the_largest_scatter_counts() -> None:
    records = [quality("A", seed, "letters", 0.9) for seed in range(3)]
    scatters = (0.05, 0.3, 0.1)
    measured = [cost("A", seed, time_scatter=value) for seed, value in enumerate(scatters)]
    (row,) = Leaderboard.from_records(records, measured).rows
    assert row.cost is not None
    assert row.cost.values["time_scatter"] == 0.3
