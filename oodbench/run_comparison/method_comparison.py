"""One method in two runs: what can be compared, its differences, and how certain they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from oodbench.bootstrap import SharedResamples
from oodbench.errors import counted, listed
from oodbench.metrics import OPTIONAL, of_id_images
from oodbench.report.columns import Column, columns_of
from oodbench.report.differences import Scores, mean_of_sets
from oodbench.report.seed_means import FEWEST_SEEDS
from oodbench.run_comparison import paired_scores, recorded_intervals
from oodbench.run_comparison.changes import Change, Test, Verdict
from oodbench.run_comparison.comparability import (
    Networks,
    absence,
    common_seeds,
    common_sets,
    different_protocol,
    different_set,
    networks,
)
from oodbench.run_comparison.evidence import Evidence
from oodbench.run_comparison.indexed_run import ID_ALONE, IndexedRun
from oodbench.run_comparison.recorded_intervals import Errors

Hypothesis = tuple[str, str, frozenset[str]]
"""Method, metric and OOD sets."""

_ROUNDING = 1e-9

_OF_RECORDS: Test = "intervals of the records"

PairedSets = Mapping[str, paired_scores.PairedSet]
"""OOD set -> paired scores."""


@dataclass(frozen=True, slots=True)
class Tested:
    """A change before Holm's correction.

    Attributes:
        change: without a corrected p-value, and without the verdict if it was tested.
        hypothesis: what was tested; None if nothing was.
    """

    change: Change
    hypothesis: Hypothesis | None = None


class MethodComparison:
    """One method of two runs of the same benchmark on the same ID images.

    Args:
        base: the base.
        head: the head.
        method: its name.
        chosen: metrics, by the names of `report.leaderboard.SHOWN`.
        shared: the bootstrap resamples.

    Attributes:
        seeds: seeds that both runs have; empty if it is not in both.
        networks: whether both runs have the same networks for these seeds.
        by_records: whether it is compared by the intervals of its records, for want of scores.
        contradicted: names of the sides with records that do not follow from their scores.
        tested: a change for each metric and column.

    Raises:
        UserError: if scores are damaged.
    """

    def __init__(
        self,
        base: IndexedRun,
        head: IndexedRun,
        method: str,
        chosen: Sequence[str],
        shared: SharedResamples,
    ) -> None:
        self.base, self.head, self.method = base, head, method
        in_both = method in base.rows and method in head.rows
        self.seeds = common_seeds(base, head, method) if in_both else ()
        self.networks: Networks = networks(base, head, method, self.seeds) if self.seeds else "same"
        both = list(common_sets(base, head, method) if in_both else ())
        if both and base.has_id_records(method) and head.has_id_records(method):
            both.append(ID_ALONE)
        self._different = {ood: different_set(base, head, method, ood) for ood in both}
        reason = different_protocol(base, head, method) if in_both else self._absent()
        paired = None if reason or not in_both else self._pair(chosen, shared)
        self.contradicted = [
            side.name
            for place, side in enumerate((base, head))
            if self._contradicts(side, place, paired)
        ]
        self.tested = [
            self._change(metric, column, reason, paired)
            for metric in chosen
            for column in self._columns(metric)
        ]
        self.by_records = any(
            each.change.test == _OF_RECORDS and each.change.metric not in OPTIONAL
            for each in self.tested
        )

    def _columns(self, metric: str) -> list[Column]:
        """Sets, groups and mean, or the ID images alone; none if neither run has values."""
        base, head = self.base, self.head
        if of_id_images(metric):
            return [Column("id", head.board.id_dataset, (ID_ALONE,))]
        found = columns_of({**head.sets, **base.sets, **head.sets})
        if self.method not in base.rows and self.method not in head.rows:
            return []
        return [each for each in found if each.kind != "worst"]

    def _absent(self) -> str:
        """Why a run that names the method has no values of it."""
        missing = [
            absence(side, self.method)
            for side in (self.base, self.head)
            if self.method not in side.rows and self.method in side.absences
        ]
        return "; ".join(missing)

    def _pair(self, chosen: Sequence[str], shared: SharedResamples) -> PairedSets | None:
        """The scores of the sets that can be compared; None if a side lacks some."""
        sets = [ood for ood, reason in self._different.items() if not reason and ood != ID_ALONE]
        chosen = [metric for metric in chosen if metric not in OPTIONAL]
        sides: list[dict[int, Scores]] = []
        for side in (self.base, self.head):
            found = {seed: side.scores(self.method, seed, sets) for seed in self.seeds}
            sides.append({seed: each for seed, each in found.items() if each is not None})
            if len(sides[-1]) < len(self.seeds):
                return None
        id_dataset = self.head.board.id_dataset
        old, new = sides
        return {ood: paired_scores.pair(old, new, ood, id_dataset, chosen, shared) for ood in sets}

    def _contradicts(self, side: IndexedRun, place: int, paired: PairedSets | None) -> bool:
        """Whether a recorded value is not that of the scores."""
        for ood, each in (paired or {}).items():
            for metric, values in each.values.items():
                recorded = side.measured(self.method, metric, ood)
                for seed, pair in values.items():
                    if seed in recorded and abs(recorded[seed].value - pair[place]) > _ROUNDING:
                        return True
        return False

    def _change(
        self, metric: str, column: Column, reason: str, paired: PairedSets | None
    ) -> Tested:
        sides = self.base, self.head
        members = [members_of(side, column) for side in sides]
        base, head = (
            mean_value(side, self.method, metric, sets)
            for side, sets in zip(sides, members, strict=True)
        )
        change = Change(
            method=self.method,
            metric=metric,
            column=column.name,
            kind="mean" if column.kind == "worst" else column.kind,
            base=base,
            head=head,
            verdict=Verdict.NOT_COMPARABLE,
        )
        unrecorded = [
            side.name
            for side, sets, value in zip(sides, members, (base, head), strict=True)
            if value is None and sets and self.method in side.rows
        ]
        if not reason and unrecorded:
            reason = f"{metric} is not recorded in the {' and the '.join(unrecorded)}"
        if not reason and (base is None) != (head is None):
            return Tested(replace(change, verdict=Verdict.NEW if base is None else Verdict.GONE))
        if not reason and set(members[0]) != set(members[1]):
            before, after = map(listed, members)
            reason = f"other OOD sets: {before} in the base, {after} in the head"
        unknown = "no OOD set is in both runs"  # then no seed is known to be in both
        differing = (self._different.get(ood, unknown) for ood in members[1])
        reason = reason or next(filter(None, differing), "")
        if reason:
            return Tested(replace(change, reason=reason))
        if paired is None or metric in OPTIONAL:
            return self._by_records(change, members[1])
        return self._by_scores(change, {ood: paired[ood] for ood in members[1]})

    def _by_scores(self, change: Change, paired: PairedSets) -> Tested:
        """The change, tested on the same images."""
        sets = list(paired.values())
        test: Test = "DeLong" if change.metric == paired_scores.AUROC else "paired bootstrap"
        change = replace(change, test=test if self.networks == "same" else "spread over seeds")
        values = paired_scores.by_seed(change.metric, sets)
        if all(each.errors is None for each in sets):
            return _equal(change, values)
        if self._images(list(paired)) < 2:
            return Tested(replace(change, test="", reason="a data set has a single image"))
        error = paired_scores.image_error(change.metric, sets)
        return self._with_evidence(change, values, Errors(error, error), list(paired))

    def _by_records(self, change: Change, sets: Sequence[str]) -> Tested:
        """The change, tested by the intervals of the records."""
        change = replace(change, test=_OF_RECORDS)
        measured = [
            [side.measured(self.method, change.metric, ood) for side in (self.base, self.head)]
            for ood in sets
        ]
        if any(seed not in each for pair in measured for each in pair for seed in self.seeds):
            reason = f"{change.metric} is not recorded for every seed"
            return Tested(replace(change, test="", reason=reason))
        pairs = [{seed: (old[seed], new[seed]) for seed in self.seeds} for old, new in measured]
        values = recorded_intervals.by_seed(pairs)
        if recorded_intervals.identical(pairs):
            return _equal(change, values)
        if self._images(sets) < 2:
            return Tested(replace(change, test="", reason="a data set has a single image"))
        errors = recorded_intervals.errors(pairs)
        if errors is None:
            reason = "there are no scores, and no intervals in the records"
            return Tested(replace(change, test="", reason=reason))
        return self._with_evidence(change, values, errors, sets)

    def _with_evidence(
        self, change: Change, values: paired_scores.Values, errors: Errors, sets: Sequence[str]
    ) -> Tested:
        differences = [head - base for base, head in values.values()]
        change = replace(_with_means(change, values), difference=fmean(differences))
        spread = 0.0
        if self.networks != "same":
            if len(differences) < FEWEST_SEEDS:
                return Tested(replace(change, test="", reason=self._few_seeds()))
            spread = stdev(differences) / math.sqrt(len(differences))
        evidence = Evidence(
            difference=fmean(differences),
            below=errors.below,
            above=errors.above,
            spread=spread,
            seeds=len(differences),
            images=self._images(sets),
        )
        low, high = evidence.interval()
        change = replace(change, ci_low=low, ci_high=high, p_value=evidence.p_value())
        return Tested(change, (change.method, change.metric, frozenset(sets)))

    def _images(self, sets: Sequence[str]) -> int:
        """Number of images of the smallest data set."""
        return min(n for ood in sets for n in self.head.images(self.method, ood) if n)

    def _few_seeds(self) -> str:
        state = "differ" if self.networks == "different" else "may differ"
        return (
            f"the trained networks {state}, and {counted(len(self.seeds), 'common seed')} cannot "
            f"tell a change from the spread between trainings (it takes {FEWEST_SEEDS})"
        )


def members_of(side: IndexedRun, column: Column) -> tuple[str, ...]:
    """The OOD sets of a column in one run."""
    if column.kind == "id":
        return (ID_ALONE,)
    if column.kind == "group":
        return tuple(ood for ood, group in side.sets.items() if group == column.name)
    return tuple(ood for ood in side.sets if column.kind == "mean" or ood == column.name)


def mean_value(side: IndexedRun, method: str, metric: str, sets: Sequence[str]) -> float | None:
    """Mean over OOD sets and over the seeds that have all of them; None if there is no seed."""
    found = mean_of_sets(
        [{seed: m.value for seed, m in side.measured(method, metric, ood).items()} for ood in sets]
    )
    return fmean(found.values()) if found else None


def _equal(change: Change, values: paired_scores.Values) -> Tested:
    """The change where both runs have the same scores, or the same records."""
    change = replace(_with_means(change, values), difference=0.0, ci_low=0.0, ci_high=0.0)
    return Tested(replace(change, p_value=1.0, p_adjusted=1.0, verdict=Verdict.SAME))


def _with_means(change: Change, values: paired_scores.Values) -> Change:
    """The change with the means over the seeds that both runs have."""
    base, head = (fmean(each[side] for each in values.values()) for side in (0, 1))
    return replace(change, base=base, head=head)
