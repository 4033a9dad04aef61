"""DeLong's variance against its definition by all pairs, and against its covariance form."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from oodbench import metrics
from oodbench.run_comparison.delong import Components, components, midranks, variance_of_sum

Array = NDArray[np.float64]


def naive(id_scores: Array, ood_scores: Array) -> tuple[Array, Array]:
    """Components by the definition: a loop over all pairs."""
    of_id, of_ood = np.zeros(len(id_scores)), np.zeros(len(ood_scores))
    for i, known in enumerate(id_scores):
        for j, unknown in enumerate(ood_scores):
            kernel = 1.0 if known > unknown else 0.5 if known == unknown else 0.0
            of_id[i] += kernel / len(ood_scores)
            of_ood[j] += kernel / len(id_scores)
    return of_id, of_ood


@pytest.fixture(params=["continuous", "ties"])
def scores(request: pytest.FixtureRequest) -> list[tuple[Array, Array]]:
    """Three detectors on the same images."""
    generator = np.random.default_rng(1)
    known, unknown = generator.standard_normal((3, 57)) + 1, generator.standard_normal((3, 43))
    known, unknown = known + known[:1], unknown + unknown[:1]
    if request.param == "ties":
        known, unknown = np.round(known), np.round(unknown)
    return list(zip(known, unknown, strict=True))


def test_components_are_those_of_all_pairs(scores: list[tuple[Array, Array]]) -> None:
    for pair in scores:
        found, expected = components(*pair), naive(*pair)
        np.testing.assert_allclose(found.id, expected[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.ood, expected[1], rtol=0, atol=1e-12)
        assert found.id.mean() == pytest.approx(metrics.auroc(*pair), abs=1e-14)
        assert found.ood.mean() == pytest.approx(metrics.auroc(*pair), abs=1e-14)


def test_variance_is_the_covariance_form(scores: list[tuple[Array, Array]]) -> None:
    """L S L', with S = S10 / m + S01 / n of the three AUROCs (DeLong et al. 1988, equation 5)."""
    by_pairs = [naive(*pair) for pair in scores]
    n_id, n_ood = len(scores[0][0]), len(scores[0][1])
    covariance = np.cov([each[0] for each in by_pairs]) / n_id
    covariance += np.cov([each[1] for each in by_pairs]) / n_ood
    contrast = np.array([0.5, 0.5, -1.0])
    found = [components(*pair) for pair in scores]
    mean = Components(
        *(
            sum(c * each for c, each in zip(contrast, part, strict=True))
            for part in zip(*found, strict=True)
        )
    )
    assert variance_of_sum([mean]) == pytest.approx(contrast @ covariance @ contrast, abs=1e-9)
    assert contrast @ covariance @ contrast > 1e-5


def test_sets_share_the_id_images() -> None:
    """The covariance of two OOD sets is that of the components of the ID images."""
    generator = np.random.default_rng(2)
    known = generator.standard_normal(60) + 1
    sets = [generator.standard_normal(size) for size in (40, 90)]
    parts = [naive(known, each) for each in sets]
    shared = np.cov([each[0] for each in parts]) / len(known)
    own = [np.var(each[1], ddof=1) / len(each[1]) for each in parts]
    expected = shared.sum() + sum(own)
    found = variance_of_sum([components(known, each) for each in sets])
    assert found == pytest.approx(expected, abs=1e-12)
    apart = sum(variance_of_sum([components(known, each)]) for each in sets)
    assert found > 1.1 * apart


def test_example_by_hand() -> None:
    """ID 2, 3, 4 against OOD 1, 2, 2.5: AUROC 5/6, variance (1/12) / 3 + (1/36) / 3 = 1/27."""
    found = components(np.array([3.0, 2.0, 4.0]), np.array([1.0, 2.0, 2.5]))
    np.testing.assert_allclose(found.id, [1, 1 / 2, 1], atol=1e-15)
    np.testing.assert_allclose(found.ood, [1, 5 / 6, 2 / 3], atol=1e-15)
    assert variance_of_sum([found]) == pytest.approx(1 / 27, abs=1e-15)


def test_midranks_are_exact() -> None:
    values = np.random.default_rng(3).integers(0, 20, size=200).astype(np.float64)
    np.testing.assert_array_equal(midranks(values), stats.rankdata(values))


def test_standard_error_is_that_of_many_samples() -> None:
    """Over 400 samples of the images, the differences scatter by the mean standard error."""
    generator = np.random.default_rng(4)
    differences, variances = [], []
    for _ in range(400):
        known, unknown = generator.standard_normal(80) + 1.5, generator.standard_normal(60)
        old, new = (
            components(
                known + 0.5 * generator.standard_normal(80),
                unknown + 0.5 * generator.standard_normal(60),
            )
            for _ in range(2)
        )
        difference = Components(new.id - old.id, new.ood - old.ood)
        differences.append(difference.id.mean())
        variances.append(variance_of_sum([difference]))
    ratio = np.std(differences) / np.sqrt(np.mean(variances))
    assert 0.9 < ratio < 1.1
