"""What a run writes: records, costs, scores and the boards that follow from them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.finished_run import METHODS, SEEDS, SETS, SKIPPED, check_same, records, run
from helpers.tiers import by_default

from oodbench import metrics
from oodbench.engine.recording.first_results import first_results
from oodbench.report.writers.run_files import RUN_FILES
from oodbench.results import Run
from oodbench.storage.record_lines import to_lines
from oodbench.storage.records import ID_ACCURACY, CostRecord, QualityRecord
from oodbench.storage.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread", "content")


def test_first_results_name_the_best_and_those_of_the_user() -> None:
    base = QualityRecord(
        **{field.name: None for field in fields(QualityRecord)}  # type: ignore[arg-type]
    )
    found = {
        f"M{n}": [replace(base, status="ok", metric="auroc", value=(90 - n) / 100)]
        for n in range(9)
    }
    (line,) = first_results(found, {"M7", "M8"})
    assert line == (
        "mean AUROC 90.0 % M0, 89.0 % M1, 88.0 % M2, 87.0 % M3, 86.0 % M4, 83.0 % M7, 82.0 % M8 "
        "and 2 more"
    )
    (line,) = first_results(found)
    assert line.endswith("86.0 % M4 and 4 more")
    (line,) = first_results(found, {"M6", "M7", "M8"})
    assert "more" not in line


# --- the contract ---------------------------------------------------------------------------


def test_description(complete: Path) -> None:
    described = json.loads((complete / "run.json").read_text())
    assert described["schema_version"] == 1
    assert described["status"] == "complete"
    assert described["seeds"] == [0, 1]
    assert described["benchmark"]["name"] == "tiny"
    assert described["benchmark"]["models"]["DisMax"]["training"]["momentum"] == 0.9, "as resolved"
    assert described["skipped"] == {SKIPPED: "needs a DisMax head; SoftMax has a linear head"}
    assert {"oodbench", "python", "torch", "numpy"} <= described["versions"].keys()
    assert {"platform", "device", "threads"} <= described["environment"].keys()
    assert described["environment"]["process"]["threads"] == 1
    sums = described["checksums"]
    assert described["trained_on"].keys() == sums["checkpoints"].keys()
    assert {each["threads"] for each in described["trained_on"].values()} == {1}
    assert {each["device"] for each in described["trained_on"].values()} == {"cpu"}
    assert {"train", "validation", "test"} == sums["data"]["digits"].keys()
    assert set(sums["checkpoints"]) == {
        f"{m}/seed{s}" for m in ("SoftMax", "DisMax") for s in (0, 1)
    }
    assert {"baseline", "dismax_entropy", "odin"} <= sums["detectors"].keys()
    for checksum in (*sums["checkpoints"].values(), sums["data"]["letters"]["test"]):
        assert len(checksum) == 64


def test_every_cell_is_there_once(complete: Path) -> None:
    found = Counter(
        (r["method"], r["seed"], r["ood_dataset"], r["metric"], r["status"])
        for r in records(complete)
    )
    cells = [(ood, metric) for ood in SETS for metric in metrics.METRICS]
    expected = {(m, s, *c, "ok") for m in METHODS for s in range(SEEDS) for c in cells}
    expected |= {(m, s, None, ID_ACCURACY, "ok") for m in METHODS for s in range(SEEDS)}
    expected |= {(SKIPPED, s, *c, "skipped") for s in range(SEEDS) for c in cells}
    assert set(found) == expected, f"differ: {set(found) ^ expected}"
    assert set(found.values()) == {1}
    assert len(metrics.METRICS) == 6


def test_records_have_the_fields_of_the_contract(complete: Path) -> None:
    names = {
        *("schema_version", "run_id", "benchmark", "benchmark_version", "method", "model", "loss"),
        *("detector", "detector_params", "tuned_on", "seed", "id_dataset", "ood_dataset"),
        *("ood_group", "metric", "value", "ci_low", "ci_high", "n_id", "n_ood", "status", "reason"),
        *("tie_fraction", "untuned"),  # beyond the contract
    }
    # `weights` is written for published checkpoints alone, `csid` for full-spectrum benchmarks,
    # `threshold` and what belongs to it for metrics of thresholds.
    assert {field.name for field in fields(QualityRecord)} == names | {
        *("weights", "csid", "fit_split", "tuning_ood", "same_source"),
        *("threshold", "n_validation", "accepted_counts", "validation_use"),
    }
    for record in records(complete):
        assert record.keys() == names
        assert record["ood_group"] == SETS.get(record["ood_dataset"])
        if record["status"] == "ok":
            assert 0 <= record["ci_low"] <= record["ci_high"] <= 1, record
            assert 0 <= record["value"] <= 1, record
            assert record["n_id"] == 600
            assert record["n_ood"] == (600 if record["ood_dataset"] else None)
            assert record["reason"] is None
        else:
            assert record["reason"]
            assert {record[k] for k in ("value", "ci_low", "ci_high", "n_id", "n_ood")} == {None}
    tuned = {(r["method"], r["tuned_on"]) for r in records(complete) if r["status"] == "ok"}
    assert tuned == {
        ("SoftMax+MSP", "none"),
        ("DisMax+Entropy", "none"),
        ("SoftMax+ODIN", "fgsm"),
    }


def test_costs_have_the_fields_of_the_contract(complete: Path) -> None:
    lines = [json.loads(line) for line in (complete / "costs.jsonl").read_text().splitlines()]
    assert Counter((line["method"], line["seed"]) for line in lines) == Counter(
        (method, seed) for method in METHODS for seed in range(SEEDS)
    )
    contract = {
        *("method", "detector", "model", "seed", "device", "forwards_per_image"),
        *("backwards_per_image", "flops_per_image", "latency_ms_batch1", "ms_per_image_batched"),
        *("relative_to_baseline", "fit_seconds", "tune_seconds", "peak_memory_bytes"),
        *("input_preprocessing", "feature_ensemble", "ood_or_adversarial_samples"),
        *("post_processing_phase", "ad_hoc_models"),
    }
    assert contract <= {field.name for field in fields(CostRecord)}
    for line in lines:
        assert contract <= line.keys(), contract - line.keys()
        gradient = line["method"] == "SoftMax+ODIN" and line["backwards_per_image"] > 0
        assert line["forwards_per_image"] == (2 if gradient else 1), line
        assert line["peak_memory_bytes"] > 0
        assert line["ms_per_image_batched"] > 0


def test_scores_are_one_float64_per_image(complete: Path) -> None:
    stored = {str(p.relative_to(complete / "scores")) for p in complete.glob("scores/*/*")}
    assert stored == {f"{method}/seed{seed}.npz" for method in METHODS for seed in range(SEEDS)}
    for name in stored:
        with np.load(complete / "scores" / name, allow_pickle=False) as arrays:
            assert set(arrays) == {"id", *SETS}, name
            for key in arrays:
                assert arrays[key].dtype == np.float64, f"{name}: {key}"
                assert arrays[key].shape == (600,), f"{name}: {key}"
                assert np.isfinite(arrays[key]).all(), f"{name}: {key}"


def test_records_follow_from_the_scores(complete: Path) -> None:
    done = Run(complete)
    checked = 0
    for record in records(complete):
        if record["status"] == "ok" and record["ood_dataset"]:
            scores = done.scores(record["method"], record["seed"])
            again = metrics.evaluate(scores["id"], scores[record["ood_dataset"]])
            assert again[record["metric"]] == record["value"], record
            checked += 1
    assert checked == len(METHODS) * SEEDS * len(SETS) * 6


def test_leaderboards_follow_from_the_records(complete: Path) -> None:
    board = Run(complete).leaderboard()
    assert (complete / "leaderboard.md").read_text() == board.to_markdown()
    assert (complete / "leaderboard.csv").read_text() == board.to_csv()
    assert (complete / "leaderboard.json").read_text() == board.to_json()
    assert (complete / "quality.md").read_text() == board.without_costs().to_markdown()
    for name, written in RUN_FILES.items():
        assert (complete / name).read_text(encoding="utf-8") == written(board), name


def test_differences_follow_from_the_scores(copy: Path) -> None:
    """A run of an older version has no file of them."""
    kept = Run(copy).differences
    methods, columns = len(METHODS), 2 + len(SETS) + len(SETS)
    assert len(kept) == (methods - 1) * columns * 6
    assert Run(copy).leaderboard().tested
    (copy / "differences.jsonl").unlink()
    assert Run(copy).differences == kept
    # Those of fewer methods are not those of the run.
    (copy / "differences.jsonl").write_text(to_lines(kept[1:]))
    assert Run(copy).differences == kept
    assert run(copy, resume=True).differences == kept
    assert RunDirectory(copy).read_differences() == kept
    assert not RunDirectory(copy).changed()
    shutil.rmtree(copy / "scores" / METHODS[0])
    assert Run(copy).differences == kept
    (copy / "differences.jsonl").unlink()
    assert Run(copy).differences == []
    assert "cannot be tested without scores" in Run(copy).leaderboard().to_markdown()


def test_differences_are_of_the_same_images_and_seeds(complete: Path) -> None:
    done = Run(complete)
    records = {(r.method, r.seed, r.ood_dataset, r.metric): r.value for r in done.records}
    for each in done.differences:
        if each.column_kind == "set":
            sign = -1 if each.metric == "fpr95_ood_positive" else 1
            by_seed = [
                sign * (records[each.best, seed, each.column, each.metric] or 0.0)
                - sign * (records[each.method, seed, each.column, each.metric] or 0.0)
                for seed in range(SEEDS)
            ]
            assert each.difference == pytest.approx(np.mean(by_seed), abs=1e-12)
            assert (each.seeds, each.methods) == (SEEDS, len(METHODS))
            assert each.shift_low <= each.shift <= each.shift_high


@pytest.mark.parametrize("cache", by_default(["another"], ["the same", "another"]))
def test_two_runs_give_the_same_records(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    """Whether the checkpoints are there or trained again."""
    if cache == "another":
        monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    run(tmp_path / "run")
    check_same(tmp_path / "run", complete)
