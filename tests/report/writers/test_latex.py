"""Reports as LaTeX tables."""

from __future__ import annotations

import re

import pytest
from helpers.boards import (
    METHODS,
    SPECIAL,
    mean_of,
    quality_records,
    vars_of,
)

from oodbench.report import Leaderboard
from oodbench.report.writers import latex
from oodbench.storage.records import QualityRecord


def test_latex_escapes_and_is_balanced(board: Leaderboard) -> None:
    text = board.to_latex()
    assert r"A+b\_c\%d\&e\textbar{}f\textless{}g\textgreater{}" in text
    assert rf"\textbf{{{100 * mean_of(board, 'DisMax+Entropy'):.1f}}}" in text
    # The sign has room of its own, in every row of its column: nothing is printed over it.
    assert "rlap" not in text
    assert re.search(r"\d\$\^\{=\}\$ \$\\pm\$", text)
    assert re.search(r"\d\}?\\phantom\{\$\^\{=\}\$\} \$\\pm\$", text)
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    for name in ("table", "tabular", "itemize"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") > 0
    assert text.isascii()
    body = text.split(r"\begin{tabular}")[1].split(r"\end{tabular}")[0]
    rows = [line for line in body.splitlines() if re.match(r"\d+ & ", line)]
    assert len(rows) == len(METHODS)
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1


def test_latex_explains_its_marks_beside_the_tables(board: Leaderboard) -> None:
    _, *tables = board.to_latex().split(r"\begin{table}")
    seen = set()
    for text in (each.split(r"\end{table}")[0] for each in tables):
        body, _, notes = text.partition(r"\end{tabular}")
        bold, tied = r"\textbf{" in body, re.search(r"\d\$\^\{=\}\$", body) is not None
        assert ("Bold: the best of its column" in notes) == bold
        assert ("= after a value: tied with the best" in notes) == tied
        seen |= {(bold, tied)}
    assert {(True, True), (False, False)} <= seen


@pytest.mark.parametrize("count", [3, 12])
def test_a_compact_table_has_ten_methods_and_five_columns(count: int) -> None:
    records = [
        QualityRecord(**{**vars_of(record), "method": f"SoftMax+Detector_{number}"})
        for number in range(count)
        for record in quality_records(2)
        if record.method == SPECIAL
    ]
    text = latex.render_compact(Leaderboard.from_records(records, []))
    rows = [line for line in text.splitlines() if line.startswith("SoftMax+Detector")]
    assert len(rows) == min(10, count)
    assert {row.count("&") for row in rows} == {4}
    assert text.count(r"\begin{table}") == 1
    shown = "all 3 methods" if count == 3 else "the 10 methods of 12 with the highest AUROC"
    assert f"{shown}. Time" in text
