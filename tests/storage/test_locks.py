"""One process writes into a run directory at a time; the others are told which."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.commands import Command, start
from helpers.tiny_benchmark import tiny_benchmark

import oodbench
from oodbench import api
from oodbench.errors import UserError
from oodbench.storage import locks, run_places
from oodbench.storage.locks import LOCK, claim, held, held_around

HOLD = """
import sys
from pathlib import Path
from oodbench.storage.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
BENCHMARK = tiny_benchmark(
    {"SoftMax+MSP": "baseline", "SoftMax+Energy": "energy", "SoftMax+KNN": "knn"},
    ood="{far: [uniform-noise]}",
)


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `tmp_path / "run"`."""
    process = hold(tmp_path / "run")
    yield process
    process.kill()
    process.communicate()


def run_json(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text("{}")


def test_the_second_is_told_who_holds_it(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(UserError) as raised, held(tmp_path / "run"):
        pass
    said = raised.value.message
    assert str(tmp_path / "run") in said
    assert f"process {other.pid} on {socket.gethostname()} since 20" in said
    assert "`oodbench" in said, "the command"
    assert "--out" in raised.value.hint


def test_a_lock_does_not_outlive_its_process(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    folder = tmp_path / "run"
    assert [path.name for path in folder.iterdir()] == [LOCK], "left behind"
    with held(folder):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    assert not list(folder.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_process_does_not_keep_the_lock_of_one_that_was_killed(tmp_path: Path) -> None:
    """As processes that decode images do for some seconds."""
    forking = (
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from oodbench.storage.locks import held\n"
        "with held(Path(sys.argv[1])):\n"
        "    inside, outside = os.pipe()\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os.write(outside, b'forked')\n"
        "        time.sleep(600)\n"
        "        os._exit(0)\n"
        "    os.read(inside, 6)\n"
        "    print(child, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.Popen(
        [sys.executable, "-c", forking, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert done.stdout is not None
    child = int(done.stdout.readline())
    try:
        assert done.wait() == -signal.SIGKILL
        with held(tmp_path / "run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        done.stdout.close()


def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    for content in ("", "[]", '{"pid": 1}', "\0"):
        (tmp_path / "run" / LOCK).write_text(content)
        with pytest.raises(UserError, match="in use by another process"), held(tmp_path / "run"):
            pass


def test_many_that_take_turns(tmp_path: Path) -> None:
    """Whoever holds it is alone, although the file is removed each time."""
    inside, most, done = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, done
        while done < 200:
            try:
                with held(tmp_path / "run"):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
                        done += 1
            except UserError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not list((tmp_path / "run").iterdir())


def test_a_file_that_its_last_holder_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking: the lock of a removed file holds nothing."""
    lock, calls = locks._lock, 0

    def removed_meanwhile(descriptor: int) -> bool:
        nonlocal calls
        calls += 1
        if calls <= 2:
            (tmp_path / LOCK).unlink()
        if calls == 2:
            (tmp_path / LOCK).touch()  # of the next one
        return lock(descriptor)

    monkeypatch.setattr(locks, "_lock", removed_meanwhile)
    with held(tmp_path):
        assert calls == 3
        monkeypatch.setattr(locks, "_lock", lock)
        with pytest.raises(UserError, match=f"process {os.getpid()}"), held(tmp_path):
            pass


def test_two_threads_of_a_process(tmp_path: Path) -> None:
    said: list[str] = []

    def second() -> None:
        try:
            with held(tmp_path / "run"):
                said.append("held")
        except UserError as error:
            said.append(error.message)

    for _ in range(2):
        with held(tmp_path / "run"):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        assert f"process {os.getpid()}" in said.pop()
        second()
        assert said.pop() == "held", "free again"


