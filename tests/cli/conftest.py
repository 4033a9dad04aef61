"""Runs that the tests of several commands read; do not change them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import Done, captured
from helpers.finished_run import few_repetitions
from helpers.tiny_content import content, with_suite


@pytest.fixture
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The working directory is `tmp_path`."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def kept_networks(shared_cache: Path) -> Iterator[None]:
    """Trained networks are kept for the tests of other modules; times are measured once."""
    with pytest.MonkeyPatch.context() as patch, few_repetitions():
        patch.setenv("OODBENCH_CACHE", str(shared_cache))
        yield


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A folder of content with the tiny benchmark."""
    return content(tmp_path / "content")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """A run directory of the tiny benchmark."""
    folder = tmp_path_factory.mktemp("finished")
    done = captured(
        *("run", "tiny", "--plugins", content(folder / "content"), "--seeds", "1"),
        *("--device", "cpu", "--methods", "SoftMax+MSP,entropy", "--out", folder / "run"),
        OODBENCH_CACHE=str(shared_cache),
    )
    assert done.code == 0, f"exit code {done.code}\n{done.out}\n{done.err}"
    assert "Run directory: " in done.out
    # Where tests are not given out file by file, a process may come here twice.
    assert "trained" in done.err or "checkpoint from the cache" in done.err
    assert re.search(r"seed 0: mean AUROC \d+\.\d % SoftMax\+\w+, \d+\.\d % SoftMax\+", done.err)
    return folder / "run"


@pytest.fixture(scope="session")
def suite_run(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> tuple[Done, Path]:
    """How a run of the suite ended, and its directory."""
    folder = tmp_path_factory.mktemp("suite")
    done = captured(
        *("run", "pair", "--plugins", with_suite(folder / "content"), "--seeds", "1"),
        *("--device", "cpu", "--out", folder / "run"),
        OODBENCH_CACHE=str(shared_cache),
    )
    return done, folder / "run"
