"""The bounded sample of rows, against a reservoir written row by row."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.numerics import row_sample
from oodbench.numerics.row_sample import RowSample


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that a few rows fill."""
    monkeypatch.setattr(row_sample, "BLOCK", 8)
    monkeypatch.setattr(row_sample, "NUMBERS", 8)


def numbered(count: int, width: int = 3) -> Tensor:
    """Rows that tell which they are: row i begins with i."""
    return torch.arange(count * width, dtype=torch.float64).reshape(count, width) / width


def filled(rows: Tensor, capacity: int, cuts: tuple[int, ...] = (), seed: int = 0) -> RowSample:
    sample = RowSample(capacity, seed)
    for start, end in itertools.pairwise([0, *cuts, len(rows)]):
        sample.add(rows[start:end])
    return sample


def content(sample: RowSample) -> Tensor:
    return torch.cat(sample.blocks)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20, 30])
@pytest.mark.parametrize("cuts", [(), (1,), (1, 1, 1), (0, 1)])
def test_keeps_all_rows_in_order_while_they_fit(count: int, cuts: tuple[int, ...]) -> None:
    rows = numbered(count)
    sample = filled(rows, 30, cuts)
    assert len(sample) == sample.seen == count
    torch.testing.assert_close(content(sample), rows, rtol=0, atol=0)
    assert all(len(block) <= 8 for block in sample.blocks)


@pytest.mark.parametrize("capacity", [1, 8, 20])
def test_sample_is_that_of_a_loop_over_rows(capacity: int) -> None:
    rows, generator = numbered(100), np.random.default_rng(5)
    expected = list(range(capacity))
    for row in range(capacity, 100):
        place = int(generator.random() * (row + 1))
        if place < capacity:
            expected[place] = row
    found = content(filled(rows, capacity, (33,), seed=5))
    assert found[:, 0].tolist() == expected
    torch.testing.assert_close(found, rows[expected], rtol=0, atol=0)
    numbers = filled(rows[:, 0], capacity, (33,), seed=5)
    assert content(numbers).tolist() == expected
    assert numbers.gather(torch.tensor([0])).tolist() == expected[:1]


@pytest.mark.parametrize("cuts", [(1,), (20,), (19, 21), (40, 40, 41), tuple(range(1, 200))])
def test_sample_does_not_depend_on_the_batches(cuts: tuple[int, ...]) -> None:
    rows = numbered(200)
    whole = content(filled(rows, 20))
    torch.testing.assert_close(content(filled(rows, 20, cuts)), whole, rtol=0, atol=0)


def test_sample_is_uniform_over_the_stream() -> None:
    rows, runs = numbered(60), 2000
    counts = np.zeros(60)
    for seed in range(runs):
        counts[content(filled(rows, 15, (40,), seed))[:, 0].long().numpy()] += 1
    # Every row has probability 1/4: within 5 standard deviations of a binomial count.
    np.testing.assert_allclose(counts, runs / 4, atol=5 * np.sqrt(runs * 3 / 16))


def test_seed_decides_the_sample() -> None:
    rows = numbered(200)
    first, again, other = (content(filled(rows, 20, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_memory_is_that_of_the_rows() -> None:
    sample = filled(numbered(1000), 20)
    held = sum(block.untyped_storage().nbytes() for block in sample._blocks)
    assert held == 20 * 3 * 8
    few = filled(numbered(3), 10**12)
    assert sum(block.untyped_storage().nbytes() for block in few._blocks) == 8 * 3 * 8
    assert few.blocks[0].data_ptr() == few._blocks[0].data_ptr(), "blocks are views"


def test_places_that_are_not_filled_hold_no_old_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved detector has them: the same fit would be other bytes, and tell what was there."""
    empty = Tensor.new_empty

    def dirty(rows: Tensor, *size: Any, **options: Any) -> Tensor:
        return empty(rows, *size, **options).fill_(7.0)

    monkeypatch.setattr(Tensor, "new_empty", dirty)
    sample = RowSample(10)
    sample.add(torch.ones(3, 2))
    assert not sample._blocks[0][3:].any()


def test_rows_are_copied_without_their_graph() -> None:
    rows = numbered(4)
    sample = filled(rows.requires_grad_(), 10)
    with torch.no_grad():
        rows.zero_()
    assert not content(sample).requires_grad
    torch.testing.assert_close(content(sample), numbered(4), rtol=0, atol=0)


def test_sample_can_be_copied() -> None:
    rows = numbered(200)
    sample = filled(rows[:50], 20)
    twin = copy.deepcopy(sample)
    for each in (sample, twin):
        each.add(rows[50:])
    assert torch.equal(content(sample), content(twin))
    assert torch.equal(content(sample), content(filled(rows, 20)))


def test_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least one row, not 0"):
        RowSample(0)


def test_gather() -> None:
    rows = numbered(30)
    indices = torch.tensor([29, 0, 7, 8, 8, 15, 16])
    torch.testing.assert_close(filled(rows, 40).gather(indices), rows[indices], rtol=0, atol=0)


def test_rows_may_be_numbers() -> None:
    numbers = torch.arange(200)
    sample = filled(numbers, 20, (33,), seed=5)
    rows = filled(numbered(200), 20, (33,), seed=5)
    assert content(sample).tolist() == content(rows)[:, 0].tolist()
    assert sample.gather(torch.tensor([9, 3])).tolist() == content(sample)[[9, 3]].tolist()
