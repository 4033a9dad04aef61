"""DataLoaders and Datasets as sources of batches: order, checks, and what is said of bad ones."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from oodbench import UserError
from oodbench.user_model.loaders import LoadedImages, in_order

COUNT = 23


def images(count: int = COUNT, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Image i is all i / 100."""
    values = torch.arange(count, dtype=dtype) / 100
    return values.view(-1, 1, 1, 1).expand(-1, 2, 4, 5).clone()


def labels(count: int = COUNT) -> Tensor:
    return torch.arange(count) % 3


def pairs(count: int = COUNT) -> TensorDataset:
    return TensorDataset(images(count), labels(count))


def opened(data: Any, *, labeled: bool = True, **expected: Any) -> LoadedImages:
    source = LoadedImages(data, "fit_data", labeled=labeled)
    for name, value in expected.items():
        setattr(source, name, value)
    return source


def read(source: LoadedImages) -> tuple[Tensor, Tensor | None, list[int]]:
    """All images, all labels, sizes of the batches."""
    batches = list(source.batches())
    found = [given for _, given in batches if given is not None]
    return (
        torch.cat([batch for batch, _ in batches]),
        torch.cat(found) if found else None,
        [len(batch) for batch, _ in batches],
    )


def refused(data: Any, **options: Any) -> UserError:
    """The error of data that cannot be read, wherever it is found."""
    with pytest.raises(UserError) as caught:
        read(opened(data, **options))
    assert caught.value.message.startswith("fit_data")
    assert "\n" not in caught.value.message
    return caught.value


class Items(Dataset[Any]):
    """Items that a function makes of their index."""

    def __init__(self, item: Callable[[int], Any], count: int = COUNT) -> None:
        self.item, self.count = item, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


class Stream(IterableDataset[Any]):
    """Items one after the other; begun anew each time, or not."""

    def __init__(self, count: int = COUNT, *, once: bool = False) -> None:
        self.count = count
        self.items = self.fresh() if once else None

    def fresh(self) -> Iterator[Any]:
        return ((images()[index], int(labels()[index])) for index in range(self.count))

    def __iter__(self) -> Iterator[Any]:
        return self.items or self.fresh()


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
    assert "not a stream" in caught.value.hint


def test_samplers_of_the_users_own_stay() -> None:
    chosen = [3, 1, 4, 1, 5]
    for loader in (
        DataLoader(pairs(), 2, sampler=chosen),
        DataLoader(pairs(), batch_sampler=[[3, 1], [4, 1], [5]]),
        DataLoader(pairs(), 2, sampler=chosen, drop_last=False),
    ):
        assert in_order(loader) is loader
        source = opened(loader)
        torch.testing.assert_close(read(source)[1], labels()[chosen])
        assert source.note.startswith("fit_data was read in the order of its own sampler, a list")
    with_replacement = RandomSampler(data := pairs(), replacement=True)
    drawn = DataLoader(data, 2, sampler=with_replacement)
    assert in_order(drawn) is drawn
    assert "a RandomSampler: scores are in that order" in opened(drawn).note
    for plain in (pairs(), DataLoader(pairs(), 5), DataLoader(pairs(), 5, shuffle=True)):
        assert opened(plain).note == ""


def test_a_part_that_is_shuffled_is_read_in_the_order_it_was_given_in() -> None:
    some = DataLoader(pairs(), 2, sampler=SubsetRandomSampler([4, 2, 9]), drop_last=True)
    source = opened(some)
    torch.testing.assert_close(read(source)[1], labels()[[4, 2, 9]])
    assert source.note == ""


@pytest.mark.parametrize("workers", [0, 1])
def test_generators_of_a_loader_are_put_back(workers: int) -> None:
    loaders, samplers = torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)
    sampler = WeightedRandomSampler([1.0] * COUNT, COUNT, generator=samplers)
    before = [loaders.get_state(), samplers.get_state()]
    loader = DataLoader(pairs(), 5, sampler=sampler, generator=loaders, num_workers=workers)
    source = opened(loader)
    read(source)
    assert not torch.equal(samplers.get_state(), before[1])
    source.close()
    for generator, state in zip((loaders, samplers), before, strict=True):
        assert torch.equal(generator.get_state(), state)


def test_what_a_loader_was_made_with_is_kept() -> None:
    def collate(items: list[Any]) -> Any:
        return torch.stack([image for image, _ in items]), torch.tensor([7] * len(items))

    shuffling = DataLoader(
        pairs(), 5, shuffle=True, num_workers=2, collate_fn=collate, prefetch_factor=4, timeout=9.0
    )
    ordered = in_order(shuffling)
    assert isinstance(ordered.sampler, SequentialSampler)
    assert (ordered.batch_size, ordered.num_workers, ordered.prefetch_factor) == (5, 2, 4)
    assert (ordered.collate_fn, ordered.timeout) == (collate, 9.0)
    assert shuffling.sampler is not ordered.sampler, "the user's is not changed"
    assert isinstance(shuffling.sampler, RandomSampler)

    class Own(DataLoader[Any]):
        pass

    own = Own(pairs(), 5, shuffle=True)
    assert in_order(own) is own, "nobody knows what else it does"


# --- what is not -------------------------------------------------------------------------------


def test_a_folder_is_no_data_set_and_what_to_do() -> None:
    for folder in ("images/", Path("images")):
        assert "ImageFolder(folder, transform)" in refused(folder).hint


@pytest.mark.parametrize("data", [3, "images/", b"x", {"a": 1}, iter([1]), None, object()])
def test_neither_loader_nor_dataset(data: Any) -> None:
    with pytest.raises(UserError, match=r"^fit_data: expected a DataLoader or a Dataset of"):
        opened(data)


@pytest.mark.parametrize(
    "data", [pairs(0), [], DataLoader(pairs(0), 4), Stream(0), DataLoader(Stream(0), 4)]
)
def test_empty(data: Any) -> None:
    assert refused(data).message == "fit_data is empty: it gives no images."


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


def test_images_of_several_sizes_are_fine_from_batch_to_batch() -> None:
    batches = [(torch.zeros(2, 1, 4, 4), labels(2)), (torch.zeros(2, 1, 6, 4), labels(2))]
    source = opened(DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert [list(batch.shape) for batch, _ in source.batches()] == [[2, 1, 4, 4], [2, 1, 6, 4]]


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
