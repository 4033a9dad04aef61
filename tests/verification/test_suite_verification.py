"""What `oodbench verify` finds in a suite's own files."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_content import with_suite

from oodbench.planning.suite_plan import load_suite
from oodbench.plugins.catalog import Catalog
from oodbench.report.writers.suite_files import SUITE_FILES, write_reports
from oodbench.results import SuiteRun
from oodbench.storage.suite_description import SuiteDescription
from oodbench.storage.suite_directory import SuiteDirectory
from oodbench.verification.suite_verification import verify_suite


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The directory of a suite of which no benchmark has run."""
    found = load_suite(Catalog([with_suite(tmp_path / "content")]), "pair")
    directory = SuiteDirectory(tmp_path / "run")
    directory.write(SuiteDescription.of(found.spec, found.published, {}), "incomplete")
    write_reports(directory)
    return directory.folder


def test_what_was_written_follows(suite: Path) -> None:
    found = verify_suite(suite)
    assert (found.discrepancies, found.unchecked) == ((), ())
    assert "comparison.csv" in found.checked[0]
    assert SuiteRun(suite).changed == ()


def test_a_changed_published_number_is_found(suite: Path) -> None:
    path = suite / "suite.json"
    path.write_text(path.read_text().replace("12.3", "13.3"))
    (found,) = verify_suite(suite).discrepancies
    assert found.file == "suite.json"
    assert SuiteRun(suite).changed == ("suite.json",)


@pytest.mark.parametrize("name", SUITE_FILES)
def test_a_changed_comparison_is_found(suite: Path, name: str) -> None:
    path = suite / name
    path.write_text(path.read_text() + "1")
    (found,) = verify_suite(suite).discrepancies
    assert found.file == name
    path.unlink()
    (found,) = verify_suite(suite).discrepancies
    assert "not there" in str(found)
