"""Metrics on request, from a run's option to its records, reports, verification and comparison."""

from __future__ import annotations

import json
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
from oodbench import metrics
from oodbench.engine.method_results import Evaluation, MethodResult
from oodbench.errors import ExitCode, UserError
from oodbench.metrics import OPTIONAL
from oodbench.results import Run
from oodbench.run_comparison import gate as gates
from oodbench.run_comparison.comparison import compare_runs
from oodbench.storage.predictions import Predictions
from oodbench.storage.records import QualityRecord
from oodbench.storage.run_directory import RunDirectory
from oodbench.storage.stored_run import read_stored_run
from oodbench.verification.run_verification import verify_run

pytestmark = pytest.mark.usefixtures("one_thread", "content")

ALL = metrics.requested("all")
OF_SETS = [name for name in ALL if OPTIONAL[name].of == "set"]
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def extended(complete: Path, content: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The finished run, resumed with all metrics on request."""
    folder = tmp_path_factory.mktemp("extended") / "run"
    shutil.copytree(complete, folder)
    return run(folder, resume=True, metrics="all")


@pytest.fixture
def changed(extended: Run, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(extended.folder, tmp_path / "changed"))


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob(pattern))}


def without_predictions(folder: Path) -> None:
    """Make it a run of a version that stored none."""
    shutil.rmtree(folder / "predictions")
    path = folder / "run.json"
    content = json.loads(path.read_text())
    content["files"] = {k: v for k, v in content["files"].items() if "predictions" not in k}
    del content["seal"]
    path.write_text(json.dumps(content))


def test_a_resumed_run_keeps_what_it_has_and_adds_the_metrics(
    complete: Path, extended: Run
) -> None:
    assert extended.complete
    for pattern in ("scores/*/*", "predictions/*/*", "costs.jsonl", "differences.jsonl"):
        assert files(extended.folder, pattern) == files(complete, pattern), pattern
    before = RunDirectory(complete).read_records()[0]
    assert [each for each in extended.records if each.metric not in OPTIONAL] == before
    added = [each for each in extended.records if each.metric in OPTIONAL]
    of_id = len(ALL) - len(OF_SETS)
    assert len(added) == len(METHODS) * SEEDS * (len(OF_SETS) * len(SETS) + of_id)
    assert {each.ood_dataset for each in added if each.metric in OF_SETS} == set(SETS)
    assert {each.ood_dataset for each in added if each.metric not in OF_SETS} == {None}


def pairs_won(ours: Array, theirs: Array) -> float:
    """Share of pairs in which ours is larger; equal ones count one half."""
    return float(((ours[:, None] > theirs) + (ours[:, None] == theirs) / 2).mean())


def risk(scores: Array, wrong: Array) -> float:
    """Mean selective risk, counted image by image; no two scores are equal."""
    assert len(set(scores)) == len(scores)
    errors, total = 0.0, 0.0
    for place, index in enumerate(sorted(range(len(scores)), key=lambda i: -scores[i]), start=1):
        errors += wrong[index]
        total += errors / place
    return total / len(scores)


def test_values_are_those_of_plain_loops(extended: Run) -> None:
    scores = extended.scores("SoftMax+MSP", 1)
    with np.load(extended.folder / "predictions/SoftMax/seed1.npz") as arrays:
        right, sure = arrays["correct/id"], arrays["confidence/id"]
    known, found = scores["id"], recorded(extended, "SoftMax+MSP", 1)
    n, wrong, error = len(known), (~right).astype(float), float((~right).mean())
    # The score of MSP is the log-odds of the largest probability.
    np.testing.assert_allclose(np.log(sure) - np.log1p(-sure), known, rtol=1e-6)
    assert found["id_accuracy", None] == pytest.approx(1 - error)
    area = risk(known, wrong)
    assert found["aurc", None] == pytest.approx(area)
    best = error + (1 - error) * np.log(1 - error)
    assert found["e_aurc", None] == pytest.approx(area - best)
    failure = pairs_won(known[right], known[~right])
    assert found["failure_auroc", None] == pytest.approx(failure)
    half = (1 - failure) * error * (1 - error) + error**2 / 2
    assert found["augrc", None] == pytest.approx(half)
    gaps = np.zeros(15)
    for p, hit in zip(sure, right, strict=True):
        gaps[int(np.ceil(15 * p)) - 1] += hit - p
    assert found["ece", None] == pytest.approx(np.abs(gaps).sum() / n)
    for ood in SETS:
        unknown = scores[ood]
        joint = np.append(known, unknown)
        errors = np.append(wrong, np.ones(len(unknown)))
        if len(set(joint)) == len(joint):
            assert found["scod_aurc", ood] == pytest.approx(risk(joint, errors))
        oscr = (1 - error) * pairs_won(known[right], unknown)
        assert found["oscr", ood] == pytest.approx(oscr)
        for level, fraction in (("1e-4", 1e-4), ("1e-2", 1e-2), ("1e-1", 1e-1)):
            t = sorted(unknown)[-int(np.ceil(round(fraction * len(unknown), 9)))]
            expected = sum(known[right] > t) / n
            assert found[f"ccr_at_fpr_{level}", ood] == pytest.approx(expected)
        low, high = joint.min(), joint.max()
        gap = ((unknown - low) / (high - low)).mean() - ((known - low) / (high - low)).mean()
        assert found["autc", ood] == pytest.approx((1 + gap) / 2)


def recorded(done: Run, method: str, seed: int) -> Mapping[tuple[str, str | None], float]:
    mine = [r for r in done.records if (r.method, r.seed) == (method, seed)]
    assert all(r.ci_low is not None and r.ci_high is not None for r in mine)
    return {(r.metric, r.ood_dataset): r.value or 0.0 for r in mine}


# --- verification -------------------------------------------------------------------------------


def test_a_run_with_all_metrics_follows(extended: Run) -> None:
    found = verify_run(extended.folder)
    assert found.exit_code == ExitCode.OK, str(found)


@pytest.mark.parametrize("metric", ["aurc", "oscr", "ccr_at_fpr_1e-1", "autc", "ece"])
def test_a_flipped_digit_is_found(changed: Path, metric: str) -> None:
    path = changed / "records.jsonl"
    lines = path.read_text().splitlines()
    number, record = next(
        (i, each) for i, each in enumerate(map(json.loads, lines)) if each["metric"] == metric
    )
    record["value"] += 1e-6
    lines[number] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")
    found = verify_run(changed)
    assert found.exit_code == ExitCode.FINDING
    assert found.discrepancies[0].line == number + 1
    assert found.discrepancies[0].field == "value"
    assert metric in found.discrepancies[0].record


def test_a_changed_prediction_is_found(changed: Path) -> None:
    path = changed / "predictions/SoftMax/seed0.npz"
    with np.load(path) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    content["correct/id"][0] ^= True
    np.savez(path, **content)
    found = verify_run(changed)
    assert {each.file for each in found.discrepancies} >= {
        "records.jsonl",
        "predictions/SoftMax/seed0.npz",
    }
    assert any("id_accuracy" in each.record for each in found.discrepancies)


def test_missing_predictions_are_named(changed: Path) -> None:
    without_predictions(changed)
    found = verify_run(changed)
    assert not found.discrepancies
    assert found.exit_code == ExitCode.INCOMPLETE
    assert "predictions/DisMax/seed0.npz, predictions/DisMax/seed1.npz" in str(found)


# --- runs without predictions -------------------------------------------------------------------


def test_a_run_of_an_older_version_opens_verifies_and_gets_predictions(
    copy: Path, complete: Path
) -> None:
    without_predictions(copy)
    old = oodbench.open_run(copy)
    assert isinstance(old, Run)
    assert old.leaderboard().optional == ()
    assert verify_run(copy).exit_code == ExitCode.OK
    done = run(copy, resume=True, metrics=["oscr"])
    assert done.leaderboard().optional == ("oscr",)
    assert files(copy, "predictions/*/*") == files(complete, "predictions/*/*")
    assert files(copy, "scores/*/*") == files(complete, "scores/*/*")
    again = run(copy, resume=True)
    assert again.leaderboard().optional == ("oscr",), "a resumed run keeps its metrics"


# --- reports ------------------------------------------------------------------------------------


def test_reports_show_them_only_where_they_were_asked_for(complete: Path, extended: Run) -> None:
    plain, full = oodbench.open_run(complete).report(), extended.leaderboard()
    assert isinstance(full, type(plain))
    for form in ("to_text", "to_markdown", "to_html", "to_latex", "to_csv", "to_json"):
        with_them, without = (getattr(board, form)() for board in (full, plain))
        word = "oscr" if form in ("to_csv", "to_json") else "OSCR"
        assert word in with_them, form
        assert word not in without, form
    text = " ".join(full.to_text(100).split())
    assert "OSCR↑: area under the share of ID images" in text
    assert "CCR@FPR 1e-4↑: every OOD set has fewer than 10,000 images" in text
    assert max(map(len, full.to_text(80).splitlines())) <= 80
    row = next(row for row in full.rows if row.method == "SoftMax+MSP")
    mean = np.mean([recorded(extended, row.method, s)["aurc", None] for s in range(SEEDS)])
    frame = full.to_pandas().set_index("method")
    assert frame.loc["SoftMax+MSP", "aurc"] == pytest.approx(mean)
    entry = row.entries["oscr", full.column("mean")]
    assert entry.mark is None
    by_set = [recorded(extended, row.method, 0)["oscr", ood] for ood in SETS]
    assert entry.estimate.by_seed[0] == pytest.approx(np.mean(by_set))


def test_a_comparison_takes_them_with_their_direction(extended: Run, changed: Path) -> None:
    path = changed / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for each in lines:
        if each["metric"] in ("aurc", "oscr") and each["method"] == "SoftMax+MSP":
            for key in ("value", "ci_low", "ci_high"):
                each[key] = min(1.0, each[key] + 0.01)
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    sides = read_stored_run(extended.folder), read_stored_run(changed)
    comparison = compare_runs(*sides, metrics=["aurc", "oscr"])
    kinds = {change.kind for change in comparison.changes if change.metric == "aurc"}
    assert kinds == {"id"}
    options: Any = {"max_slower": None, "fail_on": (), "allow_cost": False, "strict": True}
    rules = gates.Gate.of_options(("aurc=0.5", "oscr=0.5"), **options)
    failed = {each.metric for each in gates.check(comparison, rules).findings}
    assert failed == {"aurc"}, "a higher OSCR is better"


def test_a_report_computes_them_later_and_writes_nothing(complete: Path, extended: Run) -> None:
    before = files(complete, "**/*.*")
    later = Run(complete).with_metrics("oscr,aurc")
    assert files(complete, "**/*.*") == before
    assert later.leaderboard().optional == ("aurc", "oscr")
    stored = {r for r in map(identity, extended.records) if r[2] in ("aurc", "oscr")}
    assert {r for r in map(identity, later.records) if r[2] in OPTIONAL} == stored
    assert extended.with_metrics("all").computed == ()
    with pytest.raises(UserError, match="Did you mean 'oscr'"):
        later.with_metrics("oscrr")


def identity(record: QualityRecord) -> tuple[Any, ...]:
    return record.method, record.seed, record.metric, record.ood_dataset, record.value


# --- options ------------------------------------------------------------------------------------


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no metric 'ocsr'\. Did you mean 'oscr'"):
        run(tmp_path / "run", metrics="aurc,ocsr")
    path = tmp_path / "bad.yaml"
    path.write_text("extends: tiny\nname: bad\nmetrics: [ocsr]\n")
    with pytest.raises(UserError, match=r"bad\.yaml:3: metrics.*'oscr'"):
        oodbench.run(path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- records by hand ----------------------------------------------------------------------------


def by_hand(
    scores: Mapping[str, list[float]], right: list[bool], csid: tuple[str, ...] = (), **change: Any
) -> dict[str, QualityRecord]:
    """Metric -> record, of ID images, perhaps csID images, and the OOD set "far"."""
    (method,) = plan_of(mine(), methods=["SoftMax+MSP"]).methods
    method = method if not change else type(method)(**{**vars_of(method), **change})
    result = MethodResult(
        detectors={"far": oodbench.load_detector("baseline")},
        scores={name: np.array(found) for name, found in scores.items()},
    )
    cuts = {"id": slice(0, 2), "shifted": slice(2, None)}
    sure = np.full(len(right), 0.75)
    predictions = {
        name: Predictions(np.array(right)[cuts[name]], sure[cuts[name]]) for name in ("id", *csid)
    }
    evaluation = Evaluation({method.name: result}, predictions)
    return {
        each.metric: each for each in recorder(csid, optional=ALL).quality(method, 0, evaluation)
    }


def vars_of(method: Any) -> dict[str, Any]:
    return {name: getattr(method, name) for name in type(method).__dataclass_fields__}


def test_csid_images_count_as_id() -> None:
    scores = {"id": [3.0, 5.0], "shifted": [1.0, 4.0], "far": [2.0, 0.0]}
    found = by_hand(scores, [True, True, False, True], ("shifted",))
    # By score: 5 right, 4 right, 3 right, 1 wrong.
    assert found["aurc"].value == pytest.approx((0 + 0 + 0 + 1 / 4) / 4)
    assert found["aurc"].n_id == found["oscr"].n_id == 4
    assert found["oscr"].value == pytest.approx(3 / 4), "all right images are above all OOD images"
    assert found["ccr_at_fpr_1e-1"].value == pytest.approx(3 / 4)
    assert found["failure_auroc"].value == 1.0
    assert found["ece"].value == pytest.approx(0.0)
    assert found["oscr"].csid == ["shifted"]


def test_metrics_without_a_value_have_a_reason() -> None:
    found = by_hand({"id": [3.0, 5.0], "far": [2.0, 0.0]}, [True, True])
    record = found["failure_auroc"]
    assert (record.value, record.status) == (None, "skipped")
    assert "misclassified" in (record.reason or "")
    assert found["aurc"].value == 0.0
    oracle = by_hand(
        {"id@far": [3.0, 5.0], "far": [2.0, 0.0]}, [True, False], tuned_on="ood_oracle"
    )
    assert oracle["aurc"].status == "skipped"
    assert "for each OOD set" in (oracle["aurc"].reason or "")
    assert oracle["oscr"].value == pytest.approx(0.5)
    assert metrics.oscr([3, 5], [True, False], [2, 0]) == 0.5
