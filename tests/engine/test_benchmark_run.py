"""Runs that are stopped, places that cannot be written, damaged checkpoints."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import Command, start
from helpers.finished_run import METHODS, SEEDS, among_plugins, check_same, records, run
from helpers.tiers import by_default

from oodbench.errors import UserError
from oodbench.results import Run

pytestmark = pytest.mark.usefixtures("one_thread", "content")


# --- places that cannot be written --------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file", "File exists"),
        ("file/below", "Not a directory"),
        ("/dev/null/x", "Not a directory"),
        ("/proc/x", "No such file"),
        ("n" * 300, "File name too long"),
    ],
)
def test_unwritable_places(tmp_path: Path, work: Counter[str], place: str, said: str) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError) as raised:
        run(tmp_path / place)
    assert raised.value.message.startswith("Cannot write "), raised.value
    assert said in raised.value.message
    assert "--out" in raised.value.hint
    assert not work, "found before anything is trained"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_places_that_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Counter[str], number: int
) -> None:
    """As the system says it to one who is not root."""
    closed = tmp_path / "closed"
    closed.mkdir()
    make = os.mkdir

    def mkdir(path: Any, *args: Any, **options: Any) -> None:
        if closed in Path(path).parents:
            raise OSError(number, os.strerror(number), str(path))
        make(path, *args, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(UserError) as raised:
        run(closed / "run")
    assert raised.value.message == f"Cannot write {closed / 'run'}: {os.strerror(number)}."
    assert "--out" in raised.value.hint
    assert not work


@pytest.mark.parametrize("kibibytes", by_default([20], [0, 20, 40]))
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: Path, kibibytes: int
) -> None:
    """What is stored stays whole and readable; with some space, resuming completes the run."""
    folder, sync = tmp_path / "run", os.fsync

    def fsync(descriptor: int) -> None:
        used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if used > 1024 * kibibytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(UserError, match="No space left on the disk while writing") as raised:
            run(folder)
    assert str(folder) in raised.value.message
    assert "--resume" in raised.value.hint
    assert not list(folder.rglob(".writing-*")), "a leftover takes space that is needed"
    if kibibytes:
        stored = records(folder)
        assert all(record in records(complete) for record in stored)
    run(folder, resume=True)
    check_same(folder, complete)


# --- runs that are stopped ------------------------------------------------------------------------


def start_run(out: Path, *options: str) -> subprocess.Popen[str]:
    """A run in a process of its own; returns when it has made its folder."""
    words = ["run", "tiny", "--out", str(out), "--device", "cpu", "--seeds", str(SEEDS), *options]
    process = start(
        *words,
        # A shell's job in the background ignores interrupts, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert " data: " in line, line + process.stderr.read()
    return process


@pytest.mark.parametrize("lines", by_default([1], [0, 1, 3]))
def test_a_killed_run(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """Killed at a random moment after so many stages; resumed, it gives the same."""
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    process = start_run(folder)
    assert process.stderr is not None
    for _ in range(lines):
        process.stderr.readline()
    delay = float(np.random.default_rng().uniform(0, 0.5))
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
    process.wait()
    process.stderr.close()
    if (folder / "run.json").exists():
        assert Run(folder).changed == (), "nobody has changed a file"
    run(folder, resume=True)
    check_same(folder, complete)
    assert not list(folder.rglob(".writing-*")), f"leftovers after a kill at {delay:.3f} s"


def test_an_interrupted_run_says_how_to_go_on(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "a run"
    process = start_run(folder)
    assert process.stderr is not None
    # Torch imports its compiler for the first optimizer, and may lose an interrupt in that second:
    # wait until a model is trained.
    assert any("trained" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 3, said
    lines = said.splitlines()
    assert lines[-2] == "Interrupted. What is finished is stored; continue with:", said
    assert "Traceback" not in said
    words = shlex.split(lines[-1])
    assert words[:2] == ["oodbench", "run"]
    assert "--resume" in words
    assert command(*words[1:]).code == 0
    check_same(folder, complete)


# --- damaged files --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_checkpoints(content_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the checkpoints of two seeds of a model, and nothing else."""
    cache = tmp_path_factory.mktemp("two")
    with among_plugins(content_folder, cache):
        run(tmp_path_factory.mktemp("run") / "run", methods=["SoftMax+MSP"], seeds=2)
    return cache


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "another's"])
def test_a_damaged_checkpoint_is_trained_again(
    complete: Path,
    two_checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    cache = Path(shutil.copytree(two_checkpoints, tmp_path / "cache"))
    monkeypatch.setenv("OODBENCH_CACHE", str(cache))
    (path,) = cache.glob("checkpoints/resnet8-softmax-seed0-*.safetensors")
    (other,) = cache.glob("checkpoints/resnet8-softmax-seed1-*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "noise": np.random.default_rng(0).bytes(len(whole)),
            "another's": other.read_bytes(),
        }[damage]
    )
    with pytest.warns(UserWarning, match="cannot be used") as warned:
        run(tmp_path / "run", seeds=1, methods=["SoftMax+MSP"])
    said = next(str(w.message) for w in warned if "cannot be used" in str(w.message))
    assert path.name in said
    assert "training again" in said
    assert path.with_suffix(".damaged").exists(), "moved aside"
    expected = [r for r in records(complete) if (r["method"], r["seed"]) == (METHODS[0], 0)]
    assert [r["value"] for r in records(tmp_path / "run")] == [r["value"] for r in expected]
