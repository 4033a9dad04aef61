"""The rows of `oodbench list`, as plain values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oodbench.detector import NEEDS
from oodbench.errors import UserError, did_you_mean, see_list
from oodbench.models.registry import HEADS, INPUT_SIZE, LIBRARY_NETWORKS, NETWORKS
from oodbench.planning.suite_plan import load_suite
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import BUILT_IN
from oodbench.plugins.declarations import read_docstring

Row = dict[str, Any]
"""At least name, status ("ok" or "broken"), summary, source."""


def detectors(catalog: Catalog) -> list[Row]:
    """Every detector; a broken one with its error."""
    rows = []
    for name, status in catalog.checked_detectors().items():
        row: Row = {"name": name, "status": "ok", "summary": "", "source": _source(catalog, name)}
        if status.info is None:
            row |= {"status": "broken", "summary": status.error, "error": status.error}
        else:
            row |= {
                "summary": status.info.title,
                "label": status.info.label,
                "aliases": list(status.info.aliases),
                "paper": status.info.paper,
                "authors": list(status.info.authors),
                "reference": status.info.reference,
                "year": status.info.year,
                "url": status.info.url,
                "code": status.info.code,
                "family": status.info.family,
                "needs": [need for need in NEEDS if need in status.info.needs],
                "nonnegative_features": status.info.nonnegative_features,
                "cost": status.info.cost_class,
                "export_obstacle": status.info.export_obstacle,
                "search_space": {k: list(v) for k, v in status.info.search_space.items()},
            }
        rows.append(row | {"path": str(catalog.entry("detector", name).path)})
    return rows


def _source(catalog: Catalog, name: str) -> str:
    return catalog.entry("detector", name).source


def benchmarks(catalog: Catalog) -> list[Row]:
    """Every benchmark and every suite of benchmarks; a broken one with its error."""

    def describe(name: str) -> Row:
        if catalog.is_suite(name):
            suite = load_suite(catalog, name)
            return {
                "kind": "suite",
                "summary": suite.spec.summary,
                "version": suite.spec.version,
                "members": list(suite.names),
            }
        spec = catalog.benchmark(name)
        return {
            "kind": "benchmark",
            "summary": spec.summary,
            "version": spec.version,
            "id": spec.id,
            "ood": list(spec.ood_groups),
        }

    return _specs(catalog, "benchmark", describe)


def datasets(catalog: Catalog) -> list[Row]:
    """Every data set; a broken one with its error."""

    def describe(name: str) -> Row:
        spec = catalog.dataset(name)
        return {
            "summary": spec.summary,
            "kind": spec.kind,
            "shape": "x".join(map(str, spec.shape)),
            "classes": spec.num_classes,
            "splits": dict(spec.splits),
            "license": spec.license,
            "url": spec.url,
        }

    return _specs(catalog, "dataset", describe)


def _specs(catalog: Catalog, kind: Any, describe: Callable[[str], Row]) -> list[Row]:
    rows = []
    for name, entry in catalog.entries[kind].items():
        row: Row = {"name": name, "status": "ok", "summary": "", "source": entry.source}
        try:
            row |= describe(name)
        except UserError as error:
            row |= {"status": "broken", "summary": error.message, "error": str(error)}
        rows.append(row | {"path": str(entry.path)})
    return rows


def models(catalog: Catalog) -> list[Row]:
    """Every network by name, which can have any head; then those of other libraries."""
    rows: list[Row] = [
        {
            "name": name,
            "status": "ok",
            "summary": info.summary,
            "source": BUILT_IN,
            "parameters": info.parameters,
            "input": INPUT_SIZE,
            "weights": info.weights,
            "heads": list(HEADS),
        }
        for name, info in NETWORKS.items()
    ]
    return rows + [
        {
            "name": name,
            "status": "ok",
            "summary": other.summary,
            "source": {"hf": "transformers"}.get(library := name.partition(":")[0], library),
            "parameters": other.parameters,
            "input": other.input_size,
            "weights": other.weights,
            "heads": ["softmax"] if name.startswith("hf:") else list(HEADS),
        }
        for name, other in LIBRARY_NETWORKS.items()
    ]


LISTERS: Mapping[str, Callable[[Catalog], list[Row]]] = {
    "detectors": detectors,
    "benchmarks": benchmarks,
    "datasets": datasets,
    "models": models,
}


def chosen(rows: list[Row], names: Sequence[str], kind: str) -> list[Row]:
    """The rows with these names or aliases, in the order of the names.

    Args:
        rows: all rows.
        names: names or aliases.
        kind: what is listed, for the error.

    Raises:
        UserError: if there is no such row.
    """
    by_name = {alias: row for row in rows for alias in row.get("aliases", ())}
    by_name |= {row["name"]: row for row in rows}
    for name in names:
        if name not in by_name:
            raise UserError(
                f"There is no '{name}' among the {kind}.",
                did_you_mean(name, by_name, see_list(kind)),
            )
    return [by_name[name] for name in dict.fromkeys(names)]


def docstring(catalog: Catalog, name: str) -> str:
    """The docstring of a detector's class, which has its formula.

    Raises:
        BrokenDetectorError: if its file is broken.
    """
    entry = catalog.entry("detector", name)
    return read_docstring(entry.path) if entry.cls is None else inspect.getdoc(entry.cls) or ""
