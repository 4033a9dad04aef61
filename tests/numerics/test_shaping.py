"""Functions that reshape activations, and row sums of Gram matrices, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench import Outputs
from oodbench.numerics.shaping import (
    activations,
    dominant_eigenvectors,
    kept,
    kept_count,
    largest,
    prune,
    prune_and_level,
    prune_and_sharpen,
    rectify,
    remove_rank_one,
    sharpening,
    spatial_mean,
)
from oodbench.numerics.statistics.gram import gram_row_sums

PERCENTILES = (0.0, 0.5, 0.65, 0.9, 0.95)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kept_places(image: NDArray[np.float64], percentile: float) -> NDArray[np.int64]:
    flat = image.ravel()
    k = max(1, flat.size - int(np.round(flat.size * percentile)))
    return np.argsort(-flat, kind="stable")[:k]


SHAPES = [(7, 20), (7, 5, 4, 3), (1, 6, 3, 3)]


# --- pruning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("percentile", PERCENTILES)
@pytest.mark.parametrize("relu", [True, False])
def test_ash_by_hand(shape: tuple[int, ...], percentile: float, relu: bool) -> None:
    x = random(*shape)
    x = x.relu() if relu else x + 0.5
    found = [f(x, percentile) for f in (prune, prune_and_sharpen)]
    for index, image in enumerate(x.numpy()):
        places = kept_places(image, percentile)
        pruned = np.zeros(image.size)
        pruned[places] = image.ravel()[places]
        s1, s2 = image.sum(), pruned.sum()
        assert s2 > 0
        expected = pruned.reshape(image.shape), (pruned * np.exp(s1 / s2)).reshape(image.shape)
        for result, value in zip(found, expected, strict=True):
            np.testing.assert_allclose(result[index], value, rtol=1e-12, atol=1e-300)
        top = largest(x, percentile)
        np.testing.assert_allclose(sharpening(x, top)[index], np.exp(s1 / s2), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("percentile", PERCENTILES)
def test_levelled_by_hand(shape: tuple[int, ...], percentile: float) -> None:
    x = random(*shape)
    found = prune_and_level(x, percentile)
    for index, image in enumerate(x.numpy()):
        places = kept_places(image, percentile)
        expected = np.zeros(image.size)
        expected[places] = image.sum() / len(places)
        np.testing.assert_allclose(found[index], expected.reshape(image.shape), rtol=1e-12)


@pytest.mark.parametrize(
    ("count", "percentile", "expected"),
    [(100, 0.9, 10), (64, 0.9, 6), (4096, 0.65, 1434), (10, 0.65, 4), (10, 0.0, 10), (8, 0.95, 1)],
)
def test_kept_count(count: int, percentile: float, expected: int) -> None:
    """n - round(n p), half to even, as in the published code; but never none."""
    assert kept_count(count, percentile) == expected


def test_ties_share_the_places_that_are_left() -> None:
    x = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0, 0.0]])
    top = largest(x, 0.5)
    np.testing.assert_allclose(kept(x, top), [[1, 2 / 3, 2 / 3, 2 / 3, 0, 0]], rtol=1e-6)
    assert kept(x, top).sum().item() == pytest.approx(3)
    np.testing.assert_allclose(prune(x, 0.5), [[3, 2 / 3, 2 / 3, 2 / 3, 0, 0]], rtol=1e-6)
    # The sums are those of any choice among the tied.
    assert sharpening(x, top).item() == pytest.approx(np.exp(6 / 5))


def test_ties_at_zero_matter_only_to_levels() -> None:
    x = torch.tensor([[3.0, 0.0, 0.0, 0.0]])
    assert prune(x, 0.25).tolist() == x.tolist()
    np.testing.assert_allclose(prune_and_level(x, 0.25), [[1, 2 / 3, 2 / 3, 2 / 3]], rtol=1e-6)


def test_shaping_follows_the_order_of_values() -> None:
    """Ties or not, permuting an image's values permutes what becomes of them."""
    x = random(6, 40).mul(3).round().relu()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for shape in (prune, prune_and_sharpen, prune_and_level):
        torch.testing.assert_close(shape(x[:, order], 0.8), shape(x, 0.8)[:, order])


@pytest.mark.parametrize("shape", [prune, prune_and_sharpen, prune_and_level])
def test_images_without_activation_stay_so(shape: object) -> None:
    assert callable(shape)
    assert shape(torch.zeros(2, 3, 2, 2), 0.5).abs().sum() == 0


