"""Reading a user's DataLoader or Dataset: passes, sizes, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.image_data import (
    COUNT,
    Items,
    Stream,
    images,
    labels,
    opened,
    pairs,
    read,
    refused,
)
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
)

from oodbench import UserError

# --- what is read ------------------------------------------------------------------------------

READABLE: dict[str, Callable[[], Any]] = {
    "dataset": pairs,
    "subset": lambda: Subset(pairs(), range(COUNT)),
    "list of items": lambda: [(images()[i], int(labels()[i])) for i in range(COUNT)],
    "numpy": lambda: Items(lambda i: (images()[i].numpy(), np.int64(labels()[i]))),
    "more than two": lambda: Items(lambda i: (images()[i], int(labels()[i]), f"{i}.png")),
    "stream": Stream,
    "loader": lambda: DataLoader(pairs(), 5),
    "loader of lists": lambda: DataLoader(pairs(), 5, collate_fn=lambda items: [*zip_up(items)]),
    "shuffling loader": lambda: DataLoader(pairs(), 5, shuffle=True),
    "shuffling, last dropped": lambda: DataLoader(pairs(), 5, shuffle=True, drop_last=True),
    "last dropped": lambda: DataLoader(pairs(), 5, drop_last=True),
    "stream, last dropped": lambda: DataLoader(Stream(), 5, drop_last=True),
    "shuffling batches": lambda: DataLoader(
        data := pairs(), batch_sampler=BatchSampler(RandomSampler(data), 5, drop_last=True)
    ),
    "single images": lambda: DataLoader(
        Items(lambda i: (images()[i : i + 1], labels()[i : i + 1])), batch_size=None, shuffle=True
    ),
    "last batch of one": lambda: DataLoader(pairs(), COUNT - 1),
    "with workers": lambda: DataLoader(
        pairs(), 5, shuffle=True, num_workers=1, persistent_workers=True
    ),
}


def zip_up(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[int]]:
    return torch.stack([image for image, _ in items]), [int(label) for _, label in items]


@pytest.mark.parametrize("kind", READABLE)
def test_all_images_are_read_in_order(kind: str) -> None:
    source = opened(READABLE[kind](), num_classes=3, in_unit_range=True)
    assert source.has_labels
    for _ in range(2):
        found, found_labels, _ = read(source)
        torch.testing.assert_close(found, images(), rtol=0, atol=0)
        torch.testing.assert_close(found_labels, labels(), rtol=0, atol=0)
    source.close()


@pytest.mark.parametrize(
    "data",
    [
        images(),
        TensorDataset(images()),
        DataLoader(images(), 5),  # type: ignore[arg-type]
        DataLoader(TensorDataset(images()), 5),
        Items(lambda i: images()[i]),
        Items(lambda i: (images()[i], None)),
    ],
)
def test_images_without_labels(data: Any) -> None:
    source = opened(data)
    assert not source.has_labels
    found, found_labels, _ = read(source)
    torch.testing.assert_close(found, images(), rtol=0, atol=0)
    assert found_labels is None


@pytest.mark.parametrize("label", [-1, "cat", None, torch.tensor([1.5, 2.0])])
def test_labels_that_are_not_wanted_may_be_anything(label: Any) -> None:
    source = opened(Items(lambda i: (images()[i], label)), labeled=False, num_classes=3)
    assert not source.has_labels
    assert len(read(source)[0]) == COUNT


def test_batch_sizes() -> None:
    assert read(opened(pairs()))[2] == [COUNT]
    assert read(opened(Items(lambda i: torch.zeros(1, 8, 8), 300), labeled=False))[2] == [256, 44]
    large = Items(lambda i: torch.zeros(1, 1, 1).expand(1, 1024, 1024), 6)
    assert read(opened(large, labeled=False))[2] == [4, 2]
    assert read(opened(DataLoader(pairs(), 5)))[2] == [5, 5, 5, 5, 3]


def test_looking_at_the_first_batch_does_not_read_it_twice() -> None:
    asked: list[int] = []

    def item(index: int) -> tuple[Tensor, int]:
        asked.append(index)
        return images()[index], 0

    source = opened(DataLoader(Items(item), 5))
    first, _ = source.first()
    assert (len(first), len(asked)) == (5, 5)
    assert source.first()[0] is first
    read(source)
    assert asked == list(range(COUNT))
    read(source)
    assert len(asked) == 2 * COUNT


def test_a_pass_that_is_left_does_not_disturb_the_next() -> None:
    source = opened(DataLoader(pairs(), 5))
    next(source.batches())
    assert len(read(source)[0]) == COUNT


def test_a_stream_is_read_whole_the_first_time_and_is_told_from_data_the_second() -> None:
    source = opened(Stream(once=True))
    source.first()
    assert len(read(source)[0]) == COUNT
    with pytest.raises(UserError, match=r"gave 23 images, and 0 when it was read again") as caught:
        read(source)
    assert "begins anew" in caught.value.hint


# --- what is not -------------------------------------------------------------------------------


def test_a_folder_is_no_data_set_and_what_to_do() -> None:
    for folder in ("images/", Path("images")):
        assert "ImageFolder(folder, transform)" in refused(folder).hint


@pytest.mark.parametrize("data", [3, "images/", b"x", {"a": 1}, {1, 2}, None, object()])
def test_neither_loader_nor_dataset(data: Any) -> None:
    with pytest.raises(UserError, match=r"^fit_data: expected a DataLoader or a Dataset of"):
        opened(data)


def test_iterators_can_be_read_only_once() -> None:
    for data in (iter([1]), (pair for pair in pairs()), iter(DataLoader(pairs(), 5))):
        error = refused(data)
        assert "can be read only once" in error.message
        assert "begins anew" in error.hint

    def generator() -> Iterator[Any]:
        yield from pairs()

    assert "whose __iter__ is the function" in refused(generator).hint
    assert "data['train']" in refused({"train": pairs()}).hint


class Again:
    """An object of another library that can be iterated over again."""

    def __init__(self, begin: Callable[[], Iterator[Any]]) -> None:
        self.begin = begin

    def __iter__(self) -> Iterator[Any]:
        return self.begin()


AGAIN: dict[str, Callable[[], Any]] = {
    "items": lambda: Again(lambda: iter([pairs()[i] for i in range(COUNT)])),
    "batches": lambda: Again(lambda: iter(DataLoader(pairs(), 5))),
    "batches of numpy": lambda: Again(
        lambda: ((x.numpy(), y.numpy()) for x, y in DataLoader(pairs(), 5))
    ),
    "batches as mappings": lambda: Again(
        lambda: ({"image": x, "label": y} for x, y in DataLoader(pairs(), 5))
    ),
    "batches with lists of labels": lambda: Again(
        lambda: ((x, y.tolist()) for x, y in DataLoader(pairs(), 5))
    ),
    "a list of batches": lambda: [*DataLoader(pairs(), 5)],
    "a stream of batches": lambda: Loaded(),
}


class Loaded(IterableDataset[Any]):
    """As WebDataset's loader, which is a data set of batches."""

    def __iter__(self) -> Iterator[Any]:
        return iter(DataLoader(pairs(), 5))


