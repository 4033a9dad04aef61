"""How a DataLoader is read: in the order of its data set, to the last image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
)


def in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader that reads the same data set in its order, to the last image.

    Only what is certain is changed: a `RandomSampler` that draws every image once becomes a
    `SequentialSampler`, a `SubsetRandomSampler` gives its images in the order of its indices, and
    `drop_last` is undone. Other samplers and subclasses of DataLoader are kept.

    Args:
        loader: the user's loader; it is not changed.

    Returns:
        A new loader, or `loader` itself if nothing has to be changed.
    """
    batches: Any = loader.batch_sampler
    if type(loader) is not DataLoader or type(batches) not in (BatchSampler, type(None)):
        return loader
    sampler: Any = loader.sampler if batches is None else batches.sampler
    ordered = _ordered(sampler, loader.dataset)
    if ordered is sampler and not (batches is not None and batches.drop_last):
        return loader
    options: dict[str, Any] = {
        "batch_size": None if batches is None else batches.batch_size,
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "generator": loader.generator,
        "persistent_workers": loader.persistent_workers,
    }
    if loader.num_workers:
        options["prefetch_factor"] = loader.prefetch_factor
    if not isinstance(loader.dataset, IterableDataset):
        options["sampler"] = ordered
    return DataLoader(loader.dataset, **options)


def unordered_sampler(loader: DataLoader[Any]) -> str:
    """Type of the sampler of a loader that is not read in data-set order; "" if it is."""
    if isinstance(loader.dataset, IterableDataset):
        return ""
    batches: Any = loader.batch_sampler
    sampler: Any = loader.sampler
    if batches is not None:
        sampler = batches.sampler if type(batches) is BatchSampler else batches
    ordered = sampler is None or type(sampler) in (SequentialSampler, _GivenOrder)
    return "" if ordered else type(sampler).__name__


def generators(data: Any) -> list[torch.Generator]:
    """The random generators of a DataLoader and its samplers, each once; [] for other data."""
    if not isinstance(data, DataLoader):
        return []
    batches: Any = data.batch_sampler
    owners = (data, getattr(data, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


class _GivenOrder(Sampler[int]):
    """Gives indices in the order of a sequence."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


def _ordered(sampler: Any, dataset: Any) -> Any:
    """A sampler of the same images in order, each once; `sampler` itself if that is not certain."""
    if type(sampler) is SubsetRandomSampler:
        return _GivenOrder(sampler.indices)
    shuffles = (
        type(sampler) is RandomSampler
        and sampler.data_source is dataset
        and not sampler.replacement
        and sampler.num_samples == len(dataset)
    )
    return SequentialSampler(dataset) if shuffles else sampler
