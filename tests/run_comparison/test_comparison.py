"""Comparison of stored runs: pairs, tests, verdicts, notes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.records import cost, quality
from helpers.stored_runs import GROUPS, ID, draw, jittered, write_run
from scipy import stats

import oodbench
from oodbench.errors import UserError
from oodbench.metrics import OPTIONAL
from oodbench.report.leaderboard import FPR, SHOWN
from oodbench.results import Run
from oodbench.run_comparison.changes import Change, RunComparison, Verdict
from oodbench.run_comparison.comparison import compare_runs
from oodbench.run_comparison.delong import Components, components, variance_of_sum
from oodbench.storage.run_description import Checksums
from oodbench.storage.stored_run import StoredRun, read_stored_run

A = draw(0)
B = draw(1)
WORSE = jittered(A, 5, drop=0.8)
"""The scores of A with the ID images nearer to the OOD images."""

Write = Callable[..., StoredRun]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a run of a name."""
    return lambda name, scores, **changes: write_run(tmp_path / name, scores, **changes)


def change(
    found: RunComparison, method: str, column: str = "mean", metric: str = "auroc"
) -> Change:
    (one,) = [
        each
        for each in found.changes
        if (each.method, each.column, each.metric) == (method, column, metric)
    ]
    return one


def reasons(found: RunComparison) -> set[str]:
    assert {each.verdict for each in found.changes} == {Verdict.NOT_COMPARABLE}
    return {each.reason for each in found.changes}


def test_a_run_with_itself(write: Write) -> None:
    run = write("run", {("A", 0): A, ("A", 1): B, ("B", 0): B, ("B", 1): A})
    chosen = [metric for metric in SHOWN if metric not in OPTIONAL]
    found = compare_runs(run, run, metrics=chosen)
    assert len(found.changes) == 2 * len(chosen) * (len(GROUPS) + 2 + 1)
    for each in found.changes:
        assert (each.verdict, each.difference, each.p_value, each.p_adjusted) == (
            Verdict.SAME,
            0.0,
            1.0,
            1.0,
        )
        assert each.base == each.head is not None
    assert {each.verdict for each in found.costs} == {Verdict.SAME}
    assert {each.slower for each in found.costs} == {1.0}
    assert not found.notes


def test_a_method_that_is_worse_is_named(write: Write) -> None:
    base = write("base", {("A", 0): A, ("B", 0): B})
    head = write("head", {("A", 0): WORSE, ("B", 0): B})
    found = compare_runs(base, head, metrics=["auroc", FPR, "fpr95_ood_positive"])
    assert {each.method for each in found.of(Verdict.WORSE)} == {"A"}
    assert not found.of(Verdict.BETTER)
    for metric, sign in (("auroc", -1), (FPR, 1), ("fpr95_ood_positive", 1)):
        one = change(found, "A", metric=metric)
        assert one.verdict == Verdict.WORSE
        assert one.difference is not None
        assert sign * one.difference > 0.05
        assert one.base is not None
        assert one.head == pytest.approx(one.base + one.difference)
        assert one.ci_low is not None
        assert one.ci_high is not None
        assert one.ci_low < one.difference < one.ci_high
    assert change(found, "A").test == "DeLong"
    assert change(found, "A", metric=FPR).test == "paired bootstrap"
    assert {each.p_value for each in found.changes if each.method == "B"} == {1.0}
    back = compare_runs(head, base)
    assert {each.method for each in back.of(Verdict.BETTER)} == {"A"}
    assert not back.of(Verdict.WORSE)


