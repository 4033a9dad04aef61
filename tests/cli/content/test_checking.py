"""The command `oodbench check`: what it prints, its exit codes, files that do not end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import Command, command_here, process

from oodbench.testing import CheckResult, isolation
from oodbench.testing.subject import subject_of
from oodbench.testing.suite import results_of

DETECTOR = """\
from oodbench import Detector, register
TOP

@register("mine", label="Mine")
class Mine(Detector):
    def score(self, outputs):
        BODY
        return outputs.logits.amax(dim=1)
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_here(monkeypatch, capsys)


@pytest.fixture
def checks_here(run: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process, and the detector, too: for what it prints about results."""

    def results(path: Path, time_limit: float) -> Iterator[CheckResult]:
        return results_of(subject_of(path))

    monkeypatch.setattr(isolation, "isolated_results", results)
    return run


def written(folder: Path, *, top: str = "", body: str = "", name: str = "mine") -> Path:
    file = folder / "detectors" / f"{name}.py"
    file.parent.mkdir(exist_ok=True)
    text = DETECTOR.replace("TOP", top).replace("BODY", body or "pass")
    file.write_text(text.replace('"mine"', f'"{name}"'))
    return file


def test_a_built_in_detector_passes_with_a_line_for_each_check(run: Command) -> None:
    done = run("check", "msp")
    assert done.code == 0, done.out + done.err
    first, *lines, last = done.out.splitlines()
    assert first.startswith("baseline  ")
    assert len(lines) == 28
    assert lines[0].startswith("ok   declaration          Names, paper, needs")
    assert any(line.startswith("n/a  memory") and "'fit'" in line for line in lines)
    assert "baseline: 28 checks: 1" in last
    assert "failed" not in last
    assert "\x1b" not in done.out
    cuda = next(line for line in lines if " cuda " in line)
    assert cuda.startswith(("-    cuda                 not run: no CUDA", "ok   cuda"))


def test_a_failure_has_numbers_and_what_to_do(checks_here: Command, tmp_path: Path) -> None:
    file = written(tmp_path, body="return -outputs.logits.amax(dim=1)")
    done = checks_here("check", file)
    assert done.code == 1
    lines = done.out.splitlines()
    (index,) = [i for i, line in enumerate(lines) if line.startswith("FAIL")]
    assert lines[index].startswith("FAIL orientation          AUROC 0.000 on planted data")
    assert "To do: Return the negated score" in lines[index + 1]
    assert "1 failed" in lines[-1]


def test_an_exception_has_the_line_of_the_file_or_of_its_helper(
    checks_here: Command, tmp_path: Path
) -> None:
    file = written(tmp_path, top="from _shared import norm", body="return norm(outputs.logits)")
    file.with_name("_shared.py").write_text("def norm(values):\n    return values.norm(dim=3)\n")
    done = checks_here("check", "mine", "--plugins", tmp_path)
    assert done.code == 1
    assert "IndexError: Dimension out of range" in done.out
    assert "detectors/_shared.py, line 2: return values.norm(dim=3)" in done.out
    assert done.out.count("as in scores") == 1
    assert done.out.count("FAIL") == 2
    assert "more checks" in done.out.splitlines()[-2]


def test_debug_shows_the_traceback_in_this_process(tmp_path: Path) -> None:
    done = process("check", written(tmp_path, body="raise KeyError('gone')"), "--debug")
    assert done.code == 1
    assert "Traceback (most recent call last)" in done.err
    assert "raise KeyError('gone')" in done.err
    assert "KeyError: 'gone'" in done.out


def test_what_a_detector_prints_does_not_disturb(tmp_path: Path) -> None:
    file = written(tmp_path, top="print('loading')", body="print('{}')")
    done = process("check", file)
    assert done.code == 0, done.out + done.err
    assert "loading" not in done.out
    assert "loading" in done.err


# --- files that do not end, or end Python --------------------------------------------------------


@pytest.mark.parametrize(
    ("top", "said"),
    [
        pytest.param(
            "while True: pass",
            "running the file takes longer than 2 s (detectors/mine.py, line 2",
            marks=pytest.mark.full,
        ),
        ("import time; time.sleep(99)", "takes longer than 2 s (detectors/mine.py, line 2"),
        ("import os; os._exit(7)", "running the file ends Python (exit code 7)"),
        pytest.param(
            "import nowhere_at_all",
            "ModuleNotFoundError: No module named 'nowhere_at_all'",
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_file_that_does_not_come_to_its_end_is_named(
    run: Command, tmp_path: Path, top: str, said: str
) -> None:
    file = written(tmp_path, top=top)
    done = run("check", file, "--time-limit", "2")
    assert done.code == 2
    assert said in done.err
    assert str(file) in done.err
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("body", "said", "more"),
    [
        ("while True: pass", "takes longer than 2 s", "mine.py, line 7: while True: pass"),
        ("import os; os._exit(7)", "the detector ends Python (exit code 7)", "To do: Raise an"),
    ],
)
def test_a_score_that_does_not_come_to_its_end_fails(
    run: Command, tmp_path: Path, body: str, said: str, more: str
) -> None:
    done = run("check", written(tmp_path, body=body), "--time-limit", "2")
    assert done.code == 1
    assert said in done.out
    assert more in done.out
    assert len([line for line in done.out.splitlines() if line[:4].strip()]) == 30
    assert "not run: scores ended the checks" in done.out


def test_an_exit_is_an_exception(checks_here: Command, tmp_path: Path) -> None:
    """It does not end Python, so neither this process nor another one."""
    done = checks_here("check", written(tmp_path, top="raise SystemExit(3)"))
    assert done.code == 2
    assert "line 2: SystemExit: 3" in done.err
    assert len(done.err.splitlines()) <= 2
    done = checks_here("check", written(tmp_path, body="exit('enough')"))
    assert done.code == 1
    assert "SystemExit: enough" in done.out
    assert "mine.py, line 7: exit('enough')" in done.out


def test_no_process_is_left(tmp_path: Path) -> None:
    mark = f"mark-{time.time_ns()}"
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; "
    child += f"time.sleep(60)', '{mark}']); import time; time.sleep(60)"
    done = process("check", written(tmp_path, top=child), "--time-limit", "2")
    assert done.code == 2
    if sys.platform == "linux":
        listed = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True)
        assert mark not in listed.stdout


# --- bad usage -----------------------------------------------------------------------------------


def test_bad_usage_is_one_clear_error(run: Command, tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    two = tmp_path / "wrong_name.py"
    two.write_text(DETECTOR.replace("TOP", "").replace("BODY", "pass"))
    taken = written(tmp_path, name="energy")
    broken = tmp_path / "syntax.py"
    broken.write_text("def (:\n")
    for arguments, said in (
        (["energie"], "There is no detector 'energie'.\nDid you mean 'energy'"),
        (["nowhere/x.py"], "There is no file nowhere/x.py."),
        (["x.py"], "There is no file x.py."),
        ([tmp_path], f"is a folder; check one detector at a time.\nGive a file: {taken}."),
        ([empty], "empty.py: declares no detector"),
        ([two], "registers 'mine', but the file is called wrong_name.py"),
        ([taken], "the name 'energy' is that of another detector"),
        ([broken], "syntax.py: line 1: "),
        (["energy", "--plugins", "/nowhere"], "Plug-in folder /nowhere is not a folder."),
        (["energy", "--time-limit", "0"], "--time-limit"),
        (["energy", "--time-limit", "inf"], "--time-limit"),
        ([], "NAME|FILE"),
    ):
        done = run("check", *arguments)
        assert done.code == 2, arguments
        assert said in done.err, done.err
        assert done.out == ""


def test_colors_on_a_terminal_only(checks_here: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in checks_here("check", "max_logit").out
