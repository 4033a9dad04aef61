"""Writing files: devices and pipes, and the check before long work."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from oodbench.errors import UserError
from oodbench.files import check_writable, write_atomic


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    check_writable(pipe)
    write_atomic(pipe, "text")
    reader.join(timeout=10)
    assert read == ["text"]
    assert pipe.is_fifo()


def test_the_check_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    check_writable(tmp_path / "new" / "folder" / "a.md")
    check_writable(tmp_path / "file")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize("name", ["", "file/a.md", "file/b/a.md"])
def test_a_place_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        check_writable(tmp_path / name)
