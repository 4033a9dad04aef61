"""A short form of `scripts/robustness/corruptions.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from robustness.corruptions import FAULTS, campaign, damage, table
from robustness.damaged_places import Reading, other_numbers

from oodbench.errors import UserError

PLACES = ("run", "artifact", "checkpoint", "half-trained", "decoded")


def test_random_damage_is_found_or_healed(tmp_path: Path, one_thread: None) -> None:
    results = campaign(tmp_path, PLACES, 10, 3, lambda line: None)
    wrong = [each for each in results if each.outcome in FAULTS]
    assert not wrong, f"{wrong}\n{table(results)}"
    assert {each.outcome for each in results} >= {"found", "healed"}
    assert f"{'run':14}{2:>7}" in table(results)


def test_the_campaign_counts_what_nobody_says(tmp_path: Path) -> None:
    """A number that differs without a word is a fault; one that is said is not."""
    reading = Reading()
    reading.ask("report", lambda: "another report")
    assert reading.outcome == "SILENT"

    def says() -> str:
        raise UserError("the file changed")

    reading = Reading()
    reading.ask("verify", says)
    assert reading.outcome == "found"
    reading.ask("report", lambda: str(1 // 0))
    assert reading.outcome == "CRASH"


@pytest.mark.parametrize(
    ("text", "wrong"), [("mean 0.5625", ""), ("mean 0.5725", "other numbers"), ("none", "other")]
)
def test_numbers_that_a_person_would_read(tmp_path: Path, text: str, wrong: str) -> None:
    for name, content in (("good", "Mean 0.5625"), ("damaged", text)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cost.md").write_text(content, encoding="utf-8")
    found = other_numbers(tmp_path / "damaged", tmp_path / "good")
    assert found.startswith(wrong) and bool(found) == bool(wrong)  # noqa: PT018


def test_damage_is_of_every_kind(tmp_path: Path) -> None:
    draw, kinds = np.random.default_rng(0), set()
    for _ in range(80):
        paths = [tmp_path / "a.json", tmp_path / "b.json"]
        for path, content in zip(paths, (b"1234", b"56789"), strict=True):
            path.write_bytes(content)
        kinds.add(damage(tmp_path, paths, draw).split(": ")[1].split(" ")[0])
        changed = [
            path
            for path in paths
            if not path.exists() or path.read_bytes() not in (b"1234", b"56789")
        ]
        swapped = paths[0].exists() and paths[0].read_bytes() == b"56789"
        assert changed or swapped or "removed" in kinds
    assert kinds == {"flip", "digit", "cut", "removed", "zeros", "append", "swapped"}
