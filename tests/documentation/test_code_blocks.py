"""Code blocks of README, CONTRIBUTING and docs: they run, or say why not (`helpers.documents`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
import typer
from helpers.documents import (
    LANGUAGES,
    ROOT,
    blocks,
    command_lines,
    documents,
    name_of,
    oodbench_commands,
    quick_run,
)
from helpers.finished_run import few_repetitions

from oodbench.cli.main import app

DOCUMENTS = documents()
SLOW = [each for each in DOCUMENTS if "\n<!-- slow: " in each.read_text("utf-8")]
IN_PLACE = ("docs", "examples", "scripts", "detectors", "benchmarks", ".ci")
"""Folders of the repository that commands may read."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def workplace(
    tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The working directory of the blocks of one page."""
    for name in IN_PLACE:
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OODBENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with few_repetitions():
        yield tmp_path


def run_blocks(document: Path, *, full: bool) -> dict[str, Any]:
    """Run the blocks of a page in order; an error names the line of the block.

    Returns:
        The names that the blocks define.
    """
    names: dict[str, Any] = {}
    for block in blocks(document, full=full):
        names = block.namespace
        try:
            block.evaluate()
        except SkipTest:
            continue
        except Exception as error:
            raise AssertionError(f"{name_of(document)}:{block.line}: {error}") from error
    return names


def check_evaluation(names: dict[str, Any]) -> None:
    """Of noise and a network that was not trained, not all can be fitted; the data are read."""
    result = names["result"]
    counts = {name: len(scores) for name, scores in result.scores["energy"].items()}
    assert counts == {"id": 8, "birds": 6, "textures": 5}
    assert "id_data" not in str(result.failed)
    assert not result.skipped


AFTERWARDS = {"docs/tutorials/your-model.md": check_evaluation}
"""Page -> what holds after its blocks."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_blocks_run(document: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oodbench.api.run", quick_run)
    names = run_blocks(document, full=False)
    if check := AFTERWARDS.get(name_of(document)):
        check(names)


@pytest.mark.full
@pytest.mark.parametrize(
    "document",
    [each for each in DOCUMENTS if "\n<!-- slow: " in each.read_text("utf-8")],
    ids=name_of,
)
def test_all_blocks_run_as_they_are_written(document: Path, workplace: Path) -> None:
    run_blocks(document, full=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_blocks_have_a_language_and_skips_a_reason(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    languages = re.findall(r"^ *```+(.*)$", text, re.MULTILINE)[::2]
    assert {*languages} <= LANGUAGES, "write a language, such as text, behind the ```"
    for comment in re.findall(r"^ *(<!-- *skip:.*)", text, re.MULTILINE):
        assert re.fullmatch(
            r'<!-- skip: (?:next|start) "[^"]{10,}" -->|<!-- skip: end -->', comment
        )
    for block in re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        assert not re.search(r"^(?:\$ )?oodbench [a-z]", block, re.MULTILINE), (
            "commands are in blocks of the language bash or console"
        )


def parse(arguments: list[str]) -> None:
    """Parse a command as the command line does; nothing is run."""
    command: Any = typer.main.get_command(app)
    name = ""
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_have_their_options(document: Path) -> None:
    """Of all blocks, those that are not run too."""
    for arguments in oodbench_commands(document):
        try:
            parse([*arguments])
        except Exception as error:
            raise AssertionError(f"oodbench {' '.join(arguments)}: {error}") from error


def test_commands_are_found_in_blocks() -> None:
    bash = "# first\noodbench run \\\n    digits  # exit code 3\n\nmake test\n"
    assert command_lines(bash, console=False) == ["oodbench run digits  # exit code 3", "make test"]
    assert command_lines("$ oodbench run\nrank 1\n", console=True) == ["oodbench run"]
    with pytest.raises(Exception, match="No such option: --no-such"):
        parse(["run", "--no-such"])


def write_page(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text)
    return page


def test_a_wrong_block_fails_and_a_skipped_one_does_not(workplace: Path) -> None:
    python = "```python\nassert 1 == 2\n```\n"
    page = write_page(workplace, python)
    with pytest.raises(AssertionError):
        [block.evaluate() for block in blocks(page, full=False)]
    page = write_page(workplace, f'<!-- skip: next "for a test of this" -->\n\n{python}')
    with pytest.raises(SkipTest, match="for a test of this"):
        [block.evaluate() for block in blocks(page, full=False)]
    slow = write_page(workplace, f"<!-- slow: next -->\n{python}")
    [block.evaluate() for block in blocks(slow, full=False)]
    with pytest.raises(AssertionError):
        [block.evaluate() for block in blocks(slow, full=True)]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("oodbench report no-such-run", "exit code 2"),
        ("oodbench list detectors && oodbench list models", "one command"),
    ],
)
def test_a_command_that_fails_is_found(workplace: Path, command: str, said: str) -> None:
    page = write_page(workplace, f"```bash\n{command}\n```\n")
    with pytest.raises(AssertionError, match=said):
        [block.evaluate() for block in blocks(page, full=False)]


def test_a_block_gets_what_is_prepared(workplace: Path) -> None:
    text = "<!-- prepare: scores -->\n```python\nshare = len(id_scores) / len(ood_scores)\n```\n"
    found = [*blocks(write_page(workplace, text), full=False)]
    for block in found:
        block.evaluate()
    assert found[-1].namespace["share"] == pytest.approx(200 / 150)
