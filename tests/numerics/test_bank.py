"""The bounded sample of features, against a reservoir written row by row."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.numerics import bank as bank_module
from oodbench.numerics.bank import FeatureBank, directions, top_k_products


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and groups of queries that a few rows fill."""
    monkeypatch.setattr(bank_module, "BLOCK", 8)
    monkeypatch.setattr(bank_module, "QUERIES", 5)


def numbered(count: int, width: int = 3) -> Tensor:
    """Rows that tell which they are: row i begins with i."""
    return torch.arange(count * width, dtype=torch.float64).reshape(count, width) / width


def filled(rows: Tensor, capacity: int, cuts: tuple[int, ...] = (), seed: int = 0) -> FeatureBank:
    bank = FeatureBank(capacity, seed)
    for start, end in itertools.pairwise([0, *cuts, len(rows)]):
        bank.add(rows[start:end])
    return bank


def content(bank: FeatureBank) -> Tensor:
    return torch.cat(bank.blocks)


# --- what is kept ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20, 30])
@pytest.mark.parametrize("cuts", [(), (1,), (1, 1, 1), (0, 1)])
def test_keeps_all_rows_in_order_while_they_fit(count: int, cuts: tuple[int, ...]) -> None:
    rows = numbered(count)
    bank = filled(rows, 30, cuts)
    assert len(bank) == bank.seen == count
    torch.testing.assert_close(content(bank), rows, rtol=0, atol=0)
    assert all(len(block) <= 8 for block in bank.blocks)


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
    bank = filled(numbered(1000), 20)
    held = sum(block.untyped_storage().nbytes() for block in bank._blocks)
    assert held == 20 * 3 * 8
    few = filled(numbered(3), 10**12)
    assert sum(block.untyped_storage().nbytes() for block in few._blocks) == 8 * 3 * 8
    assert few.blocks[0].data_ptr() == few._blocks[0].data_ptr(), "blocks are views"


def test_rows_are_copied_without_their_graph() -> None:
    rows = numbered(4)
    bank = filled(rows.requires_grad_(), 10)
    with torch.no_grad():
        rows.zero_()
    assert not content(bank).requires_grad
    torch.testing.assert_close(content(bank), numbered(4), rtol=0, atol=0)


def test_bank_can_be_copied() -> None:
    rows = numbered(200)
    bank = filled(rows[:50], 20)
    twin = copy.deepcopy(bank)
    for each in (bank, twin):
        each.add(rows[50:])
    assert torch.equal(content(bank), content(twin))
    assert torch.equal(content(bank), content(filled(rows, 20)))


def test_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least one row, not 0"):
        FeatureBank(0)


def test_gather() -> None:
    rows = numbered(30)
    indices = torch.tensor([29, 0, 7, 8, 8, 15, 16])
    torch.testing.assert_close(filled(rows, 40).gather(indices), rows[indices], rtol=0, atol=0)


# --- search ------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 8, 9, 27])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_largest_products(k: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(27, 6, generator=generator, dtype=dtype)
    queries = torch.randn(12, 6, generator=generator, dtype=dtype)
    products, places = top_k_products(queries, filled(rows, 100, (5,)), k)
    assert products.dtype == dtype
    assert products.shape == places.shape == (12, k)
    for query, found, found_places in zip(queries, products, places, strict=True):
        each = [float(np.dot(query.double().numpy(), row.double().numpy())) for row in rows]
        expected = sorted(range(27), key=lambda row: -each[row])[:k]
        assert found_places.tolist() == expected
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        np.testing.assert_allclose(found, [each[row] for row in expected], rtol=0, atol=tolerance)


@pytest.mark.parametrize("k", [0, 4])
def test_k_must_fit_the_bank(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} neighbors of a bank of 3 .* from 1 to 3"):
        top_k_products(numbered(2), filled(numbered(3), 10), k)


def test_empty_bank() -> None:
    with pytest.raises(ValueError, match="the bank is empty"):
        top_k_products(numbered(2), FeatureBank(5), 1)


# --- directions --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_directions(dtype: torch.dtype) -> None:
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2e-5]], dtype=dtype)
    found = directions(features)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [0, -1]], rtol=1e-6)


def test_direction_of_long_vectors() -> None:
    """Squares that overflow in float32 are taken in float64."""
    found = directions(torch.full((1, 4), 1e30))
    np.testing.assert_allclose(found, [[0.5] * 4], rtol=1e-7)
