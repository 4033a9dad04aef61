"""The pages of the Python API: which names are on them; mkdocstrings shows their docstrings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import griffe

from documentation.markdown_text import cell, table
from documentation.repository_links import ROOT

FOLDER = "reference/python-api"

PAGES: dict[str, tuple[str, list[str]]] = {
    "runs": (
        "Runs and leaderboards",
        ["run", "run_suite", "open_run", "leaderboard", "compare", "verify", "Run", "SuiteRun"],
    ),
    "user-models": (
        "Models of your own",
        ["evaluate", "fit", "load_fitted", "EvaluationResult", "FittedDetector", "Decisions"],
    ),
    "detectors": (
        "Detectors",
        [
            *("load_detector", "register", "Detector", "LayerwiseDetector", "PerturbingDetector"),
            *("Outputs", "Batches", "Head", "UserError"),
        ],
    ),
    "testing": ("Conformance checks", ["testing"]),
    "metrics": ("Metrics", ["metrics"]),
    "models": ("Networks", ["models"]),
    "losses": ("Losses", ["losses"]),
}
"""Page -> its title, and names of the package `oodbench` in the order to show."""


def pages() -> Iterator[tuple[str, str]]:
    """Address and Markdown of each page."""
    package = _package()
    for name, (title, members) in PAGES.items():
        parts = [f"# {title}\n"]
        for member in members:
            parts += _shown(package, member)
        yield f"{FOLDER}/{name}.md", "\n".join(parts)


def reference() -> str:
    """A table of all names, in Markdown."""
    package = _package()
    rows = [
        (f"[`oodbench.{name}`]({page}.md)", cell(_summary(package[name])))
        for page, (_, members) in PAGES.items()
        for name in members
    ]
    return table(("Name", "What it is"), rows)


@cache
def _package() -> griffe.Module:
    """The package, read without importing it."""
    package = griffe.load("oodbench", search_paths=[str(ROOT)], try_relative_path=False)
    assert isinstance(package, griffe.Module)
    return package


def _shown(package: griffe.Module, name: str) -> Iterator[str]:
    """The directives for a name: of a module, its docstring and all its public names."""
    found = package[name]
    if not found.is_module:
        yield f"::: oodbench.{name}\n"
        return
    yield f"::: oodbench.{name}\n    options: {{members: false, show_root_heading: false}}\n"
    for member in _public(found):
        yield f"::: oodbench.{name}.{member}\n"


def _public(module: griffe.Object | griffe.Alias) -> list[str]:
    names = [str(each).strip("'\"") for each in module.exports or ()]
    return names or [name for name, each in module.members.items() if each.is_public]


def _summary(found: griffe.Object | griffe.Alias) -> str:
    return found.docstring.value.split("\n\n")[0] if found.docstring else ""
