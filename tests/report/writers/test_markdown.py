"""Reports as Markdown."""

from __future__ import annotations

import re

from helpers.boards import (
    mean_of,
)

from oodbench.report import Leaderboard


def test_markdown_escapes_and_is_rectangular(board: Leaderboard) -> None:
    text = board.to_markdown()
    assert r"| A+b\_c%d\&e\|f\<g\> " in text
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 15  # seven tables in two sections, and one of absences
    for table in tables:
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_markdown_marks(board: Leaderboard) -> None:
    lines = board.to_markdown().splitlines()
    ranked = [line for line in lines if re.match(r"\| +\d+ \|", line)]
    mean = f"{100 * mean_of(board, 'DisMax+Entropy'):.1f}"
    assert f"**{mean}** \N{PLUS-MINUS SIGN}" in ranked[0]
    assert "= \N{PLUS-MINUS SIGN}" in ranked[1]
    assert not any("**" in line for line in ranked[-2:])