def test_p_values_are_those_of_delong_and_holm(write: Write) -> None:
    """Five hypotheses: three sets, "far", the mean; "near" is the same as its only set."""
    head_scores = jittered(A, 3, 0.5)
    base, head = write("base", {("A", 0): A}), write("head", {("A", 0): head_scores})
    found = compare_runs(base, head, metrics=["auroc"])
    raw = {}
    for column in ("letters", "patches", "noise"):
        old, new = (components(side["id"], side[column]) for side in (A, head_scores))
        error = math.sqrt(variance_of_sum([Components(new.id - old.id, new.ood - old.ood)]))
        difference = new.id.mean() - old.id.mean()
        one = change(found, "A", column)
        assert one.difference == pytest.approx(difference, abs=1e-12)
        assert one.p_value == pytest.approx(2 * stats.norm.sf(abs(difference) / error), rel=1e-9)
        half = stats.norm.ppf(0.975) * error
        assert (one.ci_low, one.ci_high) == pytest.approx((difference - half, difference + half))
        raw[column] = one.p_value
    near = change(found, "A", "near")
    assert near.p_value == raw["letters"]
    smallest = min(each.p_value for each in found.changes if each.p_value is not None)
    adjusted = [each.p_adjusted for each in found.changes if each.p_value == smallest]
    assert adjusted == pytest.approx([min(1.0, 5 * smallest)] * len(adjusted))


def test_methods_that_are_equal_do_not_cost_power(write: Write) -> None:
    head_scores = jittered(A, 3, 0.5)
    base, head = {("A", 0): A}, {("A", 0): head_scores}
    others = {(f"M{index}", 0): draw(index) for index in range(10)}
    alone = compare_runs(write("base", base), write("head", head))
    among = compare_runs(write("base2", base | others), write("head2", head | others))
    assert change(among, "A") == change(alone, "A")
    assert not [each for each in among.changes if each.method != "A" and each.p_value != 1.0]


def test_new_and_gone_methods_and_sets(write: Write) -> None:
    fewer = {name: array for name, array in A.items() if name != "noise"}
    base = write("base", {("A", 0): fewer, ("Old", 0): fewer})
    head = write("head", {("A", 0): A, ("New", 0): A})
    found = compare_runs(base, head)
    assert change(found, "New").verdict == Verdict.NEW
    assert change(found, "New").base is None
    assert change(found, "New").head is not None
    assert change(found, "Old", "letters").verdict == Verdict.GONE
    assert change(found, "A", "noise").verdict == Verdict.NEW
    assert change(found, "A", "letters").verdict == Verdict.SAME
    for column in ("far", "mean"):
        one = change(found, "A", column)
        assert one.verdict == Verdict.NOT_COMPARABLE
        assert one.reason.startswith("other OOD sets: ")
        assert "patches in the base" in one.reason
        assert "noise" in one.reason.partition(" in the base")[2]
    assert list(dict.fromkeys(each.method for each in found.changes))[-1] == "Old"
    assert {each.method: each.verdict for each in found.costs} == {
        "A": Verdict.SAME,
        "New": Verdict.NEW,
        "Old": Verdict.GONE,
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"benchmark": "cifar"}, "other benchmark: 'toy' in the base, 'cifar' in the head"),
        ({"benchmark_version": 2}, "other benchmark version: 1 in the base, 2 in the head"),
        ({"id_dataset": "mnist"}, "other ID data set: digits in the base, mnist in the head"),
    ],
)
def test_another_benchmark(write: Write, changes: dict[str, Any], words: str) -> None:
    base = write("base", {("A", 0): A}, costs=[])
    head = write("head", {("A", 0): A, ("B", 0): B}, costs=[], **changes)
    found = compare_runs(base, head)
    assert reasons(found) == {words}
    assert len(found.changes) == 4  # a method and metric each


def checksums(**other: str) -> dict[str, Any]:
    data = {name: {"test": other.get(name, f"images of {name}")} for name in (ID, *GROUPS)}
    return {"checksums": Checksums(data=data, checkpoints={"SoftMax/seed0": "same0"})}


def test_another_set_of_images(write: Write) -> None:
    base = write("base", {("A", 0): A})
    head = write("head", {("A", 0): A}, description=checksums(patches="others"))
    found = compare_runs(base, head)
    for column in ("patches", "far", "mean"):
        one = change(found, "A", column)
        assert one.verdict == Verdict.NOT_COMPARABLE
        assert "other images of patches: checksum images o in the base, others" in one.reason
    assert change(found, "A", "letters").verdict == Verdict.SAME
    head = write("head2", {("A", 0): A}, description=checksums(digits="others"))
    assert "other images of digits" in reasons(compare_runs(base, head)).pop()


