"""The command `oodbench`, run in this process or in a process of its own."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from oodbench.cli import main as cli


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code and what it wrote; `said` is both, in order."""

    code: int
    out: str
    err: str
    said: str = ""


class _Stream(io.StringIO):
    """A stream whose text another one has, too."""

    def __init__(self, both: io.StringIO) -> None:
        super().__init__()
        self.both = both

    def write(self, text: str) -> int:
        self.both.write(text)
        return super().write(text)


Command = Callable[..., Done]


def command_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs the command in this process."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["oodbench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        logging.getLogger().handlers.clear()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int), f"exit code {ended.value.code!r}"
        return Done(ended.value.code, said.out, said.err)

    return run


def captured(*arguments: str | Path, **environment: str) -> Done:
    """Runs the command in this process, for fixtures that several tests share."""
    both = io.StringIO()
    out, err = _Stream(both), _Stream(both)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["oodbench", *map(str, arguments)])
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        logging.getLogger().handlers.clear()
    assert isinstance(ended.value.code, int), f"exit code {ended.value.code!r}"
    return Done(ended.value.code, out.getvalue(), err.getvalue(), both.getvalue())


def process(*arguments: str | Path, **environment: str) -> Done:
    """Runs the command in a process of its own, with these variables beside the environment's."""
    done = subprocess.run(
        [sys.executable, "-m", "oodbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Starts the command in a process of its own whose standard error can be read.

    Args:
        arguments: of the command.
        options: of `subprocess.Popen`.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "oodbench", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
