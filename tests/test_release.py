"""The version is the same wherever it is written."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from oodbench.version import __version__

ROOT = Path(__file__).parents[1]


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__


def test_the_newest_release_in_the_changelog_is_this_version() -> None:
    """Versions between two releases have the suffix .dev0."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    if ".dev" not in __version__:
        assert re.fullmatch(rf"{re.escape(__version__)} - \d{{4}}-\d\d-\d\d", headings[1])
