"""Streaming quantiles against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.numerics.row_sample import RowSample
from oodbench.numerics.statistics.quantiles import StreamingQuantiles

FRACTIONS = (0.0, 0.01, 0.5, 0.6, 0.85, 0.9, 0.95, 0.99, 1.0)


def filled(
    rows: Tensor, capacity: int, size: int | None = None, seed: int = 0
) -> StreamingQuantiles:
    quantiles = StreamingQuantiles(RowSample(capacity, seed))
    for part in rows.split(size or len(rows)):
        quantiles.add(part)
    return quantiles


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 997])
def test_exact_while_everything_fits(count: int) -> None:
    rows = values(count)
    quantiles = filled(rows, capacity=1000, size=7)
    assert torch.equal(quantiles.kept, rows)
    for fraction in FRACTIONS:
        expected = np.percentile(rows.numpy(), 100 * fraction)
        np.testing.assert_allclose(quantiles.quantile(fraction), expected, rtol=1e-12)


def test_columns_have_their_own_quantiles() -> None:
    rows = values(321, 5) * torch.arange(1, 6)
    quantiles = filled(rows, capacity=321, size=50)
    for fraction in FRACTIONS:
        expected = np.quantile(rows.numpy(), fraction, axis=0)
        np.testing.assert_allclose(quantiles.quantile(fraction), expected, rtol=1e-12)


def test_float32_is_interpolated_in_float64() -> None:
    rows = values(100).float()
    found = filled(rows, capacity=100).quantile(0.123)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, np.quantile(rows.double().numpy(), 0.123), rtol=1e-14)


@pytest.mark.parametrize("capacity", [2, 3, 10, 64, 100])
@pytest.mark.parametrize("count", [2, 63, 64, 65, 101, 400])
def test_sample_does_not_depend_on_the_batches(capacity: int, count: int) -> None:
    rows = torch.arange(count)
    whole = filled(rows, capacity).kept
    for size in (1, 2, 13, 64, 999):
        assert torch.equal(filled(rows, capacity, size).kept, whole), f"batches of {size}"


def test_quantile_of_a_sample_is_that_of_what_is_kept() -> None:
    rows = values(5000)
    quantiles = filled(rows, capacity=300, size=77)
    for fraction in FRACTIONS:
        expected = np.quantile(quantiles.kept.numpy(), fraction)
        np.testing.assert_allclose(quantiles.quantile(fraction), expected, rtol=1e-12)


def test_seed_decides() -> None:
    rows = torch.arange(1000)
    assert torch.equal(filled(rows, 50, seed=3).kept, filled(rows, 50, seed=3).kept)
    assert not torch.equal(filled(rows, 50, seed=3).kept, filled(rows, 50, seed=4).kept)


def test_sampled_quantiles_are_near() -> None:
    rows = values(200_000)
    found = filled(rows, capacity=10_000, size=4096).quantile(0.9)
    rank = (rows < found).double().mean()
    assert abs(rank - 0.9) < 5 * np.sqrt(0.9 * 0.1 / 10_000)


def test_capacity_counts_rows_however_wide() -> None:
    assert len(filled(values(2, 100), capacity=2).kept) == 2
    assert len(filled(values(9, 100), capacity=2).kept) == 2


def test_adding_after_a_quantile() -> None:
    quantiles = StreamingQuantiles(RowSample(10))
    quantiles.add(torch.tensor([1.0, 2.0]))
    assert quantiles.quantile(1).item() == 2
    quantiles.add(torch.tensor([3.0]))
    assert quantiles.quantile(1).item() == 3


def test_what_was_added_is_copied() -> None:
    rows = torch.ones(3)
    quantiles = filled(rows, 10)
    rows.zero_()
    assert quantiles.quantile(0.5).item() == 1


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least one row, not 0"):
        RowSample(0)
    with pytest.raises(ValueError, match="no values to take a quantile of: fit the detector"):
        StreamingQuantiles(RowSample(2)).quantile(0.5)
    with pytest.raises(ValueError, match=r"a fraction from 0 to 1, not 90"):
        filled(values(3), 10).quantile(90)