def test_another_number_of_images(write: Write) -> None:
    base = write("base", {("A", 0): A}, weights=None)
    head = write("head", {("A", 0): draw(0, n_ood=60)}, weights=None)
    assert reasons(compare_runs(base, head)) == {
        f"other number of images of {ood}: 80 in the base, 60 in the head" for ood in GROUPS
    }


def test_another_protocol(write: Write) -> None:
    base = write("base", {("A", 0): A})
    head = write("head", {("A", 0): A}, tuned_on="fgsm")
    words = "other protocol: tuned on 'none' in the base, 'fgsm' in the head"
    found = compare_runs(base, head)
    assert reasons(found) == {words}
    assert not [note for note in found.notes if "scores" in note], "both have scores"
    part = write("part", {("A", 0): A}, tuned_on="fgsm", untuned=["k"])
    assert "k not tuned in the head" not in reasons(compare_runs(head, part)).pop()
    assert "nothing not tuned in the base, k in the head" in reasons(compare_runs(head, part)).pop()
    tuned = [
        write(
            f"step{step}",
            {("A", 0): A},
            tuned_on="fgsm",
            description={"benchmark": {"tuning": {"fgsm_step": step, "detectors": [str(step)]}}},
        )
        for step in (0.1, 0.2)
    ]
    words = "other protocol: tuning.fgsm_step of the benchmark"
    assert reasons(compare_runs(*tuned)) == {words}


def test_other_seeds(write: Write) -> None:
    base = write("base", {("A", seed): A for seed in (0, 1)})
    head = write("head", {("A", seed): A for seed in (2, 3)})
    words = "other seeds: 0, 1 in the base, 2, 3 in the head"
    assert reasons(compare_runs(base, head)) == {words}


def test_seeds_of_both_runs_are_compared(write: Write) -> None:
    base = write("base", {("A", 0): A, ("A", 1): B, ("A", 2): A})
    head = write("head", {("A", 1): jittered(B, 0), ("A", 2): A, ("A", 3): B})
    found = compare_runs(base, head)
    one = change(found, "A", "letters")
    expected = [oodbench.metrics.auroc(side["id"], side["letters"]) for side in (B, A)]
    assert one.base == pytest.approx(np.mean(expected))
    assert one.head is not None
    assert one.base is not None
    assert one.difference == pytest.approx(one.head - one.base)
    assert "1 method compared on the seeds that both runs have: 1, 2." in found.notes
    assert found.missing_seeds == {"A": (0,)}
    assert compare_runs(base, base).missing_seeds == {}


@pytest.mark.parametrize("status", ["skipped", "failed"])
def test_skipped_or_failed_on_one_side(write: Write, status: Any) -> None:
    missing = [
        replace(
            quality("A", 0, ood, None, n_id=None, n_ood=None),
            status=status,
            reason="needs a linear\nhead",
        )
        for ood in GROUPS
    ]
    base = write("base", {("A", 0): A, ("B", 0): B})
    head = write("head", {("B", 0): B}, extra=missing)
    for found, name in ((compare_runs(base, head), "head"), (compare_runs(head, base), "base")):
        one = change(found, "A")
        assert one.verdict == Verdict.NOT_COMPARABLE
        assert one.reason == f"{status}: needs a linear head ({name})"
        assert (one.base is None) == (name == "base")
    both = compare_runs(head, head)
    assert {each.method for each in both.changes} == {"B"}, "nothing to say of A"


def test_a_failed_seed_of_two(write: Write) -> None:
    failed = quality("A", 0, "letters", None, status="failed", reason="no memory")
    base = write("base", {("A", 0): A})
    head = write("head", {("A", 1): A}, extra=[failed])
    (reason,) = reasons(compare_runs(base, head))
    assert (
        reason == "other seeds: 0 in the base, 1 in the head; seed 0 failed: no memory in the head"
    )


