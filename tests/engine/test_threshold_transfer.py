"""Threshold transfer, from a run's option to its records, reports, verification and comparison."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.finished_run import METHODS, SEEDS, SETS, run
from helpers.plans import benchmark as mine
from helpers.plans import plan as plan_of
from helpers.recorders import recorder
from numpy.typing import NDArray

import oodbench
from oodbench.engine.method_results import Evaluation, MethodResult
from oodbench.errors import ExitCode
from oodbench.metrics import accepting, requested
from oodbench.planning.workload import passes_of
from oodbench.report import Leaderboard
from oodbench.report.site.page_assembly import assemble
from oodbench.report.site.pages import ShownRun
from oodbench.report.site.rendering import render
from oodbench.results import Run
from oodbench.run_comparison import gate as gates
from oodbench.run_comparison.comparison import compare_runs
from oodbench.storage.predictions import Predictions
from oodbench.storage.records import QualityRecord
from oodbench.storage.run_directory import RunDirectory
from oodbench.storage.stored_run import read_stored_run
from oodbench.verification.run_verification import verify_run

pytestmark = pytest.mark.usefixtures("one_thread", "content")

NAMES = requested("acceptance")
MSP = "scores/SoftMax+MSP/seed0.npz"
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def extended(complete: Path, content: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The finished run, resumed with thresholds: the validation images are scored then."""
    folder = tmp_path_factory.mktemp("extended") / "run"
    shutil.copytree(complete, folder)
    return run(folder, resume=True, metrics="acceptance")


@pytest.fixture
def changed(extended: Run, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(extended.folder, tmp_path / "changed"))


