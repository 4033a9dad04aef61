"""Specs of published numbers: the contents of `benchmarks/published/<name>.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from oodbench.specs.spec_base import FileName, MethodName, SchemaVersion, Several, Spec, Text


class SourceSpec(Spec):
    """A publication."""

    citation: str
    url: str | None = None


class MeasureSpec(Spec):
    """How a published table prints a quantity."""

    unit: Literal["percent", "nats"]
    decimals: Annotated[int, Field(ge=0, le=20)]


class PublishedRow(Spec):
    """One row of a published table: network, ID set, OOD set, by their names in the publication."""

    network: str
    id: str
    ood: str | None = None
    values: dict[str, Several[float]]
    """Measure -> the printed value of each column."""


class PublishedTable(Spec):
    """A published table."""

    source: str
    """The publication, a key of `sources`."""
    place: str
    """Place in the publication, such as "Table 2"."""
    title: str
    columns: Several[Text]
    measures: dict[str, MeasureSpec]
    """Name -> unit and decimals. Names are those of records where the definitions agree."""
    notes: Several[Text] = ()
    """Remarks for readers of the numbers."""
    rows: Several[PublishedRow]

    @model_validator(mode="after")
    def _whole(self) -> PublishedTable:
        seen = set()
        for index, row in enumerate(self.rows):
            if set(row.values) != set(self.measures):
                raise ValueError(
                    f"rows.{index}: expected values for {', '.join(self.measures)}, "
                    f"found {', '.join(row.values)}"
                )
            for measure, values in row.values.items():
                if len(values) != len(self.columns):
                    raise ValueError(
                        f"rows.{index}.values.{measure}: expected a value for each of the "
                        f"{len(self.columns)} columns, found {len(values)}"
                    )
            place = (row.network, row.id, row.ood)
            if place in seen:
                raise ValueError(f"rows.{index}: {', '.join(map(str, place))} has a row already")
            seen.add(place)
        return self


class AverageMeasure(Spec):
    """A quantity of published averages, in percent."""

    metric: Text
    """Its name in records: a metric of detection, or `id_accuracy`."""
    group: Text | None = None
    """The mean over the OOD sets of this group; None for `id_accuracy`."""
    decimals: Annotated[int, Field(ge=0, le=20)] = 2
    source: str
    """The publication, a key of `sources`."""
    origin: Text | None = None
    """Origin of the values if they are not of the publication itself: "independent re-run"."""
    overview: bool = True
    """Whether the tables show it; CSV and JSON always contain it."""


class AverageEntry(Spec):
    """The published values of one trained network with one detector."""

    training: Text
    network: Text
    postprocessor: Text
    """The detector, by its published name."""
    remark: Text | None = None
    values: dict[str, Annotated[Several[float], Field(min_length=1, max_length=2)]]
    """Measure -> the printed mean and, where one is printed, the spread over checkpoints."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Training, network and postprocessor, which no two entries share."""
        return self.training, self.network, self.postprocessor


class AverageBenchmark(Spec):
    """The published averages of one benchmark."""

    title: Text
    full_spectrum: bool = False
    """Whether csID images count as ID."""
    caveats: Several[Text] = ()
    entries: Several[AverageEntry]


class ContestedAverages(Spec):
    """Entries that are known to be wrong, or not reproducible."""

    benchmarks: Literal["all"] | Several[Text] = "all"
    postprocessors: Several[Text]
    reason: Text
    url: str | None = None


class AveragesSpec(Spec):
    """Published averages over groups of OOD sets: a leaderboard."""

    tuning: Text
    """Label of the published hyperparameter search."""
    tuned: Several[Text] = ()
    """Postprocessors with hyperparameters that the publication searches."""
    detectors: dict[Text, Text]
    """Postprocessor -> the detector here. Postprocessors without one are not named."""
    measures: dict[Text, AverageMeasure]
    contested: Several[ContestedAverages] = ()
    benchmarks: dict[Text, AverageBenchmark]

    @model_validator(mode="after")
    def _consistent(self) -> AveragesSpec:
        for name, measure in self.measures.items():
            if (measure.group is None) != (measure.metric == "id_accuracy"):
                raise ValueError(
                    f"measures.{name}.group: every metric but id_accuracy is a mean over a group"
                )
        for name, benchmark in self.benchmarks.items():
            keys = [entry.key for entry in benchmark.entries]
            for index, entry in enumerate(benchmark.entries):
                where = f"benchmarks.{name}.entries.{index}"
                if entry.key in keys[:index]:
                    raise ValueError(f"{where}: {', '.join(entry.key)} has an entry already")
                for key in entry.values:
                    if key not in self.measures:
                        raise ValueError(
                            f"{where}.values: no measure '{key}' here "
                            f"(measures: {', '.join(self.measures)})"
                        )
        return self

    def contested_by(self, benchmark: str, postprocessor: str) -> ContestedAverages | None:
        """Why an entry of a benchmark is contested; None if it is not."""
        for each in self.contested:
            known = each.benchmarks == "all" or benchmark in each.benchmarks
            if known and postprocessor in each.postprocessors:
                return each
        return None


class PublishedModel(Spec):
    """Names of a model in published averages."""

    training: Text
    network: Text


class PublishedReference(BaseModel):
    """The published averages that a benchmark is compared with.

    Not a `Spec`, which has another `file`: the one that it was read from.
    """

    model_config = Spec.model_config
    file: Text
    """Name of a file in `benchmarks/published/`, without its suffix."""
    benchmark: Text
    """Name of the benchmark there."""
    models: dict[MethodName, PublishedModel]
    """Model of the benchmark -> its names there."""


class PublishedSpec(Spec):
    """Published numbers (`benchmarks/published/<name>.yaml`)."""

    schema_version: SchemaVersion
    name: FileName
    title: Text
    sources: dict[str, SourceSpec]
    caveats: Several[Text] = ()
    tables: dict[str, PublishedTable] = Field(default_factory=dict)
    averages: AveragesSpec | None = None

    @model_validator(mode="after")
    def _sources_are_there(self) -> PublishedSpec:
        used = {f"tables.{name}": table.source for name, table in self.tables.items()}
        for name, measure in self.averages.measures.items() if self.averages else ():
            used[f"averages.measures.{name}"] = measure.source
        for place, source in used.items():
            if source not in self.sources:
                raise ValueError(
                    f"{place}.source: no source '{source}' here "
                    f"(sources: {', '.join(self.sources)})"
                )
        return self

    def of_benchmark(self, name: str) -> PublishedSpec:
        """The averages of one benchmark alone, with their sources."""
        if self.averages is None:
            raise ValueError("the file has no averages")
        kept = {name: self.averages.benchmarks[name]}
        averages = self.averages.model_copy(update={"benchmarks": kept})
        used = {measure.source for measure in averages.measures.values()}
        sources = {key: source for key, source in self.sources.items() if key in used}
        return self.model_copy(update={"tables": {}, "averages": averages, "sources": sources})
