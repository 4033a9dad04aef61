"""The leaderboard: what the records of one benchmark say of each method, as frozen values.

Every format shows these values; none computes its own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from oodbench.errors import UserError, counted
from oodbench.metrics import METRICS, Metric
from oodbench.report.columns import Column, columns_of
from oodbench.report.differences import ORACLE, belong
from oodbench.report.estimates import Estimate, Measurement, estimate
from oodbench.report.signs import score_signs
from oodbench.storage.records import (
    ID_ACCURACY,
    REQUIREMENTS,
    CostRecord,
    DifferenceRecord,
    QualityRecord,
)

if TYPE_CHECKING:
    import pandas as pd

RANKED_BY = "auroc"
"""Methods are ranked by the mean of this metric over the OOD sets."""

FPR = "fpr_at_95_tpr"
"""The field's FPR95, with ID as the positive class: 1 minus TNR@95TPR, and so not in records."""

_TNR = "tnr_at_95_tpr"

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

_LARGEST = ("peak_memory_bytes", "time_scatter")
"""Costs of which the largest over seeds is shown, not the mean."""

Mark = Literal["best", "tied"]
# metric -> OOD set (None for the ID accuracy) -> seed -> what was measured
Measured = dict[str, dict[str | None, dict[int, Measurement]]]


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
class Leaderboard:
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

    @classmethod
    def from_records(
        cls,
        records: Iterable[QualityRecord],
        costs: Iterable[CostRecord],
        warnings: Iterable[str] = (),
        differences: Iterable[DifferenceRecord] = (),
        *,
        order: Sequence[str] = (),
    ) -> Leaderboard:
        """Aggregate records over seeds and rank the methods. The order of records does not matter.

        Args:
            records: quality records of one benchmark, of any number of methods, seeds and sets.
            costs: cost records of the same benchmark; methods may lack them.
            warnings: signs of a mistake that the records do not show.
            differences: how far the best methods are ahead (`oodbench.report.differences`), which
            says
                which methods are tied with them. Those of other records are not used.
            order: OOD sets in the order to show within their group; the others follow by name.

        Raises:
            UserError: there are no records; they are of several benchmarks, versions or data sets
                and not comparable; or they contradict each other.
        """
        records, costs = list(records), list(costs)
        benchmark, version, id_dataset = _one_benchmark(records, costs)
        valid = [record for record in records if record.status == "ok"]
        by_method: dict[str, list[QualityRecord]] = defaultdict(list)
        for record in valid:
            by_method[record.method].append(record)
        costs_of: dict[str, list[CostRecord]] = defaultdict(list)
        for cost in costs:
            costs_of[cost.method].append(cost)
        ood_sets = _ood_sets(valid, order)
        columns = columns_of({each.name: each.group for each in ood_sets})
        # A skipped method never ran: its record's seed is none that others lack.
        seeds = tuple(sorted({record.seed for record in records if record.status != "skipped"}))
        measured = {method: _measured(mine) for method, mine in by_method.items()}
        names = {metric for mine in measured.values() for metric in mine}
        if unknown := names - {*METRICS, ID_ACCURACY}:
            raise UserError(
                f"The records have a metric that this version does not know: {min(unknown)}."
            )
        differences = list(differences)
        tested = bool(differences) and belong(differences, valid)
        behind: dict[tuple[str, str, str, str], DifferenceRecord] = {
            (each.metric, each.column_kind, each.column, each.method): each
            for each in (differences if tested else ())
        }
        rows = [
            _row(mine, measured[method], columns, seeds, costs_of[method])
            for method, mine in by_method.items()
        ]
        return cls(
            benchmark=benchmark,
            version=version,
            id_dataset=id_dataset,
            id_images=_one_size(id_dataset, {r.n_id for r in valid if r.metric != ID_ACCURACY}),
            ood_sets=ood_sets,
            seeds=seeds,
            metrics=tuple(
                metric for metric in SHOWN if (_TNR if metric == FPR else metric) in names
            ),
            columns=columns,
            rows=(
                *_ranked(_marked([row for row in rows if not row.oracle], behind), columns[0]),
                *_ranked([_with_fpr(row) for row in rows if row.oracle], columns[0]),
            ),
            absences=_absences(records),
            tested=tested,
            warnings=tuple(dict.fromkeys([*warnings, *score_signs(valid)])),
        )

    @property
    def groups(self) -> tuple[Column, ...]:
        """Columns with the mean of a group."""
        return tuple(column for column in self.columns if column.kind == "group")

    def column(self, kind: Literal["mean", "worst"]) -> Column:
        """The column with the mean over all OOD sets, or with the worst of them."""
        return next(column for column in self.columns if column.kind == kind)

    def without_costs(self) -> Leaderboard:
        """The leaderboard with nothing on it that another run with the same scores changes."""
        return replace(self, rows=tuple(replace(row, cost=None) for row in self.rows))

    def __repr__(self) -> str:
        best = next((row for row in self.rows if row.rank == 1), None)
        leader = f", best: {best.method}" if best else ""
        return (
            f"<Leaderboard of '{self.benchmark}' version {self.version}: "
            f"{counted(len(self.rows), 'method')}, {counted(len(self.seeds), 'seed')}{leader}>"
        )

    def _repr_html_(self) -> str:
        from oodbench.report.tables import leaderboard as tables
        from oodbench.report.writers import html

        return html.render_fragment(tables.overview(self, best="bold"))

    def to_text(self, width: int = 120) -> str:
        """Plain text, no line wider than `width` characters, of which there are 20 or more."""
        from oodbench.report.writers import terminal

        return terminal.render(self, width)

    def to_markdown(self) -> str:
        """GitHub-flavored Markdown."""
        from oodbench.report.writers import markdown

        return markdown.render(self)

    def to_html(self) -> str:
        """One web page that needs no other file."""
        from oodbench.report.writers import html

        return html.render(self)

    def to_latex(self) -> str:
        """LaTeX tables for a document that loads the packages booktabs and graphicx."""
        from oodbench.report.writers import latex

        return latex.render(self)

    def to_csv(self) -> str:
        """A long table: one line for each method, metric and column (`report.exports`)."""
        from oodbench.report.writers import exports

        return exports.to_csv(self)

    def to_json(self) -> str:
        """Everything, for programs (`report.exports`)."""
        from oodbench.report.writers import exports

        return exports.to_json(self)

    def to_pandas(self, *, wide: bool = False) -> pd.DataFrame:
        """One row for each method, with the columns of the first table; or all (`wide`).

        `report.exports` says what they are.
        """
        from oodbench.report.writers import exports

        return exports.to_pandas(self, wide=wide)


