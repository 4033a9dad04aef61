"""The rows of `oodbench list`, as plain values and as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from oodbench.errors import UserError
from oodbench.models.registry import HEADS, INPUT_SIZE, LIBRARY_NETWORKS, NETWORKS
from oodbench.planning.suite_plan import load_suite
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import BUILT_IN
from oodbench.report.tables.document import Cell, Heading, Section, Table

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
                "needs": sorted(status.info.needs),
                "cost": status.info.cost_class,
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

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "detectors": ("name", "aliases", "summary", "reference", "needs", "cost", "source"),
    "benchmarks": ("name", "summary", "kind", "id", "ood", "source"),
    "datasets": ("name", "summary", "shape", "classes", "splits", "source"),
    "models": ("name", "summary", "parameters", "input", "weights", "source"),
}
_NUMBERS = ("classes", "parameters")
_IMPORTANCE = {"name": 9, "summary": 8, "needs": 7, "id": 7, "shape": 7, "heads": 7, "source": 4}
"""Of columns, for `Heading`; 6 of the others."""


def table(kind: str, rows: list[Row]) -> Table:
    """The rows as a table; the status is shown where it is not "ok"."""
    columns = _COLUMNS[kind]
    headings = tuple(
        Heading(name, name, text=name not in _NUMBERS, importance=_IMPORTANCE.get(name, 6))
        for name in columns
    )
    cells = []
    for row in rows:
        texts = [_text(row.get(column)) for column in columns]
        if row["status"] != "ok":
            index = columns.index("summary")
            texts[index] = f"{row['status'].upper()}: {texts[index]}"
        cells.append(tuple(map(Cell, texts)))
    notes = (f"Heads (hf:PATH has softmax only): {', '.join(HEADS)}.",) if kind == "models" else ()
    return Table("", headings, (Section("", tuple(cells)),), notes)


def _text(value: Any) -> str:
    """On one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else " ".join(str(value).split())