def arrays_of(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_a_resumed_run_scores_the_validation_images(complete: Path, extended: Run) -> None:
    assert extended.complete
    images = None
    for path in sorted(complete.glob("scores/*/*.npz")):
        before = arrays_of(path)
        after = arrays_of(extended.folder / path.relative_to(complete))
        validation = after.pop("validation@id")
        images = images or validation.size
        assert validation.shape == (images,)
        assert before.keys() == after.keys()
        for name, scores in before.items():
            np.testing.assert_array_equal(after[name], scores, err_msg=f"{path}: {name}")
    assert extended.scores("SoftMax+MSP", 0).keys() == {"id", *SETS}
    stored = {(r.method, r.seed, r.metric, r.ood_dataset): r.value for r in extended.records}
    for each in RunDirectory(complete).read_records()[0]:
        assert stored[each.method, each.seed, each.metric, each.ood_dataset] == each.value
    added = [each for each in extended.records if each.metric in NAMES]
    assert len(added) == len(METHODS) * SEEDS * (len(NAMES) // 2) * (len(SETS) + 1)
    costs = (extended.folder / "costs.jsonl").read_bytes()
    again = run(extended.folder, resume=True)
    assert (extended.folder / "costs.jsonl").read_bytes() == costs, "nothing is scored again"
    assert accepting(again.leaderboard().optional) == NAMES, "a resumed run keeps its metrics"


def test_values_are_counted_one_by_one(extended: Run) -> None:
    arrays = arrays_of(extended.folder / MSP)
    labels = arrays_of(extended.folder / "predictions/SoftMax/seed0.npz")["labels/id"]
    validation = sorted(arrays["validation@id"])
    found = {
        (each.metric, each.ood_dataset): each
        for each in extended.records
        if (each.method, each.seed) == ("SoftMax+MSP", 0)
    }
    for accept in ("0.95", "0.99"):
        k = math.floor(round((len(validation) + 1) * (1 - float(accept)), 9))
        threshold = validation[k - 1] if k else -math.inf
        for metric, ood in [(f"id_acceptance_at_{accept}", None)] + [
            (f"acceptance_at_{accept}", name) for name in SETS
        ]:
            record = found[metric, ood]
            accepted = [score >= threshold for score in arrays[ood or "id"]]
            assert record.value == sum(accepted) / len(accepted)
            assert record.ci_low is not None
            assert record.ci_high is not None
            assert record.ci_low <= record.value <= record.ci_high
            assert record.threshold == (threshold if k else None)
            assert record.n_validation == len(validation)
            assert record.validation_use is None
        whole = found[f"id_acceptance_at_{accept}", None]
        expected = {"id": [sum(arrays["id"] >= threshold), len(labels)]}
        for number in sorted(set(labels)):
            mine = [
                s >= threshold for s, c in zip(arrays["id"], labels, strict=True) if c == number
            ]
            expected[f"class {number}"] = [sum(mine), len(mine)]
        assert whole.accepted_counts == expected


# --- verification --------------------------------------------------------------------------------


def test_a_run_with_thresholds_follows(extended: Run) -> None:
    found = verify_run(extended.folder)
    assert found.exit_code == ExitCode.OK, str(found)


@pytest.mark.parametrize("field", ["value", "ci_low", "threshold", "n_validation", "class 1"])
def test_a_changed_field_is_found(changed: Path, field: str) -> None:
    path = changed / "records.jsonl"
    lines = path.read_text().splitlines()
    number, record = next(
        (i, each)
        for i, each in enumerate(map(json.loads, lines))
        if each["metric"] == "id_acceptance_at_0.95"
    )
    if field == "class 1":
        record["accepted_counts"][field][0] -= 1
    else:
        record[field] -= 1e-6 if isinstance(record[field], float) else 1
    lines[number] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")
    found = verify_run(changed)
    assert found.exit_code == ExitCode.FINDING
    assert found.discrepancies[0].line == number + 1
    assert found.discrepancies[0].field == ("accepted_counts" if field == "class 1" else field)


def test_changed_validation_scores_are_found(changed: Path) -> None:
    arrays = arrays_of(changed / MSP)
    np.savez(changed / MSP, **(arrays | {"validation@id": arrays["validation@id"] + 1}))
    found = verify_run(changed)
    assert "acceptance_at_0.95" in str(found)
    arrays["validation@id"][3] = np.nan
    np.savez(changed / MSP, **arrays)
    assert "'validation@id' is nan for image 3" in str(verify_run(changed))


# --- reports -------------------------------------------------------------------------------------


def test_reports_have_its_tables(complete: Path, extended: Run) -> None:
    board = extended.leaderboard()
    plain = oodbench.open_run(complete).report()
    title = "Threshold transfer at 95 %: accepted images (%)"
    for form in ("to_markdown", "to_html"):
        text = getattr(board, form)()
        assert title in text, form
        assert "accepted ID images of each class" in text, form
        assert "Threshold transfer" not in getattr(plain, form)(), form
    text = board.to_text(100)
    assert "Threshold transfer: accepted images (%) at a wanted ID rate" in text
    assert "at 95 %" in text
    use = {row.method: row.validation_use for row in board.rows}
    assert use == {**dict.fromkeys(METHODS, ()), "SoftMax+ODIN": ("tuned",)}
    row = next(row for row in board.rows if row.method == "SoftMax+MSP")
    lines = board.to_csv().splitlines()
    of_class = [line for line in lines if "id_acceptance_at_0.95,class" in line]
    classes = [part for metric, part in row.accepted_parts if metric == "id_acceptance_at_0.95"]
    assert len(of_class) == (len(classes) - 1) * len(board.rows)
    found = next(m for m in json.loads(board.to_json())["methods"] if m["method"] == row.method)
    assert found["validation_images"] == row.validation_images
    kinds = {each["column_kind"] for each in found["quality"] if "acceptance" in each["metric"]}
    assert kinds == {"mean", "worst", "group", "set", "id", "class"}


def test_the_site_draws_the_transfer(extended: Run) -> None:
    stored = read_stored_run(extended.folder)
    board = Leaderboard.from_records(stored.records, stored.costs)
    pages = render(assemble([ShownRun(stored, board)], {}))
    page = next(text for name, text in pages.items() if name.endswith("methods/softmax-msp.html"))
    assert "<figcaption>ID images accepted</figcaption>" in page
    assert "<figcaption>OOD images accepted</figcaption>" in page
    assert any("Threshold transfer at 99 %" in text for text in pages.values())


def test_a_comparison_and_its_gate_take_them(extended: Run, changed: Path) -> None:
    path = changed / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for each in lines:
        if each["metric"] in NAMES and each["method"] == "SoftMax+MSP":
            for key in ("value", "ci_low", "ci_high"):
                each[key] = max(0.0, each[key] - 0.05)
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    sides = read_stored_run(extended.folder), read_stored_run(changed)
    comparison = compare_runs(*sides, metrics=list(NAMES))
    options: Any = {"max_slower": None, "fail_on": (), "allow_cost": False, "strict": True}
    rules = gates.Gate.of_options(tuple(f"{name}=0.5" for name in NAMES), **options)
    failed = {each.metric for each in gates.check(comparison, rules).findings}
    assert failed == {"id_acceptance_at_0.95", "id_acceptance_at_0.99"}, "fewer OOD is better"


def test_a_later_report_says_that_validation_scores_are_missing(complete: Path) -> None:
    (warning,) = [
        each for each in Run(complete).with_metrics("acceptance").leaderboard().warnings
        if "have no value" in each
    ]  # fmt: skip
    assert "--resume --metrics acceptance" in warning


# --- records by hand -----------------------------------------------------------------------------


def by_hand(
    scores: Mapping[str, list[float]],
    validation: Mapping[str, list[float]],
    labels: list[int] | None = None,
    csid: tuple[str, ...] = (),
    loaded: str = "baseline",
    **change: Any,
) -> dict[str, QualityRecord]:
    """Metric -> record, of ID images, perhaps csID images, and the OOD set "far"."""
    (method,) = plan_of(mine(), methods=["SoftMax+MSP"]).methods
    values = {name: getattr(method, name) for name in type(method).__dataclass_fields__}
    method = type(method)(**{**values, **change})
    result = MethodResult(
        detectors={"far": oodbench.load_detector(loaded)},
        scores={name: np.array(found) for name, found in scores.items()},
        validation={name: np.array(found) for name, found in validation.items()},
    )
    predictions = {
        name: Predictions(
            np.ones(len(scores[name]), dtype=np.bool_),
            np.full(len(scores[name]), 0.5),
            np.array(labels) if labels is not None and name == "id" else None,
        )
        for name in ("id", *csid)
        if name in scores
    }
    evaluation = Evaluation({method.name: result}, predictions)
    return {
        each.metric: each
        for each in recorder(csid, resamples=10, optional=NAMES).quality(method, 0, evaluation)
    }


TWENTY = [float(each) for each in range(20)]
"""Scores of validation images whose threshold at 95 % is 0, the lowest of them."""


def test_csid_images_are_counted_apart() -> None:
    scores = {"id": [-1.0, 0.0, 5.0, 6.0], "shifted": [-2.0, -3.0, 1.0], "far": [-4.0, 7.0]}
    found = by_hand(scores, {"id": TWENTY}, [2, 0, 2, 2], ("shifted",))
    record = found["id_acceptance_at_0.95"]
    assert (record.value, record.threshold, record.n_validation) == (0.75, 0.0, 20)
    assert record.n_id == 7, "as in all records of the run"
    assert record.accepted_counts == {
        "id": [3, 4],
        "shifted": [1, 3],
        "class 0": [1, 1],
        "class 2": [2, 3],
    }
    assert found["acceptance_at_0.95"].value == 0.5
    assert found["acceptance_at_0.95"].accepted_counts is None
    assert found["id_acceptance_at_0.99"].threshold is None
    assert found["id_acceptance_at_0.99"].value == 1.0
    board = Leaderboard.from_records(found.values(), [])
    assert "shifted (csID)" in board.to_markdown()
    (warning,) = [each for each in board.warnings if "validation images are too few" in each]
    assert "20 ID validation images" in warning
    assert "99 %" in warning
    assert "95 %" not in warning
    assert "At least 99 are needed" in warning.replace("99 for 99 %", "99")


def test_a_method_that_is_tuned_on_each_set_has_a_threshold_for_each() -> None:
    scores = {"id@far": [0.0, 1.0], "far": [-4.0, -4.5, -6.0, 7.0]}
    lower = [each - 5 for each in TWENTY]
    found = by_hand(scores, {"far": lower}, tuned_on="ood_oracle")
    assert found["acceptance_at_0.95"].value == 0.75
    assert found["acceptance_at_0.95"].threshold == -5
    assert found["acceptance_at_0.95"].validation_use == ["tuned"]
    assert found["id_acceptance_at_0.95"].status == "skipped"
    assert "for each OOD set" in (found["id_acceptance_at_0.95"].reason or "")


def test_other_use_of_the_validation_images_is_said() -> None:
    info = oodbench.load_detector("temperature_scaling").info
    scores = {"id": [0.0, 1.0], "far": [-4.0, 7.0]}
    found = by_hand(scores, {"id": TWENTY}, loaded="temperature_scaling", detector=info)
    assert {tuple(each.validation_use or ()) for each in found.values()} == {("fitted",)}
    text = " ".join(Leaderboard.from_records(found.values(), []).to_text(100).split())
    assert "not guaranteed" in text
    assert "fitting" in text


def test_without_validation_images_there_is_a_reason() -> None:
    found = by_hand({"id": [0.0, 1.0], "far": [-4.0, 7.0]}, {})
    assert {found[name].status for name in NAMES} == {"skipped"}
    assert all("validation images" in (found[name].reason or "") for name in NAMES)


def test_the_plan_has_the_pass_over_the_validation_images() -> None:
    def scored(benchmark: Any) -> list[str]:
        passes = passes_of(plan_of(benchmark, methods=["SoftMax+MSP"]))
        return [each.split for each in passes if each.purpose == "score"]

    plain = mine()
    asked = plain.model_copy(update={"metrics": NAMES})
    assert scored(asked) == [*scored(plain), "validation"]
