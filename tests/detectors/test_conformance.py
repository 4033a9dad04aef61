"""Every detector of the catalog against every check of `oodbench.testing`."""

from __future__ import annotations

from typing import Any

import pytest

from oodbench.plugins.catalog import Catalog, load_class
from oodbench.testing import parametrize_with_checks

CATALOG = Catalog()
DETECTORS = tuple(CATALOG.entries["detector"])


@parametrize_with_checks(DETECTORS)
def test_conformance(detector: Any, check: Any) -> None:
    check(detector)


@pytest.mark.parametrize("name", DETECTORS)
def test_reading_a_file_gives_the_declaration_that_running_it_gives(name: str) -> None:
    info = load_class(CATALOG.entry("detector", name).path).info
    assert info.name == name
    assert CATALOG.detectors[name].info == info


def test_labels_are_unique() -> None:
    labels = [status.info.label for status in CATALOG.detectors.values() if status.info]
    assert sorted(labels) == sorted(set(labels))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_built_in_detector_says_where_it_was_published(name: str) -> None:
    info = CATALOG.detectors[name].info
    assert info is not None
    assert info.venue
    assert info.year
    assert info.url
    assert info.paper
    assert info.authors
