"""A comparison as one web page, without scripts or other files; light and dark."""

from __future__ import annotations

from oodbench.report.tables.document import Document
from oodbench.report.writers import html
from oodbench.run_comparison.changes import GateResult, RunComparison
from oodbench.run_comparison.writers.overview import overview

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ found.title }}</title>
<style>
{{ style | safe }}{{ page_style | safe }}\
:root { --bad: #b3261e; --good: #1e6b34; --attention: #8a5200; }
@media (prefers-color-scheme: dark) {
  :root { --bad: #ff8a80; --good: #7fd495; --attention: #f0b35c; }
}
.verdict { font-size: 1.15rem; font-weight: 600; margin: .8rem 0 .4rem; max-width: 60rem;
           overflow-wrap: anywhere; }
.gate { display: inline-block; margin: .2rem 0; padding: .15rem .6rem; border-radius: .3rem;
        border: 1px solid currentColor; font-weight: 600; }
.failed, .failure, .oodbench .worse { color: var(--bad); }
.passed, .oodbench .better { color: var(--good); }
.incomplete, .incomparable, .warning { color: var(--attention); }
.oodbench td.worse, .oodbench td.better { font-weight: 600; }
.findings { padding-left: 1.2rem; max-width: 60rem; overflow-wrap: anywhere; }
.findings strong { font-size: .85em; }
.sides { color: var(--soft); margin: 0; padding: 0; list-style: none; overflow-wrap: anywhere; }
details.full { margin: .5rem 0; border-top: 1px solid var(--rule); padding-top: .5rem; }
.oodbench .full td:not(.text) { white-space: normal; min-width: 6.8rem; }
summary { cursor: pointer; }
.oodbench .text { overflow-wrap: break-word; }
</style>
</head>
<body class="oodbench">
<main>
<h1>{{ found.title }}</h1>
<ul class="sides">
{% for side in found.sides %}
<li>{{ side }}</li>
{% endfor %}
</ul>
<p class="verdict">{{ found.verdict }}</p>
<p class="gate {{ found.state }}">{{ found.gate }}</p>
{% if found.rules %}
<p class="under">{{ found.rules }}</p>
{% endif %}
{% if found.findings %}
<ul class="findings">
{% for label, text in found.findings %}
<li><strong class="{{ severity_class(label) }}">{{ label }}</strong> {{ text }}</li>
{% endfor %}
</ul>
{% endif %}
{% if document.tables %}
<details class="all"><summary>Show all columns</summary></details>
{% endif %}
{{ tables(document) }}\
{% if found.unchanged %}
<p class="under">{{ found.unchanged }}</p>
{% endif %}
{% if document.notes %}
<h2>Notes</h2>
{{ notes(document) }}\
{% endif %}
<h2>All values</h2>
{% for table in found.full %}
<details class="full"><summary>{{ table.title }}</summary>
{{ grid(table) }}\
</details>
{% endfor %}
</main>
</body>
</html>
"""

_CLASSES = {"FAILURE": "failure", "WARNING": "warning", "NOT COMPARABLE": "incomparable"}


def render(comparison: RunComparison, gate: GateResult) -> str:
    """The verdict, the gate's findings, what differs; the full tables are folded.

    All text from records is escaped.
    """
    found = overview(comparison, gate)
    changed = Document(found.title, (), found.changed, found.notes)
    return html.filled(_PAGE, found=found, document=changed, severity_class=_CLASSES.__getitem__)
