"""Names that files and folders may have."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.specs.names import LONGEST, method_obstacle, obstacle, shortened


@pytest.mark.parametrize(
    "name",
    ["cifar10", "a b", "Zürich", "漢字", "a.b.c", "con1", "nullify", "x" * LONGEST, "CONSOLE"],
)
def test_names_that_are_fine_are_those_of_files(tmp_path: Path, name: str) -> None:
    assert obstacle(name) is None
    assert method_obstacle(name) is None
    (tmp_path / f".writing-{name}-0123456789abcdef-abcdefgh").mkdir()  # the longest there is


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "it is empty"),
        ("a\nb", "not printable"),
        ("a\0", "not printable"),
        ("a\u200bb", "not printable"),
        ("\ud800", "not printable"),
        *((f"a{char}b", f"it has the character {char}") for char in '/\\<>:"|?*'),
        (" a", "begins or ends"),
        ("a ", "begins or ends"),
        ("a.", "begins or ends"),
        ("..", "begins or ends"),
        *((name, "a device on Windows") for name in ("CON", "nul", "Prn.txt", "com1", "LPT9 .x")),
        ("x" * (LONGEST + 1), f"{LONGEST + 1} bytes"),
        ("漢" * 67, "201 bytes"),
    ],
)
def test_names_that_no_file_may_have_everywhere(name: str, why: str) -> None:
    assert why in str(obstacle(name))
    assert method_obstacle(name) is not None


@pytest.mark.parametrize("name", ["a,b", "a;b", ".hidden", "a'b", "a&b", "{a}"])
def test_names_of_methods_are_plainer(name: str) -> None:
    assert obstacle(name) is None
    assert method_obstacle(name) is not None


def test_long_names_are_cut_for_messages() -> None:
    assert shortened("short") == "short"
    assert len(shortened("x" * 300)) == 40
