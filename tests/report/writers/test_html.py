"""Reports as web pages."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from helpers.boards import (
    METHODS,
    SPECIAL,
    mean_of,
)

from oodbench.report import Leaderboard
from oodbench.report.writers.html import prose


class Tags(HTMLParser):
    """Checks that tags nest; collects links and the cells of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[int] = []
        self.assets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("link", "script", "img") or any(key in ("src", "href") for key, _ in attrs):
            self.assets.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += int(dict(attrs).get("colspan") or 1)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_well_formed_page(board: Leaderboard) -> None:
    tags = Tags()
    text = board.to_html()
    tags.feed(text)
    assert tags.open == []
    assert tags.assets == []
    assert "A+b_c%d&amp;e|f&lt;g&gt;" in text
    assert SPECIAL not in text
    assert "prefers-color-scheme: dark" in text
    assert f"<strong>{100 * mean_of(board, 'DisMax+Entropy'):.1f}</strong>" in text
    columns = text.split("<h2>")[1].count('<th scope="col"')
    assert tags.rows[: len(METHODS) + 2] == [columns] * (len(METHODS) + 2)


def test_a_phone_shows_names_and_auroc_first(board: Leaderboard) -> None:
    table = board.to_html().split("<h2>")[1]
    heads = re.findall(r'<th scope="col"([^>]*)>(.*?)</th>', table)
    plain = [re.sub("<[^>]*>", "", text) for attributes, text in heads if "minor" not in attributes]
    assert plain[-1].startswith("AUROC")
    assert plain[-1].endswith("mean")
    assert set(plain[:-1]) <= {"Method", "Training", "Detector"}


def test_a_phone_shows_no_table_of_names_alone(board: Leaderboard) -> None:
    for table in re.findall("<table.*?</table>", board.to_html(), re.DOTALL):
        heads = re.findall(r'<th scope="col"([^>]*)>', table)
        assert any("minor" not in each for each in heads[2:]), table


def test_commands_in_notes_are_code(board: Leaderboard) -> None:
    more = replace(board, left_out=("knn", "vim"))
    page = more.to_html()
    assert "2 more detectors can run here" in page
    assert "<code>oodbench list detectors</code>" in page
    assert "`" not in page
    assert prose("<b> `a<b` and one ` more") == "&lt;b&gt; `a&lt;b` and one ` more"
    assert prose("`<i>` is") == "<code>&lt;i&gt;</code> is"
