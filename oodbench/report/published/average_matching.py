"""From a leaderboard to a comparison with published averages: each entry with what measures it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from oodbench.errors import UserError
from oodbench.metrics import METRICS
from oodbench.report.leaderboard import LeaderboardData, Row
from oodbench.report.published.averages import Average, AverageRow, ComparedAverages, PublishedValue
from oodbench.report.published.cells import Measure
from oodbench.report.seed_means import Estimate
from oodbench.specs import AverageEntry, AveragesSpec, PublishedReference, PublishedSpec
from oodbench.storage.records import ID_ACCURACY
from oodbench.storage.run_description import RunDescription


def averages_of(
    board: LeaderboardData, described: RunDescription | None
) -> ComparedAverages | None:
    """The comparison of a leaderboard with the published averages that its run names, or None."""
    if described is None or described.published is None:
        return None
    reference = described.of_benchmark.published
    return None if reference is None else compare_averages(board, described.published, reference)


def compare_averages(
    board: LeaderboardData, published: PublishedSpec, reference: PublishedReference
) -> ComparedAverages:
    """Compare a leaderboard with published averages.

    A method measures the entries of its model's training and network whose postprocessor is its
    detector here. Means over a group, and over seeds, are those of the leaderboard.

    Args:
        board: the leaderboard.
        published: the published numbers.
        reference: the benchmark there, and the names of the models.

    Raises:
        UserError: if the published numbers have no such benchmark.
    """
    spec = published.averages
    if spec is None or reference.benchmark not in spec.benchmarks:
        raise UserError(
            f"Published numbers '{published.name}' have no benchmark '{reference.benchmark}'.",
            "Run the benchmark again.",
        )
    printed = spec.benchmarks[reference.benchmark]
    averages = {name: _average(spec, name) for name in spec.measures}
    by_key = {entry.key: entry for entry in printed.entries}
    names = {model: (each.training, each.network) for model, each in reference.models.items()}
    rows = []
    measured = set()
    for row in board.rows:
        values = dict(_measured(row, board, averages))
        keys = _keys(row, spec, names.get(row.model), by_key)
        measured |= set(keys)
        for key in keys or (None,):
            entry = None if key is None else by_key[key]
            rows.append(_row(spec, reference, averages, entry, row, values))
    mine = [entry for entry in printed.entries if entry.key[:2] in names.values()]
    rows += [
        _row(spec, reference, averages, entry, None, {})
        for entry in mine
        if entry.key not in measured
    ]
    used = dict.fromkeys(each.source for each in spec.measures.values())
    return ComparedAverages(
        benchmark=board.benchmark,
        version=board.version,
        publication=published.name,
        published_benchmark=reference.benchmark,
        title=f"{published.title}, {printed.title}",
        citations=tuple(published.sources[source].citation for source in used),
        caveats=(*published.caveats, *printed.caveats),
        averages=tuple(averages.values()),
        models=names,
        rows=tuple(rows),
        others=len(printed.entries) - len(mine),
    )


def _average(spec: AveragesSpec, name: str) -> Average:
    about = spec.measures[name]
    metric = METRICS.get(about.metric)
    title = "Accuracy" if metric is None else metric.short_title
    return Average(
        measure=Measure(
            name=name,
            title=title,
            unit="percent",
            decimals=about.decimals,
            higher_is_better=metric is None or metric.higher_is_better,
        ),
        metric=about.metric,
        group=about.group,
        origin=about.origin or "",
        overview=about.overview,
    )


def _keys(
    row: Row,
    spec: AveragesSpec,
    names: tuple[str, str] | None,
    by_key: Mapping[tuple[str, str, str], AverageEntry],
) -> list[tuple[str, str, str]]:
    """Keys of the entries that a method measures."""
    if names is None:
        return []
    same = [each for each, detector in spec.detectors.items() if detector == row.detector]
    return [key for each in same if (key := (*names, each)) in by_key]


def _measured(
    row: Row, board: LeaderboardData, averages: Mapping[str, Average]
) -> Iterator[tuple[str, Estimate]]:
    """The measured values of a method, by the names of the measures."""
    for name, average in averages.items():
        if average.metric == ID_ACCURACY:
            if row.id_accuracy is not None:
                yield name, row.id_accuracy
            continue
        for column in board.groups:
            if column.name == average.group and (average.metric, column) in row.entries:
                yield name, row.entries[average.metric, column].estimate


def _row(
    spec: AveragesSpec,
    reference: PublishedReference,
    averages: Mapping[str, Average],
    entry: AverageEntry | None,
    row: Row | None,
    measured: Mapping[str, Estimate],
) -> AverageRow:
    contested = None
    postprocessor = ""
    if entry is not None:
        postprocessor = entry.postprocessor
        contested = spec.contested_by(reference.benchmark, postprocessor)
    names = reference.models.get(row.model) if row is not None else None
    training, network = ("", "") if names is None else (names.training, names.network)
    if entry is not None:
        training, network = entry.training, entry.network
    return AverageRow(
        training=training,
        network=network,
        postprocessor=postprocessor,
        searched=spec.tuning if postprocessor in spec.tuned else "",
        contested=""
        if contested is None
        else " ".join(filter(None, (contested.reason, contested.url))),
        remark=(entry.remark or "") if entry is not None else "",
        method="" if row is None else row.method,
        run="" if row is None else row.run,
        model="" if row is None else row.model,
        detector=spec.detectors.get(postprocessor, "") if row is None else row.detector,
        tuned_on="" if row is None else row.tuned_on,
        published={} if entry is None else dict(_published(entry, averages)),
        measured=measured,
    )


def _published(
    entry: AverageEntry, averages: Mapping[str, Average]
) -> Iterator[tuple[str, PublishedValue]]:
    for name, values in entry.values.items():
        places = averages[name].measure.decimals + 2
        mean, *spread = (round(value / 100, places) for value in values)
        yield name, PublishedValue(mean, spread[0] if spread else None)
