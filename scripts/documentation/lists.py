"""Lists that code hosts show and Python-Markdown does not: those below a line of text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from documentation.markdown_text import prose_lines

_ITEM = re.compile(r"^ *([-*+]|\d+\.) +\S")


def glued_lists(text: str) -> Iterator[str]:
    """The first lines of lists that have no empty line before them."""
    paragraph = False  # a line of text above, of no list
    for prose, line in prose_lines(text):
        if not prose or not line.strip():
            paragraph = False
        elif _ITEM.match(line):
            if paragraph:
                yield line.strip()
            paragraph = False
        elif not line.startswith(" "):
            paragraph = not line.startswith(("#", "|", "<", ">"))
