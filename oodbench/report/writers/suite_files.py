"""The reports in the directory of a suite, by file name, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from oodbench.report.figures import gallery
from oodbench.report.views import PublishedComparison
from oodbench.storage.suite_directory import SuiteDirectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUITE_FILES: Mapping[str, str] = MappingProxyType(
    {
        "comparison.md": "to_markdown",
        "comparison.csv": "to_csv",
        "comparison.json": "to_json",
        "comparison.html": "to_html",
    }
)
"""File name -> the method of the comparison that gives its content."""


def comparison_of(directory: SuiteDirectory) -> PublishedComparison:
    """The comparison made from the records in the directory of a suite.

    Raises:
        UserError: if there is no suite, or its records contradict each other.
    """
    state = directory.read()
    return PublishedComparison.from_records(
        state.suite, state.published, directory.member_records(state)
    )


def write_reports(directory: SuiteDirectory) -> None:
    """Write the comparison in all formats, and the figures.

    Raises:
        UserError: if a file cannot be written.
    """
    comparison = comparison_of(directory)
    for name, method in SUITE_FILES.items():
        directory.write_text(name, getattr(comparison, method)())
    gallery.save_all(figures_of(directory), directory.folder / "figures")


def figures_of(directory: SuiteDirectory) -> dict[str, Figure]:
    """The figures of a suite, by name."""
    state = directory.read()
    return gallery.of_suite(state.suite, directory.member_records(state))