def test_without_scores_the_intervals_decide(write: Write) -> None:
    """The interval of the difference by Zou & Donner: ends add in quadrature."""
    base = write("base", {("A", 0): A}, keep_scores=False)
    head = write("head", {("A", 0): WORSE})
    found = compare_runs(base, head, metrics=["auroc"])
    one = change(found, "A", "letters")
    (old,), (new,) = (
        [r for r in run.records if (r.metric, r.ood_dataset) == ("auroc", "letters")]
        for run in (base, head)
    )
    assert None not in (old.value, old.ci_low, old.ci_high, new.value, new.ci_low, new.ci_high)
    d = new.value - old.value  # type: ignore[operator]
    low = d - math.hypot(new.value - new.ci_low, old.ci_high - old.value)  # type: ignore[operator]
    high = d + math.hypot(new.ci_high - new.value, old.value - old.ci_low)  # type: ignore[operator]
    assert one.test == "intervals of the records"
    assert (one.difference, one.ci_low, one.ci_high) == pytest.approx((d, low, high))
    assert one.verdict == Verdict.WORSE
    assert any("A run has no scores of A." in note for note in found.notes)
    paired = change(compare_runs(write("scored", {("A", 0): A}), head), "A", "letters")
    assert paired.ci_low is not None
    assert one.ci_low is not None
    assert one.ci_low < paired.ci_low
    itself = compare_runs(base, base)
    assert {(each.verdict, each.p_value) for each in itself.changes} == {(Verdict.SAME, 1.0)}


def test_records_without_intervals(write: Write) -> None:
    base = write("base", {("A", 0): A}, keep_scores=False, ci_low=None, ci_high=None)
    head = write("head", {("A", 0): WORSE}, keep_scores=False)
    words = "there are no scores, and no intervals in the records"
    assert reasons(compare_runs(base, head)) == {words}


def test_other_networks_are_tested_with_the_spread_over_seeds(write: Write) -> None:
    """Networks of their own: seeds that differ by 0.05 on average and scatter as much."""
    scores = {("A", seed): draw(seed) for seed in range(4)}
    drops = [0.5, -0.4, 0.6, 0.0]
    other = {("A", s): jittered(scores["A", s], 9 + s, drop=drop) for s, drop in enumerate(drops)}
    base, head = write("base", scores), write("head", other, weights="other")
    found = compare_runs(base, head, metrics=["auroc"])
    one = change(found, "A", "letters")
    same = change(compare_runs(base, write("same", other), metrics=["auroc"]), "A", "letters")
    differences = [
        oodbench.metrics.auroc(other[key]["id"], other[key]["letters"])
        - oodbench.metrics.auroc(scores[key]["id"], scores[key]["letters"])
        for key in scores
    ]
    assert one.test == "spread over seeds"
    assert one.difference == same.difference == pytest.approx(np.mean(differences))
    assert one.p_value is not None
    assert same.p_value is not None
    assert one.p_value > stats.ttest_1samp(differences, 0).pvalue > same.p_value
    spread = stats.t.ppf(0.975, 3) * stats.sem(differences)
    assert one.ci_high is not None
    assert same.ci_high is not None
    assert one.difference is not None
    expected = math.hypot(spread, same.ci_high - one.difference)
    assert one.ci_high - one.difference == pytest.approx(expected)
    assert any("networks of SoftMax differ between the runs" in note for note in found.notes)


@pytest.mark.parametrize(("weights", "words"), [("other", "differ"), (None, "may differ")])
def test_two_seeds_do_not_show_what_training_again_changes(
    write: Write, weights: str | None, words: str
) -> None:
    base = write("base", {("A", 0): A, ("A", 1): B, ("B", 0): B, ("B", 1): A})
    scores = {("A", 0): WORSE, ("A", 1): jittered(B, 1, drop=0.8), ("B", 0): B, ("B", 1): A}
    found = compare_runs(base, write("head", scores, weights=weights))
    one = change(found, "A")
    assert one.verdict == Verdict.NOT_COMPARABLE
    assert f"the trained networks {words}, and 2 common seeds cannot tell" in one.reason
    assert one.difference is not None
    assert one.difference < -0.05
    assert change(found, "B").verdict == Verdict.SAME, "equal scores need no test"


