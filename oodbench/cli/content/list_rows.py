"""The rows of `oodbench list`, as plain values and as a table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from oodbench.detector import FAMILIES, NEEDS
from oodbench.errors import UserError, did_you_mean, see_list
from oodbench.models.registry import HEADS, INPUT_SIZE, LIBRARY_NETWORKS, NETWORKS
from oodbench.planning.suite_plan import load_suite
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import BUILT_IN
from oodbench.plugins.declarations import read_docstring
from oodbench.report.tables.document import Cell, Heading, Section, Table
from oodbench.report.writers.wrapping import wrap

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

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "detectors": (
        *("name", "aliases", "summary", "family", "reference", "paper", "code"),
        *("needs", "cost", "source"),
    ),
    "benchmarks": ("name", "summary", "kind", "id", "ood", "source"),
    "datasets": ("name", "summary", "shape", "classes", "splits", "source"),
    "models": ("name", "summary", "parameters", "input", "weights", "source"),
}
_NOT_PIPED = frozenset({"family", "paper", "code", "cost"})
"""Columns of a table that is not grouped which would make its lines very long; --json has them."""
_NUMBERS = ("classes", "parameters")
_IMPORTANCE = {"name": 9, "summary": 9, "reference": 8, "needs": 7, "id": 7, "shape": 7, "heads": 7}
_IMPORTANCE |= {"code": 5, "paper": 4, "aliases": 3, "source": 2}
"""Of columns, for `Heading`; 6 of the others."""
_WIDTH = {"name": 26, "summary": 36, "paper": 40, "needs": 20, "ood": 20}
"""Of columns, as of `Heading`."""
_SHORT = {"forward": "fwd", "backward": "bwd", "https://github.com/": "", "https://": ""}
"""Words in the cells of a grouped table -> shorter ones."""


def table(kind: str, rows: list[Row], *, grouped: bool = False) -> Table:
    """The rows as a table; the status is shown where it is not "ok".

    Args:
        kind: what is listed.
        rows: its rows.
        grouped: for a terminal, with detectors grouped by family; else for a pipe or a file, where
            every row is a line.
    """
    mixed = any(row["source"] != BUILT_IN for row in rows) and kind != "models"
    hidden = {"family"} if grouped else _NOT_PIPED
    hidden |= set() if mixed or kind == "models" else {"source"}
    columns = [name for name in _COLUMNS[kind] if name not in hidden]
    headings = tuple(
        Heading(
            _WORDS.get(name, name),
            _WORDS.get(name, name),
            text=name not in _NUMBERS,
            importance=8 if name == "source" and mixed else _IMPORTANCE.get(name, 6),
            width=_WIDTH.get(name, 16),
        )
        for name in columns
    )
    sections: dict[str, list[tuple[Cell, ...]]] = {}
    if grouped and kind == "detectors":
        sections = {title: [] for title in FAMILIES.values()}
    for row in rows:
        texts = [_text(row.get(column)) for column in columns]
        if grouped:
            texts = [
                _brief(text) if name in ("cost", "code") else text
                for name, text in zip(columns, texts, strict=True)
            ]
        if row["status"] != "ok":
            index = columns.index("summary")
            texts[index] = f"{row['status'].upper()}: {texts[index]}"
        title = FAMILIES[row["family"]] if "family" in row else "Broken"
        sections.setdefault(title if grouped and kind == "detectors" else "", []).append(
            tuple(map(Cell, texts))
        )
    return Table(
        "",
        headings,
        tuple(Section(title, tuple(cells)) for title, cells in sections.items() if cells),
        _NOTES.get(kind, ()),
    )


_NOTES = {
    "models": (f"Heads (hf:PATH has softmax only): {', '.join(HEADS)}.",),
    "detectors": (
        "`oodbench list detectors NAME` shows everything about one detector, with its formula; "
        "--json everything about all.",
    ),
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


def details(row: Row, width: int) -> str:
    """All that is known of one row: a line or more for each key.

    Args:
        row: the row.
        width: characters a line may have.
    """
    shown = {_WORDS.get(key, key): _text(value) for key, value in row.items() if key not in _HIDDEN}
    indent = max(map(len, shown)) + 2
    lines = [str(row["name"])]
    for key, text in shown.items():
        first, *others = wrap(text, width - indent - 2) if text else [""]
        lines += [f"  {key:<{indent}}{first}"] if text else []
        lines += [f"  {'':{indent}}{each}" for each in others]
    return "\n".join(lines)


_HIDDEN = frozenset({"name", "status", "year"})
_WORDS = {"reference": "published", "search_space": "tuned over", "summary": "title"}
_WORDS |= {"nonnegative_features": "assumes features >= 0", "export_obstacle": "not exported"}
"""Key of a row -> how it is shown."""


def docstring(catalog: Catalog, name: str) -> str:
    """The docstring of a detector's class, which has its formula.

    Raises:
        BrokenDetectorError: if its file is broken.
    """
    entry = catalog.entry("detector", name)
    return read_docstring(entry.path) if entry.cls is None else inspect.getdoc(entry.cls) or ""


def _brief(text: str) -> str:
    for long, short in _SHORT.items():
        text = text.replace(long, short)
    return text


def _text(value: Any) -> str:
    """On one line."""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, dict):
        lists = any(isinstance(item, list) for item in value.values())
        mark, between = (": ", "; ") if lists else (" ", ", ")
        return between.join(f"{key}{mark}{_text(item)}" for key, item in value.items())
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else " ".join(str(value).split())
