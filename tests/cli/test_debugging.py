"""`breakpoint()` in a detector: the debugger is seen, reads its commands, and the run goes on."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import Command
from helpers.tiny_benchmark import tiny_benchmark

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal"),
    pytest.mark.usefixtures("kept_networks"),
]

BENCHMARK = tiny_benchmark({"SoftMax+Stopping": "stopping"})

DETECTOR = """\
from oodbench import Detector, register

@register("stopping", needs=("fit",))
class Stopping(Detector):
    stopped = False

    def fit(self, batches):
        fitting = sum(1 for _ in batches)
        FIT

    def score(self, outputs):
        if not Stopping.stopped:
            Stopping.stopped = True
            inside = 6 * 7
            SCORE
        return outputs.logits.amax(dim=1)
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    for folder in ("benchmarks", "detectors"):
        (tmp_path / folder).mkdir()
    (tmp_path / "benchmarks" / "tiny.yaml").write_text(BENCHMARK)
    return tmp_path


def stopping(plugins: Path, *where: str) -> list[str]:
    """A detector that stops in `fit`, in `score` or in both; arguments that run it."""
    text = DETECTOR.replace("FIT", "breakpoint()" if "fit" in where else "pass")
    text = text.replace("SCORE", "breakpoint()" if "score" in where else "pass")
    (plugins / "detectors" / "stopping.py").write_text(text)
    arguments = ["run", "tiny", "--plugins", str(plugins), "--seeds", "1", "--device", "cpu"]
    return [*arguments, "--out", str(plugins / "run")]


COMMAND = (sys.executable, "-m", "oodbench")


def on_a_terminal(arguments: list[str], answers: list[str]) -> tuple[int, str]:
    """Exit code and all that was shown; each prompt of the debugger gets the next answer."""
    import pty
    import select

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        close_fds=True,
    )
    os.close(theirs)
    shown, answered, deadline = "", 0, time.monotonic() + 240
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.5)[0]:
                if process.poll() is not None:
                    break
                continue
            try:
                shown += os.read(ours, 4096).decode(errors="replace")
            except OSError:  # Linux says so at the end
                break
            if shown.count("(Pdb)") > answered and answered < len(answers):
                os.write(ours, f"{answers[answered]}\n".encode())
                answered += 1
        return process.wait(timeout=60), shown
    finally:
        process.kill()
        os.close(ours)


def test_breakpoints_on_a_terminal(plugins: Path) -> None:
    answers = ["p ('value', fitting)", "c", "p ('value', inside)", "c"]
    code, shown = on_a_terminal(stopping(plugins, "fit", "score"), answers)
    assert code == 0, shown
    before, *prompts = shown.split("(Pdb)")
    assert len(prompts) == 4, shown
    fit, score = before, prompts[1]  # what is shown before each of the two stops
    for place in (fit, score):
        assert "stopping.py" in place, "the debugger stops in the detector's file"
    assert re.search(r"\('value', \d+\)", prompts[0]), shown
    assert "('value', 42)" in prompts[2], shown
    assert "debugging.py" not in shown
    assert "SoftMax, seed 0: " in prompts[3], "what is done afterwards is said in plain lines"


def test_to_quit_the_debugger_interrupts_the_run(plugins: Path) -> None:
    code, shown = on_a_terminal(stopping(plugins, "score"), ["q"])
    assert code == 3, shown
    assert "Interrupted" in shown
    assert "--resume" in shown
    assert "Traceback" not in shown


def test_a_breakpoint_without_a_terminal(plugins: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *stopping(plugins, "score")],
        input="p ('value', inside)\nc\n",
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONBREAKPOINT": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "('value', 42)" in done.stdout


def test_breakpoints_can_be_switched_off(
    command: Command, plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    monkeypatch.setattr(sys, "stdin", io.StringIO("c\n"))
    done = command(*stopping(plugins, "score"))
    assert done.code == 0, done.err
    assert "(Pdb)" not in done.out + done.err
    assert sys.stdin.read() == "c\n", "nothing was asked"


def test_to_quit_without_a_terminal_interrupts_the_run(plugins: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *stopping(plugins, "score")],
        input="q\n",
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 3, done.stderr
    assert "Interrupted" in done.stderr
    assert "failed" not in done.stderr
