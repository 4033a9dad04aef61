"""BibTeX entries of the detectors' papers."""

from __future__ import annotations

import re
import sys

import pytest

from oodbench.cli import main as cli
from oodbench.detector import DetectorInfo
from oodbench.detector.citations import bibtex
from oodbench.plugins.catalog import Catalog

ENTRY = re.compile(r"@(inproceedings|article)\{(\w+),\n((?:  \w+ = \{.*\},\n)+)\}")


def test_every_built_in_detector_has_a_valid_entry() -> None:
    infos = [status.info for status in Catalog().detectors.values() if status.info]
    text = bibtex(infos)
    assert ENTRY.sub("", text).strip() == "", "everything belongs to an entry"
    entries = {name: (kind, fields) for kind, name, fields in ENTRY.findall(text)}
    assert entries.keys() == {info.name for info in infos}
    for info in infos:
        kind, fields = entries[info.name]
        assert fields.count("{") == fields.count("}")
        assert f"title = {{{{{info.paper}}}}}" in fields
        assert f"author = {{{' and '.join(info.authors)}}}" in fields
        assert f"year = {{{info.year}}}" in fields
        assert f"url = {{{info.url}}}" in fields
        venue = "journal" if kind == "article" else "booktitle"
        assert f"{venue} = {{{info.venue}}}" in fields
        assert (kind == "article") == (info.venue == "arXiv")


def test_a_detector_without_a_paper_has_no_entry() -> None:
    assert bibtex([DetectorInfo("mine", "Mine", "Mine")]) == ""


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["oodbench", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_the_command_prints_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OODBENCH_PLUGINS", raising=False)
    assert run(monkeypatch, "list", "detectors", "--bibtex") == 0
    assert "@inproceedings{energy,\n" in capsys.readouterr().out
    assert run(monkeypatch, "list", "benchmarks", "--bibtex") == 2
    assert "are for `oodbench list detectors`" in capsys.readouterr().err
