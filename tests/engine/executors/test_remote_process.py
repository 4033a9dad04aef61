"""What a process on another machine takes over from the process of the run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from oodbench.engine.executors.node_cache import CacheOfRun
from oodbench.engine.executors.remote_process import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a run in `tmp_path`, for a process that is elsewhere."""
    for name in ("argv", "path"):
        monkeypatch.setattr(sys, name, [*getattr(sys, name)])
    monkeypatch.setattr(sys, "breakpointhook", sys.breakpointhook)
    monkeypatch.chdir(tmp_path)
    made = Settings.of_run(1, CacheOfRun(str(tmp_path), "", {}))
    monkeypatch.chdir("/")
    return made


def test_relative_paths_are_those_of_the_run(settings: Settings, tmp_path: Path) -> None:
    """A cluster may have been started in another folder: --data-root data, --plugins mine."""
    settings.prepare()
    assert Path.cwd() == tmp_path
    replace(settings, folder=str(tmp_path / "not here")).prepare()
    assert Path.cwd() == tmp_path, "a node without the folder stays where it is"
