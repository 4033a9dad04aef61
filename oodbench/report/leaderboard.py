"""The leaderboard of one benchmark, as frozen values.

Every table and every format shows these values; none computes its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

from oodbench.errors import counted
from oodbench.metrics import METRICS, OPTIONAL, Metric, of_id_images
from oodbench.report.columns import Column
from oodbench.report.differences import ORACLE
from oodbench.report.published.averages import ComparedAverages
from oodbench.report.seed_means import Estimate
from oodbench.report.threshold_transfer import Parts
from oodbench.storage.records import DifferenceRecord

RANKED_BY = "auroc"
"""Methods are ranked by the mean of this metric over the OOD sets."""

FPR = "fpr_at_95_tpr"
"""FPR95 with ID as the positive class: 1 minus TNR@95TPR, and therefore not in the records."""

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
        **OPTIONAL,
    }
)
"""The metrics of a leaderboard in the order to show: FPR95, the recorded metrics, those on request.

FPR95 is the share of OOD images accepted at the highest threshold that accepts at least 95% of the
ID images. `fpr95_ood_positive` is another metric: the share of ID images rejected at the lowest
threshold that rejects at least 95% of the OOD images.
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
"""Costs by their names in records, in the order to show."""

Mark = Literal["best", "tied"]


class OodSet(NamedTuple):
    """An OOD set of the benchmark.

    Attributes:
        name: name of the data set.
        group: its group in the benchmark, such as "near" or "far"; None without a group.
        images: number of test images; None if the records do not have it.
    """

    name: str
    group: str | None
    images: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One metric of one method in one column.

    Attributes:
        estimate: mean over seeds with its interval.
        mark: "best" of the column; "tied" with the best, if the interval of the paired difference
            does not lie entirely above 0; or None.
        set_name: name of the worst set in the column "worst"; None in other columns.
        behind: paired difference to the best method; None for the best, and if it is unknown.
    """

    estimate: Estimate
    mark: Mark | None
    set_name: str | None
    behind: DifferenceRecord | None = None


class Choice(NamedTuple):
    """Detector parameters of one seed, or of one OOD set if the sets of a seed differ."""

    seed: int
    ood_dataset: str | None
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of one method.

    Attributes:
        seeds: number of seeds with a cost.
        devices: the devices of the measurement.
        values: by the names of `COSTS`, in the units of the records. Means over seeds, so that
            times and counts agree if seeds were tuned to different steps; maxima of peak memory
            and scatter. None if no record has a finite value.
        requires: the five requirements of Table 1 of the DisMax paper, by the names of
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
        rank: rank in its section, shared by methods with equal means; None if the method has no
            mean because an OOD set is missing.
        method: name of the method.
        model: name of the trained model.
        loss: loss it was trained with.
        detector: name of the detector.
        tuned_on: "none", "fgsm", "ood_oracle" or "ood_validation".
        choices: detector parameters, by seed.
        seeds: seeds with a value.
        complete: whether every seed of the leaderboard has a value on every OOD set.
        entries: by metric and column, where there is a value.
        id_accuracy: test accuracy of the classifier; None if not recorded.
        cost: its costs; None if not recorded.
        untuned: parameters with a search space that kept their defaults.
        run: label of its run on a leaderboard of several runs; empty on that of one.
        weights: "published checkpoint" if the model was not trained; else empty.
        fit_split: split of the ID set that the detector was fitted on, if it was not the training
            images; else empty.
        tuning_ood: OOD set whose validation images it was tuned on; else empty.
        same_source: OOD sets of the same source as `tuning_ood`.
        accepted_parts: shares of accepted images of parts of the ID images.
        validation_images: number of ID validation images that thresholds are set on; None without
            thresholds.
        validation_use: what else these images were used for: "fitted", "tuned".
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
    run: str = ""
    weights: str = ""
    fit_split: str = ""
    tuning_ood: str = ""
    same_source: tuple[str, ...] = ()
    accepted_parts: Parts = field(default_factory=dict)
    validation_images: int | None = None
    validation_use: tuple[str, ...] = ()

    @property
    def oracle(self) -> bool:
        """Whether it was tuned on the OOD sets it is tested on; oracles are ranked separately."""
        return self.tuned_on == ORACLE


class Absence(NamedTuple):
    """A method, or some seeds of one, without values.

    Attributes:
        method: name of the method.
        detector: name of the detector.
        status: "skipped" or "failed".
        reason: why, on one line.
        seeds: the seeds without values.
        run: as `Row.run`.
    """

    method: str
    detector: str
    status: str
    reason: str
    seeds: tuple[int, ...]
    run: str = ""


class JoinedRun(NamedTuple):
    """One of several runs on a leaderboard.

    Attributes:
        label: its name on the board.
        date: when it was made; empty if it is not known.
        version: version of oodbench; empty if it is not known.
        machine: what its costs were measured on; empty if it is not known.
        scores: whether all its scores are stored.
    """

    label: str
    date: str
    version: str
    machine: str
    scores: bool


@dataclass(frozen=True, slots=True, repr=False)
class LeaderboardData:
    """Methods of one version of one benchmark, ranked by mean AUROC over the OOD sets.

    Attributes:
        benchmark: name of the benchmark.
        version: version of the benchmark.
        id_dataset: the in-distribution data set.
        csid: data sets whose images count as ID beside those of `id_dataset`.
        id_images: number of all these test images; None if the records do not have it.
        ood_sets: the OOD sets by group: "near", then "far", then others.
        seeds: all seeds of all methods, failed ones included.
        metrics: names of the metrics, in the order of `SHOWN`.
        columns: the mean, the worst set, the groups, the sets; then the ID images alone, if there
            are metrics on request of them.
        rows: methods with values: the ranked ones, then the oracles.
        absences: methods and seeds that were skipped or failed.
        tested: whether ties with the best are known; they are unknown without scores.
        warnings: signs of a mistake in data or scores, one sentence each.
        about: date and versions of the run, which are not in records; shown on web pages.
        runs: the runs of a leaderboard of several; empty on that of one.
        published: the published averages beside the measured ones; None if it names none.
        left_out: detectors of the benchmark that its default leaves out.
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
    csid: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    runs: tuple[JoinedRun, ...] = ()
    published: ComparedAverages | None = None
    left_out: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[Column, ...]:
        """Columns with the mean of a group."""
        return tuple(column for column in self.columns if column.kind == "group")

    @property
    def optional(self) -> tuple[str, ...]:
        """Names of the metrics on request."""
        return tuple(metric for metric in self.metrics if metric in OPTIONAL)

    @property
    def set_metrics(self) -> tuple[str, ...]:
        """Names of the metrics that have values on OOD sets."""
        return tuple(metric for metric in self.metrics if not of_id_images(metric))

    def column(self, kind: Literal["mean", "worst", "id"]) -> Column:
        """The column with the mean over all OOD sets, with the worst of them, or of ID images.

        Raises:
            StopIteration: there are no metrics on request of the ID images.
        """
        return next(column for column in self.columns if column.kind == kind)

    def without_costs(self) -> Self:
        """The leaderboard without costs: the same for all runs with the same scores."""
        return replace(self, rows=tuple(replace(row, cost=None) for row in self.rows))

    def __repr__(self) -> str:
        best = next((row for row in self.rows if row.rank == 1), None)
        leader = f", best: {best.method}" if best else ""
        return (
            f"<Leaderboard of '{self.benchmark}' version {self.version}: "
            f"{counted(len(self.rows), 'method')}, {counted(len(self.seeds), 'seed')}{leader}>"
        )
