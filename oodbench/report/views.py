"""Leaderboards and comparisons as users hold them: the data, and a method for each format.

What writes a format is imported when it is used: data frames and web pages need large libraries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from oodbench.report.aggregation import aggregate
from oodbench.report.leaderboard import LeaderboardData
from oodbench.report.published.average_matching import averages_of
from oodbench.report.published.compared_tables import PublishedComparisonData
from oodbench.report.published.table_matching import match
from oodbench.specs import PublishedSpec, SuiteSpec
from oodbench.storage.records import CostRecord, DifferenceRecord, QualityRecord
from oodbench.storage.suite_directory import MemberRecords

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from oodbench.storage.stored_run import StoredRun

_View = TypeVar("_View", "Leaderboard", "PublishedComparison")


class Leaderboard(LeaderboardData):
    """Methods of one version of one benchmark, ranked by mean AUROC over the OOD sets.

    The attributes are those of `LeaderboardData`.
    """

    __slots__ = ()

    @classmethod
    def from_records(
        cls,
        records: Iterable[QualityRecord],
        costs: Iterable[CostRecord],
        warnings: Iterable[str] = (),
        differences: Iterable[DifferenceRecord] = (),
        *,
        order: Sequence[str] = (),
    ) -> Leaderboard:
        """The leaderboard of these records; arguments and errors as `aggregation.aggregate`."""
        return _view(cls, aggregate(records, costs, warnings, differences, order=order))

    @classmethod
    def of_runs(cls, runs: Sequence[StoredRun]) -> Leaderboard:
        """The leaderboard of several runs; errors as `joint_leaderboard.join`."""
        from oodbench.report.joint_leaderboard import join

        board = join(runs)
        found = (averages_of(board, run.description) for run in runs)
        published = next((each for each in found if each is not None), None)
        return _view(cls, replace(board, published=published))

    def _repr_html_(self) -> str:
        from oodbench.report.tables import leaderboard_layout
        from oodbench.report.writers import html

        return html.render_fragment(leaderboard_layout.overview(self, best="bold"))

    def to_text(self, width: int = 120) -> str:
        """Plain text, no line wider than `width` characters (at least 20)."""
        from oodbench.report.writers import terminal

        return terminal.render(self, width)

    def to_markdown(self) -> str:
        """GitHub-flavored Markdown."""
        from oodbench.report.writers import markdown

        return markdown.render(self)

    def to_html(self, figures: Mapping[str, Figure] | None = None) -> str:
        """One web page that needs no other file.

        Args:
            figures: those to show on it, such as `Run.figures()`.
        """
        from oodbench.report.figures import gallery
        from oodbench.report.writers import html

        return html.render(self, gallery.for_page(figures or {}))

    def to_latex(self) -> str:
        """LaTeX tables for a document that loads the packages booktabs and graphicx."""
        from oodbench.report.writers import latex

        return latex.render(self)

    def to_csv(self) -> str:
        """A long table: one line for each method, metric and column."""
        from oodbench.report.writers import leaderboard_exports

        return leaderboard_exports.to_csv(self)

    def to_json(self) -> str:
        """Every value of the leaderboard, for programs."""
        from oodbench.report.writers import leaderboard_exports

        return leaderboard_exports.to_json(self)

    def to_pandas(self, *, wide: bool = False) -> pd.DataFrame:
        """One row for each method, with the columns of the first table.

        `auroc` is the mean over OOD sets and seeds, with `auroc_std`, `auroc_ci_low` and
        `auroc_ci_high`; `auroc_<group>` is the mean of a group (`auroc_<set>` of each set if there
        are no groups), `auroc_worst` the lowest mean of a set and `worst_set` that set; `fpr95` has
        ID as the positive class. Methods without values have the `status` "skipped" or "failed",
        and a `reason`. Metrics are fractions in [0, 1], times are in milliseconds.

        Args:
            wide: return every value instead, in columns such as `auroc.mean`, `auroc.set.<set>` and
                `auroc.mean.ci_low`.
        """
        from oodbench.report.writers import leaderboard_frame

        return leaderboard_frame.to_pandas(self, wide=wide)


class PublishedComparison(PublishedComparisonData):
    """Published tables with the values that a suite measured beside them.

    The attributes are those of `PublishedComparisonData`.
    """

    __slots__ = ()

    @classmethod
    def from_records(
        cls, suite: SuiteSpec, published: PublishedSpec | None, members: Iterable[MemberRecords]
    ) -> PublishedComparison:
        """The comparison of these records; arguments and errors as `matching.match`."""
        return _view(cls, match(suite, published, members))

    def to_text(self, width: int = 120) -> str:
        """Plain text, no line wider than `width` characters (at least 20)."""
        from oodbench.report.tables import published_layout
        from oodbench.report.writers import terminal

        return terminal.render_document(published_layout.overview(self), width)

    def to_markdown(self) -> str:
        """GitHub-flavored Markdown."""
        from oodbench.report.tables import published_layout
        from oodbench.report.writers import markdown

        return markdown.render_document(published_layout.full(self))

    def to_html(self, figures: Mapping[str, Figure] | None = None) -> str:
        """One web page that needs no other file.

        Args:
            figures: those to show on it.
        """
        from oodbench.report.figures import gallery
        from oodbench.report.tables import published_layout
        from oodbench.report.writers import html

        return html.render_document(published_layout.full(self), gallery.for_page(figures or {}))

    def to_latex(self) -> str:
        """LaTeX tables for a document that loads the packages booktabs and graphicx."""
        from oodbench.report.tables import published_layout
        from oodbench.report.writers import latex

        return latex.render_document(published_layout.full(self))

    def to_csv(self) -> str:
        """A long table: one line for each cell."""
        from oodbench.report.writers import published_exports

        return published_exports.to_csv(self)

    def to_json(self) -> str:
        """Every value of the comparison, for programs."""
        from oodbench.report.writers import published_exports

        return published_exports.to_json(self)


def _view(view: type[_View], data: LeaderboardData | PublishedComparisonData) -> _View:
    """The same values as a view."""
    return view(**{each.name: getattr(data, each.name) for each in fields(data)})
