"""The files of a site: pages from templates, style and script.

All text is escaped by the templates. Addresses of papers are links only if they are of the web.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from oodbench.errors import visible
from oodbench.report.leaderboard import FPR, RANKED_BY, SHOWN, Entry
from oodbench.report.seed_means import FEWEST_SEEDS, LEVEL
from oodbench.report.site.history import change_text, history_plots, sparkline
from oodbench.report.site.leaderboard_table import (
    SHORT_REQUIREMENTS,
    column_label,
    cost_columns,
    interval,
    quality_columns,
)
from oodbench.report.site.pages import Site
from oodbench.report.site.plots import LEFT, RIGHT
from oodbench.report.site.scatter_plots import scatter_plots
from oodbench.report.tables.averages_layout import average_tables, sources
from oodbench.report.tables.cost_tables import REQUIREMENT_TITLES, unsteady
from oodbench.report.tables.document import TIED_SIGN, UNSTEADY_SIGN
from oodbench.report.tables.optional_tables import optional_tables
from oodbench.report.tables.threshold_tables import transfer_tables
from oodbench.report.tables.values import (
    SPREAD_SIGN,
    metric_title,
    parameters_text,
    percent,
    seeds_text,
    tuned_on_text,
)
from oodbench.report.writers.html import prose
from oodbench.version import __version__

_ASSETS = ("site.css", "site.js")
_SPACE = re.compile(r"(<pre>.*?</pre>)|[ \t]*\n\s*", re.DOTALL)
"""The templates' indentation and empty lines. Text is escaped, so it has no such tag."""


def render(site: Site) -> Mapping[str, str]:
    """The files of a site: address in its folder -> content; the same for the same site."""
    environment = site_environment()

    def page(template: str, address: str, **content: object) -> None:
        root = "../" * address.count("/")
        filled = environment.get_template(template).render(site=site, root=root, **content)
        # ASCII, so that the page is the same in any encoding.
        text = _SPACE.sub(lambda match: match[1] or "\n", filled).strip() + "\n"
        found[address] = text.encode("ascii", "xmlcharrefreplace").decode()

    assets = files("oodbench.report.site") / "assets"
    found = {f"assets/{name}": (assets / name).read_text(encoding="utf-8") for name in _ASSETS}
    page("overview.html", "index.html")
    for benchmark in site.benchmarks:
        if benchmark.history_address:
            page("history.html", benchmark.history_address, benchmark=benchmark)
        for run in benchmark.runs:
            page("leaderboard.html", run.address, benchmark=benchmark, run=run)
            for number, method in enumerate(run.methods):
                page(
                    "method.html",
                    method.address,
                    benchmark=benchmark,
                    run=run,
                    page=method,
                    before=run.methods[number - 1] if number else None,
                    after=run.methods[number + 1] if number + 1 < len(run.methods) else None,
                )
    return found


def site_environment() -> Environment:
    """The templates with what they call; all text is escaped."""
    environment = Environment(
        loader=PackageLoader("oodbench.report.site"),
        autoescape=True,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals |= {
        "FPR": FPR,
        "LEFT": LEFT,
        "LEVEL": f"{LEVEL:.0%}",
        "MARKS": {"best": "best", "tied": "tied with the best"},
        "RANKED_BY": RANKED_BY,
        "REQUIREMENTS": REQUIREMENT_TITLES,
        "RIGHT": RIGHT,
        "SHORT_REQUIREMENTS": SHORT_REQUIREMENTS,
        "SHOWN": SHOWN,
        "TIED_SIGN": TIED_SIGN,
        "UNSTEADY_SIGN": UNSTEADY_SIGN,
        "average_tables": average_tables,
        "change_text": change_text,
        "column_label": column_label,
        "cost_columns": cost_columns,
        "history_plots": history_plots,
        "interval": interval,
        "metric_title": metric_title,
        "optional_tables": optional_tables,
        "parameters_text": parameters_text,
        "published_sources": sources,
        "quality_columns": quality_columns,
        "scatter_plots": scatter_plots,
        "sparkline": sparkline,
        "spread": spread,
        "transfer_tables": transfer_tables,
        "tuned_on_text": tuned_on_text,
        "unsteady": unsteady,
        "version": __version__,
    }
    environment.tests["unsteady"] = unsteady
    environment.filters |= {
        "lower_first": lower_first,
        "percent": percent,
        "prose": lambda text: prose(str(printable(text))),
        "seeds": seeds_text,
        "web_link": web_link,
    }
    return environment


def printable(value: object) -> object:
    """Text with escapes in place of control characters; other values as they are."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "\n".join(map(visible, value.split("\n")))


def lower_first(title: str) -> str:
    """A title within a sentence; one that begins with an abbreviation keeps its capitals."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def web_link(address: str) -> str:
    """The address if it is one of the web, otherwise empty: "javascript:..." is no link."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    plain = address.isprintable() and " " not in address
    return address if plain and parts.scheme in ("http", "https") and parts.netloc else ""


def spread(entry: Entry, decimals: int = 1) -> str:
    """Standard deviation over seeds, if there are enough of them; empty otherwise."""
    found = entry.estimate
    if not found.std or found.seeds < FEWEST_SEEDS:
        return ""
    return SPREAD_SIGN + percent(found.std, decimals)
