"""Specs of published numbers: the contents of `benchmarks/published/<name>.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from oodbench.specs.spec_base import FileName, SchemaVersion, Several, Spec, Text


class SourceSpec(Spec):
    """A publication."""

    citation: str
    url: str


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


class PublishedSpec(Spec):
    """Published numbers (`benchmarks/published/<name>.yaml`)."""

    schema_version: SchemaVersion
    name: FileName
    title: Text
    sources: dict[str, SourceSpec]
    caveats: Several[Text] = ()
    tables: dict[str, PublishedTable]

    @model_validator(mode="after")
    def _sources_are_there(self) -> PublishedSpec:
        for name, table in self.tables.items():
            if table.source not in self.sources:
                raise ValueError(
                    f"tables.{name}.source: no source '{table.source}' here "
                    f"(sources: {', '.join(self.sources)})"
                )
        return self
