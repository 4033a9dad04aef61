"""Ranks of the methods on a leaderboard, and marks of the best values and of ties."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from oodbench.metrics import OPTIONAL
from oodbench.report.columns import Column
from oodbench.report.leaderboard import FPR, RANKED_BY, SHOWN, TNR, Entry, Row
from oodbench.report.seed_means import Estimate
from oodbench.storage.records import DifferenceRecord


def goodness(metric: str, found: Estimate) -> float:
    """The mean, negated if lower is better."""
    return found.mean if SHOWN[metric].higher_is_better else -found.mean


def marked(
    rows: Sequence[Row], behind: Mapping[tuple[str, str, str, str], DifferenceRecord]
) -> list[Row]:
    """The rows with marks on the best entry of each metric and column, and on ties with it.

    A single method gets no mark. Several methods are best if their means are equal. Metrics on
    request have no marks: their ties are not tested.

    Args:
        rows: rows without marks.
        behind: (metric, kind of column, name of column, method) -> paired difference to the best
            method, which shows whether the two are tied.
    """
    found: dict[tuple[str, Column], list[float]] = defaultdict(list)
    for row in rows:
        for key, entry in row.entries.items():
            found[key].append(goodness(key[0], entry.estimate))

    def entry_marked(row: Row, key: tuple[str, Column], entry: Entry) -> Entry:
        metric, column = key
        if len(found[key]) == 1 or metric in OPTIONAL:
            return entry
        if goodness(metric, entry.estimate) == max(found[key]):
            return replace(entry, mark="best")
        difference = behind.get((metric, column.kind, column.name, row.method))
        tied = difference is not None and difference.tied
        return replace(entry, mark="tied" if tied else None, behind=difference)

    return [
        with_fpr(
            replace(
                row,
                entries={key: entry_marked(row, key, each) for key, each in row.entries.items()},
            )
        )
        for row in rows
    ]


def with_fpr(row: Row) -> Row:
    """The row with entries of FPR95, computed from those of TNR@95TPR."""
    entries = dict(row.entries)
    for (metric, column), entry in row.entries.items():
        if metric == TNR:
            entries[FPR, column] = replace(entry, estimate=_complement(entry.estimate))
    return replace(row, entries=entries)


def _complement(found: Estimate) -> Estimate:
    """The estimate of 1 minus the value."""
    return Estimate(
        mean=1 - found.mean,
        std=found.std,
        ci_low=None if found.ci_high is None else 1 - found.ci_high,
        ci_high=None if found.ci_low is None else 1 - found.ci_low,
        seeds=found.seeds,
        by_seed={seed: 1 - value for seed, value in found.by_seed.items()},
    )


def ranked(rows: Iterable[Row], column: Column) -> list[Row]:
    """The rows sorted by their mean, best first, those without a mean last."""

    def mean(row: Row) -> float:
        entry = row.entries.get((RANKED_BY, column))
        return -math.inf if entry is None else goodness(RANKED_BY, entry.estimate)

    ordered = sorted(rows, key=lambda row: (-mean(row), row.method))
    ranked: list[Row] = []
    for place, row in enumerate(ordered, start=1):
        shared = ranked[-1].rank if ranked and mean(ranked[-1]) == mean(row) else place
        ranked.append(replace(row, rank=None if mean(row) == -math.inf else shared))
    return ranked
