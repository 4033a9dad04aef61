"""Published averages over groups of OOD sets, with the measured values beside them.

Every table and every format shows these values; none computes its own. An entry without a measured
or without a published value stays empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import NamedTuple

from oodbench.report.published.cells import Compared, Measure
from oodbench.report.seed_means import Estimate


@dataclass(frozen=True, slots=True)
class Average:
    """A quantity.

    Attributes:
        measure: name in the publication, title, unit, decimals.
        metric: name in records.
        group: group of OOD sets; None for the accuracy of the classifier.
        origin: origin of the published values if it is not the publication; else empty.
        overview: whether tables show it.
    """

    measure: Measure
    metric: str
    group: str | None
    origin: str
    overview: bool


class PublishedValue(NamedTuple):
    """A published mean in [0, 1], and its spread over checkpoints; None if none is printed."""

    mean: float
    spread: float | None


@dataclass(frozen=True, slots=True)
class AverageRow:
    """A measured method, a published entry, or both.

    Attributes:
        training: published name of the training; empty without one.
        network: published name of the network; empty without one.
        postprocessor: published name of the detector; empty if the method has no published entry.
        searched: label of the published hyperparameter search; empty without one.
        contested: why the entry is contested; empty if it is not.
        remark: remark of the entry; may be empty.
        method: the method; empty if none measures the entry.
        run: as `leaderboard.Row.run`.
        model: its model.
        detector: its detector; without a method, the one that would measure the entry, or empty.
        tuned_on: how it was tuned.
        published: measure -> value.
        measured: measure -> value.
    """

    training: str
    network: str
    postprocessor: str
    searched: str
    contested: str
    remark: str
    method: str
    run: str
    model: str
    detector: str
    tuned_on: str
    published: Mapping[str, PublishedValue]
    measured: Mapping[str, Estimate]

    def compared(self, average: Average) -> Compared | None:
        """Both values of a measure; None if it was not published."""
        known = self.published.get(average.measure.name)
        if known is None:
            return None
        return Compared(
            known.mean, average.measure.rounding, self.measured.get(average.measure.name)
        )


@dataclass(frozen=True, slots=True)
class ComparedAverages:
    """Published averages of one benchmark with the measured values of one leaderboard.

    Attributes:
        benchmark: name of the measured benchmark.
        version: its version.
        publication: name of the file with the published values.
        published_benchmark: name of the benchmark in that file.
        title: title of the publication and of its benchmark.
        citations: the publications.
        caveats: limits of the published values, one sentence each.
        averages: the quantities.
        models: model -> published names of its training and network.
        rows: methods in the order of the leaderboard, then entries that no method measures.
        others: number of published entries of other trainings and networks.
    """

    benchmark: str
    version: int
    publication: str
    published_benchmark: str
    title: str
    citations: tuple[str, ...]
    caveats: tuple[str, ...]
    averages: tuple[Average, ...]
    models: Mapping[str, tuple[str, str]]
    rows: tuple[AverageRow, ...]
    others: int

    @property
    def compared(self) -> tuple[AverageRow, ...]:
        """Methods with a published entry that is not contested."""
        return tuple(r for r in self.rows if r.method and r.postprocessor and not r.contested)

    @property
    def contested(self) -> tuple[AverageRow, ...]:
        """Methods with a contested entry."""
        return tuple(row for row in self.rows if row.method and row.contested)

    @property
    def unpublished(self) -> tuple[AverageRow, ...]:
        """Methods without a published entry."""
        return tuple(row for row in self.rows if not row.postprocessor)

    @property
    def unmeasured(self) -> tuple[AverageRow, ...]:
        """Published entries of the models here that no method measures."""
        return tuple(row for row in self.rows if not row.method)


REPRODUCED = 0.0005
"""The largest difference of a reproduced value, 0.05 points, beside the published rounding."""


class AverageAgreement(NamedTuple):
    """Agreement of measured with published values of one quantity.

    Attributes:
        average: the quantity.
        entries: number of entries with both values.
        with_interval: how many of these have an interval.
        covered: how many of these intervals contain the published value.
        reproduced: how many entries differ by at most `REPRODUCED`.
        size: mean of the differences' sizes; None without entries.
        largest: difference of the largest size, with its sign.
        where: the method of the largest difference.
    """

    average: Average
    entries: int
    with_interval: int
    covered: int
    reproduced: int
    size: float | None
    largest: float | None
    where: str


def agreement(rows: tuple[AverageRow, ...], average: Average) -> AverageAgreement:
    """The agreement of some rows."""
    both = {
        row.method: cell
        for row in rows
        if (cell := row.compared(average)) is not None and cell.difference is not None
    }
    gaps = {method: cell.difference or 0.0 for method, cell in both.items()}
    where = max(gaps, key=lambda method: abs(gaps[method]), default="")
    covered = [cell.covered for cell in both.values() if cell.covered is not None]
    slack = REPRODUCED + average.measure.rounding + 1e-12
    return AverageAgreement(
        average=average,
        entries=len(gaps),
        with_interval=len(covered),
        covered=sum(covered),
        reproduced=sum(abs(gap) <= slack for gap in gaps.values()),
        size=fmean(map(abs, gaps.values())) if gaps else None,
        largest=gaps.get(where),
        where=where,
    )


def population_spread(found: Estimate) -> float | None:
    """Population standard deviation over checkpoints, as OpenOOD's; None for one checkpoint."""
    return pstdev(found.by_seed.values()) if len(found.by_seed) > 1 else None
