"""What the site has beside the committed pages: made pages, and made parts of pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from documentation import command_line, detector_pages, python_api, record_fields, yaml_files

PARTS: Mapping[str, Callable[[], str]] = {
    "commands": command_line.reference,
    "names": python_api.reference,
    "records": record_fields.reference,
    "yaml": yaml_files.reference,
}
"""Name in a comment `<!-- generated: NAME -->` of a page -> what makes the part in its place."""

_TABLES_OF_DETECTORS = ("reference/detectors/index.md", "reference/detectors/agreement.md")


def pages() -> Iterator[tuple[str, str]]:
    """Address and Markdown of each made page."""
    yield from python_api.pages()
    yield from detector_pages.pages()


def with_parts(text: str) -> str:
    """A page with its made parts in the place of their comments.

    Raises:
        KeyError: if there is no such part.
    """
    return re.sub(r"^<!-- generated: (\w+) -->$", lambda m: PARTS[m[1]](), text, flags=re.MULTILINE)


def with_detector_links(uri: str, text: str) -> str:
    """In tables of detectors, the names in the first column lead to the detectors' pages."""
    if uri not in _TABLES_OF_DETECTORS:
        return text
    names = detector_pages.built_in()

    def linked(match: re.Match[str]) -> str:
        name = match[2]
        return f"{match[1]}[`{name}`]({name}.md)" if name in names else match[0]

    return re.sub(r"^(\| )`(\w+)`(?=[ ,])", linked, text, flags=re.MULTILINE)
