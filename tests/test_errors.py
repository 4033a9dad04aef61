"""Words that errors share."""

from __future__ import annotations

import pytest

from oodbench.errors import counted


@pytest.mark.parametrize(
    ("count", "thing", "text"),
    [
        (1, "method", "1 method"),
        (0, "method", "0 methods"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (1234, "image", "1,234 images"),
        (3, "batch", "3 batches"),
        (2, "epoch", "2 epochs"),
    ],
)
def test_one_of_a_thing_is_not_many(count: int, thing: str, text: str) -> None:
    assert counted(count, thing) == text