# --- reading records ---------------------------------------------------------------------------


def _one_benchmark(
    records: Sequence[QualityRecord], costs: Sequence[CostRecord]
) -> tuple[str, int, str]:
    """Benchmark, version and ID data set of the records."""
    if not records:
        raise UserError(
            "There are no records to make a leaderboard from.", "Run a benchmark first."
        )
    found = sorted({(r.benchmark, r.benchmark_version, r.id_dataset) for r in records})
    if len(found) > 1:
        raise UserError(
            "Records are not comparable: "
            + " and ".join(f"{name} version {number} (ID: {id_})" for name, number, id_ in found)
            + ".",
            "Make one leaderboard for each benchmark and version.",
        )
    if others := sorted({cost.benchmark for cost in costs} - {found[0][0]}):
        raise UserError(
            f"Costs are not comparable: they are of {', '.join(others)}, "
            f"the quality records of {found[0][0]}."
        )
    return found[0]


def _one_size(dataset: str, sizes: set[int | None]) -> int | None:
    """The number of images of a data set, as the records that say it agree."""
    known = sorted(size for size in sizes if size is not None)
    if len(known) > 1:
        raise UserError(
            f"Records are not comparable: '{dataset}' was tested with "
            f"{' and with '.join(map(str, known))} images."
        )
    return known[0] if known else None


