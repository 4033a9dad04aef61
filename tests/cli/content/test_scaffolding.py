"""The commands `oodbench new ...`: files, next commands, refusals."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import Command, Done


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return command


def next_commands(done: Done) -> list[list[str]]:
    """The commands that the output names, without the name of the program."""
    assert done.code == 0, done.err
    _, _, after = done.out.partition("\nNext: ")
    return [shlex.split(line) for line in after.splitlines() if line.startswith("  ")]


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_detector_and_its_next_commands(command: Command, tmp_path: Path) -> None:
    done = command("new", "detector", "steep_edge", "--fitted", "--gradient")
    check, run = next_commands(done)
    assert files_in(tmp_path) == {"detectors/steep_edge.py"}
    assert check == ["oodbench", "check", str(Path("detectors/steep_edge.py"))]
    planned = command(*run[1:], "--dry-run")
    assert planned.code == 0, planned.err
    assert "2 methods" in planned.out
    assert "SteepEdge" in planned.out


def test_a_folder_that_the_shell_would_divide(command: Command, tmp_path: Path) -> None:
    (_, run) = next_commands(command("new", "detector", "mine", "--out", "my $folder"))
    assert command(*run[1:], "--dry-run").code == 0
    assert files_in(tmp_path) == {"my $folder/detectors/mine.py"}


@pytest.mark.parametrize("folders", [False, True])
def test_a_benchmark_and_its_next_commands(command: Command, tmp_path: Path, folders: bool) -> None:
    done = command("new", "benchmark", "my-images", *["--folders"] * folders)
    plan, run = next_commands(done)
    planned = command(*plan[1:])
    assert planned.code == 0, planned.err
    assert "Plan of benchmark 'my-images'" in planned.out
    by_file = command("run", "benchmarks/my-images.yaml", "--dry-run", "--plugins", ".")
    assert by_file.out.replace("benchmarks/my-images.yaml", "my-images") == planned.out
    assert ("--data-root" in run) == folders
    assert len(files_in(tmp_path)) == 1 + 2 * folders


@pytest.mark.full
def test_a_package_tests_itself(command: Command, tmp_path: Path) -> None:
    done = command("new", "plugin", "acme-ood")
    check, run, *_ = next_commands(done)
    assert check[-1] == str(Path("acme-ood/src/acme_ood/detectors/acme_ood.py"))
    assert command(*run[1:], "--dry-run").code == 0
    assert "license" in done.out
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "acme-ood",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout
    assert " passed" in tested.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("detector", "mine"),
        ("benchmark", "mine"),
        ("benchmark", "mine", "--folders"),
        ("plugin", "mine", "--out", "."),
    ],
)
def test_nothing_is_overwritten(
    command: Command, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Neither a file nor a link that leads nowhere; and nothing else is written then."""
    assert command("new", *arguments).code == 0
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for path in files[1:]:
        path.unlink()
    files[0].write_text("my work")
    again = command("new", *arguments)
    assert again.code == 2
    assert files_in(tmp_path) == {files[0].relative_to(tmp_path).as_posix()}
    assert files[0].read_text() == "my work"
    files[0].unlink()
    files[0].symlink_to(tmp_path / "nowhere")
    again = command("new", *arguments)
    assert again.code == 2
    assert "exists already; nothing was written" in again.err or "is taken by" in again.err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", ["detector", "benchmark", "plugin"])
@pytest.mark.parametrize("place", ["a file", "no permission", "a user who is not"])
def test_places_that_cannot_be_written(
    command: Command, tmp_path: Path, kind: str, place: str
) -> None:
    (tmp_path / "file").write_text("")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if place == "no permission" and os.access(closed, os.W_OK):
        closed = Path("/proc/self")  # where not even root writes
        if not closed.exists():
            pytest.skip("every folder can be written")
    out = {"a file": "file/x", "no permission": closed / "x", "a user who is not": "~nobody-here"}
    done = command("new", kind, "mine", "--out", out[place])
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) <= 2
    assert "Traceback" not in done.err
    assert str(out[place]).partition("/x")[0] in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("detector", "near-mean"), "Did you mean 'near_mean'?"),
        (("detector", "ebo"), "taken by detector 'energy'"),
        (("benchmark", "../x"), "cannot name a benchmark"),
        (("plugin", "json"), "there is a module 'json'"),
        (("detector", ""), "'' cannot name a detector"),
        (("detector", "x", "--out", ""), "expected a path"),
        (("detectr", "x"), "detectr"),
        (("detector",), "NAME"),
    ],
)
def test_refusals(command: Command, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = command("new", *arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert said in done.err
    assert list(tmp_path.iterdir()) == []