def test_sharpening_where_the_sums_are_not_positive() -> None:
    x = torch.tensor([[-1.0, -2.0], [0.0, 0.0], [1.0, -1.0]])
    assert sharpening(x, largest(x, 0.5)).tolist() == [1.0, 1.0, 1.0]


def test_sharpening_beyond_float32() -> None:
    x = torch.ones(1, 1000)
    assert sharpening(x, largest(x, 0.995)).item() == pytest.approx(np.exp(200.0))


@pytest.mark.parametrize("shape", [prune, prune_and_sharpen, prune_and_level, remove_rank_one])
def test_shaping_leaves_its_input_and_any_layout_alone(shape: object) -> None:
    assert callable(shape)
    x = random(4, 6, 3, 5).relu()
    copy, arguments = x.clone(), () if shape is remove_rank_one else (0.7,)
    found = shape(x, *arguments)
    assert torch.equal(x, copy)
    assert found.shape == x.shape
    other = shape(x.to(memory_format=torch.channels_last), *arguments)
    torch.testing.assert_close(other, found, rtol=1e-12, atol=1e-12)


# --- rectifying --------------------------------------------------------------------------------


def test_rectify() -> None:
    x = torch.tensor([[-2.0, 0.5, 1.0, 3.0]])
    assert rectify(x, torch.tensor(1.0)).tolist() == [[-2.0, 0.5, 1.0, 1.0]]
    upper, lower = torch.tensor([1.0, 2.0, 2.0, 2.0]), torch.tensor([0.0, 0.5, 1.5, 1.5])
    found = rectify(x, upper.double(), lower.double())
    assert found.tolist() == [[0.0, 0.5, 0.0, 2.0]]
    assert found.dtype == x.dtype


def test_spatial_mean() -> None:
    x = random(3, 4, 2, 5)
    np.testing.assert_allclose(spatial_mean(x), x.numpy().mean(axis=(2, 3)), rtol=1e-12)
    assert torch.equal(spatial_mean(x[:, :, 0, 0]), x[:, :, 0, 0])


# --- rank one ----------------------------------------------------------------------------------


def without_largest_component(image: NDArray[np.float64]) -> NDArray[np.float64]:
    u, s, vt = np.linalg.svd(image.reshape(len(image), -1), full_matrices=False)
    rest: NDArray[np.float64] = (u[:, 1:] * s[1:]) @ vt[1:]
    return rest.reshape(image.shape)


@pytest.mark.parametrize("shape", [(12, 3, 3), (5, 4, 4), (4, 2, 2), (1, 3, 3), (64, 8, 8)])
@pytest.mark.parametrize("relu", [True, False])
def test_rank_one_by_hand(shape: tuple[int, ...], relu: bool) -> None:
    x = random(6, *shape)
    x = x.relu() if relu else x
    found, single = remove_rank_one(x), remove_rank_one(x.float())
    for index, image in enumerate(x.numpy()):
        expected = without_largest_component(image)
        np.testing.assert_allclose(found[index], expected, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(single[index], expected, atol=3e-4)


@pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-8])
def test_rank_one_of_nearly_equal_singular_values(gap: float) -> None:
    u, v = (torch.linalg.qr(random(3, n, 9, seed=n)).Q for n in (20, 9))
    s = torch.tensor([1, 1 - gap, 0.9, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    found = remove_rank_one(((u * s) @ v.transpose(1, 2)).view(3, 20, 3, 3))
    expected = (u[:, :, 1:] * s[1:]) @ v[:, :, 1:].transpose(1, 2)
    np.testing.assert_allclose(found.flatten(2), expected, atol=1e-14 / gap)


def test_rank_one_of_equal_singular_values() -> None:
    """One of the two is removed, whichever."""
    u, v = (torch.linalg.qr(random(3, n, 4, seed=n)).Q for n in (20, 9))
    s = torch.tensor([1, 1, 0.5, 0.25], dtype=torch.float64)
    rest = remove_rank_one(((u * s) @ v.transpose(1, 2)).view(3, 20, 3, 3))
    values = torch.linalg.svdvals(rest.flatten(2))[:, :4]
    np.testing.assert_allclose(values, [[1, 0.5, 0.25, 0]] * 3, atol=1e-12)


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e30])
def test_rank_one_of_any_scale(factor: float) -> None:
    x = random(3, 6, 2, 3).float().relu()
    found = remove_rank_one(x * factor) / factor
    torch.testing.assert_close(found, remove_rank_one(x), rtol=1e-4, atol=1e-5)


