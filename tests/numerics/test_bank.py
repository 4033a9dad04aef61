"""Search in banks of features, against loops over rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.numerics import bank as bank_module
from oodbench.numerics import row_sample
from oodbench.numerics.bank import directions, top_k_products
from oodbench.numerics.row_sample import RowSample


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and groups of queries that a few rows fill."""
    monkeypatch.setattr(row_sample, "BLOCK", 8)
    monkeypatch.setattr(bank_module, "QUERIES", 5)


def filled(rows: Tensor, capacity: int, cut: int = 1) -> RowSample:
    bank = RowSample(capacity)
    bank.add(rows[:cut])
    bank.add(rows[cut:])
    return bank


# --- search ------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 8, 9, 27])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_largest_products(k: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(27, 6, generator=generator, dtype=dtype)
    queries = torch.randn(12, 6, generator=generator, dtype=dtype)
    products, places = top_k_products(queries, filled(rows, 100, 5), k)
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
        top_k_products(torch.ones(2, 3), filled(torch.ones(3, 3), 10), k)


def test_empty_bank() -> None:
    with pytest.raises(ValueError, match="the bank is empty"):
        top_k_products(torch.ones(2, 3), RowSample(5), 1)


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