def test_networks_are_looked_up_for_each_seed(write: Write) -> None:
    """One of three seeds was trained again."""
    scores = {("A", seed): draw(seed) for seed in range(3)}
    other = scores | {("A", 2): jittered(scores["A", 2], 0)}
    weights = {f"SoftMax/seed{seed}": "other" if seed == 2 else f"same{seed}" for seed in range(3)}
    sums = Checksums(checkpoints=weights)
    head = write("head", other, description={"checksums": sums})
    assert change(compare_runs(write("base", scores), head), "A").test == "spread over seeds"


def test_all_images_change_alike(write: Write) -> None:
    """No variance at all: perfect separation, and its reverse."""
    perfect = {name: np.full(len(array), float(name == "id")) for name, array in A.items()}
    reverse = {name: -array for name, array in perfect.items()}
    base, head = write("base", {("A", 0): perfect}), write("head", {("A", 0): reverse})
    found = compare_runs(base, head, metrics=[m for m in SHOWN if m not in OPTIONAL])
    one = change(found, "A")
    assert (one.difference, one.verdict) == (-1.0, Verdict.WORSE)
    assert one.p_value is not None
    assert 0 < one.p_value < 1e-20
    assert all(math.isfinite(each.p_adjusted or 0) for each in found.changes)


def test_one_image_shows_nothing(write: Write) -> None:
    base = write("base", {("A", 0): draw(0, n_ood=1)})
    head = write("head", {("A", 0): draw(1, n_ood=1)})
    assert reasons(compare_runs(base, head)) == {"a data set has a single image"}


def test_bad_arguments(write: Write) -> None:
    run = write("run", {("A", 0): A})
    with pytest.raises(UserError, match=r"no metric 'aurok'\.\nDid you mean 'auroc'"):
        compare_runs(run, run, metrics=["aurok"])
    for metrics in ([], 3, [3]):
        with pytest.raises(UserError, match="metrics: expected a list of names"):
            compare_runs(run, run, metrics=metrics)  # type: ignore[arg-type]
    for level in (0.0, 1.5, math.nan, "0.05"):
        with pytest.raises(UserError, match="level: expected a number between 0 and 1"):
            compare_runs(run, run, level=level)  # type: ignore[arg-type]


def nan(scores: dict[str, Any]) -> dict[str, Any]:
    return scores | {"noise": np.append(scores["noise"][:-1], np.nan)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (nan, "seed 0, on 'noise' are not all finite numbers"),
        (lambda s: s | {"id": s["id"][:-1]}, r"on 'id' have shape \[119\], but .* 120 images"),
        (lambda s: s | {"id": s["id"][:, None]}, r"on 'id' have shape \[120, 1\]"),
        (lambda s: s | {"noise": s["noise"].astype(str)}, "on 'noise' are not all finite numbers"),
        (lambda s: {k: v for k, v in s.items() if k != "noise"}, "on 'noise' are missing"),
    ],
)
def test_damaged_scores(write: Write, change: Callable[[Any], Any], words: str) -> None:
    from oodbench.storage.run_directory import arrays_content

    base, head = write("base", {("A", 0): A}), write("head", {("A", 0): A}, weights=None)
    (head.folder / "scores/A/seed0.npz").write_bytes(arrays_content(change(A)))
    with pytest.raises(UserError, match=words) as caught:
        compare_runs(base, head)
    assert str(head.folder) in caught.value.message


