"""What the command writes to: other encodings, a reader that leaves, a full disk."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.boards import SPECIAL, cost_records, quality_records
from helpers.tiers import by_default

from oodbench.cli import main as cli
from oodbench.cli import streams
from oodbench.files import write_atomic
from oodbench.report.formats import FORMATS
from oodbench.storage.record_lines import to_lines

ENCODINGS = ["cp1252", "ascii", "cp437", "utf-8:strict"]
COMMANDS = {
    **{f"report {name}": ["report", "RUN", "--format", name] for name in FORMATS},
    "list": ["list", "detectors"],
    "list --json": ["list", "datasets", "--json"],
    "data list": ["data", "list"],
    "plan": ["run", "--dry-run"],
    "suite": ["run", "dismax-paper", "--dry-run"],
    "help": ["--help"],
    "help of a command": ["run", "--help"],
}


def filled(command: str, folder: Path) -> list[str]:
    return [str(folder) if argument == "RUN" else argument for argument in COMMANDS[command]]


def run(
    command: str, folder: Path, *, stdout: object = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "oodbench", *filled(command, folder)],
        stdout=stdout,  # type: ignore[call-overload]
        stderr=subprocess.PIPE,
        check=False,
        timeout=120,
        env=os.environ | environment,
    )


def run_here(command: str, folder: Path, encoding: str) -> tuple[int, bytes, bytes]:
    """The command in this process, with streams as Python opens them: exit code, output, errors."""
    named, _, errors = encoding.partition(":")
    out = io.TextIOWrapper(io.BytesIO(), encoding=named, errors=errors or "strict")
    err = io.TextIOWrapper(io.BytesIO(), encoding=named, errors="backslashreplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr(sys, "argv", ["oodbench", *filled(command, folder)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        logging.getLogger().handlers.clear()
    out.flush()
    err.flush()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.buffer.getvalue(), err.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a name that is not ASCII in it."""
    place = tmp_path_factory.mktemp("run")
    write_atomic(place / "run.json", json.dumps({"status": "complete"}))
    # Records of a run have valid names only, unlike those that the writers are tested with.
    for name, records in (("records", quality_records(3)), ("costs", cost_records(3))):
        write_atomic(place / f"{name}.jsonl", to_lines(records).replace(SPECIAL, "A+\\u03b2"))
    return place


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", ["report table", "report md", "plan", "help"])
def test_any_encoding_will_do(command: str, encoding: str, folder: Path) -> None:
    code, out, err = run_here(command, folder, encoding)
    assert (code, err) == (0, b"")
    text = out.decode(encoding.partition(":")[0])
    if command == "report table":
        sign = "\N{PLUS-MINUS SIGN}".encode(encoding.partition(":")[0], streams.READABLE)
        assert sign.decode(encoding.partition(":")[0]) + " is the standard deviation" in text
        assert "DisMax+Entropy" in text


@pytest.mark.parametrize("encoding", by_default(["ascii"], ENCODINGS))
def test_in_a_process_of_its_own(encoding: str, folder: Path) -> None:
    """The tests above and below open the streams as Python does for this variable."""
    done = run("list", folder, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout, done.stderr) == run_here("list", folder, encoding)


@pytest.mark.parametrize("name", ["json", "html"])
def test_what_programs_read_is_the_same_in_every_encoding(name: str, folder: Path) -> None:
    (first, *others) = [run_here(f"report {name}", folder, encoding)[1] for encoding in ENCODINGS]
    assert first.isascii()
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("text", "ascii_text"),
    [
        ("99.8 \N{PLUS-MINUS SIGN}0.2", "99.8 +-0.2"),
        ("AUROC\N{UPWARDS ARROW} FPR95\N{DOWNWARDS ARROW}", "AUROC^ FPR95v"),
        ("\N{BOX DRAWINGS LIGHT HORIZONTAL}" * 3 + "\N{MULTIPLICATION SIGN}", "---x"),
        ("na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve\N{HORIZONTAL ELLIPSIS}", "naive..."),
        (os.fsdecode(b"\xe4\xff.png"), r"\xe4\xff.png"),
        ("\N{GREEK SMALL LETTER ALPHA}", r"\u03b1"),
        ("plain", "plain"),
    ],
)
def test_substitutes(text: str, ascii_text: str) -> None:
    streams.prepare_streams()
    assert streams.readable(text) == ascii_text
    assert text.encode("ascii", streams.READABLE).decode() == ascii_text


def test_files_take_names_that_are_not_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"run-\xe4")
    write_atomic(tmp_path / "a.json", json.dumps({"path": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text()) == {"path": name}


@pytest.mark.parametrize("command", by_default(["report table", "help"], COMMANDS))
def test_a_reader_may_leave(command: str, folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = run(command, folder, stdout=pipe)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("command", "unbuffered"),
    by_default(
        [("report json", ""), ("help", "1")],
        [*((each, "") for each in COMMANDS), ("help", "1"), ("list", "1")],
    ),
)
def test_a_full_disk_is_one_error(command: str, unbuffered: str, folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(command, folder, stdout=full, PYTHONUNBUFFERED=unbuffered)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 2
    assert lines[0] == "error: Cannot write to standard output: No space left on device."


def test_a_reader_of_messages_may_leave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Left(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return file.fileno()

    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(sys, "stderr", Left())
        streams.prepare_streams()
        print("a message", file=sys.stderr)
        monkeypatch.undo()