@pytest.mark.parametrize("kind", AGAIN)
def test_objects_that_can_be_iterated_over_again(kind: str) -> None:
    source = opened(AGAIN[kind](), num_classes=3)
    for _ in range(2):
        found, found_labels, sizes = read(source)
        torch.testing.assert_close(found, images(), rtol=0, atol=0)
        torch.testing.assert_close(found_labels, labels(), rtol=0, atol=0)
        assert sizes == ([COUNT] if kind == "items" else [5, 5, 5, 5, 3])


def test_batches_without_labels_are_told_from_volumes() -> None:
    colored = torch.rand(7, 3, 4, 5)
    found = read(opened(Again(lambda: iter(colored.split(3))), labeled=False))
    torch.testing.assert_close(found[0], colored)
    volumes = torch.rand(7, 2, 6, 4, 5)
    found = read(opened(Again(lambda: iter(volumes)), labeled=False))
    torch.testing.assert_close(found[0], volumes)


@pytest.mark.parametrize(
    "data", [pairs(0), [], DataLoader(pairs(0), 4), Stream(0), DataLoader(Stream(0), 4)]
)
def test_empty(data: Any) -> None:
    assert refused(data).message == "fit_data is empty: it gives no images."


def test_images_of_several_sizes_are_fine_from_batch_to_batch() -> None:
    batches = [(torch.zeros(2, 1, 4, 4), labels(2)), (torch.zeros(2, 1, 6, 4), labels(2))]
    source = opened(DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert [list(batch.shape) for batch, _ in source.batches()] == [[2, 1, 4, 4], [2, 1, 6, 4]]


def test_what_is_learnt_of_the_classes_later_holds_for_the_first_batch_too() -> None:
    source = opened(TensorDataset(images(), torch.full((COUNT,), 9)))
    source.first()
    source.num_classes = 3
    with pytest.raises(UserError, match="image 0 has label 9"):
        read(source)


def test_labels_that_end() -> None:
    error = refused(
        DataLoader(
            [(images(2), labels(2)), (images(2), None)],  # type: ignore[arg-type]
            batch_size=None,
        )
    )
    assert error.message == "fit_data: images have labels up to image 1 and none after it."


def failing(index: int) -> Any:
    if index == 7:
        raise FileNotFoundError("no such file: 7.png")
    return images()[index], 0


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (Items(failing), "image 7 cannot be read: "),
        (DataLoader(Items(failing), 5), "the batch from image 5 on cannot be read: "),
        (DataLoader(Items(failing), 5, num_workers=1), "the batch from image 5 on cannot be read"),
    ],
)
def test_what_a_data_set_raises_is_said_with_its_place(data: Any, where: str) -> None:
    error = refused(data)
    assert where in error.message
    assert error.message.endswith("FileNotFoundError: no such file: 7.png.")
    assert isinstance(error.__cause__, FileNotFoundError)


def test_other_sizes_of_images_are_to_be_resized() -> None:
    for data in (
        Items(lambda i: torch.zeros(3, 4, 4 + (i == 1))),
        DataLoader(Items(lambda i: torch.zeros(3, 4, 4 + (i == 1))), 4),
    ):
        assert "Resize" in refused(data).hint
