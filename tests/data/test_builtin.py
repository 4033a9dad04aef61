"""Data sets: the built-in manifests, their builders, and what is said when they disagree."""

from __future__ import annotations

import functools
import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from oodbench.data import ImageArray, load_split
from oodbench.data import builtin as builtin_module
from oodbench.data.builtin import BUILDERS
from oodbench.data.builtin.digits import DIGITS_SPLITS, split_indices
from oodbench.data.builtin.letters import block_counts, rendered_letters
from oodbench.data.builtin.patches import area_resize, region_of
from oodbench.data.builtin.random_images import split_generator
from oodbench.data.builtin.sklearn_files import sklearn_file
from oodbench.errors import UserError
from oodbench.specs import DatasetSpec

MANIFESTS = Path(__file__).parents[2] / "data_manifests"
DIGITS = ("digits", "digits-known", "digits-unknown")
DRAWN = ("letters", "photo-patches", "uniform-noise", "gaussian-noise")
COUNTS = {"validation": 200, "test": 600}


def manifest(name: str) -> DatasetSpec:
    text = (MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")
    return DatasetSpec.model_validate(yaml.safe_load(text))


@functools.cache
def load(name: str, split: str) -> ImageArray:
    """A split of a built-in set, built once for all tests that only read it."""
    return load_split(manifest(name), split)


def changed(name: str, **update: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({**manifest(name).model_dump(), **update})


def images_as_bytes(data: ImageArray) -> list[bytes]:
    return [image.tobytes() for image in data.images]


def all_splits() -> list[tuple[str, str]]:
    return [(name, split) for name in DIGITS + DRAWN for split in manifest(name).splits]


# --- ImageArray --------------------------------------------------------------------------------


def make_array(n: int = 3, dtype: type = np.float32) -> ImageArray:
    images = np.arange(n * 4).reshape(n, 1, 2, 2)
    values = images / images.size if dtype is np.float32 else images
    return ImageArray(values.astype(dtype), np.arange(n))


def test_fingerprint_depends_on_values_dtype_shape_and_labels() -> None:
    data = make_array()
    variants = [
        data,
        make_array(dtype=np.uint8),
        ImageArray(data.images),
        ImageArray(data.images, data.labels[::-1]),
        ImageArray(data.images[::-1], data.labels),
        ImageArray(data.images.reshape(3, 1, 1, 4), data.labels),
    ]
    prints = [variant.fingerprint() for variant in variants]
    assert len(set(prints)) == len(variants)
    assert all(len(p) == 64 and set(p) <= set("0123456789abcdef") for p in prints)


def test_fingerprint_ignores_memory_layout() -> None:
    data = make_array()
    other = ImageArray(np.asfortranarray(data.images), data.labels)
    assert not other.images.flags.c_contiguous
    assert other.fingerprint() == data.fingerprint()


def test_select_keeps_order_and_labels() -> None:
    data = make_array(4)
    chosen = data.select([2, 0])
    assert chosen.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(chosen.images, data.images[[2, 0]])
    assert len(data.select([])) == 0
    assert data.select(np.array([True, False, False, True])).labels.tolist() == [0, 3]
    assert ImageArray(data.images).select([1]).labels is None
    with pytest.raises(IndexError):
        data.select([4])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 2, 2), np.float32), None, r"shape \[N, C, H, W\], not \[2, 2, 2\]"),
        (np.zeros((2, 1, 2, 2)), None, "uint8 or float32, not float64"),
        (np.zeros((2, 1, 2, 2), ">f4"), None, "uint8 or float32, not >f4"),
        (np.full((2, 1, 2, 2), 2, np.float32), None, r"in \[0, 1\], not in \[2, 2\]"),
        (np.full((2, 1, 2, 2), np.nan, np.float32), None, r"in \[0, 1\], not in \[nan, nan\]"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(3, np.int64), r"shape \[2\].*not \[3\]"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, np.int32), "int64, not int32"),
    ],
)
def test_image_array_refuses(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageArray(images, labels)


# --- the manifests -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "split"), all_splits())
def test_manifest_matches_what_is_built(name: str, split: str) -> None:
    spec = manifest(name)
    assert spec.name == name
    data = load_split(spec, split)
    assert data.images.dtype == np.float32
    assert data.images.std() > 0.2, "a data set of nearly constant images"
    again = load_split(spec, split)
    assert again.fingerprint() == data.fingerprint()
    assert not np.shares_memory(again.images, data.images)


@pytest.mark.parametrize("name", DIGITS)
def test_digits_have_a_fingerprint_for_every_split(name: str) -> None:
    spec = manifest(name)
    assert set(spec.sha256) == set(spec.splits)


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_sets_ignore_numpys_global_state(name: str) -> None:
    state = np.random.get_state()  # noqa: NPY002 - that state is what this test is about
    try:
        prints = set()
        for seed in (0, 1):
            np.random.seed(seed)  # noqa: NPY002
            prints.add(load_split(manifest(name), "test").fingerprint())
    finally:
        np.random.set_state(state)  # noqa: NPY002
    assert len(prints) == 1


@pytest.mark.parametrize("name", DRAWN)
def test_seed_changes_drawn_sets(name: str) -> None:
    spec = manifest(name)
    other = changed(name, options={**spec.options, "seed": 1})
    assert load(name, "test").fingerprint() != load_split(other, "test").fingerprint()


@pytest.mark.parametrize("name", DIGITS + DRAWN)
def test_no_image_occurs_twice_in_a_data_set(name: str) -> None:
    spec = manifest(name)
    images = [b for split in spec.splits for b in images_as_bytes(load(name, split))]
    assert len(set(images)) == len(images) == sum(spec.splits.values())


@pytest.mark.parametrize("name", DRAWN)
def test_no_ood_image_is_a_digit(name: str) -> None:
    digits = {image for split in DIGITS_SPLITS for image in images_as_bytes(load("digits", split))}
    for split in COUNTS:
        assert not digits.intersection(images_as_bytes(load(name, split)))


def test_building_is_lazy_and_needs_neither_sklearn_nor_torch() -> None:
    program = (
        "import sys, oodbench.data.builtin as b\n"
        "loaded = lambda: sorted({'PIL', 'sklearn', 'torch'} & set(sys.modules))\n"
        "print(loaded()); b.sklearn_digits('test'); print(loaded())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert answer.stdout.split("\n")[:2] == ["[]", "[]"]


# --- digits ------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    original = load_digits()
    parts = split_indices(original.target)
    for split, indices in parts.items():
        data = load("digits", split)
        np.testing.assert_array_equal(data.images[:, 0] * 16, original.images[indices])
        np.testing.assert_array_equal(data.labels, original.target[indices])


def test_digits_split_is_a_stratified_partition() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().target
    parts = split_indices(digits)
    assert {split: len(indices) for split, indices in parts.items()} == DIGITS_SPLITS
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(1797))
    for split, indices in parts.items():
        share = np.bincount(digits) * len(indices) / len(digits)
        counts = np.bincount(digits[indices])
        assert np.abs(counts - share).max() <= 1, f"{split}: {counts} instead of {share}"


def test_digits_split_does_not_follow_the_files_order() -> None:
    from sklearn.datasets import load_digits

    # Neighbors in the file are likely one writer's: each split must take images from all over it.
    # The tolerance is three and a half standard deviations of a random split's share (validation).
    for indices in split_indices(load_digits().target).values():
        eighths = np.bincount(indices * 8 // 1797, minlength=8) / len(indices)
        assert eighths == pytest.approx(np.full(8, 1 / 8), abs=0.06)


def test_classes_are_relabeled_in_the_given_order() -> None:
    everything = BUILDERS["sklearn_digits"]("test")
    some = BUILDERS["sklearn_digits"]("test", classes=[7, 2])
    kept = everything.select(np.isin(everything.labels, [2, 7]))
    np.testing.assert_array_equal(some.images, kept.images)
    np.testing.assert_array_equal(some.labels, np.where(kept.labels == 7, 0, 1))


def test_validation_and_known_digits_share_no_image_and_make_up_all() -> None:
    known, unknown, everything = (
        [image for split in manifest(name).splits for image in images_as_bytes(load(name, split))]
        for name in ("digits-known", "digits-unknown", "digits")
    )
    assert not set(known) & set(unknown)
    assert set(known) | set(unknown) == set(everything)
    assert len(known) + len(unknown) == len(everything)


def test_validation_validation_is_within_digits_validation() -> None:
    validation = load("digits-unknown", "validation")
    assert validation.labels is None
    digits = set(images_as_bytes(load("digits", "validation")))
    assert digits.issuperset(images_as_bytes(validation))


# --- letters -----------------------------------------------------------------------------------


def test_block_counts_by_hand() -> None:
    bitmap = np.zeros((8, 8), dtype=bool)
    bitmap[:4, :4] = True
    bitmap[3:5, 6] = True
    np.testing.assert_array_equal(block_counts(bitmap), [[16, 1], [0, 1]])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_letters_have_the_ink_and_the_box_of_digits(split: str) -> None:
    digits = load("digits", "train").images[:, 0]
    letters = load("letters", split).images[:, 0]
    np.testing.assert_array_equal(letters * 16, np.round(letters * 16))
    assert letters.mean() == pytest.approx(digits.mean(), abs=0.01)
    assert letters.std() == pytest.approx(digits.std(), abs=0.01)
    ink, digit_ink = letters.mean(axis=(1, 2)), digits.mean(axis=(1, 2))
    assert ink.std() == pytest.approx(digit_ink.std(), abs=0.006)
    assert (letters == 0).mean() == pytest.approx((digits == 0).mean(), abs=0.03)
    assert (letters == 1).mean() == pytest.approx((digits == 1).mean(), abs=0.03)
    for axis, missing in ((2, 0), (1, 2)):  # rows in use, columns in use
        used = (letters.sum(axis=axis) > 0).sum(axis=1)
        assert used.min() >= 8 - missing - 1
        assert used.mean() == pytest.approx((digits.sum(axis=axis) > 0).sum(axis=1).mean(), abs=0.3)


def test_each_letter_looks_like_itself() -> None:
    """A nearest-mean classifier fitted on the test letters recognizes the validation letters."""
    letters = manifest("letters").options["letters"]
    test, validation = (
        load("letters", split).images.reshape(-1, 64) for split in ("test", "validation")
    )
    means = np.stack([test[i :: len(letters)].mean(axis=0) for i in range(len(letters))])
    distance = ((validation[:, None] - means) ** 2).sum(axis=2)
    accuracy = (distance.argmin(axis=1) == np.arange(len(validation)) % len(letters)).mean()
    assert accuracy > 0.9


def test_letters_are_upright() -> None:
    images = rendered_letters("test", letters="LT", counts={"test": 40}, seed=0).images[:, 0]
    foot, bar = images[0::2], images[1::2]
    assert (foot[:, 6:].sum(axis=(1, 2)) > foot[:, :2].sum(axis=(1, 2))).all()
    assert (bar[:, :2].sum(axis=(1, 2)) > bar[:, 6:].sum(axis=(1, 2))).all()


def test_letters_without_freetype(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import features

    monkeypatch.setattr(features, "check", lambda _: False)
    with pytest.raises(UserError, match="without FreeType") as caught:
        load_split(manifest("letters"), "test")
    assert "'letters', split 'test'" in caught.value.message
    assert "pip install" in caught.value.hint


# --- photographs -------------------------------------------------------------------------------


def test_regions_of_the_splits_are_disjoint_and_cover_the_photograph() -> None:
    photograph = np.arange(7 * 10, dtype=np.float32).reshape(7, 10)
    validation, test = region_of(photograph, "validation"), region_of(photograph, "test")
    assert validation.shape == (7, 3)
    assert test.shape == (7, 7)
    assert sorted([*validation.ravel(), *test.ravel()]) == sorted(photograph.ravel())


def test_area_resize_by_hand() -> None:
    crop = np.array([[0, 0, 0.9], [0, 0, 0.9], [0.9, 0.9, 0.9]], dtype=np.float32)
    # An output pixel covers 1.5x1.5 pixels. Top right: 1.5 of 2.25 at 0.9; bottom right: 2 of 2.25.
    expected = [[0.0, 0.6], [0.6, 0.8]]
    np.testing.assert_allclose(area_resize(crop, 2), expected, atol=1e-6)


@pytest.mark.parametrize("size", [8, 13, 64, 96])
def test_area_resize_keeps_the_mean_and_constants(size: int) -> None:
    crop = np.random.default_rng(size).random((size, size), dtype=np.float32)
    assert area_resize(crop, 8).mean() == pytest.approx(crop.mean(), abs=1e-6)
    assert (area_resize(np.ones((size, size), np.float32), 8) == 1).all()
    if size % 8 == 0:
        blocks = crop.reshape(8, size // 8, 8, size // 8).mean(axis=(1, 3))
        np.testing.assert_allclose(area_resize(crop, 8), blocks, atol=1e-6)


def test_no_patch_is_blank() -> None:
    for split in COUNTS:
        assert load("photo-patches", split).images.std(axis=(1, 2, 3)).min() > 0.049


# --- noise -------------------------------------------------------------------------------------


def test_uniform_noise_follows_its_closed_form() -> None:
    images = load("uniform-noise", "test").images
    n = images.size
    assert images.mean() == pytest.approx(1 / 2, abs=4 * math.sqrt(1 / 12 / n))
    # The fourth central moment of the uniform distribution is 1/80.
    assert images.var() == pytest.approx(1 / 12, abs=4 * math.sqrt((1 / 80 - 1 / 144) / n))


def test_gaussian_noise_follows_its_closed_form() -> None:
    images = load("gaussian-noise", "test").images
    n = images.size
    tail = 0.5 * math.erfc(0.5 / math.sqrt(2))  # P(x <= 0) = P(x >= 1) = Phi(-1/2)
    tolerance = 4 * math.sqrt(tail * (1 - tail) / n)
    assert (images == 0).mean() == pytest.approx(tail, abs=tolerance)
    assert (images == 1).mean() == pytest.approx(tail, abs=tolerance)
    # With z = x - 1/2: E[z^2 ; |z| < 1/2] = (1 - 2 Phi(-1/2)) - phi(1/2), and 1/4 in each tail.
    density = math.exp(-1 / 8) / math.sqrt(2 * math.pi)
    variance = (1 - 2 * tail) - density + 2 * tail / 4
    assert images.mean() == pytest.approx(0.5, abs=4 * math.sqrt(variance / n))
    assert images.var() == pytest.approx(variance, abs=4 * 0.11 / math.sqrt(n))


@pytest.mark.parametrize("builder", ["uniform_noise", "gaussian_noise"])
def test_noise_has_the_shape_asked_for_and_independent_pixels(builder: str) -> None:
    data = BUILDERS[builder]("test", shape=(3, 4, 5), counts={"test": 4000}, seed=3)
    assert data.images.shape == (4000, 3, 4, 5)
    correlation = np.corrcoef(data.images.reshape(4000, -1).T) - np.eye(60)
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)


def test_every_stream_is_its_own() -> None:
    keys = itertools.product((0, 1), ("uniform_noise", "gaussian_noise"), ("validation", "test"))
    first = [split_generator(*key).integers(2**62) for key in keys]
    assert len(set(first)) == 8
    again = split_generator(0, "uniform_noise", "validation").integers(2**62)
    assert again == first[0]


# --- what is said when something is wrong ------------------------------------------------------


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
    assert message in message_of(changed("digits", num_classes=num_classes))


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
