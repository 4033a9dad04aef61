"""Images and labels in batches and items: types, shapes, values, and errors about them."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.image_data import (
    COUNT,
    Items,
    images,
    labels,
    opened,
    pairs,
    read,
    refused,
)
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    TensorDataset,
)


def pil(index: int) -> Image.Image:
    return Image.new("RGB", (5, 4))


def raw(index: int) -> np.ndarray:
    return np.zeros((9, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Items(lambda i: (pil(i), 0)), "image 0 is a PIL image, not a tensor"),
        (Items(pil), "image 0 is a PIL image, not a tensor"),
        (Items(lambda i: (raw(i), 0)), "images of type uint8 have shape [9, 5, 3]"),
        (Items(lambda i: ("a.png", 0)), "image 0 is a str, not a tensor"),
        (DataLoader(Items(lambda i: (pil(i), 0)), 4), "the batch from image 0 on cannot be read"),
        (DataLoader(Items(lambda i: (raw(i), 0)), 4), "images of type uint8 have shape [9, 5, 3]"),
        (TensorDataset(images().int(), labels()), "images are int32, neither floating-point nor"),
        (Items(lambda i: images()[i].bool()), "images are bool, neither floating-point nor uint8"),
        (DataLoader(Items(lambda i: ("a.png", 0)), 4), "images are a tuple, not tensors"),
    ],
)
def test_images_that_cannot_be_used_are_to_be_converted(data: Any, said: str) -> None:
    error = refused(data)
    assert said in error.message
    assert "ToTensor()" in error.hint


@pytest.mark.parametrize(
    "keys", [("pixel_values", "labels"), ("image", "label"), ("img", "fine_label"), ("x", "y")]
)
def test_mappings_give_images_and_labels_by_their_keys(keys: tuple[str, str]) -> None:
    image, label = keys
    expected = read(opened(pairs()))
    items = Items(lambda i: {"id": f"{i}", label: int(labels()[i]), image: images()[i]})
    for data in (items, DataLoader(items, 5)):
        found = read(opened(data))
        torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])
    without = opened(Items(lambda i: {image: images()[i]}), labeled=False)
    torch.testing.assert_close(read(without)[0], expected[0])


Named = namedtuple("Named", ["label", "image"])


@pytest.mark.parametrize(
    "make",
    [
        lambda image, label: Named(label, image),
        lambda image, label: SimpleNamespace(label=label, image=image),
        lambda image, label: UserDict(label=label, image=image),
    ],
)
def test_objects_with_names_give_images_and_labels_by_them(make: Callable[..., Any]) -> None:
    expected = read(opened(pairs()))
    found = read(opened(Items(lambda i: make(images()[i], int(labels()[i])))))
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_of_a_mapping_the_tensor_is_taken_and_not_the_picture_it_was_made_of() -> None:
    items = Items(lambda i: {"image": pil(i), "pixel_values": images()[i], "labels": 0})
    torch.testing.assert_close(read(opened(items))[0], read(opened(pairs()))[0])


@pytest.mark.parametrize("shape", [(7,), (2, 9), (2, 3, 4, 5)])
def test_inputs_of_other_ranks_are_read(shape: tuple[int, ...]) -> None:
    whole = torch.rand(COUNT, *shape)
    for data in (TensorDataset(whole, labels()), DataLoader(TensorDataset(whole, labels()), 5)):
        torch.testing.assert_close(read(opened(data))[0], whole.double(), check_dtype=False)
    tokens = torch.randint(0, 50, (COUNT, 6))
    assert read(opened(TensorDataset(tokens, labels())))[0].tolist() == tokens.tolist()


def test_images_of_bytes_are_scaled_and_that_is_said() -> None:
    whole = torch.randint(0, 256, (COUNT, 3, 4, 5), dtype=torch.uint8)
    for data in (
        TensorDataset(whole, labels()),
        DataLoader(TensorDataset(whole, labels()), 5),
        Items(lambda i: (whole[i].numpy(), 0)),
    ):
        source = opened(data, in_unit_range=True)
        torch.testing.assert_close(read(source)[0], whole.double() / 255, check_dtype=False)
        assert source.notes == ["fit_data gives images of type uint8: they were scaled to [0, 1]."]
    floats = opened(pairs())
    read(floats)
    assert floats.notes == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Items(lambda i: ()), "an item is an empty tuple; expected (image, label)"),
        (Items(lambda i: {}), "an item is an empty dict; expected (image, label)"),
        (
            DataLoader(Items(lambda i: {"pixels": images()[i]}), 4),
            "a batch has the entries 'pixels', of which none is known to be the images.",
        ),
        (
            Items(lambda i: {"image": images()[i], "x": images()[i]}),
            "an item has the entries 'image', 'x', of which 'image', 'x' may be the images.",
        ),
        (
            Items(lambda i: {"image": images()[i], "label": 0, "labels": 1}),
            "of which 'label', 'labels' may be the labels.",
        ),
        (Items(lambda i: torch.tensor(1.0)), "expected [images, channels, height, width], or [im"),
        (
            TensorDataset(torch.zeros(4, 7, dtype=torch.uint8)),
            "images of type uint8 have shape [7]; expected [channels, height, width]",
        ),
        (
            Items(lambda i: torch.zeros(3, 4, 4 + (i == 5))),
            "image 5 has shape [3, 4, 5], those before it [3, 4, 4]",
        ),
        (
            DataLoader(Items(lambda i: torch.zeros(3, 4, 4 + (i == 5))), 4),
            "the batch from image 4 on cannot be read: RuntimeError: stack expects each tensor",
        ),
    ],
)
def test_other_shapes(data: Any, said: str) -> None:
    assert said in refused(data).message


def with_labels(given: Any) -> list[Any]:
    data = TensorDataset(images(), given)
    return [data, DataLoader(data, 5)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (labels().float(), "labels are float32; expected the class of each image"),
        (labels() > 0, "labels are bool; expected the class of each image"),
        (torch.eye(3, dtype=torch.long)[labels()], ", 3]; expected ["),
        (labels()[:, None], ", 1]; expected ["),
    ],
)
def test_labels_of_another_type_or_shape(given: Tensor, said: str) -> None:
    for data in with_labels(given):
        error = refused(data, num_classes=3)
        assert said in error.message
        assert ("argmax" in error.hint) == (", 3]" in said)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (torch.zeros(COUNT, 3), "labels.argmax(dim=1)"),
        (torch.zeros(COUNT, 3, dtype=torch.long), "labels.argmax(dim=1)"),
        (torch.zeros(COUNT, 1, dtype=torch.long), "labels.flatten()"),
    ],
)
def test_labels_in_another_form_and_what_to_do(given: Tensor, hint: str) -> None:
    assert hint in refused(TensorDataset(images(), given)).hint


def test_arrays_that_are_no_data_set_and_batches_that_are_not_stacked() -> None:
    for given in ((images(), labels()), [images().numpy(), labels().numpy()]):
        error = refused(given)
        assert "come as a " in error.message
        assert "TensorDataset(images, labels)" in error.hint
    alone = read(opened([*images(3)]))[0]
    torch.testing.assert_close(alone, images(3), msg="three images, and no labels")
    error = refused(DataLoader(pairs(), 5, collate_fn=lambda items: items))
    assert error.message == "fit_data: images are a tuple, not tensors."
    assert "(images, labels), each stacked" in error.hint


def test_images_without_a_pixel() -> None:
    assert "[2, 0, 5], without a pixel" in refused(TensorDataset(images()[:, :, :0])).message


def test_labels_that_are_words() -> None:
    error = refused(Items(lambda i: (images()[i], "cat" if i == 7 else 1)))
    assert "the label of image 7 is a str" in error.message


@pytest.mark.parametrize(("index", "label"), [(0, 3), (11, -1), (COUNT - 1, 255)])
def test_labels_outside(index: int, label: int) -> None:
    given = labels()
    given[index] = label
    for data in with_labels(given):
        assert refused(data, num_classes=3).message == (
            f"fit_data: image {index} has label {label}; the model has 3 classes, so labels are "
            "0 to 2."
        )
        assert len(read(opened(data))[0]) == COUNT, "nobody said how many classes there are"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("index", [0, 17])
def test_images_that_are_not_finite(value: float, index: int) -> None:
    given = images()
    given[index, 1, 2, 3] = value
    for data in (TensorDataset(given, labels()), DataLoader(TensorDataset(given, labels()), 5)):
        said = f"fit_data: image {index} has values that are not finite."
        assert refused(data).message == said
        assert refused(data, labeled=False, in_unit_range=True).message == said


def test_images_outside_of_0_to_1() -> None:
    given = images()
    given[8, 0, 0, 0], given[8, 1, 0, 0] = -2.1, 2.64
    data = DataLoader(TensorDataset(given, labels()), 5)
    error = refused(data, in_unit_range=True)
    assert error.message == (
        "fit_data: image 8 has values from -2.1 to 2.64; with normalization given, images are in "
        "[0, 1]."
    )
    assert "normalization=None" in error.hint
    assert len(read(opened(data))[0]) == COUNT
    given[8] = 1 + 1e-6
    assert len(read(opened(data, in_unit_range=True))[0]) == COUNT, "rounding is no error"


class OfHuggingFace:
    """A data set with the interface of those of Hugging Face's `datasets`."""

    def __init__(self, image: Callable[[int], Any], label: str = "label") -> None:
        self.image, self.label = image, label
        self.features = {"img": object(), label: SimpleNamespace(names=["cat", "dog", "owl"])}

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, int):
            raise AssertionError("items are read one by one")
        return {"img": self.image(key), self.label: int(labels()[key])}

    def with_transform(self, transform: Callable[[Any], Any]) -> OfHuggingFace:
        return self


