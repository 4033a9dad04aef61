"""The code blocks of README, CONTRIBUTING and docs: which there are, and how each is run.

Comments above a block, which readers do not see, say what is special about it:

    <!-- skip: next "REASON" -->     it is not run
    <!-- slow: next -->              it is run by `make test-full` alone
    <!-- prepare: NAME NAME -->      what has to be there for the blocks below (`helpers.prepared`)
    <!-- output -->                  a text block has what the last command printed

Blocks of one page are run in order, with one namespace and one working directory. A block of YAML,
TOML or Python that begins with a comment with a path is the text of that file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.abstract.skip import AbstractSkipParser
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, FencedCodeBlockLexer

from helpers import prepared
from helpers.page_commands import Ran, command_lines, oodbench_arguments, run_line
from helpers.shown_output import difference

ROOT = Path(__file__).parents[2]
LANGUAGES = {"python", "bash", "console", "yaml", "toml", "json", "text"}
"""Languages of blocks; commands are in `bash`, or in `console` behind `$ ` with their output."""

OUTPUT = re.compile(r"^<!-- output -->\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)

_WRITTEN_BY_OODBENCH = "leaderboard.md"
_FILE = re.compile(r"# ([\w./-]+\.(?:yaml|toml|py))\n")
_COMMANDS = ("bash", "console")


def documents() -> list[Path]:
    """Every page that people read, apart from reports of runs."""
    pages = (ROOT / "docs").rglob("*.md")
    kept = sorted(page for page in pages if page.name != _WRITTEN_BY_OODBENCH)
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *kept]


def name_of(document: Path) -> str:
    """The path of a page in the repository."""
    return document.relative_to(ROOT).as_posix()


class _SlowParser(AbstractSkipParser):
    directive = "slow"

    def __init__(self) -> None:
        super().__init__([DirectiveInHTMLCommentLexer("slow")])


class _Page:
    """Runs the blocks of a page.

    Args:
        full: whether slow blocks are run, and commands as they are written.
    """

    def __init__(self, full: bool) -> None:
        self.full = full
        self.last: Ran | None = None

    def prepared(self, document: Document) -> Iterator[Region]:
        """Comments that name what the blocks below need."""
        for found in DirectiveInHTMLCommentLexer("prepare")(document):
            yield Region(found.start, found.end, found.lexemes["arguments"], self._prepare)

    def output(self, document: Document) -> Iterator[Region]:
        """Blocks with what the last command printed."""
        for found in OUTPUT.finditer(document.text):
            yield Region(found.start(), found.end(), found[1], self._compare)

    def run(self, example: Example) -> None:
        """Run a block of commands."""
        for line in command_lines(example.parsed, console=False):
            self.last = run_line(line, full=self.full) or self.last

    def run_console(self, example: Example) -> None:
        """Run each command of a block, and compare what is shown below it."""
        for part in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            self.last = run_line(line, full=self.full)
            self._check(shown)

    def _prepare(self, example: Example) -> None:
        for name in example.parsed.split():
            prepared.PREPARED[name](example.namespace, self.full)

    def _compare(self, example: Example) -> None:
        self._check(example.parsed)

    def _check(self, shown: str) -> None:
        if not shown.strip():
            return
        assert self.last is not None, "no command was run"
        assert self.last.as_written, "the command was shortened: write <!-- slow: next --> above"
        line = difference(shown, self.last.printed)
        assert not line, f"The command does not print {line!r} here:\n{self.last.printed[-6000:]}"


def blocks(document: Path, *, full: bool) -> Iterator[Example]:
    """The blocks of a page in order, with the comments that are about them.

    Args:
        document: the page.
        full: whether slow blocks are run, and commands as they are written.
    """
    page, python = _Page(full), PythonEvaluator()

    def run_python(example: Example) -> None:
        if not _written(example.parsed):
            python(example)

    parsers: list[Callable[[Document], Any]] = [
        CodeBlockParser("python", run_python),
        CodeBlockParser("bash", page.run),
        CodeBlockParser("console", page.run_console),
        CodeBlockParser("yaml", lambda example: _check_yaml(example.parsed)),
        CodeBlockParser("toml", lambda example: _check_toml(example.parsed)),
        SkipParser(),
        page.prepared,
        page.output,
    ]
    if not full:
        parsers.append(_SlowParser())
    return iter(Sybil(parsers=parsers).parse(document))


def oodbench_commands(document: Path) -> Iterator[list[str]]:
    """Arguments of every `oodbench` command in blocks of commands, those that are skipped too."""
    for line in page_lines(document):
        if arguments := oodbench_arguments(line):
            yield arguments


def page_lines(document: Path) -> Iterator[str]:
    """Every command of the blocks of a page, those that are skipped too."""
    text = Document(document.read_text(encoding="utf-8"), str(document))
    for language in _COMMANDS:
        for region in FencedCodeBlockLexer(language)(text):
            yield from command_lines(region.lexemes["source"], console=language == "console")


def _written(text: str) -> bool:
    """Write a block that is a file; whether it is one."""
    found = _FILE.match(text)
    if found is None:
        return False
    Path(found[1]).parent.mkdir(parents=True, exist_ok=True)
    Path(found[1]).write_text(text, encoding="utf-8")
    return True


def _check_toml(text: str) -> None:
    tomllib.loads(text)
    _written(text)


def _check_yaml(text: str) -> None:
    """Keys and types of a file or of a part of it are those of one of the kinds of files."""
    _written(text)
    values = yaml.safe_load(text)
    if values is None:
        return
    problems = {}
    for path in sorted((ROOT / "docs" / "schemas").glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        for whole in ("required", "anyOf", "oneOf"):
            schema.pop(whole, None)
        errors = [each.message for each in Draft202012Validator(schema).iter_errors(values)]
        if not errors:
            return
        problems[path.name.partition(".")[0]] = errors[0]
    raise AssertionError(f"The block is of no kind of file: {problems}")
