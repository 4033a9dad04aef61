"""The leaderboard of one benchmark as frozen values: what was measured of each method.

Every table and every format shows these values; none computes its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

from oodbench.errors import counted
from oodbench.metrics import METRICS, Metric
from oodbench.report.columns import Column
from oodbench.report.differences import ORACLE
from oodbench.report.estimates import Estimate
from oodbench.storage.records import DifferenceRecord

RANKED_BY = "auroc"
"""Methods are ranked by the mean of this metric over the OOD sets."""

FPR = "fpr_at_95_tpr"
"""The field's FPR95, with ID as the positive class: 1 minus TNR@95TPR, and so not in records."""

TNR = "tnr_at_95_tpr"
"""The recorded metric that FPR95 is computed from."""

SHOWN: Mapping[str, Metric] = MappingProxyType(
    {
        "auroc": METRICS["auroc"],
        FPR: Metric(
            "False positive rate at 95% true positive rate, in-distribution positive",
            "FPR95",
            False,
        ),
        **METRICS,
    }
)
"""The metrics of a leaderboard, in the order in which they are shown: the recorded ones and FPR95.

FPR95 is the share of OOD images that are accepted where at least 95% of the ID images are. It is
not `fpr95_ood_positive`, the share of ID images that are rejected where 95% of the OOD images are.
"""

ORACLE_LABEL = "oracle: tuned on the OOD sets it is tested on"

COUNTS = ("forwards_per_image", "backwards_per_image", "flops_per_image")

TIMES = (
    "latency_ms_batch1",
    "ms_per_image_batched",
    "relative_to_baseline",
    "fit_seconds",
    "tune_seconds",
)

COSTS = (*COUNTS, *TIMES, "peak_memory_bytes", "time_scatter")
"""Costs by the names that records use, in the order in which they are shown."""

Mark = Literal["best", "tied"]


class OodSet(NamedTuple):
    """An OOD set of the benchmark.

    Attributes:
        name: the data set's name.
        group: "near", "far", or whatever the benchmark says; None if it has no group.
        images: number of test images; None if the records do not say.
    """

    name: str
    group: str | None
    images: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One metric of one method in one column.

    Attributes:
        estimate: mean over seeds with its interval.
        mark: "best" of the column, "tied" with the best because the paired difference is not shown
            to be more than 0, or None.
        set_name: the set that a value of the column "worst" is of; None in other columns.
        behind: how far the best method is ahead; None for the best, and if that is not known.
    """

    estimate: Estimate
    mark: Mark | None
    set_name: str | None
    behind: DifferenceRecord | None = None


class Choice(NamedTuple):
    """Detector parameters of one seed, or of one OOD set if a seed has several."""

    seed: int
    ood_dataset: str | None
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one method costs.

    Attributes:
        seeds: number of seeds it was measured for.
        devices: where it was measured.
        values: by the names of `COSTS` and in the records' units: means over seeds, peak
            memory and scatter the largest. Not medians of times: where seeds were tuned to
            different steps, time and counts must speak of the same. None if no record has a finite
            value.
        requires: the five requirements of the DisMax paper's Table 1, by the names of
            `records.REQUIREMENTS`; true if true for any seed.
    """

    seeds: int
    devices: tuple[str, ...]
    values: Mapping[str, float | None]
    requires: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Row:
    """A method on the leaderboard.

    Attributes:
        rank: place in its section, methods with equal means sharing one; None if a method has no
            mean because an OOD set is missing.
        method: name of the method.
        model: name of the trained model.
        loss: loss it was trained with.
        detector: name of the detector.
        tuned_on: "none", "fgsm" or "ood_oracle".
        choices: detector parameters, by seed.
        seeds: seeds with a value.
        complete: whether every seed of the leaderboard has a value on every OOD set.
        entries: by metric and column, where there is a value.
        id_accuracy: test accuracy of the classifier; None if not recorded.
        cost: None if not recorded.
        untuned: parameters that have a search space and were left at their defaults.
    """

    rank: int | None
    method: str
    model: str
    loss: str
    detector: str
    tuned_on: str
    choices: tuple[Choice, ...]
    seeds: tuple[int, ...]
    complete: bool
    entries: Mapping[tuple[str, Column], Entry]
    id_accuracy: Estimate | None
    cost: Cost | None
    untuned: tuple[str, ...] = ()

    @property
    def oracle(self) -> bool:
        """Whether it saw data from the OOD sets it is tested on: such rows stand apart."""
        return self.tuned_on == ORACLE


class Absence(NamedTuple):
    """A method, or some seeds of one, without values.

    Attributes:
        method: name of the method.
        detector: name of the detector.
        status: "skipped" or "failed".
        reason: why, on one line.
        seeds: seeds it holds for.
    """

    method: str
    detector: str
    status: str
    reason: str
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, repr=False)
class LeaderboardData:
    """Methods of one version of one benchmark, ranked by mean AUROC over the OOD sets.

    Attributes:
        benchmark: name of the benchmark.
        version: version of the benchmark.
        id_dataset: the in-distribution data set.
        id_images: number of ID test images; None if the records do not say.
        ood_sets: the OOD sets, group by group; "near" comes first, "far" next.
        seeds: every seed that any method ran or tried.
        metrics: names of the metrics, in the order of `SHOWN`.
        columns: the mean, the worst set, the groups, the sets.
        rows: methods with values: the ranked ones, then the oracles.
        absences: methods and seeds that were skipped or failed.
        tested: whether it is known which methods are tied with the best; without scores it is not.
        warnings: signs of a mistake in data or scores, a sentence each.
        about: when and with what the run was made, which records do not say; shown on pages.
    """

    benchmark: str
    version: int
    id_dataset: str
    id_images: int | None
    ood_sets: tuple[OodSet, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    absences: tuple[Absence, ...]
    tested: bool
    warnings: tuple[str, ...] = ()
    about: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[Column, ...]:
        """Columns with the mean of a group."""
        return tuple(column for column in self.columns if column.kind == "group")

    def column(self, kind: Literal["mean", "worst"]) -> Column:
        """The column with the mean over all OOD sets, or with the worst of them."""
        return next(column for column in self.columns if column.kind == kind)

    def without_costs(self) -> Self:
        """The leaderboard with nothing on it that another run with the same scores changes."""
        return replace(self, rows=tuple(replace(row, cost=None) for row in self.rows))

    def __repr__(self) -> str:
        best = next((row for row in self.rows if row.rank == 1), None)
        leader = f", best: {best.method}" if best else ""
        return (
            f"<Leaderboard of '{self.benchmark}' version {self.version}: "
            f"{counted(len(self.rows), 'method')}, {counted(len(self.seeds), 'seed')}{leader}>"
        )
