"""Streaming quantiles against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.numerics.quantiles import StreamingQuantiles

FRACTIONS = (0.0, 0.01, 0.5, 0.6, 0.85, 0.9, 0.95, 0.99, 1.0)


def filled(
    rows: Tensor, capacity: int, size: int | None = None, seed: int = 0
) -> StreamingQuantiles:
    quantiles = StreamingQuantiles(capacity, seed)
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


@pytest.mark.parametrize("count", [101, 128, 1000, 4097])
def test_sample_is_bounded_and_spread(count: int) -> None:
    kept = filled(torch.arange(count), capacity=100, size=11).kept
    assert 100 / 2 - 1 <= len(kept) <= 100
    block = 2 ** int(np.ceil(np.log2(count / 100)))
    assert torch.equal(kept // block, torch.arange(len(kept))), "one of each block"
    assert count - int(kept[-1]) <= 2 * block


def test_quantile_of_a_sample_is_that_of_what_is_kept() -> None:
    rows = values(5000)
    quantiles = filled(rows, capacity=300, size=77)
    for fraction in FRACTIONS:
        expected = np.quantile(quantiles.kept.numpy(), fraction)
        np.testing.assert_allclose(quantiles.quantile(fraction), expected, rtol=1e-12)


def test_every_row_is_as_likely_as_any_other() -> None:
    seeds, count, block = 500, 64, 16
    counts = torch.zeros(count)
    for seed in range(seeds):
        counts[filled(torch.arange(count), capacity=4, size=20, seed=seed).kept] += 1
    # Binomial with p = 1 / block: five standard deviations, over 64 rows.
    spread = 5 * np.sqrt(seeds / block * (1 - 1 / block))
    assert (counts - seeds / block).abs().max() < spread
    assert counts.sum() == seeds * 4


def test_halves_of_blocks_are_drawn_independently() -> None:
    places = filled(torch.arange(2**16), capacity=2**12).kept % 16
    frequencies = torch.bincount(places, minlength=16) / len(places)
    assert (frequencies - 1 / 16).abs().max() < 5 * np.sqrt(1 / 16 / 2**12)
    neighbors = torch.corrcoef(torch.stack([places[:-1], places[1:]]).double())[0, 1]
    assert neighbors.abs() < 5 / np.sqrt(2**12)


def test_seed_decides() -> None:
    rows = torch.arange(1000)
    assert torch.equal(filled(rows, 50, seed=3).kept, filled(rows, 50, seed=3).kept)
    assert not torch.equal(filled(rows, 50, seed=3).kept, filled(rows, 50, seed=4).kept)


def test_sampled_quantiles_are_near() -> None:
    rows = values(200_000)
    found = filled(rows, capacity=10_000, size=4096).quantile(0.9)
    rank = (rows < found).double().mean()
    assert abs(rank - 0.9) < 5 * np.sqrt(0.9 * 0.1 / 5000)


def test_capacity_counts_rows_however_wide() -> None:
    assert len(filled(values(2, 100), capacity=2).kept) == 2
    assert 1 <= len(filled(values(9, 100), capacity=2).kept) <= 2


def test_adding_after_a_quantile() -> None:
    quantiles = StreamingQuantiles(10)
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
    with pytest.raises(ValueError, match="capacity must be at least 2, not 1"):
        StreamingQuantiles(1)
    with pytest.raises(ValueError, match="no values to take a quantile of: fit the detector"):
        StreamingQuantiles(2).quantile(0.5)
    with pytest.raises(ValueError, match=r"a fraction from 0 to 1, not 90"):
        filled(values(3), 10).quantile(90)