@pytest.mark.parametrize("label", ["label", "fine_label"])
def test_data_sets_of_hugging_face(label: str) -> None:
    data = OfHuggingFace(lambda i: images()[i], label)
    for given in (data, DataLoader(data, 5)):  # type: ignore[arg-type]
        source = opened(given)
        assert str(source.declared) == "cat, dog, owl"
        found, found_labels, _ = read(source)
        torch.testing.assert_close(found, images())
        torch.testing.assert_close(found_labels, labels())
        assert source.image_key == "img"


def test_pil_images_of_hugging_face_are_to_be_transformed() -> None:
    data = OfHuggingFace(pil)
    for given in (data, DataLoader(data, 5)):  # type: ignore[arg-type]
        assert "data.with_transform(lambda batch:" in refused(given).hint


def test_labels_that_are_not_read_may_be_arrays_of_words() -> None:
    data = Items(lambda i: (torch.rand(2, 4, 5), np.array(["a", "b"])))
    assert len(read(opened(data, labeled=False))[0]) == COUNT


def test_a_one_hot_label_is_that_of_one_image() -> None:
    hot = torch.eye(3).long()
    error = refused(Items(lambda i: (torch.rand(3, 4, 5), hot[i % 3])))
    assert "labels of 23 images have shape [23, 3]" in error.message
    assert "argmax" in error.hint
