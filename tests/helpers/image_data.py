"""A small labeled data set, and reading it as a user's data are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    Dataset,
    IterableDataset,
    TensorDataset,
)

from oodbench import UserError
from oodbench.user_data.dataloader import LoadedImages

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
