"""The published numbers that a benchmark or a suite is compared with, read and checked."""

from __future__ import annotations

from pathlib import Path

from oodbench.errors import UserError, did_you_mean
from oodbench.metrics import METRICS
from oodbench.metrics.metric_tables import SEE_METRICS
from oodbench.plugins.catalog import Catalog
from oodbench.specs import BenchmarkSpec, PublishedSpec
from oodbench.specs.yaml_file import place_of, read_spec
from oodbench.storage.records import ID_ACCURACY


def read_published(catalog: Catalog, beside: Path | None, name: str) -> PublishedSpec:
    """A file of published numbers.

    Args:
        catalog: where it is searched for, after the folder of the file that names it.
        beside: the file that names it; None if that was made in Python.
        name: its name.

    Raises:
        UserError: if there is no such file, or it is not valid.
    """
    if beside is None:
        path = catalog.entry("publication", name).path
    else:
        path = catalog.beside(beside, "published", "publication", name)
    return read_spec(PublishedSpec, path)


def published_averages(benchmark: BenchmarkSpec, catalog: Catalog) -> PublishedSpec | None:
    """The published averages of a benchmark; None if it names none.

    Raises:
        UserError: if there is no such file, it is not valid, or it has no such benchmark, metric,
            training or network, or counts csID images as ID where the benchmark does not, or the
            other way round.
    """
    named = benchmark.published
    if named is None:
        return None
    found = read_published(catalog, benchmark.file, named.file)
    known = {} if found.averages is None else found.averages.benchmarks
    if found.averages is None or named.benchmark not in known:
        raise UserError(
            f"{_place(benchmark, 'benchmark')}: published numbers '{named.file}' have no averages "
            f"of a benchmark '{named.benchmark}'.",
            did_you_mean(named.benchmark, known),
        )
    _check_spectrum(benchmark, known[named.benchmark].full_spectrum, named.benchmark)
    for name, measure in found.averages.measures.items():
        if measure.metric not in {*METRICS, ID_ACCURACY}:
            raise UserError(
                f"{found.file}: averages.measures.{name}: no metric is called '{measure.metric}'.",
                did_you_mean(measure.metric, {*METRICS, ID_ACCURACY}, SEE_METRICS),
            )
    pairs = {entry.key[:2] for entry in known[named.benchmark].entries}
    for model, names in named.models.items():
        if (names.training, names.network) not in pairs:
            raise UserError(
                f"{_place(benchmark, 'models', model)}: published numbers '{named.file}' have no "
                f"entry of {names.training}, {names.network} in '{named.benchmark}'.",
                "They have: " + "; ".join(sorted(", ".join(pair) for pair in pairs)) + ".",
            )
    return found.of_benchmark(named.benchmark)


def _check_spectrum(benchmark: BenchmarkSpec, full_spectrum: bool, published: str) -> None:
    """Check that a benchmark has csID sets if, and only if, the published averages have.

    Raises:
        UserError: if they differ.
    """
    if full_spectrum != bool(benchmark.csid):
        counts, has = ("count", "none") if full_spectrum else ("do not count", "csid sets")
        raise UserError(
            f"{_place(benchmark, 'benchmark')}: the averages of '{published}' {counts} csID images "
            f"as ID, and this benchmark has {has}.",
            "Name the averages of the same protocol, or write 'published: null'.",
        )


def _place(benchmark: BenchmarkSpec, *keys: str) -> str:
    """The place of a key of `published`, for messages."""
    place = f"Benchmark '{benchmark.name}'"
    if benchmark.file is not None:
        place = place_of(benchmark.file, ("published", *keys))
    return f"{place}: {'.'.join(('published', *keys))}"
