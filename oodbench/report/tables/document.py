"""Reports as data: documents, tables, headings and cells, which every format renders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from oodbench.report.leaderboard import Mark

TIED_SIGN = "="
"""Follows a value that is tied with the best; ASCII, so that every terminal and font has it."""

UNSTEADY_SIGN = "~"
"""Follows a time with repetitions that vary too much."""

MOST_IMPORTANT = 9
"""Importance of columns that are left out last, if nothing else fits."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: the value; may be empty.
        mark: "best" of its column, "tied" with the best, an "unsteady" time, a value that is
            "better" or "worse" than in another run, or a difference from a published value that
            is "covered" by the interval.
        spread: the spread of the value, shown after the mark.
    """

    text: str = ""
    mark: Mark | Literal["unsteady", "better", "worse", "covered"] | None = None
    spread: str = ""

    @property
    def sign(self) -> str:
        """The sign that shows the mark, after the text; the best value is set in bold instead."""
        signs = {"tied": TIED_SIGN, "covered": TIED_SIGN, "unsteady": UNSTEADY_SIGN}
        return signs.get(self.mark or "", "")


@dataclass(frozen=True, slots=True)
class Heading:
    """The head of a column.

    Attributes:
        title: with the unit in brackets.
        short: the title where space is scarce.
        text: whether the column holds words (aligned left, may be wrapped) instead of numbers.
        importance: from 1 to 9; if a table is too wide, the least important columns are left out
            first, and columns of importance 9 last.
        width: of a column of words, the width below which other columns are rather left out.
        group: heading above this column and its neighbors of the same group; empty for none.
    """

    title: str
    short: str
    text: bool = False
    importance: int = 9
    width: int = 16
    group: str = ""

    @property
    def full_title(self) -> str:
        """The title with its group, for formats with one row of headings."""
        return f"{self.group}: {self.title}" if self.group else self.title


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive rows of a table, below a label; an empty label is not shown."""

    label: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with notes below it. Every row has one cell for each heading."""

    title: str
    headings: tuple[Heading, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()

    def column(self, index: int) -> list[Cell]:
        """The cells of a column, over all sections."""
        return [row[index] for section in self.sections for row in section.rows]

    def has_marks(self, index: int) -> bool:
        """Whether a cell of a column has a sign, or one in bold needs a sign in plain text."""
        return any(cell.sign or cell.mark == "best" for cell in self.column(index))

    def starts_group(self, index: int) -> bool:
        """Whether a column is the first of a group."""
        group = self.headings[index].group
        return bool(group) and (index == 0 or group != self.headings[index - 1].group)

    def without(self, *titles: str) -> Table:
        """The table without the columns of these titles."""
        kept = [i for i, heading in enumerate(self.headings) if heading.title not in titles]
        return replace(
            self,
            headings=tuple(self.headings[index] for index in kept),
            sections=tuple(
                replace(part, rows=tuple(tuple(row[index] for index in kept) for row in part.rows))
                for part in self.sections
            ),
        )

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Each group of columns with its number of columns; empty if there are no groups."""
        if not any(heading.group for heading in self.headings):
            return []
        return [
            (group, len(list(members)))
            for group, members in groupby(self.headings, key=lambda heading: heading.group)
        ]


@dataclass(frozen=True, slots=True)
class Document:
    """A report.

    Attributes:
        title: its title.
        summary: data sets, seeds and models, one sentence each.
        tables: its tables, none of them empty.
        notes: footnotes.
        warnings: possible mistakes in data or scores, shown before the tables.
        about: date and versions of the run. Only web pages show it: all other files are equal
            whenever the scores are.
    """

    title: str
    summary: tuple[str, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
