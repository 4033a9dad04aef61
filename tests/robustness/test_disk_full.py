"""A disk that is full from some write on; `scripts/robustness/disk_full.py` uses real ones."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from robustness.small_content import difference, run_small, write_content

from oodbench.errors import UserError

TROUBLES = {
    errno.ENOSPC: "No space left on the disk",
    errno.EROFS: "Read-only file system",
}


class Disk:
    """Counts the writes that are flushed to the disk; from one on, it gives an error.

    Args:
        last: number of the last write that succeeds.
        error: number of the error.
    """

    def __init__(self, last: float, error: int = 0) -> None:
        self.writes, self._last, self._error = 0, last, error
        self._flush = os.fsync

    def fsync(self, descriptor: Any) -> None:
        self.writes += 1
        if self.writes > self._last:
            raise OSError(self._error, os.strerror(self._error))
        self._flush(descriptor)


@pytest.mark.filterwarnings("ignore:There is nothing to resume")
def test_a_run_is_resumed_once_there_is_space(tmp_path: Path, one_thread: None) -> None:
    content, expected = write_content(tmp_path / "content"), tmp_path / "expected"
    whole = Disk(float("inf"))
    with patch.object(os, "fsync", whole.fsync):
        run_small(content, expected, tmp_path / "cache")
    assert whole.writes > 10
    moments = (0, 4, whole.writes - 12, whole.writes - 3)
    stopped = 0
    for number, moment in enumerate(moments):
        error = [*TROUBLES][number % 2]
        out, cache = tmp_path / f"run{number}", tmp_path / f"cache{number}"
        disk = Disk(moment, error)
        said = ""
        with patch.object(os, "fsync", disk.fsync):
            try:
                run_small(content, out, cache)
            except UserError as refused:
                said = refused.message
        # A training writes its state once a second: a faster run has fewer writes.
        assert TROUBLES[error] in said or disk.writes <= moment, (moment, said)
        stopped += bool(said)
        run_small(content, out, cache, resume=True)
        assert not difference(out, expected), moment
        assert not [*out.rglob(".writing-*"), *cache.rglob(".writing-*")], moment
    assert stopped >= 3
