"""How DataLoaders are read: order, samplers, generators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.image_data import (
    COUNT,
    labels,
    opened,
    pairs,
    read,
)
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from oodbench.user_data.loader_order import in_order


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
