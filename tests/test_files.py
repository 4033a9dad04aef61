"""Writing files: devices and pipes, and the check before long work."""

from __future__ import annotations

import os
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.kills import killed_at, needs_fork

from oodbench import files
from oodbench.errors import UserError
from oodbench.files import check_writable, unfinished_folder, write_atomic


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


@needs_fork
def test_what_a_killed_process_has_not_written_goes_with_the_next_write(tmp_path: Path) -> None:
    first, second = tmp_path / "a.md", tmp_path / "b.md"
    for path in (first, second):
        killed_at("fsync", partial(write_atomic, path, "half"))
    assert len(list(tmp_path.glob(".writing-*"))) == 2
    write_atomic(first, "whole")
    assert len(list(tmp_path.glob(".writing-*"))) == 1, "that of the other file is not looked at"
    write_atomic(second, "whole")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.md", "b.md"]


@needs_fork
def test_a_folder_of_a_killed_process_goes_too(tmp_path: Path) -> None:
    def fill() -> None:
        with unfinished_folder(tmp_path / "a.onnx") as folder:
            write_atomic(folder / "part", "half")

    killed_at("fsync", fill)
    assert list(tmp_path.rglob(".writing-*/.writing-*"))
    fill()
    assert list(tmp_path.iterdir()) == []


def test_what_another_thread_writes_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, begun, go_on, flush = tmp_path / "a.md", threading.Event(), threading.Event(), os.fsync

    def wait(descriptor: int) -> None:
        if threading.current_thread() is other:
            begun.set()
            go_on.wait(20)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    other = threading.Thread(target=write_atomic, args=(path, "of the other"))
    other.start()
    assert begun.wait(20)
    write_atomic(path, "mine")
    assert path.read_text(encoding="utf-8") == "mine"
    go_on.set()
    other.join(20)
    assert path.read_text(encoding="utf-8") == "of the other"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_another_machine_takes_for_a_leftover_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems do not share locks between machines."""
    path, flush, written = tmp_path / "a.md", os.fsync, []

    def removed(descriptor: int) -> None:
        flush(descriptor)
        written.append(descriptor)
        if len(written) < tries:
            next(tmp_path.glob(".writing-*")).unlink()

    monkeypatch.setattr(os, "fsync", removed)
    tries = 2
    write_atomic(path, "text")
    assert path.read_text(encoding="utf-8") == "text"
    assert list(tmp_path.iterdir()) == [path]
    tries = 99
    with pytest.raises(UserError, match="No such file"):
        write_atomic(path, "other")
    assert path.read_text(encoding="utf-8") == "text"


@needs_fork
def test_a_new_folder_that_another_process_takes_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed before, or locked while, this process locks it; then another one is made."""
    path, make, descriptors = tmp_path / "a.onnx", tempfile.mkdtemp, []

    def taken(**options: Any) -> str:
        name = make(**options)
        if not descriptors:
            descriptors.append(-1)
            Path(name).rmdir()
        elif len(descriptors) == 1:
            descriptors.append(os.open(name, os.O_RDONLY))
            files._lock(descriptors[1])
        return name

    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    with unfinished_folder(path) as folder:
        (folder / "part").touch()
        assert len(list(tmp_path.iterdir())) == 2
    os.close(descriptors[1])
    with unfinished_folder(path):
        pass
    assert list(tmp_path.iterdir()) == []
