"""What is said of a split that is not as its manifest says."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.built_in_sets import (
    COUNTS,
    changed,
    manifest,
)

from oodbench.data import ImageArray, load_split
from oodbench.data import builtin as builtin_module
from oodbench.data.builtin import BUILDERS
from oodbench.data.builtin.letters import rendered_letters
from oodbench.data.builtin.sklearn_files import sklearn_file
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec


def fake(monkeypatch: pytest.MonkeyPatch, data: ImageArray) -> None:
    """Let the builder of the digits return `data`."""
    monkeypatch.setattr(
        "oodbench.data.splits.BUILDERS", {**BUILDERS, "sklearn_digits": lambda split: data}
    )


def message_of(spec: DatasetSpec, split: str = "test") -> str:
    with pytest.raises(UserError) as caught:
        load_split(spec, split)
    return str(caught.value)


def test_unknown_split() -> None:
    assert message_of(manifest("letters"), "train") == (
        "data set 'letters' has no split 'train'\nIt has: validation, test."
    )


def test_unknown_builder() -> None:
    assert message_of(changed("digits", builder="sklearn_digit")) == (
        "data set 'digits': there is no builder 'sklearn_digit'\nDid you mean 'sklearn_digits'?"
    )


def test_unknown_option() -> None:
    assert message_of(changed("digits", options={"clases": [1], "sead": 0})) == (
        "data set 'digits': builder 'sklearn_digits' takes no option 'clases', 'sead'\n"
        "Did you mean 'classes'?"
    )


def test_an_old_name_of_an_option_gets_the_new_name() -> None:
    assert message_of(changed("digits", options={"labelled": False})) == (
        "data set 'digits': builder 'sklearn_digits' takes no option 'labelled'\n"
        "It is called 'labeled' now."
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"classes": [3, 12]}, "classes.1: Input should be less than or equal to 9"),
        ("digits", {"classes": [3, 3]}, "option 'classes' repeats a digit: [3, 3]"),
        ("digits", {"classes": []}, "classes: List should have at least 1 item"),
        ("digits", {"pool": {"train": ["test"]}}, "option 'pool' has no entry for split"),
        (
            "digits",
            {"pool": {"test": ["train"], "validation": ["train"]}},
            "option 'pool' uses the same images twice",
        ),
        ("letters", {"letters": "AA", "counts": COUNTS, "seed": 0}, "repeats a letter: 'AA'"),
        ("letters", {"letters": "A1", "counts": COUNTS, "seed": 0}, "letters: String should match"),
        ("letters", {"letters": "AB", "counts": COUNTS}, "seed: Missing required keyword only"),
        ("photo-patches", {"counts": {"train": 5}, "seed": 0}, "counts.train"),
        (
            "photo-patches",
            {"counts": {"validation": 5}, "seed": 0},
            "option 'counts' has no number of images for split 'test'\nIt has: validation.",
        ),
        (
            "uniform-noise",
            {"shape": [8, 8], "counts": COUNTS, "seed": 0},
            "shape.2: Field required",
        ),
        ("uniform-noise", {"shape": [1, 8, 8], "counts": COUNTS, "seed": -1}, "seed: Input should"),
    ],
)
def test_options_that_a_builder_cannot_use(
    name: str, options: dict[str, Any], message: str
) -> None:
    text = message_of(changed(name, options=options))
    assert message in text
    assert text.startswith(f"data set '{name}', split 'test': ")
    assert "\n" in text, "no hint"


def test_wrong_count() -> None:
    spec = manifest("digits")
    text = message_of(changed("digits", splits={**spec.splits, "test": 599}))
    assert text.startswith(
        "data set 'digits', split 'test': the manifest says 599 images, found 600\n"
    )


def test_wrong_shape() -> None:
    text = message_of(changed("digits", shape=[1, 4, 16]))
    assert (
        "'digits', split 'test': the manifest says images of shape [1, 4, 16], "
        "found images of shape [1, 8, 8]\n"
    ) in text


def test_wrong_sha256() -> None:
    right = manifest("digits").sha256["test"]
    text = message_of(changed("digits", sha256={"test": "0" * 64}))
    assert f"'digits', split 'test': the manifest says sha256 {'0' * 64}, found {right}\n" in text


@pytest.mark.parametrize(
    ("num_classes", "message"),
    [
        (11, "the manifest says 11 classes, found 10\n"),
        (9, "the manifest says 9 classes, so labels 0 to 8, found labels 0 to 9\n"),
    ],
)
def test_wrong_number_of_classes(num_classes: int, message: str) -> None:
    assert message in message_of(changed("digits", num_classes=num_classes, classes=()))


def test_classes_without_labels_and_labels_without_classes() -> None:
    assert "says 4 classes, found images without labels" in message_of(
        changed("digits-unknown", num_classes=4)
    )
    spec = changed("digits-unknown", options={"classes": [6, 7, 8, 9], "pool": {"test": ["test"]}})
    spec = spec.model_copy(update={"splits": {"test": 238}})
    assert "says no classes (num_classes is null), found labeled images" in message_of(spec)


def test_negative_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = BUILDERS["sklearn_digits"]("test")
    fake(monkeypatch, ImageArray(data.images, data.labels - 1))
    assert "so labels 0 to 9, found labels -1 to 8\n" in message_of(manifest("digits"))


def test_scikit_learn_without_the_file() -> None:
    assert sklearn_file("data/digits.csv.gz").is_file()
    with pytest.raises(UserError, match=r"has no file 'data/none\.csv' in .*datasets") as caught:
        sklearn_file("data/none.csv")
    assert "Reinstall scikit-learn" in caught.value.hint


def test_builders_are_read_only() -> None:
    with pytest.raises(TypeError):
        builtin_module.BUILDERS["mine"] = rendered_letters  # type: ignore[index]
