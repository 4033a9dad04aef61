"""Reports as data: documents of tables, which every format writes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from oodbench.report.leaderboard import Mark

TIED_SIGN = "="
"""Follows a value that is tied with the best; ASCII, so that it survives any terminal and font."""

UNSTEADY_SIGN = "~"
"""Follows a time whose repetitions scatter too much."""

MOST_IMPORTANT = 9
"""Importance of columns that are left out last."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: what it says; empty if there is nothing to say.
        mark: whether the value is the best of its column or tied with it; or a time that is
            "unsteady".
        spread: what follows the value and its mark.
    """

    text: str = ""
    mark: Mark | Literal["unsteady"] | None = None
    spread: str = ""

    @property
    def sign(self) -> str:
        """What follows the text because of the mark; the best value is shown by its type."""
        return {"tied": TIED_SIGN, "unsteady": UNSTEADY_SIGN}.get(self.mark or "", "")


@dataclass(frozen=True, slots=True)
class Heading:
    """The head of a column.

    Attributes:
        title: with the unit in brackets.
        short: the title where space is dear.
        text: whether the column holds words, which are aligned left and may be wrapped, and not
            numbers.
        importance: columns with the smallest number are left out first where a table is too wide;
            those with 9 never are.
        group: what stands above this column and the ones beside it with the same group; empty if
            nothing does.
    """

    title: str
    short: str
    text: bool = False
    importance: int = 9
    group: str = ""

    @property
    def full_title(self) -> str:
        """The title where nothing can stand above it."""
        return f"{self.group}: {self.title}" if self.group else self.title


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive rows of a table, with a label above them unless it is empty."""

    label: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table, with notes under it. Every row has one cell for each heading."""

    title: str
    headings: tuple[Heading, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()

    def column(self, index: int) -> list[Cell]:
        """The cells of a column, of all sections."""
        return [row[index] for section in self.sections for row in section.rows]

    def has_marks(self, index: int) -> bool:
        """Whether any cell of a column is marked, so that room for a sign is needed."""
        return any(cell.mark for cell in self.column(index))

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
        """What stands above the columns, and above how many; empty if nothing does."""
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
        summary: what was compared, a sentence each.
        tables: its tables, none of them empty.
        notes: footnotes, in plain words.
        warnings: what may be wrong with what is reported, shown before the tables.
        about: when and with what it was made. Pages show it; other files are the same whenever the
            scores are.
    """

    title: str
    summary: tuple[str, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
