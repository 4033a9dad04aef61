"""The code blocks of README, CONTRIBUTING and docs: which there are, and how each is run.

Comments above a block, which readers do not see, say what is special about it:

    <!-- skip: next "REASON" -->     it is not run
    <!-- slow: next -->              it is run by `make test-full` alone
    <!-- prepare: NAME NAME -->      what has to be there for the blocks below (`helpers.prepared`)

Blocks of one page are run in order, with one namespace and one working directory. Without
`make test-full`, a benchmark is run with few images, methods and epochs (`QUICK`, `FEW`).
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from sybil import Document, Example, Region, Sybil
from sybil.parsers.abstract.skip import AbstractSkipParser
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, FencedCodeBlockLexer

import oodbench
from helpers import prepared
from helpers.commands import captured

ROOT = Path(__file__).parents[2]
LANGUAGES = {"python", "bash", "console", "yaml", "toml", "json", "text"}
"""Languages of blocks; commands are in `bash`, or in `console` behind `$ ` with their output."""

QUICK = {"--limit": 60, "--epochs": 1, "--seeds": 1}
"""How a benchmark is run for blocks that are not slow."""

FEW = "SoftMax+MSP,SoftMax+Energy,SoftMax+KNN,SoftMax+ViM,DisMax+Entropy"
"""Methods that it then has beside those of plug-ins, if none are named, or all."""

_WRITTEN_BY_OODBENCH = "leaderboard.md"


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


class _PrepareParser:
    """Comments that name what the blocks below need."""

    def __init__(self, full: bool) -> None:
        self.full = full

    def __call__(self, document: Document) -> Iterator[Region]:
        for found in DirectiveInHTMLCommentLexer("prepare")(document):
            yield Region(found.start, found.end, found.lexemes["arguments"], self._evaluate)

    def _evaluate(self, example: Example) -> None:
        for name in example.parsed.split():
            prepared.PREPARED[name](example.namespace, self.full)


def blocks(document: Path, *, full: bool) -> Iterator[Example]:
    """The blocks of a page in order, with the comments that are about them.

    Args:
        document: the page.
        full: whether slow blocks are run, and commands as they are written.
    """

    def commands_of(language: str) -> Callable[[Example], None]:
        def run_commands(example: Example) -> None:
            for line in command_lines(example.parsed, console=language == "console"):
                run_line(line, full=full)

        return run_commands

    parsers: list[Callable[[Document], Any]] = [
        PythonCodeBlockParser(),
        *(CodeBlockParser(language, commands_of(language)) for language in ("bash", "console")),
        CodeBlockParser("yaml", lambda example: yaml.safe_load(example.parsed) and None),
        CodeBlockParser("toml", lambda example: tomllib.loads(example.parsed) and None),
        SkipParser(),
        _PrepareParser(full),
    ]
    if not full:
        parsers.append(_SlowParser())
    return iter(Sybil(parsers=parsers).parse(document))


def command_lines(text: str, *, console: bool) -> list[str]:
    """The commands of a block, each on one line with its comment."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (line.strip() for line in joined.splitlines())
    if console:
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]


def oodbench_commands(document: Path) -> Iterator[list[str]]:
    """Arguments of every `oodbench` command in blocks of commands, those that are skipped too."""
    text = Document(document.read_text(encoding="utf-8"), str(document))
    for language in ("bash", "console"):
        for region in FencedCodeBlockLexer(language)(text):
            for line in command_lines(region.lexemes["source"], console=language == "console"):
                if line.startswith("oodbench "):
                    yield _words(line)[0][1:]


def run_line(line: str, *, full: bool) -> None:
    """Run a line if it is an `oodbench` command; "exit code 1" in a comment allows that code."""
    if not line.startswith("oodbench "):
        return
    words, target = _words(line)
    arguments = _with_paths(words[1:])
    arguments = arguments if full else _quick(arguments)
    done = captured(*arguments)
    allowed = {0, *map(int, re.findall(r"exit code (\d)", line.partition(" #")[2]))}
    said = f"{' '.join(arguments)}\nexit code {done.code}\n{done.out[-2000:]}\n{done.err[-2000:]}"
    assert done.code in allowed, said
    if target:
        Path(target).write_text(done.out, encoding="utf-8")


def _words(line: str) -> tuple[list[str], str | None]:
    """Words of a command, and the file that its output goes to."""
    words = shlex.split(line, comments=True)
    assert not {"|", "||", "&&", ";"} & {*words}, f"{line}\nWrite one command on a line."
    if ">" in words:
        index = words.index(">")
        return words[:index], words[index + 1]
    return words, None


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