def test_one_of_many_makes_a_folder(tmp_path: Path) -> None:
    made: list[bool] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        made.append(claim(tmp_path / "runs" / "one"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]


def test_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("not ours")
    with pytest.raises(UserError, match="not empty and holds no run"), held(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["run.json", "suite.json"])
@pytest.mark.parametrize("inside", ["figures", "report.md", "a/b/c.html"])
def test_what_is_written_into_a_held_run(tmp_path: Path, name: str, inside: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_text("{}")
    with held(folder):
        with pytest.raises(UserError, match="in use by"), held_around(folder / inside):
            pass
        with held_around(tmp_path / "elsewhere.md"):
            pass
    with held_around(folder / inside):
        assert (folder / LOCK).exists()


# --- runs ---------------------------------------------------------------------------------------


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A working directory with a benchmark of one small model, trained before."""
    (tmp_path / "tiny.yaml").write_text(BENCHMARK)
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "holding-cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    oodbench.run("tiny.yaml", out="base", seeds=1, methods=["SoftMax+MSP"], device="cpu")
    return tmp_path


def start_method(method: str, *options: str) -> subprocess.Popen[str]:
    words = ["run", "tiny.yaml", "--methods", method, "--seeds", "1", "--device", "cpu", *options]
    return start(*words, stdout=subprocess.DEVNULL)


def recorded(folder: Path) -> set[str]:
    lines = (folder / "records.jsonl").read_text().splitlines()
    return {json.loads(line)["method"] for line in lines}


def test_two_commands_resume_in_one_directory(place: Path) -> None:
    """One after the other, or one of them is refused: nothing is lost."""
    both = [
        start_method(name, "--resume", "--out", "base")
        for name in ("SoftMax+Energy", "SoftMax+KNN")
    ]
    said = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert codes in ([0, 2], [2, 0], [0, 0]), said
    for code, text, name in zip(codes, said, ("SoftMax+Energy", "SoftMax+KNN"), strict=True):
        assert (name in recorded(Path("base"))) == (code == 0)
        assert ("in use by process" in text) == (code == 2), text
    assert "SoftMax+MSP" in recorded(Path("base"))


def test_two_default_names_in_one_second(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(run_places.datetime.datetime):
        @classmethod
        def now(cls, tz: object = None) -> Stopped:
            return cls(2026, 1, 2, 3, 4, 5)

    # Of `run_places` alone: libraries that are imported meanwhile need the real class.
    monkeypatch.setattr(run_places, "datetime", SimpleNamespace(datetime=Stopped))
    names = [
        oodbench.run("tiny.yaml", seeds=1, methods=[method], device="cpu").folder.name
        for method in ("SoftMax+Energy", "SoftMax+KNN", "SoftMax+MSP")
    ]
    first = "tiny-20260102-030405"
    assert names == [first, f"{first}-2", f"{first}-3"]
    assert recorded(Path("runs") / names[1]) == {"SoftMax+KNN"}
    again = oodbench.run("tiny.yaml", seeds=1, methods=["energy"], device="cpu", resume=True)
    assert again.folder.name == names[-1], "the newest"


def test_a_held_directory_refuses_runs_and_lets_reports_read(place: Path, command: Command) -> None:
    before = {path: path.read_bytes() for path in Path("base").rglob("*") if path.is_file()}
    process = hold(Path("base"))
    try:
        with pytest.raises(UserError, match=f"in use by process {process.pid}"):
            oodbench.run("tiny.yaml", out="base", seeds=1, device="cpu", resume=True)
        for words, expected in (
            (["run", "tiny.yaml", "--out", "base", "--resume"], 2),
            (["report", "base"], 0),
            (["report", "base", "--format", "json", "--out", "elsewhere.json"], 0),
            (["report", "base", "--format", "json", "--out", "base/mine.json"], 2),
            (["report", "base", "--figures", "base/figures"], 2),
        ):
            done = command(*words)
            assert done.code == expected, (words, done.err)
            assert (f"in use by process {process.pid}" in done.err) == (expected == 2)
        after = {path: path.read_bytes() for path in Path("base").rglob("*") if path.is_file()}
        assert before == {path: after[path] for path in before}
        assert {path.name for path in after.keys() - before.keys()} == {LOCK}
    finally:
        process.communicate("")


def test_a_suite_is_held_as_a_whole(place: Path) -> None:
    (place / "two.yaml").write_text(
        "schema_version: 1\nname: two\nversion: 1\ntitle: T\nsummary: S\n"
        "members: {tiny: {network: R, id: D}}\n"
    )
    options = {"out": "two", "seeds": 1, "methods": ["energy"], "device": "cpu"}
    process = hold(Path("two"))
    with pytest.raises(UserError, match=f"in use by process {process.pid}"):
        api.run_suite("two.yaml", **options)
    process.communicate("")
    assert api.run_suite("two.yaml", **options).complete
    process = hold(Path("two/tiny"))
    described = place / "two" / "tiny" / "run.json"  # as if it had been stopped
    described.write_text(described.read_text().replace('"complete"', '"running"'))
    found = api.run_suite("two.yaml", resume=True, **options)
    process.communicate("")
    assert not found.complete
    assert f"in use by process {process.pid}" in found.failures[0]


@pytest.mark.skipif(sys.platform == "win32", reason="locks files in another way")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EACCES])
def test_places_without_locks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    if number == errno.EACCES:
        with pytest.raises(UserError, match=r"Cannot write .*Permission denied"), held(tmp_path):
            pass
    else:
        with held(tmp_path):
            assert "no locks" in caplog.text
