"""`breakpoint()` in a detector: the debugger is seen, reads its commands, and the run goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.tiny_benchmark import tiny_benchmark

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

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


def stopping(plugins: Path, where: str) -> list[str]:
    """A detector that stops in `fit` or in `score`; the command that runs it."""
    text = DETECTOR.replace("FIT", "breakpoint()" if where == "fit" else "pass")
    text = text.replace("SCORE", "breakpoint()" if where == "score" else "pass")
    (plugins / "detectors" / "stopping.py").write_text(text)
    command = [sys.executable, "-m", "oodbench", "run", "tiny", "--plugins", str(plugins)]
    return [*command, "--seeds", "1", "--device", "cpu", "--out", str(plugins / "run")]


def on_a_terminal(command: list[str], answers: list[str]) -> tuple[int, str]:
    """Exit code and all that was shown; each prompt of the debugger gets the next answer."""
    import pty
    import select

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
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


@pytest.mark.parametrize(("where", "name"), [("score", "inside"), ("fit", "fitting")])
def test_a_breakpoint_on_a_terminal(plugins: Path, where: str, name: str) -> None:
    command = stopping(plugins, where)
    code, shown = on_a_terminal(command, [f"p ('value', {name})", "c"])
    assert code == 0, shown
    assert re.search(r"\('value', 42\)" if where == "score" else r"\('value', \d+\)", shown), shown
    prompt = shown.index("(Pdb)")
    after = shown[shown.index("(Pdb)", prompt + 1) :]
    assert "stopping.py" in shown[:prompt], "the debugger stops in the detector's file"
    assert "debugging.py" not in shown
    assert "SoftMax, seed 0: " in after, "what is done afterwards is said in plain lines"


def test_to_quit_the_debugger_interrupts_the_run(plugins: Path) -> None:
    code, shown = on_a_terminal(stopping(plugins, "score"), ["q"])
    assert code == 3, shown
    assert "Interrupted" in shown
    assert "--resume" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("variable", ["", "0"])
def test_a_breakpoint_without_a_terminal(plugins: Path, variable: str) -> None:
    done = subprocess.run(
        stopping(plugins, "score"),
        input="p ('value', inside)\nc\n",
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONBREAKPOINT": variable},
    )
    assert done.returncode == 0, done.stderr
    assert ("('value', 42)" in done.stdout) == (variable != "0")


def test_to_quit_without_a_terminal_interrupts_the_run(plugins: Path) -> None:
    done = subprocess.run(
        stopping(plugins, "score"), input="q\n", capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 3, done.stderr
    assert "Interrupted" in done.stderr
    assert "failed" not in done.stderr
