"""Code blocks of README, CONTRIBUTING and docs: they run, or say why not (`helpers.documents`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
from helpers.documents import (
    LANGUAGES,
    OUTPUT,
    ROOT,
    blocks,
    documents,
    name_of,
)
from helpers.finished_run import few_repetitions
from helpers.page_commands import quick_run
from helpers.shown_output import difference

import oodbench

DOCUMENTS = documents()
SLOW = [each for each in DOCUMENTS if "\n<!-- slow: " in each.read_text("utf-8")]
DRAWN = {ROOT / "docs" / "explanation" / "architecture.md"}
"""Pages with a drawing of text."""
COMMENT = re.compile(r" (?:slow: next|prepare: [\w ]+|skip: .*|generated: \w+|[A-Z].*) -->")
"""A comment of a page, but for those right above an output; one with a capital is for writers."""
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
    before = dict(os.environ)
    with few_repetitions():
        yield tmp_path
    os.environ.clear()
    os.environ.update(before)


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
    """What the commands wrote; in Python, of noise and an untrained network, the data are read."""
    result = names["result"]
    counts = {name: len(scores) for name, scores in result.scores["energy"].items()}
    assert counts == {"id": 8, "birds": 6, "textures": 5}
    assert "id_data" not in str(result.failed)
    assert not result.skipped
    (accuracy,) = {
        record.value
        for record in oodbench.open_run("runs/mine").records
        if record.metric == "id_accuracy"
    }
    assert accuracy is not None
    assert accuracy > 0.9
    assert len(Path("decisions.csv").read_text("utf-8").splitlines()) == 1 + 354 + 73


AFTERWARDS = {"docs/tutorials/your-model.md": check_evaluation}
"""Page -> what holds after its blocks."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_blocks_run(document: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oodbench.api.run", quick_run)
    names = run_blocks(document, full=False)
    if check := AFTERWARDS.get(name_of(document)):
        check(names)


@pytest.mark.full
@pytest.mark.parametrize("document", SLOW, ids=name_of)
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
    for comment in re.findall(r"^ *<!--(.*)", OUTPUT.sub("", text), re.MULTILINE):
        assert COMMENT.fullmatch(comment), f"it says nothing about a block: {comment}"
    for block in re.findall(r"^ *```console\n(.*)", text, re.MULTILINE):
        assert block.lstrip().startswith("$ "), f"no command, so nothing would be compared: {block}"
    for block in re.findall(r"^```text\n(.*?)^```", OUTPUT.sub("", text), re.MULTILINE | re.DOTALL):
        assert not re.search(r"^(?:\$ )?oodbench [a-z]", block, re.MULTILINE), (
            "commands are in blocks of the language bash or console"
        )
        assert "───" not in block or document in DRAWN, "write <!-- output --> above an output"


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


def test_a_block_that_is_a_file_is_written(workplace: Path) -> None:
    text = "```yaml\n# some/one.yaml\nextends: digits\nname: one\n```\n"
    for block in blocks(write_page(workplace, text), full=False):
        block.evaluate()
    assert (workplace / "some" / "one.yaml").read_text().endswith("name: one\n")
    wrong = write_page(workplace, "```yaml\nmodels: {A: {netwerk: resnet8}}\n```\n")
    with pytest.raises(AssertionError, match=r"of no kind of file.*netwerk"):
        [block.evaluate() for block in blocks(wrong, full=False)]


PRINTED = """\
Benchmark digits

              Tuned
 # Method         on    AUROC
─────────────────────────────
 1 SoftMax+MSP    -    87.9*
 2 SoftMax+ODIN   FGSM 87.0=

Note: 7 more.
"""


@pytest.mark.parametrize(
    ("shown", "missing"),
    [
        (PRINTED, ""),
        (PRINTED.replace("87.9*", "9.1").replace("─" * 29, "───"), ""),
        (PRINTED.replace("MSP ", "GEN "), "SoftMax+GEN"),
        (PRINTED.replace("Note: 7", "Notes: 7"), "Notes: 0 more."),
        (PRINTED.replace("on    AUROC", "AUROC on"), ""),
        (PRINTED.replace("on    AUROC", "FPR95"), " ... # ... FPR95 ... Method ... Tuned ... "),
        ("Benchmark ...\n...\nNote: ... more.\n", ""),
        ("...\n 1 SoftMax+ODIN FGSM 1\n", "0 SoftMax+ODIN FGSM 0"),
        ("───\n 1 SoftMax+ODIN FGSM 1\n 2 SoftMax+MSP - 1\n", ""),
        ("───\n 1 SoftMax+ODIN FGSM 1\n...\n", ""),
        ("Benchmark digits\nNote: 7 more.\n", "Note: 0 more."),
    ],
)
def test_shown_output_is_compared_but_for_its_numbers(shown: str, missing: str) -> None:
    assert difference(shown, PRINTED) == missing


def test_an_output_is_that_of_the_last_command(workplace: Path) -> None:
    text = "```bash\noodbench list models resnet8\n```\n\n<!-- output -->\n```text\n{}\n```\n"
    [
        b.evaluate()
        for b in blocks(write_page(workplace, text.format("resnet8\n  title ...")), full=False)
    ]
    with pytest.raises(AssertionError, match="does not print 'resnet9'"):
        [b.evaluate() for b in blocks(write_page(workplace, text.format("resnet9")), full=False)]
