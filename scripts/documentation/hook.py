"""What MkDocs calls: adds the generated pages and makes links to files of the repository work."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import mkdocs.plugins
import pymdownx.slugs
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from documentation import detector_pages, generated_pages  # noqa: E402
from documentation.lists import glued_lists  # noqa: E402
from documentation.repository_links import (  # noqa: E402
    ROOT_PAGES,
    linked_sources,
    source_page,
    with_site_links,
)

_log = logging.getLogger("mkdocs.hooks.oodbench")
_LOADED = re.compile(
    r'<(?:script|img|iframe|link rel="stylesheet")[^>]*?(?:src|href)="(https?:[^"]+)'
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set anchors as code hosts do, and add the detectors' pages to the navigation."""
    config.mdx_configs["toc"]["slugify"] = pymdownx.slugs.slugify(case="lower")
    _detectors_in(config.nav or []).extend(detector_pages.navigation())
    return config


def _detectors_in(navigation: list[Any]) -> list[Any]:
    """The section of the navigation that holds the page of all detectors."""
    if f"{detector_pages.FOLDER}/index.md" in navigation:
        return navigation
    sections = (each for entry in navigation if isinstance(entry, dict) for each in entry.values())
    found = (_detectors_in(section) for section in sections if isinstance(section, list))
    return next((section for section in found if section), [])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs: generated ones, and those of linked files."""

    def add(uri: str, text: str) -> None:
        files.append(File.generated(config, uri, content=text))

    for path, uri in ROOT_PAGES.items():
        if files.get_file_from_path(uri) is None:
            add(uri, (ROOT / path).read_text(encoding="utf-8"))
    for uri, text in generated_pages.pages():
        add(uri, text)
    pages = {file.src_uri: file.content_string for file in files if file.is_documentation_page()}
    sources = {source for uri, text in pages.items() for source in linked_sources(uri, text)}
    for source in sorted(sources):
        add(*source_page(source))
    return files


@mkdocs.plugins.event_priority(100)
def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make links to files of the repository work, and find lists that would not be shown."""
    uri = page.file.src_uri
    for line in glued_lists(markdown):
        _log.warning("'%s': write an empty line before the list that begins with: %s", uri, line)
    text = with_site_links(uri, generated_pages.with_parts(markdown), _log.warning)
    return generated_pages.with_detector_links(uri, text)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Find what a page would load from a network: the site works without one."""
    for address in _LOADED.findall(output):
        _log.warning("'%s' loads %s", page.file.src_uri, address)
    return output
