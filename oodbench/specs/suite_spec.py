"""Specs of suites: files in `benchmarks/` with the key `members`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from oodbench.specs.limit_spec import LimitSpec
from oodbench.specs.model_spec import TrainingSpec
from oodbench.specs.spec_base import (
    WORDS,
    Options,
    PositiveInt,
    RunName,
    SchemaVersion,
    Several,
    Spec,
    Text,
)

TRAINING_MEASURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
"""Measures of a table about training: values after the last epoch, by their names in records."""


class MemberSpec(Spec):
    """Names of a benchmark's network and ID set in the published tables; empty without tables."""

    network: str = ""
    id: str = ""


class ComparisonSpec(Spec):
    """A published table that is shown beside the measured values."""

    about: Literal["detection", "training"]
    """Detection: metrics of methods on OOD sets. Training: losses and accuracies of models."""
    title: str
    published: str
    """Name of the published table."""
    measures: Several[Text]
    columns: dict[str, str]
    """Column of the published table -> method (detection) or model (training) of every member."""
    overview: bool = True
    """Whether the table is shown on a terminal; other formats always contain it."""


def _members(given: Any) -> Any:
    """A list of benchmarks as a mapping."""
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        return given
    if len(set(given)) < len(given):
        raise ValueError("a benchmark is listed twice")
    return {name: {} for name in given}


class SuiteSpec(Spec):
    """Benchmarks that are run together and compared with published tables."""

    schema_version: SchemaVersion
    name: RunName
    version: PositiveInt
    title: Text
    summary: Text
    members: Annotated[dict[str, MemberSpec], BeforeValidator(_members)]
    """Name of a benchmark -> its names in the published tables; run in this order. A suite without
    tables lists the benchmarks alone."""
    ood: dict[str, str] = Field(default_factory=dict)
    """OOD data set -> its name in the published tables."""
    published: str | None = None
    """Name of the file with the published numbers."""
    tables: dict[str, ComparisonSpec] = Field(default_factory=dict)
    training: Options = Field(default_factory=dict)
    """Values that replace those in the training of every model of every member."""
    deviations: Several[Text] = ()
    """Differences from the protocol of the published values."""
    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] | None = None
    """Suffix of the names of members with changed training, so that results never mix."""
    limited: LimitSpec | None = None
    """Limits of a first try; the name contains their label."""
    tune: Literal["all", "none"] | Several[Text] | None = None
    """Value of `--tune`."""

    @model_validator(mode="after")
    def _consistent(self) -> SuiteSpec:
        if self.limited is not None:
            self.limited.check(self.name)
        if not self.members:
            raise ValueError("members: names no benchmark")
        if self.tables and self.published is None:
            raise ValueError("published: tables need a file of published numbers")
        if self.tables:
            for name, member in self.members.items():
                if not member.network or not member.id:
                    raise ValueError(f"members.{name}: tables need its network and id")
        rows = [(member.network, member.id) for member in self.members.values()]
        if self.tables and len(set(rows)) < len(rows):
            raise ValueError("members: two benchmarks have the same row in the published tables")
        if bool(self.training) != bool(self.suffix):
            raise ValueError(
                "training and suffix must be given together: changed members need other names"
            )
        for key in self.training:
            if key not in TrainingSpec.model_fields:
                raise ValueError(
                    f"training: unknown key '{key}' (keys: {', '.join(TrainingSpec.model_fields)})"
                )
        return self

    def member_name(self, benchmark: str) -> str:
        """Name of a member in this suite, and of its folder."""
        return benchmark if self.suffix is None else f"{benchmark}-{self.suffix}"

    def benchmark_name(self, benchmark: str) -> str:
        """Name of a member's benchmark in its records."""
        name = self.member_name(benchmark)
        return name if self.limited is None else self.limited.labeled(name)

    def limited_to(self, limit: LimitSpec) -> SuiteSpec:
        """A copy with limits; members are limited when they are read."""
        return self.model_copy(update={"name": limit.labeled(self.name), "limited": limit})

    def identity(self) -> dict[str, Any]:
        """All values that results depend on: everything but `WORDS`."""
        return self.model_dump(mode="json", exclude=WORDS)
