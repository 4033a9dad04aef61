"""From two stored runs to their comparison: pairs, tests, verdicts.

All differences that are tested form one family, and Holm's correction bounds its error rate. Groups
and means belong to it: each verdict is a claim of its own, and a CI job fails on any of them. Two
kinds of difference do not count:

- A group of one OOD set, and a mean of one, is the same hypothesis as the set.
- Where all scores are equal in both runs, the difference is 0 and nothing is tested. Methods that a
  change leaves alone therefore do not make it harder to see in the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from oodbench.argument_checks import names
from oodbench.bootstrap import SharedResamples
from oodbench.errors import UserError, counted, did_you_mean, listed, shown
from oodbench.metrics import OPTIONAL
from oodbench.metrics.metric_tables import SEE_METRICS
from oodbench.report.leaderboard import FPR, RANKED_BY, SHOWN
from oodbench.run_comparison.changes import Change, RunComparison, Verdict
from oodbench.run_comparison.comparability import (
    different_benchmarks,
    missing_seeds,
    pair_notes,
    side_notes,
)
from oodbench.run_comparison.cost_changes import cost_changes
from oodbench.run_comparison.evidence import holm
from oodbench.run_comparison.indexed_run import IndexedRun
from oodbench.run_comparison.method_comparison import MethodComparison, Tested, mean_value
from oodbench.run_comparison.paired_scores import RESAMPLES
from oodbench.storage.stored_run import StoredRun

METRICS = (RANKED_BY, FPR)
"""Metrics that are compared unless others are named: those of the main board."""

LEVEL = 0.05
"""Default family-wise error rate of the verdicts."""


_SPREAD = (
    "Their differences are tested with the spread over seeds: few seeds show large differences "
    "only. Runs that share a cache of checkpoints have the same networks."
)


def compare_runs(
    base: StoredRun,
    head: StoredRun,
    *,
    metrics: Sequence[str] | None = None,
    level: float = LEVEL,
) -> RunComparison:
    """Compare two runs of a benchmark: every method, metric, OOD set, group, and the mean.

    Args:
        base: the run to compare with.
        head: the run that is looked at.
        metrics: names of metrics, those of records or "fpr_at_95_tpr"; default: `METRICS`.
        level: probability of one wrong "better" or "worse" or more, between 0 and 1.

    Raises:
        UserError: a metric is not known, the level is not possible, the records of a run contradict
            each other, or its scores are damaged.
    """
    chosen = _checked(metrics, level)
    sides = IndexedRun(base, "base"), IndexedRun(head, "head")
    methods = tuple(dict.fromkeys([*sides[1].methods, *sides[0].methods]))
    notes = [note for side in sides for note in side_notes(side)]
    missing: dict[str, tuple[int, ...]] = {}
    if reason := different_benchmarks(*sides):
        tested = [
            Tested(_not_comparable(*sides, name, metric, reason))
            for name in methods
            for metric in chosen
        ]
    else:
        shared = SharedResamples(RESAMPLES)
        compared = [MethodComparison(*sides, name, chosen, shared) for name in methods]
        tested = [each for method in compared for each in method.tested]
        notes += [*pair_notes(*sides), *_method_notes(sides, compared)]
        missing = {name: seeds for name in methods if (seeds := missing_seeds(*sides, name))}
    return RunComparison(
        base=sides[0].side(),
        head=sides[1].side(),
        changes=tuple(_with_verdicts(tested, level)),
        costs=cost_changes(*sides, methods, reason),
        level=level,
        reason=reason,
        notes=tuple(notes),
        missing_seeds=missing,
    )


def _checked(metrics: Sequence[str] | None, level: float) -> tuple[str, ...]:
    if not isinstance(level, float) or not 0 < level < 1:
        raise UserError(f"level: expected a number between 0 and 1, not {shown(level)}.")
    chosen = METRICS if metrics is None else tuple(dict.fromkeys(names("metrics", metrics)))
    for metric in chosen:
        if metric not in SHOWN:
            raise UserError(
                f"There is no metric {shown(metric)}.", did_you_mean(metric, SHOWN, SEE_METRICS)
            )
    return chosen


def _not_comparable(
    base: IndexedRun, head: IndexedRun, method: str, metric: str, reason: str
) -> Change:
    """The change of a method of two runs that have nothing in common."""
    return Change(
        method=method,
        metric=metric,
        column="mean",
        kind="mean",
        base=mean_value(base, method, metric, tuple(base.sets)),
        head=mean_value(head, method, metric, tuple(head.sets)),
        verdict=Verdict.NOT_COMPARABLE,
        reason=reason,
    )


def _with_verdicts(tested: Sequence[Tested], level: float) -> Iterator[Change]:
    """The changes, after Holm's correction over all that are tested."""
    p_values = {
        each.hypothesis: each.change.p_value
        for each in tested
        if each.hypothesis is not None and each.change.p_value is not None
    }
    corrected = holm(p_values)
    for each in tested:
        change = each.change
        if each.hypothesis is None or change.difference is None:
            yield change
            continue
        p = corrected[each.hypothesis]
        verdict = Verdict.SAME
        if p < level:
            better = (change.difference > 0) == SHOWN[change.metric].higher_is_better
            verdict = Verdict.BETTER if better else Verdict.WORSE
        yield replace(change, p_adjusted=p, verdict=verdict)


def _method_notes(
    sides: tuple[IndexedRun, IndexedRun], methods: Sequence[MethodComparison]
) -> Iterator[str]:
    """How methods were compared, where it was not on the same networks and all seeds."""
    compared = [each for each in methods if each.seeds]
    models = {
        state: listed(
            dict.fromkeys(
                each.head.rows[each.method].model for each in compared if each.networks == state
            )
        )
        for state in ("different", "unknown")
    }
    if models["different"]:
        yield (
            f"The trained networks of {models['different']} differ between the runs (checksums of "
            f"their weights). {_SPREAD}"
        )
    if models["unknown"]:
        yield (
            f"Whether both runs have the same trained networks of {models['unknown']} is unknown: "
            f"a run.json with checksums is missing. {_SPREAD}"
        )
    if without := [each.method for each in compared if each.by_records]:
        yield (
            f"A run has no scores of {listed(without)}. These methods are compared by the "
            "intervals of the records, which show less than a paired test on the same images."
        )
    tests = (each.change for method in compared for each in method.tested)
    if any(each.metric in OPTIONAL and each.test for each in tests):
        yield (
            "Metrics on request are compared by the intervals of the records, which show less than "
            "a paired test on the same images."
        )
    for side in sides:
        if wrong := [each.method for each in compared if side.name in each.contradicted]:
            yield (
                f"{side.run.folder}: records of {listed(wrong)} do not follow from their scores. "
                "The scores are compared; `oodbench verify` names the records."
            )
    fewer = {
        each.seeds
        for each in compared
        if any(each.seeds != side.rows[each.method].seeds for side in sides)
    }
    for seeds in sorted(fewer):
        count = sum(each.seeds == seeds for each in compared)
        about = f"{counted(count, 'method')} compared on the seeds that both runs have"
        yield f"{about}: {listed(seeds)}."
