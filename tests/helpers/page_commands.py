"""The commands of a block: which are run, how, and what they print.

`oodbench` and scripts of Python run in the process of the test. Without `make test-full`, a
benchmark is run with few images, methods and epochs (`QUICK`, `FEW`).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import oodbench
from helpers.commands import captured

QUICK = {"--limit": 60, "--epochs": 1, "--seeds": 1}
"""How a benchmark is run for blocks that are not slow."""

FEW = "SoftMax+MSP,SoftMax+Energy,SoftMax+KNN,SoftMax+ViM,DisMax+Entropy"
"""Methods that it then has beside those of plug-ins, if none are named, or all."""

ELSEWHERE = ("make", "pip", "pytest", "python3", "torchrun", "uv", ".venv/bin/pre-commit")
"""Commands that no block runs: they install, start the tests, or start several processes."""

_SHELL = ("echo", "git", "head")
_OODBENCH = ("oodbench ", ".venv/bin/oodbench ")
_IDENTITY = {
    f"GIT_{who}_{what}": "somebody" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
} | {"GIT_CONFIG_GLOBAL": os.devnull}


@dataclass(frozen=True)
class Ran:
    """What a command printed, in the order of writing; whether it was run as it is written."""

    printed: str
    as_written: bool


def command_lines(text: str, *, console: bool) -> list[str]:
    """The commands of a block, each on one line with its comment."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (line.strip() for line in joined.splitlines())
    if console:
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]


def oodbench_arguments(line: str) -> list[str]:
    """Arguments of the `oodbench` command of a line, such as that of `torchrun`; none: empty."""
    found = re.search(r"(?:^|\s|'|\.venv/bin/)oodbench ((?:[a-z-]).*)", line)
    if found is None or re.match(r"(?:pip|echo|git) ", line):
        return []
    text = found[1].rstrip("'") if found[0].startswith("'") else found[1]
    return words_of(text)[0]


def run_line(line: str, *, full: bool) -> Ran | None:
    """Run a line; "exit code 1" in a comment allows that code. None if it is run elsewhere."""
    words, target, mode = _redirected(line)
    as_written = True
    if f"{words[0]} " in _OODBENCH:
        arguments = _with_paths(words[1:])
        changed = arguments if full else _quick(arguments)
        as_written = changed == arguments
        done = captured(*changed)
        code, out, said = done.code, done.out, done.said
    elif words[0] == "python":
        code, out = _script(words[1:])
        said = out
    elif words[0] == "export":
        os.environ.update(word.split("=", 1) for word in words[1:])
        return None
    elif words[0] in _SHELL:
        ended = subprocess.run(
            words, capture_output=True, text=True, check=False, env=os.environ | _IDENTITY
        )
        code, out, said = ended.returncode, ended.stdout, ended.stdout + ended.stderr
    else:
        assert words[0] in ELSEWHERE, f"{line}\nThe test cannot run this; skip the block."
        return None
    allowed = {0, *map(int, re.findall(r"exit code (\d)", line.partition(" #")[2]))}
    assert code in allowed, f"{line}\nexit code {code}\n{said[-4000:]}"
    if target:
        with Path(target).open(mode, encoding="utf-8") as file:
            file.write(out)
    return Ran(said, as_written)


def _script(words: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a script."""
    out, code = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", [*words])
        patch.syspath_prepend(str(Path(words[0]).resolve().parent))
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    return code, out.getvalue()


def words_of(line: str) -> tuple[list[str], str | None]:
    """Words of a command, and the file that its output goes to."""
    words, target, _ = _redirected(line)
    return words, target


def _redirected(line: str) -> tuple[list[str], str | None, str]:
    """Words of a command, the file that its output goes to, and how that is opened."""
    words = shlex.split(line, comments=True)
    assert not {"|", "||", "&&", ";"} & {*words} or words[0] in ELSEWHERE, (
        f"{line}\nWrite one command on a line."
    )
    for sign, mode in ((">", "w"), (">>", "a")):
        if sign in words:
            index = words.index(sign)
            return words[:index], words[index + 1], mode
    return words, None, "w"


def _with_paths(words: Sequence[str]) -> list[str]:
    """Words in which patterns are replaced by the files that they are for, as a shell does."""
    found: list[str] = []
    for word in words:
        found += sorted(map(str, Path().glob(word))) if "*" in word else [word]
    return found


def _quick(arguments: Sequence[str]) -> list[str]:
    """A command with few images, epochs and seeds, if it runs a benchmark."""
    if arguments[0] != "run" or "--dry-run" in arguments:
        return [*arguments]
    words = [*arguments]
    for option, value in QUICK.items():
        if option in words:
            words[words.index(option) + 1] = str(value)
        else:
            words += [option, str(value)]
    few = ",".join([FEW, *_detectors_of(words)])
    if "--methods" in words:
        place = words.index("--methods") + 1
        words[place] = few if words[place] == "all" else words[place]
    elif words[1] == "digits" or words[1].startswith("--"):
        words += ["--methods", few]
    return words


def _detectors_of(words: Sequence[str]) -> list[str]:
    """The detectors of the plug-in folders of a command, which run without being named."""
    folders = [Path(path) for word, path in pairwise(words) if word == "--plugins"]
    return [file.stem for folder in folders for file in folder.glob("detectors/[a-z]*.py")]


def quick_run(benchmark: str | Path = "digits", **options: Any) -> Any:
    """`oodbench.run`, likewise."""
    few = {} if benchmark != "digits" or "plugins" in options else {"methods": FEW.split(",")}
    quick = {name.removeprefix("--"): value for name, value in QUICK.items()}
    return _RUN(benchmark, **few | options | quick)


_RUN = oodbench.run
