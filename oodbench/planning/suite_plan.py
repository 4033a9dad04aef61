"""A suite with its benchmarks and the published numbers that it is compared with.

Read from YAML files alone, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench.errors import UserError, did_you_mean
from oodbench.metrics import METRICS
from oodbench.planning.methods.detector_settings import Refuses
from oodbench.planning.overrides import Overrides
from oodbench.planning.plan import Plan
from oodbench.planning.planner import make_plan
from oodbench.planning.published_numbers import read_published
from oodbench.plugins.catalog import Catalog, DetectorStatus, is_suite, merged
from oodbench.specs import (
    TRAINING_MEASURES,
    BenchmarkSpec,
    ComparisonSpec,
    PublishedSpec,
    SuiteSpec,
)
from oodbench.specs.yaml_file import named_as_file, validate


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite with its benchmarks.

    Attributes:
        spec: content of the suite's file.
        published: the published numbers of its tables; None if it has no tables.
        members: name in `spec.members` -> benchmark, with the changes that the suite makes; its own
            name may have the suite's suffix.
    """

    spec: SuiteSpec
    published: PublishedSpec | None
    members: Mapping[str, BenchmarkSpec]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the benchmarks in this suite, in the order of the run."""
        return tuple(benchmark.name for benchmark in self.members.values())

    def changed(self, overrides: Overrides) -> Suite:
        """The suite with these values in each of its members."""
        spec = self.spec if overrides.limit is None else self.spec.limited_to(overrides.limit)
        return Suite(
            spec.model_copy(update={"tune": overrides.tune}),
            self.published,
            {name: overrides.of(benchmark) for name, benchmark in self.members.items()},
        )


def load_suite(catalog: Catalog, name: str) -> Suite:
    """A suite by name or by the path of a YAML file.

    Members are searched for beside the suite's file, published numbers in its sub-folder
    `published/`; both then in the catalog.

    Raises:
        UserError: if a file is missing or not valid, or if a table names something that neither the
            members nor the published numbers have.
    """
    spec, path = catalog.suite(name)
    members = {name: _member(catalog, spec, path, name) for name in spec.members}
    published = None
    if spec.published is not None:
        published = read_published(catalog, path, spec.published)
        _check(spec, published, members, path)
    return Suite(spec, published, members)


def plan_suite(
    catalog: Catalog,
    suite: Suite,
    statuses: Mapping[str, DetectorStatus],
    *,
    seeds: int | None,
    methods: Sequence[str] | None = None,
    refusal: Refuses = lambda detector, arguments: None,
) -> dict[str, Plan]:
    """The plan of every member, by its name in the suite.

    Raises:
        UserError: as `oodbench.planning.planner.make_plan`.
    """
    return {
        benchmark.name: make_plan(
            benchmark, catalog, statuses, seeds=seeds, methods=methods, refusal=refusal
        )
        for benchmark in suite.members.values()
    }


def _member(catalog: Catalog, suite: SuiteSpec, path: Path, name: str) -> BenchmarkSpec:
    """A member's benchmark, with the suite's changes to the training of every model."""
    file = catalog.beside(path, "members", "benchmark", name)
    content = catalog.inherited(file)
    if is_suite(content):
        raise UserError(
            f"{path}: members: '{name}' is a suite itself.",
            "The members of a suite are benchmarks.",
        )
    benchmark = named_as_file(validate(BenchmarkSpec, content, file), file)
    if not suite.training:
        return benchmark
    changed: dict[str, Any] = {
        **content,
        "name": suite.member_name(name),
        "title": f"{benchmark.title} ({suite.suffix})",
        # Anchors make models share one mapping: each gets its own.
        "models": {
            model: {**values, "training": merged(values["training"], suite.training)}
            if values.get("training")
            else values
            for model, values in content["models"].items()
        },
    }
    return validate(BenchmarkSpec, changed, path)


# --- references ---------------------------------------------------------------------------------


def _check(
    spec: SuiteSpec,
    published: PublishedSpec,
    members: Mapping[str, BenchmarkSpec],
    path: Path,
) -> None:
    """Check that what the tables name is in the members and in the published numbers."""
    tested = {dataset for benchmark in members.values() for dataset in benchmark.ood_groups}
    for dataset in spec.ood:
        _known(path, "ood", "OOD set of a member", dataset, tested)
    for name, table in spec.tables.items():
        key = f"tables.{name}"
        _known(path, f"{key}.published", "published table", table.published, published.tables)
        printed = published.tables[table.published]
        measures = METRICS if table.about == "detection" else TRAINING_MEASURES
        for measure in table.measures:
            _known(path, f"{key}.measures", f"measure of {table.about}", measure, measures)
            _known(path, f"{key}.measures", "published measure", measure, printed.measures)
        for column in table.columns:
            _known(path, f"{key}.columns", "published column", column, printed.columns)
        _check_columns(path, key, table, members)
        rows = {(row.network, row.id) for row in printed.rows}
        for member, row in spec.members.items():
            if (row.network, row.id) not in rows:
                raise UserError(
                    f"{path}: members.{member}: table '{table.published}' has no row "
                    f"{row.network}, {row.id}.",
                    "It has: "
                    + "; ".join(dict.fromkeys(f"{row.network}, {row.id}" for row in printed.rows))
                    + ".",
                )
    sets = {row.ood for table in published.tables.values() for row in table.rows if row.ood}
    for dataset, label in spec.ood.items() if spec.tables else ():
        _known(path, f"ood.{dataset}", "OOD set in the published tables", label, sets)


def _check_columns(
    path: Path, key: str, table: ComparisonSpec, members: Mapping[str, BenchmarkSpec]
) -> None:
    for name, benchmark in members.items():
        known = benchmark.methods if table.about == "detection" else benchmark.models
        # `matrix:` names its methods after detectors, which only a plan knows.
        if table.about == "detection" and benchmark.matrix is not None:
            continue
        kind = "method" if table.about == "detection" else "model"
        for column in table.columns.values():
            _known(path, f"{key}.columns", f"{kind} of '{name}'", column, known)


def _known(path: Path, key: str, kind: str, name: str, known: Any) -> None:
    if name not in known:
        raise UserError(f"{path}: {key}: no {kind} is called '{name}'.", did_you_mean(name, known))