def test_rank_one_beside_an_empty_map() -> None:
    x = random(3, 6, 2, 3)
    x[1] = 0
    found = remove_rank_one(x)
    assert found[1].abs().sum() == 0
    torch.testing.assert_close(found[::2], remove_rank_one(x[::2]), rtol=1e-12, atol=1e-12)


def test_rank_one_of_one_place() -> None:
    with pytest.raises(ValueError, match="RankFeat needs a map of more than one place"):
        remove_rank_one(torch.ones(2, 8, 1, 1))


def test_dominant_eigenvectors_are_those_of_eigh() -> None:
    factors = random(9, 15, 6)
    matrices = factors @ factors.transpose(1, 2)
    found, expected = dominant_eigenvectors(matrices), torch.linalg.eigh(matrices).eigenvectors
    np.testing.assert_allclose((found * expected[:, :, -1]).sum(1).abs(), np.ones(9), rtol=1e-12)
    np.testing.assert_allclose(found.norm(dim=1), np.ones(9), rtol=1e-12)


# --- Gram matrices -----------------------------------------------------------------------------


def row_sums_by_hand(places: NDArray[np.float64], power: int) -> NDArray[np.float64]:
    """From the matrix itself; `places` is [channels, places]."""
    gram = places**power @ (places**power).T
    sums = gram.sum(axis=1)
    found: NDArray[np.float64] = np.sign(sums) * np.abs(sums) ** (1 / power)
    return found


@pytest.mark.parametrize("shape", [(5, 7), (5, 4, 7), (5, 7, 3, 2)])
@pytest.mark.parametrize("relu", [True, False])
def test_gram_row_sums_by_hand(shape: tuple[int, ...], relu: bool) -> None:
    x = random(*shape) * 3
    x = x.relu() if relu else x
    found, single = gram_row_sums(x, 10), gram_row_sums(x.float(), 10)
    assert found.shape == (5, 10, 7)
    assert single.dtype == torch.float32
    for index, image in enumerate(x.numpy()):
        places = image.T if image.ndim == 2 else image.reshape(7, -1)  # tokens come first
        for power in range(1, 11):
            expected = row_sums_by_hand(places, power)
            tolerance = 1e-12 * np.abs(expected).max()
            actual = found[index, power - 1]
            np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=tolerance)
            if relu:  # with signs, sums cancel
                np.testing.assert_allclose(single[index, power - 1], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-12, 1e5, 1e12])
def test_gram_row_sums_do_not_overflow(factor: float) -> None:
    """The tenth power of 1e5 is beyond float32."""
    x = random(3, 6, 4, 4).abs().float()
    found = gram_row_sums(x * factor, 10)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found / factor / factor, gram_row_sums(x, 10), rtol=1e-4, atol=0)


def test_gram_row_sums_of_nothing() -> None:
    x = random(2, 3, 2, 2)
    x[1] = 0
    x[0, 2] = 0
    found = gram_row_sums(x, 3)
    assert found[1].abs().sum() == 0
    assert found[0, :, 2].abs().sum() == 0
    assert torch.isfinite(found).all()


def test_gram_row_sums_in_half_precision() -> None:
    x = random(2, 3, 4, 4).relu().half()
    torch.testing.assert_close(gram_row_sums(x, 10), gram_row_sums(x.float(), 10))


def test_gram_row_sums_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(7, 3, 4, 4)
    whole = gram_row_sums(x, 4)
    monkeypatch.setattr("oodbench.numerics.statistics.gram.BLOCKS", {"cpu": 100})
    torch.testing.assert_close(gram_row_sums(x, 4), whole, rtol=1e-12, atol=1e-12)
    layout = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(gram_row_sums(layout, 4), whole, rtol=1e-12, atol=1e-12)


# --- parameters --------------------------------------------------------------------------------


def test_activations() -> None:
    features, maps = random(2, 3), random(2, 3, 2, 2)
    outputs = Outputs(random(2, 4), features, feature_map=maps)
    assert activations(outputs, "pooled") is features
    assert activations(outputs, "map") is maps
    with pytest.raises(ValueError, match="changed in pooled or map, not maps"):
        activations(outputs, "maps")  # type: ignore[arg-type]


def test_checks() -> None:
    from oodbench.numerics.input_checks import fraction, one_of
    from oodbench.numerics.shaping import Place

    assert one_of("on", "map", Place) == "map"
    with pytest.raises(ValueError, match="on must be one of pooled, map, not both"):
        one_of("on", "both", Place)
    assert fraction("percentile", 0.9) == 0.9
    for wrong in (-0.1, 1.0, 90):
        with pytest.raises(ValueError, match=r"percentile must be a fraction in \[0, 1\), not"):
            fraction("percentile", wrong)