def _ood_sets(records: Sequence[QualityRecord], order: Sequence[str]) -> tuple[OodSet, ...]:
    groups: dict[str, set[str | None]] = defaultdict(set)
    sizes: dict[str, set[int | None]] = defaultdict(set)
    for record in records:
        if record.ood_dataset is not None:
            groups[record.ood_dataset].add(record.ood_group)
            sizes[record.ood_dataset].add(record.n_ood)
    sets = []
    for name, found in groups.items():
        if len(found) > 1:
            raise UserError(
                f"Records are not comparable: the OOD set '{name}' is in several groups: "
                f"{', '.join(sorted(map(str, found)))}."
            )
        sets.append(OodSet(name, found.pop(), _one_size(name, sizes[name])))

    def place(each: OodSet) -> tuple[tuple[int, str], int, str]:
        known = order.index(each.name) if each.name in order else len(order)
        return _group_order(each.group), known, each.name

    return tuple(sorted(sets, key=place))


def _group_order(group: str | None) -> tuple[int, str]:
    """Harder groups first, then by name; sets without a group last."""
    if group is None:
        return 3, ""
    return {"near": 0, "far": 1}.get(group, 2), group


def _measured(records: Iterable[QualityRecord]) -> Measured:
    """What was measured of one method."""
    found: Measured = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record.value is None:
            continue
        seen = found[record.metric][record.ood_dataset]
        new = Measurement(record.value, record.ci_low, record.ci_high)
        if seen.setdefault(record.seed, new) != new:
            raise UserError(
                f"Records contradict each other: '{record.method}', seed {record.seed}, "
                f"{record.metric} on {record.ood_dataset or record.id_dataset} is recorded twice, "
                "with different values.",
                "Give the records of one run.",
            )
    return found


def _absences(records: Iterable[QualityRecord]) -> tuple[Absence, ...]:
    seeds: dict[tuple[str, str, str, str], set[int]] = defaultdict(set)
    for record in records:
        if record.status != "ok":
            reason = " ".join((record.reason or "no reason recorded").split())
            seeds[record.method, record.detector, record.status, reason].add(record.seed)
    # "skipped" before "failed" would hide what needs a person's eye below what does not.
    ordered = sorted(seeds.items(), key=lambda item: (item[0][2] != "failed", item[0]))
    return tuple(Absence(*key, tuple(sorted(found))) for key, found in ordered)


# --- one method --------------------------------------------------------------------------------


def _row(
    records: Sequence[QualityRecord],
    measured: Measured,
    columns: Sequence[Column],
    seeds: Sequence[int],
    costs: Sequence[CostRecord],
) -> Row:
    """The row of one method, before it is ranked and marked."""
    described = {(r.method, r.model, r.loss, r.detector, r.tuned_on) for r in records}
    if len(described) > 1:
        raise UserError(
            "Records contradict each other: one method is described as "
            + " and as ".join(sorted(map(str, described)))
            + ".",
            "Give the records of one run.",
        )
    method, model, loss, detector, tuned_on = described.pop()
    entries: dict[tuple[str, Column], Entry] = {}
    for metric in METRICS:
        by_set = measured.get(metric, {})
        for column in columns:
            entry = _entry(metric, column, by_set)
            if entry is not None:
                entries[metric, column] = entry
    mean = entries.get((RANKED_BY, columns[0]))
    return Row(
        rank=None,
        method=method,
        model=model,
        loss=loss,
        detector=detector,
        tuned_on=tuned_on,
        choices=_choices(records),
        seeds=tuple(sorted({record.seed for record in records})),
        complete=mean is not None and mean.estimate.seeds == len(seeds),
        entries=entries,
        id_accuracy=estimate([measured.get(ID_ACCURACY, {}).get(None, {})]),
        cost=_cost(costs),
        untuned=tuple(dict.fromkeys(name for record in records for name in record.untuned or ())),
    )


