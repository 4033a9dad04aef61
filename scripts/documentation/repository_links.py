"""Links from pages to files of the repository that are not pages: they get pages of their own.

A link such as `[a](../../examples/ci/github.yml)` works on a code host. On the site it leads to a
page with the text of the file, or of all files of a folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from documentation.markdown_text import fenced, prose_lines

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File of the repository -> the page of the site that has its place."""

SOURCES = "source"
"""Folder of the pages that show files."""

_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_EXTERNAL = re.compile(r"^[a-z][a-z0-9+.-]*:|^#|^//")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
_LARGEST = 100_000
"""Bytes of a file that a page shows."""

_SEARCH_LESS = "---\nsearch:\n  exclude: true\n---\n\n"


def repository_path(uri: str) -> PurePosixPath:
    """The file of the repository that a page of the site is made from."""
    for path, page in ROOT_PAGES.items():
        if page == uri and not (ROOT / "docs" / uri).exists():
            return PurePosixPath(path)
    return PurePosixPath("docs", uri)


def linked_sources(uri: str, text: str) -> Iterator[PurePosixPath]:
    """Files and folders of the repository outside docs that a page links to."""
    for line in (line for prose, line in prose_lines(text) if prose):
        for _, link, _ in _LINK.findall(line):
            target = _target(uri, link)
            if target is not None and _is_source(target):
                yield target


def with_site_links(uri: str, text: str, warn: Callable[[str], None]) -> str:
    """The text of a page, with links to the pages of files.

    Args:
        uri: the page, relative to docs.
        text: its Markdown.
        warn: is told of links to files that do not exist.
    """
    folder = PurePosixPath(uri).parent

    def changed(match: re.Match[str]) -> str:
        target = _target(uri, match[2])
        if target is None:
            return match[0]
        _, mark, anchor = match[2].partition("#")
        if not (ROOT / target).exists():
            if not target.is_relative_to("docs"):
                warn(f"'{uri}' links to '{match[2]}', which is not in the repository")
            return match[0]
        page = os.path.relpath(_page_of(target), folder).replace(os.sep, "/")
        return f"{match[1]}{page}{mark}{anchor}{match[3]}"

    lines = [_LINK.sub(changed, line) if prose else line for prose, line in prose_lines(text)]
    return "\n".join(lines) + "\n"


def source_page(path: PurePosixPath) -> tuple[str, str]:
    """Page and Markdown of a file or of a folder of the repository."""
    files = [ROOT / path] if (ROOT / path).is_file() else _files_in(ROOT / path)
    parts = [f"{_SEARCH_LESS}# {path}\n"]
    for file in files:
        if file != ROOT / path:
            parts.append(f"## {file.relative_to(ROOT / path).as_posix()}\n")
        parts.append(_shown(file))
    return str(_shown_at(path)), "\n".join(parts)


def _target(uri: str, link: str) -> PurePosixPath | None:
    """The path in the repository of a relative link; None for others."""
    if _EXTERNAL.match(link) or link.startswith("/"):
        return None
    place = link.partition("#")[0]
    return PurePosixPath(os.path.normpath(repository_path(uri).parent / place).replace(os.sep, "/"))


def _is_source(target: PurePosixPath) -> bool:
    outside = not target.is_relative_to("docs") and str(target) not in ROOT_PAGES
    return outside and (ROOT / target).exists()


def _page_of(target: PurePosixPath) -> PurePosixPath:
    """The page or file of the site for an existing path of the repository."""
    if str(target) in ROOT_PAGES:
        return PurePosixPath(ROOT_PAGES[str(target)])
    if not target.is_relative_to("docs"):
        return _shown_at(target)
    inside = target.relative_to("docs")
    if (ROOT / target).is_dir():
        for name in ("index.md", "README.md", "leaderboard.md"):
            if (ROOT / target / name).exists():
                return inside / name
    return inside


def _shown_at(path: PurePosixPath) -> PurePosixPath:
    """The page of a file or folder; MkDocs leaves out names that begin with a dot."""
    return PurePosixPath(SOURCES, *(part.lstrip(".") for part in f"{path}.md".split("/")))


def _files_in(folder: Path) -> Iterable[Path]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if "__pycache__" not in path.parts and _is_text(path)]


def _is_text(path: Path) -> bool:
    return path.stat().st_size <= _LARGEST and b"\0" not in path.read_bytes()


def _shown(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n\n".join(
            "".join(cell["source"])
            if cell["cell_type"] == "markdown"
            else fenced("".join(cell["source"]), "python")
            for cell in cells
        )
    return fenced(text, _LANGUAGES.get(file.suffix, "text"))
