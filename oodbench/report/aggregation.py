"""From the records of a benchmark to its leaderboard: aggregate over seeds, rank and mark."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from oodbench.errors import UserError, listed, visible
from oodbench.metrics import METRICS, OPTIONAL, of_id_images
from oodbench.report.columns import Column, columns_of
from oodbench.report.differences import belong
from oodbench.report.leaderboard import (
    COSTS,
    FPR,
    RANKED_BY,
    SHOWN,
    TNR,
    Absence,
    Choice,
    Cost,
    Entry,
    LeaderboardData,
    OodSet,
    Row,
)
from oodbench.report.ranking import goodness, marked, ranked, with_fpr
from oodbench.report.score_warnings import score_warnings
from oodbench.report.seed_means import Measurement, estimate
from oodbench.report.threshold_transfer import (
    few_images_warnings,
    mean_parts,
    validation_images,
    validation_use,
)
from oodbench.storage.records import (
    ID_ACCURACY,
    REQUIREMENTS,
    CostRecord,
    DifferenceRecord,
    QualityRecord,
)

_LARGEST = ("peak_memory_bytes", "time_scatter")
"""Costs shown as the maximum over seeds, not as the mean."""

# metric -> OOD set (None for the ID accuracy) -> seed -> measurement
Measured = dict[str, dict[str | None, dict[int, Measurement]]]


def aggregate(
    records: Iterable[QualityRecord],
    costs: Iterable[CostRecord],
    warnings: Iterable[str] = (),
    differences: Iterable[DifferenceRecord] = (),
    *,
    order: Sequence[str] = (),
) -> LeaderboardData:
    """Aggregate records over seeds and rank the methods; the order of the records is irrelevant.

    Args:
        records: quality records of one benchmark, of any number of methods, seeds and sets.
        costs: cost records of the same benchmark; methods may lack them.
        warnings: signs of a mistake that the records do not show.
        differences: lead of the best method of each column over every other method
            (`report.differences`); they decide which methods are tied with the best. Differences
            that do not belong to these records are ignored.
        order: OOD sets in the order to show within their group; the others follow by name.

    Raises:
        UserError: if there are no records; if they come from different benchmarks, versions or
            data sets; or if they contradict each other.
    """
    records, costs = list(records), list(costs)
    benchmark, version, id_dataset, csid = _one_benchmark(records, costs)
    valid = [record for record in records if record.status == "ok"]
    by_method: dict[str, list[QualityRecord]] = defaultdict(list)
    for record in valid:
        by_method[record.method].append(record)
    costs_of: dict[str, list[CostRecord]] = defaultdict(list)
    for cost in costs:
        costs_of[cost.method].append(cost)
    ood_sets = _ood_sets(valid, order)
    columns = columns_of({each.name: each.group for each in ood_sets})
    # A skipped method never ran: the seed in its record is not one that others lack.
    seeds = tuple(sorted({record.seed for record in records if record.status != "skipped"}))
    measured = {method: _measured(mine) for method, mine in by_method.items()}
    names = {metric for mine in measured.values() for metric in mine}
    if unknown := names - {*METRICS, *OPTIONAL, ID_ACCURACY}:
        raise UserError(
            f"The records have a metric that this version does not know: {min(unknown)}."
        )
    if any(of_id_images(name) for name in names & OPTIONAL.keys()):
        columns = (*columns, Column("id", id_dataset, ()))
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
    return LeaderboardData(
        benchmark=benchmark,
        version=version,
        id_dataset=id_dataset,
        csid=csid,
        id_images=_one_size(id_dataset, {r.n_id for r in valid if r.metric != ID_ACCURACY}),
        ood_sets=ood_sets,
        seeds=seeds,
        metrics=tuple(metric for metric in SHOWN if (TNR if metric == FPR else metric) in names),
        columns=columns,
        rows=(
            *ranked(marked([row for row in rows if not row.oracle], behind), columns[0]),
            *ranked([with_fpr(row) for row in rows if row.oracle], columns[0]),
        ),
        absences=_absences(records),
        tested=tested,
        warnings=tuple(dict.fromkeys(map(visible, [*warnings, *_warnings(records, valid)]))),
    )


# --- reading records -----------------------------------------------------------------------------


def _one_benchmark(
    records: Sequence[QualityRecord], costs: Sequence[CostRecord]
) -> tuple[str, int, str, tuple[str, ...]]:
    """Name and version of the benchmark, ID data set and csID sets, which all records share."""
    if not records:
        raise UserError(
            "There are no records to make a leaderboard from.", "Run a benchmark first."
        )
    found = sorted(
        {(r.benchmark, r.benchmark_version, r.id_dataset, tuple(r.csid or ())) for r in records}
    )
    if len(found) > 1:
        raise UserError(
            "Records are not comparable: "
            + " and ".join(
                f"{name} version {number} (ID: {listed([id_, *csid])})"
                for name, number, id_, csid in found
            )
            + ".",
            "Make one leaderboard for each benchmark and version.",
        )
    if others := sorted({cost.benchmark for cost in costs} - {found[0][0]}):
        raise UserError(
            f"Costs are not comparable: they belong to {', '.join(others)}, "
            f"the quality records to {found[0][0]}."
        )
    return found[0]


def _one_size(dataset: str, sizes: set[int | None]) -> int | None:
    """The number of images of a data set, on which all records that have it must agree."""
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
    """The measurements of one method."""
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
        if record.status != "ok" and record.metric not in OPTIONAL:
            reason = visible(" ".join((record.reason or "no reason recorded").split()))
            seeds[record.method, record.detector, record.status, reason].add(record.seed)
    # Failures first: they need attention, skipped methods do not.
    ordered = sorted(seeds.items(), key=lambda item: (item[0][2] != "failed", item[0]))
    return tuple(Absence(*key, tuple(sorted(found))) for key, found in ordered)


def _warnings(records: Sequence[QualityRecord], valid: Sequence[QualityRecord]) -> Iterator[str]:
    """Signs of a mistake that records show."""
    yield from score_warnings(valid)
    yield from few_images_warnings(valid)
    yield from _undefined(records)


def _undefined(records: Iterable[QualityRecord]) -> Iterator[str]:
    """A sentence for each metric on request that has no value for some methods, and the reason."""
    methods: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    with_values: set[str] = set()
    for record in records:
        if record.metric in OPTIONAL and record.status == "ok":
            with_values.add(record.metric)
        elif record.metric in OPTIONAL:
            methods[record.metric, record.reason or "no reason recorded"][record.method] = None
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (metric, reason), names in methods.items():
        of = f" for some seeds or all of {listed(names)}" if metric in with_values else ""
        reasons[of, reason].append(OPTIONAL[metric].short_title)
    for (of, reason), metrics in reasons.items():
        verb = "has" if len(metrics) == 1 else "have"
        yield f"{listed(metrics, 20)} {verb} no value{of}: {reason}"


# --- one method ----------------------------------------------------------------------------------


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
    for metric in (*METRICS, *OPTIONAL):
        by_set = measured.get(metric, {})
        for column in columns:
            if of_id_images(metric) != (column.kind == "id"):
                continue
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
        weights=next((record.weights for record in records if record.weights), ""),
        fit_split=next((record.fit_split for record in records if record.fit_split), ""),
        tuning_ood=next((record.tuning_ood for record in records if record.tuning_ood), ""),
        same_source=tuple(
            dict.fromkeys(r.ood_dataset for r in records if r.same_source and r.ood_dataset)
        ),
        accepted_parts=mean_parts(records),
        validation_images=validation_images(records),
        validation_use=validation_use(records),
    )


def _entry(
    metric: str, column: Column, by_set: Mapping[str | None, Mapping[int, Measurement]]
) -> Entry | None:
    if column.kind != "worst":
        sets = (None,) if column.kind == "id" else column.sets
        found = estimate([by_set.get(name, {}) for name in sets])
        return None if found is None else Entry(found, None, None)
    each = {name: estimate([by_set.get(name, {})]) for name in column.sets}
    known = {name: found for name, found in each.items() if found is not None}
    # If a set is missing, the worst of the others could be too good.
    if not known or len(known) < len(each):
        return None
    name = min(known, key=lambda name: (goodness(metric, known[name]), name))
    return Entry(known[name], None, name)


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
