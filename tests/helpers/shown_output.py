"""Output that a page shows, against what the command prints.

Numbers count as equal whatever their digits, spaces and rules whatever their length: a page shows
one run, and another machine prints other times and trains slightly different networks. For the
same reason the rows of a table may come in another order, and are compared by their first words,
and its headings may be broken into other lines. A page may leave out headings and empty lines.
`...` stands for any text, and on a line of its own for any lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile

_RULE = re.compile(r" *─{3,} *")
_NUMBER = re.compile(r"[±+-]?(?<!\w)\d[\d,.]*(?:e[-+]?\d+)?[*=~]?")
_DECISION = re.compile(r"(?:accept|reject)$")
_ANY_LINES = r"(?:.*\n)*?"


def difference(shown: str, printed: str) -> str:
    """The first line of `shown` that `printed` does not have in its place; empty if it has all."""
    text = "".join(f"{line}\n" for line in _comparable(printed, "  "))
    pattern = ""
    for line in _comparable(shown, " ... "):
        longer = pattern + (
            _ANY_LINES if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n"
        )
        if not re.search(f"^{longer}", text, re.MULTILINE):
            return line
        pattern = longer
    return ""


def _comparable(text: str, between: str) -> Iterator[str]:
    """The lines as they are compared; `between` joins the words of headings, which are sorted."""
    above: list[str] = []  # lines that may be the title and the headings of a table
    rows: list[str] | None = None
    for line in [*text.splitlines(), ""]:
        plain = line.strip()
        if _RULE.fullmatch(line):
            words = sorted(" ".join(above).split())
            yield between.join(["", *words, ""])
            yield "─"
            above, rows = [], []
        elif rows is not None and plain and not plain.startswith("- "):
            rows.append(plain if plain == "..." else _name(plain))
        else:
            yield from _sorted(rows or [])
            rows = None
            if plain and plain != "...":
                above.append(_words(plain))
            else:
                yield from above
                above = []
                if plain:
                    yield plain


def _words(line: str) -> str:
    return _DECISION.sub("accept or reject", " ".join(_NUMBER.sub("0", line).split()))


def _name(row: str) -> str:
    """The words of a row up to its first number or "-", without its rank."""
    words = re.sub(r"^\d+ ", "", row).split()
    return " ".join(takewhile(lambda word: word != "-" and not _NUMBER.match(word), words))


def _sorted(rows: list[str]) -> Iterator[str]:
    """The rows in the order of their names; if some are left out, any may be between two."""
    some = "..." in rows
    if some:
        yield "..."
    for row in sorted({*rows} - {"..."}):
        yield row
        if some:
            yield "..."
