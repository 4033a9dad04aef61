"""The report files of a run directory."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from helpers.boards import (
    cost_records,
    differences,
    mean_of,
    quality_records,
)

from oodbench.report import Leaderboard
from oodbench.report.writers.run_files import RUN_FILES


def test_files_about_quality_are_the_same_whatever_the_costs(board: Leaderboard) -> None:
    records = quality_records(3)
    slower = [
        replace(cost, ms_per_image_batched=7.0, device="another", fit_seconds=3.0 * cost.seed)
        for cost in cost_records(2)
    ]
    others = [replace(record, run_id="another") for record in records]
    other = Leaderboard.from_records(others, slower, differences=differences(others))
    nothing = Leaderboard.from_records(records, [], differences=differences(records))
    for name, written in RUN_FILES.items():
        same = name.startswith(("quality", "summary"))
        assert (written(board) == written(other)) is same, name
        assert (written(board) == written(nothing)) is same, name


def test_files_about_cost_are_about_nothing_else(board: Leaderboard) -> None:
    text = RUN_FILES["cost.md"](board)
    assert text.count("\n## ") == 3  # cost, requirements, notes
    assert "Costs were measured on cpu" in text
    assert "Student" not in text
    content = json.loads(RUN_FILES["cost.json"](board))
    costs = {each["method"]: each["cost"] for each in content["methods"]}
    assert list(costs) == [row.method for row in board.rows]
    assert costs["SoftMax+Energy"] is None
    assert costs["SoftMax+ODIN"]["forwards_per_image"] == pytest.approx(1.35)
    quality = json.loads(RUN_FILES["quality.json"](board))
    assert {each["cost"] for each in quality["methods"]} == {None}


def test_the_summary_has_one_row_for_each_method(board: Leaderboard) -> None:
    content = json.loads(RUN_FILES["summary.json"](board))
    rows = content["methods"]
    assert [each["method"] for each in rows] == [row.method for row in board.rows] + [
        "SoftMax+Vim",
        "DisMax+ReAct",
    ]
    assert len({tuple(each) for each in rows}) == 1  # a table: every row has every field
    first, second = rows[0], rows[1]
    assert (first["rank"], first["auroc_mark"], second["auroc_mark"]) == (1, "best", "tied")
    assert first["auroc"] == mean_of(board, "DisMax+Entropy")
    assert first["auroc_ci_low"] < first["auroc"] < first["auroc_ci_high"]
    tnr = board.rows[0].entries["tnr_at_95_tpr", board.column("mean")].estimate
    assert first["fpr95"] == pytest.approx(1 - tnr.mean)
    assert first["fpr95_ci_low"] == pytest.approx(1 - tnr.ci_high)
    assert first["id_accuracy"] == 0.975
    assert (rows[-1]["status"], rows[-1]["reason"], rows[-1]["auroc"]) == (
        "skipped",
        "needs a linear_head",
        None,
    )
