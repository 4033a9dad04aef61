"""Text broken into lines, without cutting numbers."""

from __future__ import annotations

import re

_MARKS = re.compile(r"(?<=[+\-_/@,])(?<![\deE][+\-,](?=\d))(?=[^ +\-_/@,.;:)])")
"""Where a long word is broken: after a mark, but not before another one or in a number."""


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, broken after spaces.

    A word longer than `width` is broken after + - _ / @ and comma, and a piece of it that is still
    longer anywhere. Numbers such as 1,000, 1e-4 and 98.4 % stay whole as long as they fit.
    Joined, the lines are the text again, except for spaces at the ends of lines. A width below 1
    counts as 1.
    """
    width = max(1, width)
    lines = [""]
    for piece in _pieces(text, width):
        if len((lines[-1] + piece).rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines]


def longest_piece(text: str) -> int:
    """The smallest width at which `wrap` splits no piece."""
    return max((len(piece.rstrip()) for piece in _pieces(text)), default=0)


def longest_number(text: str) -> int:
    """The smallest width at which `wrap` splits no piece with a digit."""
    pieces = (piece.rstrip() for piece in _pieces(text))
    return max((len(piece) for piece in pieces if re.search(r"\d", piece)), default=0)


def _pieces(text: str, width: int = 0) -> list[str]:
    """The parts of a text that lines are broken between; words of at most `width` are one part."""
    pieces: list[str] = []
    for word in re.split(r"(?<= )(?=[^ %])", text):
        pieces += [word] if len(word.rstrip()) <= width else _MARKS.split(word)
    return pieces
