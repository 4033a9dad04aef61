"""Leaderboards for programs: JSON, CSV, data frames."""

from __future__ import annotations

import csv
import io
import json

import pytest
from helpers.boards import (
    GROUPS,
    METHODS,
    mean_of,
)

from oodbench.metrics import METRICS
from oodbench.report import Leaderboard
from oodbench.report.leaderboard import COSTS


def test_json_holds_every_value_and_no_nan(board: Leaderboard) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in the JSON")

    content = json.loads(board.to_json(), parse_constant=refuse)
    assert content["schema_version"] == 1
    assert (content["benchmark"], content["benchmark_version"]) == ("toy_set", 3)
    assert [each["method"] for each in content["methods"]] == [row.method for row in board.rows]
    for row, each in zip(board.rows, content["methods"], strict=True):
        found = {(q["metric"], q["column_kind"], q["column"]): q for q in each["quality"]}
        assert len(found) == len(each["quality"]) == (len(METRICS) + 1) * (2 + 2 + 4) + 1
        for (metric, column), entry in row.entries.items():
            quality = found[metric, column.kind, column.name]
            assert quality["mean"] == entry.estimate.mean
            assert quality["ci_low"] == entry.estimate.ci_low
            assert quality["mark"] == entry.mark
    costs = {each["method"]: each["cost"] for each in content["methods"]}
    assert costs["SoftMax+Energy"] is None
    assert costs["SoftMax+ODIN"]["peak_memory_bytes"] == 3 * 2**20
    assert [each["method"] for each in content["absences"]] == ["SoftMax+Vim", "DisMax+ReAct"]


def test_csv_has_a_line_for_each_method_metric_and_column(board: Leaderboard) -> None:
    lines = list(csv.DictReader(io.StringIO(board.to_csv())))
    by_key = {(x["method"], x["metric"], x["column_kind"], x["column"]): x for x in lines}
    assert len(by_key) == len(lines) == len(METHODS) * ((len(METRICS) + 1) * 8 + 1) + 2
    line = by_key["DisMax+Entropy", "auroc", "mean", "mean"]
    assert float(line["mean"]) == pytest.approx(mean_of(board, "DisMax+Entropy"), abs=5e-7)
    assert (line["rank"], line["mark"], line["seeds"]) == ("1", "best", "3")
    assert (line["n_id"], line["n_ood"]) == ("1360", "")
    worst = by_key["DisMax+Entropy", "auroc", "worst", "worst"]
    assert worst["worst_set"] in GROUPS
    assert worst["n_ood"] == "500"
    assert by_key["SoftMax+Mahalanobis", "auroc", "group", "far"]["feature_ensemble"] == "true"
    assert all(by_key["SoftMax+Energy", "auroc", "mean", "mean"][name] == "" for name in COSTS)
    assert by_key["DisMax+ReAct", "", "", ""]["status"] == "skipped"


def test_pandas_has_a_row_for_each_method(board: Leaderboard) -> None:
    frame = board.to_pandas(wide=True)
    assert list(frame["method"]) == [row.method for row in board.rows] + [
        "SoftMax+Vim",
        "DisMax+ReAct",
    ]
    assert frame.columns.is_unique
    first = frame.set_index("method").loc["DisMax+Entropy"]
    assert first["auroc.mean"] == mean_of(board, "DisMax+Entropy")
    assert first["auroc.mean.ci_low"] < first["auroc.mean"] < first["auroc.mean.ci_high"]
    assert first["auroc.worst"] == first[f"auroc.set.{first['auroc.worst.set']}"]
    assert first["auroc.group.near"] == first["auroc.set.letters"]
    assert frame.set_index("method").loc["SoftMax+Vim", "status"] == "failed"


def test_the_usual_frame_is_tidy(board: Leaderboard, without_costs: Leaderboard) -> None:
    frame = board.to_pandas()
    assert len(frame.columns) <= 30 < len(board.to_pandas(wide=True).columns)
    assert not [name for name in frame.columns if "." in name], "no packed names"
    assert list(frame["method"]) == list(board.to_pandas(wide=True)["method"])
    first = frame.set_index("method").loc["DisMax+Entropy"]
    assert first["auroc"] == mean_of(board, "DisMax+Entropy")
    assert first["auroc_ci_low"] < first["auroc"] < first["auroc_ci_high"]
    assert {"auroc_near", "auroc_far", "fpr95", "worst_set", "relative_to_baseline"} <= set(frame)
    assert frame["rank"].dtype == "Int64"
    assert frame.set_index("method").loc["SoftMax+Vim", "status"] == "failed"
    assert "relative_to_baseline" not in without_costs.to_pandas()