def test_files_that_are_not_scores(write: Write) -> None:
    base, head = write("base", {("A", 0): A}), write("head", {("A", 0): A})
    (head.folder / "scores/A/seed0.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match=r"Cannot read the scores in .*seed0\.npz"):
        compare_runs(base, head)


def test_edited_records_are_noted(write: Write) -> None:
    base, head = write("base", {("A", 0): A}), write("head", {("A", 0): A})
    records = head.folder / "records.jsonl"
    lines = records.read_text().splitlines()
    first = json.loads(lines[0])
    lines[0] = json.dumps(first | {"value": first["value"] - 0.01})
    records.write_text("\n".join(lines) + "\n")
    found = compare_runs(base, read_stored_run(head.folder))
    assert {each.verdict for each in found.changes} == {Verdict.SAME}, "scores are compared"
    assert any("records.jsonl changed after the run" in note for note in found.notes)
    assert any("records of A do not follow from their scores" in note for note in found.notes)


def test_half_finished_runs_are_noted(write: Write) -> None:
    base = write("base", {("A", 0): A, ("B", 0): B})
    head = write("head", {("A", 0): A}, description={"status": "running"})
    found = compare_runs(base, head)
    assert any("head is not complete: the run is 'running'" in note for note in found.notes)
    assert change(found, "B").verdict == Verdict.GONE


def test_runs_of_other_schemas(write: Write) -> None:
    run = write("run", {("A", 0): A})
    for name, line in (("run.json", '{"schema_version": 9}'), ("records.jsonl", "{}\n")):
        kept = (run.folder / name).read_text()
        (run.folder / name).write_text(line)
        with pytest.raises(UserError, match="schema_version"):
            read_stored_run(run.folder)
        (run.folder / name).write_text(kept)


def test_runs_of_older_versions() -> None:
    """Committed runs have no scores, and records without fields that were added later."""
    results = Path(__file__).parents[2] / "docs/results"
    base, head = (
        read_stored_run(results / name) for name in ("cifar10-folders-resnet34", "cifar10-folders")
    )
    found = compare_runs(base, base)
    assert {each.verdict for each in found.changes} == {Verdict.SAME}
    assert found.base.written == "2026-11-26T17:40:34+00:00"
    assert found.base.revision is None
    assert "other benchmark" in reasons(compare_runs(base, head)).pop()


def test_renamed_methods_are_noted(write: Write) -> None:
    base = write("base", {("MaxProb", 0): A}, detector="baseline")
    head = write("head", {("MSP", 0): A}, detector="baseline")
    found = compare_runs(base, head)
    assert {each.verdict for each in found.changes} == {Verdict.NEW, Verdict.GONE}
    assert any("MaxProb (base) and MSP (head) are the same detector" in n for n in found.notes)


def test_other_detectors_and_trainings_are_noted(write: Write) -> None:
    epochs = [
        {"benchmark": {"models": {"SoftMax": {"training": {"epochs": epochs}}}}}
        for epochs in (1, 2)
    ]
    base = write("base", {("A", 0): A}, description=epochs[0], detector="a")
    head = write("head", {("A", 0): A}, description=epochs[1], detector="b")
    notes = compare_runs(base, head).notes
    assert any("models.SoftMax.training.epochs" in note for note in notes)
    assert any("the detector is 'a' in the base and 'b' in the head" in note for note in notes)


def test_metrics_that_one_run_lacks(write: Write) -> None:
    base, head = write("base", {("A", 0): A}), write("head", {("A", 0): A})
    fewer = replace(base, records=tuple(r for r in base.records if r.metric != "aupr_in"))
    found = compare_runs(fewer, head, metrics=["aupr_in"])
    assert reasons(found) == {"aupr_in is not recorded in the base"}


def test_removed_lines_of_records(write: Write) -> None:
    """One set of a method, or one seed of a metric, is missing."""
    scores = {("A", 0): A, ("A", 1): B, ("B", 0): B, ("B", 1): A}
    head = write("head", scores, keep_scores=False)
    for key in ({"ood_dataset": "noise"}, {"metric": "auroc", "seed": 1}):
        lost = {"method": "A", **key}
        kept = [r for r in head.records if any(getattr(r, k) != v for k, v in lost.items())]
        found = compare_runs(replace(head, records=tuple(kept)), head)
        assert {each.verdict for each in found.changes if each.method == "B"} == {Verdict.SAME}
        one = change(found, "A", "noise")
        assert one.verdict == Verdict.NOT_COMPARABLE
        assert "auroc is not recorded" in one.reason
        other = change(found, "A", "letters", FPR)
        assert other.verdict == Verdict.SAME


def test_the_public_function(write: Write) -> None:
    base = write("base", {("A", 0): A}).folder
    head = write("head", {("A", 0): WORSE}).folder
    found = oodbench.compare(base, head)
    assert found.of(Verdict.WORSE)
    assert oodbench.compare(str(base), Run(head)) == found
    assert oodbench.compare(base / "records.jsonl", head) == found
    assert len(oodbench.compare(base, head, metrics=["auroc"]).changes) == len(found.changes) // 2
    with pytest.raises(UserError, match="base: expected a path"):
        oodbench.compare(3, head)  # type: ignore[arg-type]
    shutil.rmtree(base)
    with pytest.raises(UserError, match="no folder"):
        oodbench.compare(base, head)


def test_a_run_without_costs(write: Write) -> None:
    bare = write("bare", {("A", 0): A}, costs=[])
    full = write("full", {("A", 0): A, ("B", 0): B})
    found = {each.method: each for each in compare_runs(bare, full).costs}
    assert found["B"].verdict == Verdict.NEW
    assert found["A"].verdict == Verdict.NOT_COMPARABLE
    assert found["A"].reason == "no costs in the base"
    found = {each.method: each for each in compare_runs(full, bare).costs}
    assert found["B"].verdict == Verdict.GONE
    assert found["A"].reason == "no costs in the head"


def test_costs(write: Write) -> None:
    """Means of passes and medians of times over the seeds of both runs."""
    key = [("A", seed) for seed in range(4)]
    times = [cost(*each, relative_to_baseline=t) for each, t in zip(key, (1, 2, 4, 9), strict=True)]
    base = write("base", dict.fromkeys(key, A), costs=times)
    one = cost("A", 1, relative_to_baseline=3.0, backwards_per_image=1.0, forwards_per_image=0.5)
    head_costs = [replace(one, seed=seed) for seed in (1, 2, 3)]
    head = write("head", dict.fromkeys(key[1:], A), costs=head_costs)
    (found,) = compare_runs(base, head).costs
    assert (found.base_relative, found.head_relative, found.slower) == (4, 3.0, 0.75)
    assert (found.base_backwards, found.head_backwards) == (0.0, 1.0)
    assert (found.base_forwards, found.head_forwards) == (1.0, 0.5)
    assert found.scatter is None
    assert found.verdict == Verdict.WORSE, "more of one kind of pass"
    (back,) = compare_runs(head, base).costs
    assert back.verdict == Verdict.WORSE
    fewer = [replace(each, backwards_per_image=0.0) for each in head_costs]
    (found,) = compare_runs(base, replace(head, costs=tuple(fewer))).costs
    assert found.verdict == Verdict.BETTER
    other = [replace(each, device="gpu", backwards_per_image=1e-12) for each in times]
    (found,) = compare_runs(base, replace(base, costs=tuple(other))).costs
    assert found.slower is None
    assert found.reason == "times on other devices: cpu in the base, gpu in the head"
    scattered = [replace(each, time_scatter=0.1 * each.seed) for each in times]
    (found,) = compare_runs(base, replace(head, costs=tuple(scattered[:3]))).costs
    assert found.scatter == pytest.approx(0.2), "seed 3 is not compared"
    late = [replace(each, seed=each.seed + 9) for each in times]
    (found,) = compare_runs(base, replace(base, costs=tuple(late))).costs
    assert found.verdict == Verdict.NOT_COMPARABLE
    assert found.reason == "other seeds: 0, 1, 2, 3 in the base, 9, 10, 11, 12 in the head"


def test_the_order_is_that_of_the_head(write: Write) -> None:
    scores = {("A", 0): A, ("B", 0): draw(1, ahead=4), ("C", 0): draw(2, ahead=3)}
    found = compare_runs(write("base", {("Z", 0): A}), write("head", scores))

    def names(values: Sequence[Any]) -> list[str]:
        return list(dict.fromkeys(each.method for each in values))

    assert names(found.changes) == names(found.costs) == ["B", "C", "A", "Z"]
