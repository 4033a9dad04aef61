"""docs/reference/detectors: every detector, parameter and comparison is listed as it is."""

from __future__ import annotations

import difflib
import inspect
import re
import runpy
from pathlib import Path

from documentation.markdown_text import table_below
from helpers.pytorch_ood_cases import CASES, EXCUSED
from helpers.pytorch_ood_peer import INFOS, PEERS, Make, disagreement

import oodbench

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "reference" / "detectors"
PAGE, AGREEMENT, DEVIATIONS_PAGE = (
    FOLDER / f"{name}.md" for name in ("index", "agreement", "deviations")
)
DEVIATIONS = "Where we deviate, and why"

DEFAULTS = (
    ("ash", "percentile", "percentile"),
    ("dice", "p", "p"),
    ("gen", "top_m", "M"),
    ("gram", "powers", "num_poles_list"),
    ("nci", "alpha", "alpha"),
    ("openmax", "tail_size", "tailsize"),
    ("scale", "percentile", "percentile"),
    ("vim", "dim", "d"),
    ("vra", "lower_percentile", "lower_percentile"),
    ("vra", "upper_percentile", "upper_percentile"),
)
"""Our detector, its parameter, theirs: the same thing with another default."""


def section(page: Path, heading: str) -> list[list[str]]:
    """The rows of the table under a heading of a page, cell by cell."""
    return table_below(page.read_text(encoding="utf-8"), heading)[1]


def shown(value: object) -> str:
    """A value of a parameter, as on the page."""
    if value is inspect.Parameter.empty:
        return "required"
    return (
        f"{value:g}"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else str(value)
    )


def code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def test_the_tables_are_made_from_the_declarations() -> None:
    """If it fails: `make detectors-page`."""
    text = PAGE.read_text(encoding="utf-8")
    made = runpy.run_path(str(ROOT / "scripts" / "detectors_page.py"))["updated"](text)
    changes = difflib.unified_diff(text.splitlines(), made.splitlines(), "committed", "made", n=0)
    assert text == made, "\n".join(["run `make detectors-page`", *changes])


def test_every_detector_has_a_row_about_deviations() -> None:
    """Or it stands in the line of those that do not deviate, and not in both."""
    rows = {
        name
        for row in section(DEVIATIONS_PAGE, DEVIATIONS)
        for name in re.findall(r"`(\w+)`", row[0])
    }
    _, _, text = DEVIATIONS_PAGE.read_text(encoding="utf-8").partition(f"## {DEVIATIONS}\n")
    (line,) = (part for part in text.split("\n\n") if part.startswith("No deviation is known of "))
    without = set(re.findall(r"`(\w+)`", line))
    assert INFOS.keys() - rows - without == set()
    assert not rows & without


def test_the_page_lists_every_default_that_differs() -> None:
    expected = []
    for name, ours, theirs in DEFAULTS:
        mine, its = shown(defaults(name)[ours]), shown(defaults(peer_of(name))[theirs])
        assert mine != its
        expected.append([code(name), f"`{ours}` {mine}", f"`{theirs}` {its}"])
    check_rows([row[:3] for row in section(AGREEMENT, "Defaults that differ")], expected)
    for name in {case.ours for case in CASES}:
        mine, its = defaults(name), defaults(peer_of(name))
        its["variant"] = str(its.get("variant")).removeprefix("ash-")  # the same, spelt otherwise
        differing = {shared for shared in mine.keys() & its.keys() if mine[shared] != its[shared]}
        assert differing <= {ours for listed, ours, _ in DEFAULTS if listed == name}, name


def peer_of(name: str) -> str:
    """Their class for one of our detectors; the first that it is compared with."""
    return next(case.theirs for case in CASES if case.ours == name)


def defaults(name: str) -> dict[str, object]:
    """Parameter -> default, of a detector of ours or of theirs."""
    made = PEERS[name] if name in PEERS else type(oodbench.load_detector(name))
    return {key: given.default for key, given in inspect.signature(made).parameters.items()}


def test_the_page_reports_every_comparison(both: Make) -> None:
    worst: dict[tuple[str, ...], float] = {}
    for case in CASES:
        key = (code(case.ours), code(case.theirs), code(case.relation.text), case.settings or "-")
        worst[key] = max(worst.get(key, 0.0), disagreement(*both(case)))
    rows = section(AGREEMENT, "Agreement with pytorch-ood 0.4.0")
    check_rows([row[:4] for row in rows], [list(key) for key in worst])
    for row in rows:
        assert worst[tuple(row[:4])] < 10 * float(row[4]), row


def test_the_page_names_what_is_not_compared() -> None:
    text = AGREEMENT.read_text(encoding="utf-8")
    for name in EXCUSED:
        assert f"`{name}`" in text


def check_rows(found: list[list[str]], expected: list[list[str]]) -> None:
    missing = ["| " + " | ".join(row) + " |" for row in expected if row not in found]
    surplus = ["| " + " | ".join(row) + " |" for row in found if row not in expected]
    difference = "\n".join(["missing rows:", *missing, "surplus rows:", *surplus])
    assert not [*missing, *surplus], f"{FOLDER}\n{difference}"
    assert len(found) == len(expected), "a row is there twice"
