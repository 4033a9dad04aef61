"""The cache of a node: that of the run where the node sees it, else its own."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from oodbench.engine.executors.node_cache import CacheOfRun, content_of, keep_missing, lacking
from oodbench.files import cache_folder


@pytest.fixture
def of_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CacheOfRun:
    """The cache of a run, seen from a process that has chosen none."""
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "run"))
    monkeypatch.setenv("OODBENCH_PLUGINS", "plugins of the run")
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path / "not here"))
    found = CacheOfRun.here()
    for name in ("OODBENCH_CACHE", "OODBENCH_PLUGINS", "OODBENCH_DATA"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return found


def test_a_cache_that_the_node_sees(of_run: CacheOfRun, tmp_path: Path) -> None:
    assert of_run.enter()
    assert cache_folder() == tmp_path / "run"
    assert os.environ["OODBENCH_PLUGINS"] == "plugins of the run"
    assert "OODBENCH_DATA" not in os.environ, "a folder that is not here"


def test_another_folder_at_the_same_path(of_run: CacheOfRun, tmp_path: Path) -> None:
    """As on a machine whose own folder has the path of the run's."""
    elsewhere = dataclasses.replace(of_run, identity="of another machine")
    assert not elsewhere.enter()
    assert cache_folder() != tmp_path / "run"


def test_the_node_has_chosen(
    of_run: CacheOfRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("OODBENCH_PLUGINS", "own plugins")
    assert not of_run.enter()
    assert cache_folder() == tmp_path / "own"
    assert os.environ["OODBENCH_PLUGINS"] == "own plugins"


def test_two_runs_that_begin_with_a_new_cache_give_it_one_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path))
    exists = Path.exists
    with monkeypatch.context() as patch:  # each has looked before the other wrote
        patch.setattr(Path, "exists", lambda path: path.name != "identity" and exists(path))
        assert len({CacheOfRun.here().identity for _ in range(2)}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["identity"]

    def without_links(*_: object) -> None:
        raise PermissionError

    (tmp_path / "identity").unlink()
    monkeypatch.setattr(os, "link", without_links)
    assert CacheOfRun.here().identity


def test_files_that_travel(tmp_path: Path) -> None:
    name = "checkpoints/a.safetensors"
    assert content_of(tmp_path, name) is None
    assert lacking(tmp_path, [name]) == [name]
    keep_missing(tmp_path, [(name, b"first")])
    keep_missing(tmp_path, [(name, b"second")])
    assert content_of(tmp_path, name) == b"first", "a file that is there stays"
    assert lacking(tmp_path, [name, "b"]) == ["b"]
