"""Commands that pages show exist: options, benchmarks, methods, files, targets, extras.

This is checked of all commands, also of those in blocks that are not run and in sentences.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers.commands import Command
from helpers.documents import ROOT, documents, name_of, oodbench_commands, page_lines
from helpers.page_commands import command_lines, oodbench_arguments

from oodbench.cli.main import app
from oodbench.plugins.catalog import Catalog

DOCUMENTS = documents()
PLACEHOLDER = re.compile(r"[A-Z]{1,10}|[A-Z]+_[A-Z]+")
"""A word in capitals stands for one of the reader's."""


@cache
def whole_command() -> Any:
    return typer.main.get_command(app)


def parse(arguments: list[str]) -> None:
    """Parse a command as the command line does; nothing is run."""
    command, name = whole_command(), ""
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)


def sentences(document: Path) -> str:
    """The text of a page without its blocks."""
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def inline_commands(document: Path) -> Iterator[list[str]]:
    """Arguments of commands in sentences; numbers in the place of those that letters stand for."""
    for found in re.findall(r"`(oodbench [a-z][^`]*)`", sentences(document)):
        line = " ".join(found.split())
        if not re.search(r"\.\.\.|[|\[]", line):
            yield ["1" if word in ("K", "N") else word for word in oodbench_arguments(line)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_have_their_options(document: Path) -> None:
    """A sentence may leave out what a command needs, as in `oodbench list`."""
    whole = [
        [re.sub(r"^\$\w+$", "1", word) for word in words] for words in oodbench_commands(document)
    ]
    for arguments in (*whole, *inline_commands(document)):
        try:
            parse([*arguments])
        except Exception as error:
            if type(error).__name__ != "MissingParameter" or arguments in whole:
                raise AssertionError(f"oodbench {' '.join(arguments)}: {error}") from error


def test_commands_are_found() -> None:
    bash = "# first\noodbench run \\\n    digits  # exit code 3\n\nmake test\n"
    assert command_lines(bash, console=False) == ["oodbench run digits  # exit code 3", "make test"]
    assert command_lines("$ oodbench run\nrank 1\n", console=True) == ["oodbench run"]
    assert oodbench_arguments("torchrun -m oodbench train digits  # x") == ["train", "digits"]
    assert oodbench_arguments("sbatch --wrap 'oodbench train digits'") == ["train", "digits"]
    assert oodbench_arguments("pip install 'oodbench[onnx]'") == []
    with pytest.raises(Exception, match="No such option: --no-such"):
        parse(["run", "--no-such"])


def plan_of(arguments: list[str]) -> tuple[str, ...]:
    """The command that shows the plan of a run, without what needs other machines."""
    kept, words = ["run"], iter(arguments[1:])
    for word in words:
        if word in ("--executor", "--address", "--submitit-option", "--out"):
            next(words)
        elif word not in ("--resume", "--dry-run"):
            kept.append(word)
    return (*kept, "--dry-run")


def skipped_runs() -> list[tuple[str, ...]]:
    """Plans of the benchmarks that skipped blocks run."""
    found: dict[tuple[str, ...], None] = {}
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for block in re.findall(
            r"^<!-- skip: next [^\n]*\n```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL
        ):
            for line in command_lines(block, console=False):
                arguments = oodbench_arguments(line)
                if arguments[:1] == ["run"]:
                    found[plan_of(arguments)] = None
    return list(found)


@pytest.mark.full
@pytest.mark.parametrize("arguments", skipped_runs(), ids=" ".join)
def test_runs_that_are_skipped_have_a_plan(
    arguments: tuple[str, ...], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    done = command(*arguments)
    assert done.code == 0, done.err


def test_names_in_commands_exist() -> None:
    """Benchmarks, models of `train`, data sets, and what is listed."""
    catalog = Catalog([ROOT / "examples" / "cifar10-folders"])
    known = {name for kind in ("benchmark", "dataset") for name in catalog.entries[kind]}
    seen = set()
    for document in DOCUMENTS:
        for arguments in (*oodbench_commands(document), *inline_commands(document)):
            if arguments[0] == "data" and len(arguments) > 2:
                names = [arguments[2]]
            elif arguments[0] in ("run", "train") and len(arguments) > 1:
                names = [arguments[1]]
            else:
                continue
            for name in names:
                if name.startswith("-") or PLACEHOLDER.fullmatch(name) or name.endswith(".yaml"):
                    continue
                seen.add(name)
                assert name in known | {"evaluation"}, f"{name_of(document)}: {name}"
                if arguments[0] == "train" and "--model" in arguments:
                    model = arguments[arguments.index("--model") + 1]
                    assert model in catalog.benchmark(name).models, f"{name_of(document)}: {model}"
    assert {"digits", "openood-imagenet", "dismax-paper"} <= seen


def test_files_that_pages_name_exist() -> None:
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()} - {".github", "runs", "build"}
    named = re.compile(rf"(?:^|[`\s])((?:{'|'.join(map(re.escape, sorted(tops)))})/[\w./-]+[\w/])")
    found: set[str] = set()
    for document in DOCUMENTS:
        for span in (*re.findall(r"`([^`]*)`", sentences(document)), *page_lines(document)):
            for name in named.findall(span):
                if not re.search(r"<|NAME|\*", span):
                    found.add(name)
                    assert (ROOT / name).exists(), f"{name_of(document)}: {name}"
    assert "scripts/scale/simulate.py" in found


def test_targets_and_extras_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {*re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    seen = set()
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        lines = "\n".join((*page_lines(document), *re.findall(r"`([^`\n]*)`", text)))
        for target in re.findall(r"^make ([a-z-]+)", lines, re.MULTILINE):
            assert target in targets, f"{name_of(document)}: make {target}"
            seen.add(target)
        for extra in re.findall(r"(?:oodbench|'\.)\[(\w+)\]", lines):
            assert extra in project["optional-dependencies"], f"{name_of(document)}: [{extra}]"
            seen.add(extra)
    assert {"test", "docs", "onnx", "ray", "dev"} <= seen
