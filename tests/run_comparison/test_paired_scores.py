"""The paired bootstrap against a loop over resampled arrays, and against DeLong's method."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.stored_runs import GROUPS, ID, draw, jittered

from oodbench import metrics
from oodbench.bootstrap import SharedResamples
from oodbench.metrics import METRICS
from oodbench.report.leaderboard import FPR
from oodbench.run_comparison.paired_scores import PairedSet, by_seed, image_error, pair

RECORDED = (FPR, *METRICS)
SETS = list(GROUPS)
BASE = {seed: draw(seed) for seed in (0, 1)}
HEAD = {seed: jittered(BASE[seed], 10 + seed, 0.5, 0.1) for seed in BASE}


def paired(resamples: int, base=BASE, head=HEAD) -> list[PairedSet]:  # type: ignore[no-untyped-def]
    shared = SharedResamples(resamples)
    return [pair(base, head, ood, ID, list(RECORDED), shared) for ood in SETS]


def measured(id_scores: np.ndarray, ood_scores: np.ndarray) -> dict[str, float]:
    found = metrics.evaluate(id_scores, ood_scores)
    return {**found, FPR: 1 - found["tnr_at_95_tpr"]}


def test_values_are_those_of_the_scores() -> None:
    for ood, found in zip(SETS, paired(2), strict=True):
        for seed in BASE:
            old = measured(BASE[seed]["id"], BASE[seed][ood])
            new = measured(HEAD[seed]["id"], HEAD[seed][ood])
            for metric in RECORDED:
                assert found.values[metric][seed] == (old[metric], new[metric])


def test_errors_are_those_of_a_loop_over_the_same_resamples() -> None:
    """Means over seeds and sets of differences of metrics of resampled arrays."""
    resamples, shared = 30, SharedResamples(30)
    differences = {metric: np.zeros(resamples) for metric in RECORDED}
    for row in range(resamples):
        for ood in SETS:
            for seed in BASE:
                drawn = [
                    measured(
                        np.repeat(side["id"], shared.counts(ID, len(side["id"]))[row]),
                        np.repeat(side[ood], shared.counts(ood, len(side[ood]))[row]),
                    )
                    for side in (BASE[seed], HEAD[seed])
                ]
                for metric, values in differences.items():
                    values[row] += (drawn[1][metric] - drawn[0][metric]) / 6
    found = paired(resamples)
    for metric, values in differences.items():
        if metric != "auroc":  # which DeLong's method tests
            expected = values.std(ddof=1)
            assert image_error(metric, found) == pytest.approx(expected, rel=1e-9), metric


def test_delong_agrees_with_the_bootstrap() -> None:
    """On a mean over sets and seeds, within the Monte Carlo error of 4,000 resamples (1.1 %)."""
    shared, total = SharedResamples(4000), np.zeros(4000)
    for ood in SETS:
        for seed in BASE:
            old, new = (
                shared.bootstrap(ID, side["id"], ood, side[ood])["auroc"]
                for side in (BASE[seed], HEAD[seed])
            )
            total += (new - old) / 6
    assert image_error("auroc", paired(1)) == pytest.approx(total.std(ddof=1), rel=0.05)


def test_equal_scores_have_no_error() -> None:
    found = paired(5, BASE, {seed: dict(scores) for seed, scores in BASE.items()})
    assert all(each.errors is None for each in found)
    assert all(image_error(metric, found) == 0 for metric in RECORDED)
    assert all(old == new for old, new in by_seed("auroc", found).values())


def test_seeds_and_sets_with_equal_scores_count_as_0() -> None:
    """One of two seeds and one of three sets differ: a sixth of the error of that one."""
    head = {0: BASE[0], 1: BASE[1] | {"noise": HEAD[1]["noise"]}}
    alone = pair({1: BASE[1]}, {1: head[1]}, "noise", ID, list(RECORDED), SharedResamples(50))
    found = paired(50, BASE, head)
    for metric in RECORDED:
        expected = image_error(metric, [alone]) / 6
        assert expected > 0
        assert image_error(metric, found) == pytest.approx(expected)


def test_scores_that_rank_alike_do_not_differ() -> None:
    head = {seed: {k: np.exp(v) for k, v in scores.items()} for seed, scores in BASE.items()}
    found = paired(50, BASE, head)
    assert all(image_error(metric, found) == 0 for metric in RECORDED)


def test_detectors_tuned_on_each_set_have_id_scores_of_their_own() -> None:
    base = {0: {f"id@{ood}": draw(index)["id"] for index, ood in enumerate(SETS)} | draw(9)}
    found = paired(2, base, {0: jittered(base[0], 3)})
    for index, (ood, each) in enumerate(zip(SETS, found, strict=True)):
        expected = metrics.auroc(draw(index)["id"], base[0][ood])
        assert each.values["auroc"][0][0] == expected
