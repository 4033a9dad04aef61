"""A page for each built-in detector: its declaration, formula, parameters, results and source."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import griffe

from documentation import board_results
from documentation.markdown_text import cell, code, escaped, fenced, table, table_below
from documentation.repository_links import ROOT
from oodbench.cli.content.list_rows import detectors
from oodbench.detector import FAMILIES, Detector, DetectorInfo
from oodbench.detector.citations import bibtex
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import BUILT_IN

FOLDER = "reference/detectors"
COMPARISONS = (
    ("Agreement with pytorch-ood", "agreement.md", "Agreement with pytorch-ood 0.4.0"),
    ("Defaults that differ from pytorch-ood", "agreement.md", "Defaults that differ"),
    ("Default of OpenOOD beside ours", "agreement.md", "Defaults of OpenOOD"),
    ("Deviations, and why", "deviations.md", "Where we deviate, and why"),
)
"""Title on a detector's page, and the page and heading of the table that its rows are from."""


@cache
def built_in() -> dict[str, DetectorInfo]:
    """Name -> declaration, by families as lists are."""
    catalog = Catalog()
    names = [row["name"] for row in detectors(catalog) if row["source"] == BUILT_IN]
    infos = [info for name in names if (info := catalog.detectors[name].info) is not None]
    order = [*FAMILIES]
    infos.sort(key=lambda info: (order.index(info.family), info.name))
    return {info.name: info for info in infos}


def pages() -> Iterator[tuple[str, str]]:
    """Address and Markdown of each page."""
    catalog = Catalog()
    for name, info in built_in().items():
        yield f"{FOLDER}/{name}.md", _page(info, catalog.load_detector(name))


def navigation() -> list[dict[str, list[dict[str, str]]]]:
    """The pages by family, for the navigation of the site."""
    found: dict[str, list[dict[str, str]]] = {}
    for name, info in built_in().items():
        found.setdefault(FAMILIES[info.family], []).append({info.label: f"{FOLDER}/{name}.md"})
    return [{family: members} for family, members in found.items()]


def _page(info: DetectorInfo, instance: Detector) -> str:
    path = ROOT / "detectors" / f"{info.name}.py"
    parts = [f"---\ntitle: {info.label} ({info.name})\n---\n", f"# {info.label}\n"]
    parts += [f"{escaped(info.title)}.\n", _facts(info)]
    text, parameters = _docstring(type(instance))
    parts += ["## Score\n", f"{text}\n"]
    parts += ["## Parameters\n", _parameters(instance, parameters)]
    parts += ["## Use\n", _use(instance, info)]
    parts += ["## Results on the committed leaderboards\n", _results(info)]
    parts += _comparisons(info)
    parts += ["## Source\n", fenced(path.read_text(encoding="utf-8"), "python")]
    if citation := bibtex([info]):
        parts += ["## Citation\n", fenced(citation, "bibtex")]
    return "\n".join(parts)


def _facts(info: DetectorInfo) -> str:
    published = ", ".join(each for each in (info.paper, info.reference) if each)
    names = ", ".join(f"`{name}`" for name in (info.name, *info.aliases))
    needs = ", ".join(f"`{need}`" for need in sorted(info.needs)) or "logits only"
    rows = [
        ("Name", names),
        ("Family", f"[{FAMILIES[info.family]}](index.md#{_anchor(FAMILIES[info.family])})"),
        ("Paper", f"[{cell(published)}]({info.url})" if info.url else cell(published) or "-"),
        ("Authors", cell(", ".join(info.authors)) or "-"),
        ("Authors' code", f"<{info.code}>" if info.code else "-"),
        ("[Needs](index.md#all-detectors)", needs),
        ("Cost of an image", info.cost_class),
        ("Exported with its network", cell(info.export_obstacle or "yes")),
    ]
    if info.nonnegative_features:
        rows.append(("Features", "the formula assumes that they are not negative (ReLU)"))
    if info.layerwise:
        rows.append(("Feature layers", "[one or several](index.md#several-feature-layers)"))
    return table(("", ""), [(f"**{name}**", value) for name, value in rows])


def _docstring(cls: type[Detector]) -> tuple[str, dict[str, str]]:
    """The text of a class as Markdown, and parameter -> its text, also of base classes."""
    texts: dict[str, str] = {}
    described: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if issubclass(each, Detector) and each.__doc__:
            texts[each.__name__] = inspect.cleandoc(each.__doc__)
            for section in griffe.Docstring(texts[each.__name__]).parse("google", warnings=False):
                if section.kind is griffe.DocstringSectionKind.parameters:
                    described |= {item.name: item.description for item in section.value}
    text = re.split(r"^(?:Args|Attributes|Raises):$", texts[cls.__name__], flags=re.MULTILINE)[0]
    return _as_markdown(text), described


def _as_markdown(text: str) -> str:
    """A docstring: text is escaped, and indented formulas are blocks of code."""
    blocks = []
    for block in text.strip().split("\n\n"):
        indented = all(line.startswith("    ") for line in block.splitlines())
        blocks.append(fenced(inspect.cleandoc(block), "text") if indented else escaped(block))
    return "\n\n".join(blocks)


def _parameters(instance: Detector, described: Mapping[str, str]) -> str:
    if not instance.parameters:
        return "None.\n"
    hints = {
        name: each.annotation for name, each in inspect.signature(type(instance)).parameters.items()
    }
    rows = []
    for name, default in instance.parameters.items():
        tried = ", ".join(_value(value) for value in instance.info.search_space.get(name, ()))
        rows.append(
            (
                f"`{name}`",
                code(_hint(hints.get(name, ""))),
                code(_value(default)),
                _shortened(tried) or "-",
                cell(described.get(name, "")),
            )
        )
    head = ("Parameter", "Type", "Default", "Tried when tuned", "Meaning")
    return table(head, rows)


def _hint(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")


def _value(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:g}" if number else str(value)


def _shortened(values: str, most: int = 120) -> str:
    if len(values) <= most:
        return values
    return f"{values[:most].rpartition(', ')[0]} ... ({values.count(', ') + 1} values)"


def _use(instance: Detector, info: DetectorInfo) -> str:
    first = next(iter(instance.parameters.items()), None)
    argument = "" if first is None else f", {first[0]}={first[1]!r}"
    lines = f'detector = oodbench.load_detector("{info.name}"{argument})'
    tune = f" --tune {info.name}" if info.search_space else ""
    return (
        fenced(f"oodbench run digits --methods {info.name}{tune}", "bash")
        + "\n"
        + fenced(f"import oodbench\n\n{lines}", "python")
    )


def _results(info: DetectorInfo) -> str:
    found = board_results.results(info.name)
    if not found:
        return "It is on none of them.\n"
    return found + (
        "\nMeans over the OOD sets and seeds. *Time x* is the batched time over the baseline's "
        "in the same run. The board's page explains ranks and intervals.\n"
    )


@cache
def _compared() -> tuple[tuple[str, str, list[str], list[list[str]]], ...]:
    folder = ROOT / "docs" / FOLDER
    return tuple(
        (title, page, *table_below((folder / page).read_text(encoding="utf-8"), heading))
        for title, page, heading in COMPARISONS
    )


def _comparisons(info: DetectorInfo) -> Iterator[str]:
    for title, page, head, rows in _compared():
        own = [row[1:] for row in rows if info.name in re.findall(r"`(\w+)`", row[0])]
        if own:
            yield f"## {title}\n\n{table(head[1:], own)}\n[The same of all detectors]({page})\n"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
