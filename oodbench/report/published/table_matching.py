"""From the records of a suite to a comparison: each published cell with what measures it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from oodbench.errors import UserError
from oodbench.metrics import METRICS
from oodbench.report.aggregation import aggregate
from oodbench.report.columns import Column
from oodbench.report.leaderboard import LeaderboardData
from oodbench.report.published.average_matching import averages_of
from oodbench.report.published.cells import Compared, Measure
from oodbench.report.published.compared_tables import (
    ComparedTable,
    Member,
    Place,
    PublishedComparisonData,
)
from oodbench.report.seed_means import Estimate, of_runs
from oodbench.report.training_curves import Histories, histories, last_epochs
from oodbench.specs import ComparisonSpec, PublishedSpec, PublishedTable, SuiteSpec
from oodbench.storage.records import QualityRecord, TrainingRecord
from oodbench.storage.suite_directory import MemberRecords

_TRAINING_TITLES = {
    "train_loss": "Train loss",
    "train_accuracy": "Train accuracy",
    "test_loss": "Test loss",
    "test_accuracy": "Test accuracy",
}


def match(
    suite: SuiteSpec, published: PublishedSpec | None, members: Iterable[MemberRecords]
) -> PublishedComparisonData:
    """Match the records of a suite with the published tables.

    Args:
        suite: which method, model and data set correspond to which published column and row.
        published: the published numbers; None if the suite has no tables.
        members: records of the suite's benchmarks, in order; benchmarks that have not run are
            left out or have no records.

    Raises:
        UserError: if records are of another benchmark or contradict each other.
    """
    measured = {each.member: _measured(each, suite.benchmark_name(each.member)) for each in members}
    tables = []
    if published is not None:
        for name, table in suite.tables.items():
            printed = published.tables[table.published]
            tables.append(_table(name, table, printed, published, suite, measured))
    return PublishedComparisonData(
        suite=suite.name,
        version=suite.version,
        title=suite.title,
        members=tuple(
            Member(
                name=found.records.name,
                network=suite.members[member].network,
                id=suite.members[member].id,
                status=found.records.status,
                reason=found.records.reason,
                seeds=() if found.board is None else found.board.seeds,
            )
            for member, found in measured.items()
        ),
        tables=tuple(tables),
        deviations=tuple(_deviations(suite)),
        caveats=(*suite.deviations, *(() if published is None else published.caveats)),
        averages=tuple(
            averages
            for found in measured.values()
            if found.board is not None
            and (averages := averages_of(found.board, found.records.described)) is not None
        ),
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    """Measured values of one member."""

    records: MemberRecords
    board: LeaderboardData | None = None
    trainings: Histories = field(default_factory=dict)

    def detection(self, method: str, measure: str, datasets: Iterable[str]) -> Estimate | None:
        """A metric of a method on the first of these data sets that it was tested on."""
        columns = [Column("set", dataset, (dataset,)) for dataset in datasets]
        for row in () if self.board is None else self.board.rows:
            for column in columns:
                if row.method == method and (measure, column) in row.entries:
                    return row.entries[measure, column].estimate
        return None

    def training(self, model: str, measure: str) -> Estimate | None:
        """A measure of the last epoch, over the seeds of a model."""
        ceiling = {"ceiling": 1.0} if measure.endswith("accuracy") else {}
        return of_runs(last_epochs(self.trainings, model, measure), **ceiling)


def _measured(member: MemberRecords, benchmark: str) -> _Measured:
    records: tuple[QualityRecord | TrainingRecord, ...] = (*member.quality, *member.training)
    for record in records:
        if record.benchmark != benchmark:
            raise UserError(
                f"Records in the folder of '{member.name}' are of benchmark '{record.benchmark}', "
                f"not of '{benchmark}'.",
                "Give the records of one suite.",
            )
    ok = any(record.status == "ok" for record in member.quality)
    board = aggregate(member.quality, []) if ok else None
    return _Measured(member, board, histories(member.training))


def _deviations(suite: SuiteSpec) -> Iterator[str]:
    if suite.training:
        changes = ", ".join(f"{key}: {value}" for key, value in suite.training.items())
        yield (
            f"The training of every model was changed ({changes}): this is not the protocol of the "
            "published values, so differences from them are expected."
        )


def _table(
    name: str,
    spec: ComparisonSpec,
    printed: PublishedTable,
    published: PublishedSpec,
    suite: SuiteSpec,
    measured: Mapping[str, _Measured],
) -> ComparedTable:
    member_of = {(row.network, row.id): member for member, row in suite.members.items()}
    measures = tuple(_measure(spec, printed, each) for each in spec.measures)
    rows: dict[Place, str] = {}
    cells: dict[tuple[Place, str, str], Compared] = {}
    for row in printed.rows:
        member = member_of.get((row.network, row.id))
        if member is None:
            continue  # not a benchmark of the suite
        place = Place(row.network, row.id, row.ood)
        rows[place] = suite.member_name(member)
        for measure in measures:
            for column, ours in spec.columns.items():
                value = row.values[measure.name][printed.columns.index(column)]
                found = measured.get(member)
                if found is None:
                    estimate = None
                elif spec.about == "training":
                    estimate = found.training(ours, measure.name)
                else:
                    sets = [dataset for dataset, label in suite.ood.items() if label == row.ood]
                    estimate = found.detection(ours, measure.name, sets)
                cells[place, measure.name, column] = Compared(
                    published=round(value / measure.scale, measure.decimals + 2),
                    rounding=measure.rounding,
                    measured=estimate,
                )
    source = published.sources[printed.source]
    return ComparedTable(
        name=name,
        title=spec.title,
        about=spec.about,
        place=printed.place,
        citation=source.citation,
        measures=measures,
        columns=spec.columns,
        rows=rows,
        cells=cells,
        notes=printed.notes,
        overview=spec.overview,
    )


def _measure(spec: ComparisonSpec, printed: PublishedTable, name: str) -> Measure:
    about = printed.measures[name]
    if spec.about == "detection":
        metric = METRICS[name]
        return Measure(
            name, metric.short_title, about.unit, about.decimals, metric.higher_is_better
        )
    title = _TRAINING_TITLES[name]
    return Measure(name, title, about.unit, about.decimals, name.endswith("accuracy"))
