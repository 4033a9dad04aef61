"""Small pieces of Markdown: tables, escaped text, and reading of tables in a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\*_<>\[\]#|~^])")
_CODE = re.compile(r"(`+[^`]+`+)")
FENCE = re.compile(r"^ *(```+|~~~+)")


def escaped(text: str) -> str:
    """Plain text, such as a formula of a docstring; what is in backticks stays code."""
    parts = _CODE.split(text)
    return "".join(
        part if index % 2 else _SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts)
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are Markdown, on one line each."""
    lines = [_line(head), f"|{'---|' * len(head)}", *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def cell(text: str) -> str:
    """Plain text in a cell of a table; `table` escapes the bars."""
    return escaped(text).replace("\\|", "|")


def code(value: object) -> str:
    """A value as code; with bars, since Markdown has no escapes in code, as HTML."""
    text = str(value)
    if "|" not in text:
        return f"`{text}`"
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("*", "&#42;")):
        text = text.replace(char, entity)
    return f"<code>{text}</code>"


def fenced(text: str, language: str = "") -> str:
    """A block of code, whatever it contains."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def details(title: str, content: str, kind: str = "note") -> str:
    """Content that a click opens."""
    lines = (f"    {line}" if line else "" for line in content.rstrip().splitlines())
    return "\n".join([f'??? {kind} "{title}"', "", *lines]) + "\n"


def prose_lines(text: str) -> Iterable[tuple[bool, str]]:
    """Lines of a page, and whether each is prose: not in a block of code and not its fence."""
    fence = ""
    for line in text.splitlines():
        found = FENCE.match(line)
        if fence:
            if found and found[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            yield False, line
        elif found:
            fence = found[1]
            yield False, line
        else:
            yield True, line


def table_below(text: str, heading: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the first table below a heading of level 2 (or 1), cell by cell.

    Raises:
        ValueError: if there is no such heading or table.
    """
    parts = re.split(r"^##? ", text, flags=re.MULTILINE)
    for part in parts:
        if part.startswith(heading + "\n"):
            lines = [line for line in part.splitlines() if line.startswith("|")]
            if lines:
                cells = [_cells(line) for line in lines]
                return cells[0], cells[2:]
    raise ValueError(f"no table below the heading '{heading}'")


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [each.strip().replace("\\|", "|") for each in re.split(r"(?<!\\)\|", inner)]