def _entry(
    metric: str, column: Column, by_set: Mapping[str | None, Mapping[int, Measurement]]
) -> Entry | None:
    if column.kind != "worst":
        found = estimate([by_set.get(name, {}) for name in column.sets])
        return None if found is None else Entry(found, None, None)
    each = {name: estimate([by_set.get(name, {})]) for name in column.sets}
    known = {name: found for name, found in each.items() if found is not None}
    # The worst of the sets that happen to be there would flatter a method.
    if not known or len(known) < len(each):
        return None
    name = min(known, key=lambda name: (_goodness(metric, known[name]), name))
    return Entry(known[name], None, name)


def _goodness(metric: str, found: Estimate) -> float:
    """The mean, with its sign turned if lower is better."""
    return found.mean if METRICS[metric].higher_is_better else -found.mean


def _choices(records: Iterable[QualityRecord]) -> tuple[Choice, ...]:
    by_seed: dict[int, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for record in records:
        if record.ood_dataset is not None:
            by_seed[record.seed][record.ood_dataset] = record.detector_params
    choices = []
    for seed, by_set in sorted(by_seed.items()):
        first, *others = (values for _, values in sorted(by_set.items()))
        if all(values == first for values in others):
            choices.append(Choice(seed, None, first))
        else:
            choices += [Choice(seed, name, values) for name, values in sorted(by_set.items())]
    return tuple(choices)


def _cost(costs: Sequence[CostRecord]) -> Cost | None:
    if not costs:
        return None

    def values(name: str) -> list[float]:
        found = (getattr(cost, name) for cost in costs)
        return [value for value in found if value is not None and math.isfinite(value)]

    def summary(name: str) -> float | None:
        found = values(name)
        if not found:
            return None
        return float(max(found)) if name in _LARGEST else fmean(found)

    return Cost(
        seeds=len({cost.seed for cost in costs}),
        devices=tuple(sorted({cost.device for cost in costs})),
        values={name: summary(name) for name in COSTS},
        requires={name: any(getattr(cost, name) for cost in costs) for name in REQUIREMENTS},
    )


# --- all methods -------------------------------------------------------------------------------


def _marked(
    rows: Sequence[Row], behind: Mapping[tuple[str, str, str, str], DifferenceRecord]
) -> list[Row]:
    """The rows with the best entry of each metric and column marked, and those tied with it.

    Nothing is marked where there is only one method. The best methods have equal means; others are
    tied with them if the paired difference says so.
    """
    found: dict[tuple[str, Column], list[float]] = defaultdict(list)
    for row in rows:
        for key, entry in row.entries.items():
            found[key].append(_goodness(key[0], entry.estimate))

    def marked(row: Row, key: tuple[str, Column], entry: Entry) -> Entry:
        metric, column = key
        if len(found[key]) == 1:
            return entry
        if _goodness(metric, entry.estimate) == max(found[key]):
            return replace(entry, mark="best")
        difference = behind.get((metric, column.kind, column.name, row.method))
        tied = difference is not None and difference.tied
        return replace(entry, mark="tied" if tied else None, behind=difference)

    return [
        _with_fpr(
            replace(row, entries={key: marked(row, key, each) for key, each in row.entries.items()})
        )
        for row in rows
    ]


def _with_fpr(row: Row) -> Row:
    """The row with FPR95, which says what TNR@95TPR says."""
    entries = dict(row.entries)
    for (metric, column), entry in row.entries.items():
        if metric == _TNR:
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


def _ranked(rows: Iterable[Row], column: Column) -> list[Row]:
    """The rows in order of their mean, the best first, those without a mean last."""

    def mean(row: Row) -> float:
        entry = row.entries.get((RANKED_BY, column))
        return -math.inf if entry is None else _goodness(RANKED_BY, entry.estimate)

    ordered = sorted(rows, key=lambda row: (-mean(row), row.method))
    ranked: list[Row] = []
    for place, row in enumerate(ordered, start=1):
        shared = ranked[-1].rank if ranked and mean(ranked[-1]) == mean(row) else place
        ranked.append(replace(row, rank=None if mean(row) == -math.inf else shared))
    return ranked
