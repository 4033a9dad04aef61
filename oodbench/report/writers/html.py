"""A report as a web page or a part of one, without scripts or other files; light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from oodbench.report.leaderboard import LeaderboardData
from oodbench.report.tables.document import MOST_IMPORTANT, Document, Table
from oodbench.report.tables.leaderboard_layout import full

_STYLE = """\
.oodbench h1 { font-size: 1.5rem; } .oodbench h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.oodbench .summary { color: var(--soft); margin: 0; }
.oodbench .about { color: var(--soft); margin: .6rem 0; }
.oodbench .wide { overflow-x: auto; }
.oodbench table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.oodbench th, .oodbench td { padding: .3rem .5rem; text-align: right; white-space: nowrap; }
.oodbench thead th { vertical-align: bottom; white-space: normal; font-weight: 600;
                     border-bottom: 2px solid var(--rule); }
.oodbench tbody tr + tr > * { border-top: 1px solid var(--rule); }
.oodbench .text { text-align: left; } .oodbench .long { white-space: normal; min-width: 18rem; }
.oodbench abbr { text-decoration: none; }
.oodbench .section { text-align: left; font-weight: normal; font-style: italic;
                     padding-top: 1.2rem; border-bottom: 1px solid var(--rule); }
.oodbench .best { font-weight: 700; background: var(--best); }
.oodbench .mark { display: inline-block; width: .7em; text-align: left; font-weight: normal; }
.oodbench .spread { color: var(--soft); font-weight: normal; }
.oodbench .grouped th, .oodbench .grouped td { padding: .3rem .35rem; }
.oodbench .grouped .first { padding-left: 1.1rem; }
.oodbench .grouped thead tr:first-child th { border: 0; text-align: left; }
.oodbench .warnings { border-left: 4px solid #d9822b; padding: .1rem 0 .1rem .9rem;
                      margin: 1rem 0; max-width: 60rem; }
