"""Text broken into lines, without splitting numbers."""

from __future__ import annotations

import pytest

from oodbench.report.writers.wrapping import longest_number, longest_piece, wrap


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("1,000 of 1e-4", 6, ["1,000", "of", "1e-4"]),
        ("SoftMax+Mahalanobis", 12, ["SoftMax+", "Mahalanobis"]),
        ("one two three", 7, ["one two", "three"]),
        ("names; --resume adds", 9, ["names;", "--resume", "adds"]),
        ("--shard-images", 8, ["--shard-", "images"]),
        ("GMM, SoftMax+MDS++, KNN", 13, ["GMM, SoftMax+", "MDS++, KNN"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("", 5, [""]),
        ("fits", 4, ["fits"]),
        ("SoftMax 98.4 %.", 13, ["SoftMax", "98.4 %."]),
    ],
)
def test_wrap(text: str, width: int, lines: list[str]) -> None:
    assert wrap(text, width) == lines


@pytest.mark.parametrize("width", [1, 0, -5])
@pytest.mark.parametrize("text", ["ab c", "vim: 1,000 images", "", " "])
def test_wrap_ends_at_any_width(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert max(map(len, lines)) <= 1
    assert "".join(lines) == text.replace(" ", "")


def test_longest_number() -> None:
    assert longest_number("one 1,000.5, x") == len("1,000.5,")
    assert longest_number("none-of-them") == 0


def test_longest_piece() -> None:
    assert longest_piece("SoftMax+Mahalanobis (x)") == len("Mahalanobis")
    assert longest_piece("") == 0
