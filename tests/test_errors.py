"""Words that errors share."""

from __future__ import annotations

import numpy as np
import pytest

from oodbench.errors import UserError, counted, did_you_mean, kind_of, visible


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


MANY = [f"name-{number}" for number in range(180)]


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("entrpy", ["entropy", *MANY], "Did you mean 'entropy'?"),
        ("xyz", ["b", "a"], "Known: a, b."),
        ("xyz", [], "None are known."),
        ("xyz", MANY, "See the list."),
    ],
)
def test_a_hint_never_lists_everything(name: str, known: list[str], said: str) -> None:
    assert did_you_mean(name, known, "See the list.") == said


def test_without_a_place_to_look_a_hint_names_a_few() -> None:
    hint = did_you_mean("xyz", MANY)
    assert hint.startswith("Known: name-0, name-1, ")
    assert hint.endswith(" and 173 more.")
    assert len(hint) < 120


def test_messages_are_cut_and_other_texts_are_not() -> None:
    text = "begin " + "x" * 100_000 + " end"
    assert visible(text) == text
    error = UserError(text, text)
    for said in (error.message, error.hint):
        assert len(said) < 2000
        assert said.startswith("begin")
        assert said.endswith("end")


class LSTM:
    """A type whose name is spelled out when it is spoken."""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "an int"),
        ("a", "a str"),
        (np.zeros(2), "an ndarray"),
        (LSTM(), "an LSTM"),
        (None, "None"),
        ({}, "a dict"),
    ],
)
def test_types_have_their_article(value: object, said: str) -> None:
    assert kind_of(value) == said