.oodbench .warnings ul { margin: .2rem 0; padding-left: 1.2rem; }
.oodbench .under { color: var(--soft); max-width: 60rem; }
.oodbench figure { margin: 1.2rem 0 2rem; } .oodbench figure svg { max-width: 100%; height: auto; }
.oodbench .notes { color: var(--soft); max-width: 60rem; padding-left: 1.2rem; }
"""

_PAGE_STYLE = """\
:root { color-scheme: light dark; --text: #1c1e21; --page: #fff; --rule: #d0d4da;
        --soft: #5b6270; --shade: #1c1e2133; --best: #e3f1e5; --id: #8a919d; --muted: #c4c9d1;
        --c0: #0072b2; --c1: #c24a00; --c2: #008060; --c3: #a8407c; --c4: #b07a00; --c5: #2b8fd0;
        --c6: #5a4fcf; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6ea; --page: #15171a; --rule: #3a3f47; --soft: #9aa2b0; --shade: #e4e6ea40;
          --best: #1f3a26;
          --id: #7c8594; --muted: #4b515b;
          --c0: #56b4e9; --c1: #ff8a4c; --c2: #3fc79a; --c3: #e69fc8; --c4: #e6b93c;
          --c5: #8fb8ff; --c6: #b3a6ff; }
}
body { font: 14px/1.45 system-ui, sans-serif; color: var(--text); background: var(--page);
       max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
.oodbench .wide { background:
    linear-gradient(to right, var(--page) 40%, transparent) left / 3rem 100%,
    linear-gradient(to left, var(--page) 40%, transparent) right / 3rem 100%,
    linear-gradient(to right, var(--shade), transparent) left / .8rem 100%,
    linear-gradient(to left, var(--shade), transparent) right / .8rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
.oodbench .all { display: none; }
@media (max-width: 75rem) {
  .oodbench th, .oodbench td { padding: .3rem .4rem; }
}
@media (max-width: 40rem) {
  body { margin: 1rem auto; padding: 0 .6rem; }
  .oodbench .all { display: block; position: sticky; top: 0; z-index: 2; padding: .4rem 0;
                   background: var(--page); }
  .oodbench .minor { display: none; }
  body:has(.all[open]) .minor { display: table-cell; }
  .oodbench th, .oodbench td { padding: .3rem .35rem; }
  .oodbench .text { white-space: normal; overflow-wrap: anywhere; min-width: 4.2rem; }
  .oodbench thead .text { overflow-wrap: normal; }
  .oodbench .long { min-width: 12rem; }
  .oodbench figure { overflow-x: auto; }
  .oodbench figure svg { max-width: none; min-width: 36rem; }
  .oodbench .grouped .text { overflow-wrap: normal; }
  .oodbench .grouped .text:first-child { min-width: 7rem; overflow-wrap: anywhere; }
}
"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ document.title }}</title>
<style>
{{ style | safe }}{{ page_style | safe }}\
</style>
</head>
<body class="oodbench">
<h1>{{ document.title }}</h1>
{{ summary(document) }}\
{% if document.about %}
<p class="about">{{ document.about | join(" ") }}</p>
{% endif %}
{{ warnings(document) }}\
<details class="all"><summary>Show all columns</summary></details>
{{ tables(document) }}\
{% if figures %}
<h2>Figures</h2>
{% for figure in figures %}
<figure role="img" aria-label="{{ figure.caption }}">
{{ figure.svg | safe }}
<figcaption class="under">{{ figure.caption }}</figcaption>
</figure>
{% endfor %}
{% endif %}
{% if document.notes %}
<h2>Notes</h2>
{{ notes(document) }}\
{% endif %}
</body>
</html>
"""

_FRAGMENT = """\
<div class="oodbench">
<style>
.oodbench { --rule: rgba(128, 128, 128, .35); --soft: inherit; --best: rgba(70, 170, 90, .2); }
{{ style | safe }}\
.oodbench h2 { font-size: 1rem; margin: 1.1rem 0 .4rem; }
.oodbench table { margin: 0; font-size: .95em; }
.oodbench .text { vertical-align: top; }
.oodbench details { margin-top: .8rem; }
</style>
<strong>{{ document.title }}</strong>
{{ summary(document) }}\
{{ warnings(document) }}\
{{ tables(document) }}\
{% if document.notes %}
<details><summary>Notes</summary>
{{ notes(document) }}\
</details>
{% endif %}
</div>
"""

_PARTS = """\
{% macro summary(document) %}
{% for line in document.summary %}
<p class="summary">{{ line | prose }}</p>
{% endfor %}
{% endmacro %}
{% macro warnings(document) %}
{% if document.warnings %}
<div class="warnings"><strong>Warnings</strong>
<ul>
{% for warning in document.warnings %}
<li>{{ warning | prose }}</li>
{% endfor %}
</ul></div>
{% endif %}
{% endmacro %}
{% macro notes(document) %}
<ul class="notes">
{% for note in document.notes %}
<li>{{ note | prose }}</li>
{% endfor %}
</ul>
{% endmacro %}
{% macro tables(document) %}
{% for table in document.tables %}
<h2>{{ table.title }}</h2>
{{ grid(table) }}\
{% endfor %}
{% endmacro %}
{% macro grid(table) %}
{% set kinds = classes(table) %}
<div class="wide">
<table{% if table.groups %} class="grouped"{% endif %}>
<thead>
{% if table.groups %}
<tr>
{% for group, columns, minor in group_cells(table) %}
<th colspan="{{ columns }}"{% if group %} class="first" scope="colgroup"\
{% elif minor %} class="minor"{% endif %}>{{ group }}</th>
{% endfor %}
</tr>
{% endif %}
<tr>
{% for heading in table.headings %}
<th scope="col"{{ attribute(kinds[loop.index0]) }}>\
{% if heading.short == heading.title %}{{ heading.title }}\
{% else %}<abbr title="{{ heading.title }}">{{ heading.short }}</abbr>{% endif %}</th>
{% endfor %}
</tr></thead>
{% for section in table.sections %}
<tbody>
{% if section.label %}
<tr><th class="section" colspan="{{ table.headings | length }}">{{ section.label }}</th></tr>
{% endif %}
{% for row in section.rows %}
<tr>
{% for cell in row %}
{% set column = loop.index0 %}
{% if table.headings[column].text %}
<td{{ attribute(kinds[column], "long" if cell.text | length > 40) }}>{{ cell.text }}</td>
{% else %}
<td{{ attribute(kinds[column], cell.mark if cell.mark in ("best", "better", "worse")) }}>\
{% if cell.mark == "best" %}<strong>{{ cell.text }}</strong>{% else %}{{ cell.text }}{% endif %}\
{% if table.has_marks(column) %}\
<span class="mark">{{ cell.sign }}</span>{% endif %}\
{% if cell.spread %} <span class="spread">{{ cell.spread }}</span>{% endif %}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
{% endfor %}
</table>
</div>
{% for note in table.notes %}
<p class="under">{{ note | prose }}</p>
{% endfor %}
{% endmacro %}
"""


@dataclass(frozen=True, slots=True)
class PageFigure:
    """A figure of a page.

    Attributes:
        svg: the image, an element that stands for itself.
        caption: what it shows.
    """

    svg: str
    caption: str


def render(leaderboard: LeaderboardData, figures: Sequence[PageFigure] = ()) -> str:
    """The full report of a leaderboard."""
    return render_document(full(leaderboard, best="bold", split=True), figures)


def render_document(document: Document, figures: Sequence[PageFigure] = ()) -> str:
    """A report as a page. All text from records is escaped.

    Args:
        document: the report.
        figures: shown after the tables.
    """
    return filled(_PAGE, document=document, figures=figures)


def render_fragment(document: Document) -> str:
    """A report as a part of another page, such as a notebook: its styles apply to itself only.

    It takes its colors from the page, which may have a light or a dark theme.
    """
    return filled(_FRAGMENT, document=document)


def filled(template: str, **values: Any) -> str:
    """A template of jinja2, which may call the macros for the parts of documents.

    All text among the values is escaped. `style` is the style of these parts, and
    `page_style` that of a page.
    """
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.globals |= {
        "attribute": _attribute,
        "classes": _classes,
        "group_cells": _group_cells,
    }
    environment.filters["prose"] = prose
    page = (
        environment.from_string(_PARTS + template).render(
            style=_STYLE, page_style=_PAGE_STYLE, **values
        )
        + "\n"
    )
    # ASCII, so that the page is the same in any encoding: standard output need not be UTF-8.
    return page.encode("ascii", "xmlcharrefreplace").decode()


def prose(text: str) -> Markup:
    """A text with what is between backticks as code; all else is escaped."""
    parts = str(escape(text)).split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner
        return escape(text)
    return Markup(
        "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
    )


def _classes(table: Table) -> list[list[str]]:
    """Classes of each column: words, first of a group, minor.

    On a phone, minor columns are hidden until the reader opens them. A table of words whose other
    columns are all minor has none: names alone say nothing.
    """
    kept = [each for each in table.headings if each.importance >= MOST_IMPORTANT or each.group]
    names_alone = all(each.text for each in kept)
    found: list[list[str]] = []
    for index, heading in enumerate(table.headings):
        mine = []
        if heading.text:
            mine.append("text")
        elif table.starts_group(index):
            mine.append("first")
        if not names_alone and heading not in kept:
            mine.append("minor")
        found.append(mine)
    return found


def _group_cells(table: Table) -> Iterator[tuple[str, int, bool]]:
    """Each group of columns with its number of columns; minor columns without a group, apart."""
    kinds = (
        ("minor" in each, heading)
        for each, heading in zip(_classes(table), table.headings, strict=True)
    )
    for (group, minor), same in groupby(kinds, key=lambda each: (each[1].group, each[0])):
        yield group, len(list(same)), minor


def _attribute(classes: Sequence[str], more: str | None = None) -> Markup:
    """The attribute `class` of a cell."""
    names = [*classes, *([more] if more else [])]
    return Markup(' class="{}"').format(" ".join(names)) if names else Markup("")
