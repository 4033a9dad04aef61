"""A short form of `scripts/robustness/shared_places.py`."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from robustness.shared_places import check_shared
from robustness.small_content import command_line, run_small, write_content


def test_two_runs_share_an_empty_cache(tmp_path: Path, one_thread: None) -> None:
    content, cache = write_content(tmp_path / "content"), tmp_path / "cache"
    expected, here, there = (tmp_path / name for name in ("expected", "here", "there"))
    run_small(content, expected, tmp_path / "own")
    other = subprocess.Popen(
        command_line(content, there),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OODBENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
    )
    while not cache.exists() and other.poll() is None:  # it reads its images
        time.sleep(0.01)
    run_small(content, here, cache)
    assert other.wait() == 0
    assert check_shared([here, there], cache, expected) == []
