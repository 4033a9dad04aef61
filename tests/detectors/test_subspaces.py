"""Detectors of directions, their subspaces and relations, and of probabilities, in float64.

Each reference is written from its formula, with loops, NumPy, scikit-learn or many digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench import Detector, Head, Outputs
from oodbench.engine.fitting import fit_together
from oodbench.losses import DisMaxHead
from oodbench.testing.planted import PlantedBatches

Array = NDArray[np.float64]
CLASSES, DIMENSION = 6, 12


def outputs_of(features: Array, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Outputs:
    """Outputs of a linear layer with positive largest logits."""
    random = np.random.default_rng(5)
    weight = torch.from_numpy(scale * random.normal(size=(CLASSES, DIMENSION))).to(dtype)
    head = Head("linear", weight, torch.full((CLASSES,), 4 * scale, dtype=dtype))
    values = torch.from_numpy(features).to(dtype)
    return Outputs(head.logits(values), values, head=head)


def clusters(count: int, seed: int) -> Array:
    """Signed features of some classes (one of six has no image), with one constant feature."""
    random = np.random.default_rng(seed)
    centers = 2 * np.random.default_rng(0).normal(size=(CLASSES - 1, DIMENSION))
    spread = np.linspace(0.1, 1.2, DIMENSION)
    features = centers[random.integers(0, CLASSES - 1, count)]
    features = features + spread * random.normal(size=(count, DIMENSION))
    features[:, 3] = 0.7
    return features


TRAINING = clusters(300, 1)
TESTED = np.concatenate(
    [clusters(20, 2), np.random.default_rng(3).normal(size=(20, DIMENSION)), -clusters(5, 4)]
)
TESTED = np.concatenate([TESTED, np.zeros((1, DIMENSION))])


def fitted(name: str, training: Array = TRAINING, size: int = 64, **parameters: Any) -> Detector:
    detector = oodbench.load_detector(name, **parameters)
    if "fit" in detector.info.needs:
        detector.fit(PlantedBatches(outputs_of(training), CLASSES, size))
    return detector


def scores(name: str, tested: Outputs, **parameters: Any) -> Array:
    found: Array = fitted(name, **parameters).score(tested).numpy()
    return found


def units(features: Array) -> Array:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0)


def largest_logits(features: Array) -> Array:
    found: Array = outputs_of(features).logits.numpy().max(axis=1)
    return found


# --- references --------------------------------------------------------------------------------


def gini(tested: Outputs, temperature: float = 1.0, digits: int = 80) -> list[float]:
    found = []
    with mpmath.workdps(digits):
        for row in tested.logits.tolist():
            weights = [mpmath.exp(mpmath.mpf(z) / temperature) for z in row]
            g = mpmath.fsum((w / mpmath.fsum(weights)) ** 2 for w in weights)
            found.append(float(mpmath.log(g / (1 - g))))
    return found


def lts(tested: Outputs, percentile: float = 0.95, base: str = "energy") -> list[float]:
    found = []
    for f, z in zip(tested.features.tolist(), tested.logits.numpy(), strict=True):
        active = sorted((max(x, 0.0) for x in f), reverse=True)
        kept = max(1, len(f) - round(len(f) * percentile))
        total, top = sum(active), sum(active[:kept])
        scaled = z * ((total / top) ** 2 if top else 1.0)
        m = scaled.max()
        if base == "energy":
            found.append(m + np.log(np.exp(scaled - m).sum()))
        else:
            others = np.delete(scaled, scaled.argmax()) - m
            found.append(-np.log(np.exp(others).sum()))
    return found


def relation(tested: Outputs, power: float = 1, threshold: float = 0.03) -> list[float]:
    training = outputs_of(TRAINING)
    bank, p_bank = units(TRAINING), training.logits.softmax(dim=1).numpy()
    found = []
    rows = zip(units(tested.features.numpy()), tested.logits.softmax(1).numpy(), strict=True)
    for q, p in rows:
        total = 0.0
        for q_i, p_i in zip(bank, p_bank, strict=True):
            k = max(0.0, float(q @ q_i)) * float(p @ p_i)
            total += k**power if k > threshold else 0.0
        found.append(total)
    return found


def pnml(tested: Outputs, digits: int = 80) -> list[float]:
    bank = units(TRAINING)
    inverse = np.linalg.pinv(bank.T @ bank)
    found = []
    for q in units(tested.features.numpy()):
        k = float(q @ inverse @ q)
        logits = tested.head.logits(torch.from_numpy(q[None])).tolist()[0]
        with mpmath.workdps(digits):
            kappa = mpmath.mpf(k) / (1 + mpmath.mpf(k))
            weights = [mpmath.exp(mpmath.mpf(z)) for z in logits]
            p = [w / mpmath.fsum(weights) for w in weights]
            regret = mpmath.log(mpmath.fsum(x / (x + (1 - x) * x**kappa) for x in p))
            found.append(float(-mpmath.log(regret / mpmath.log(CLASSES))) if k else np.inf)
    return found


def residual_of(fit: Array, tested: Array, variance: float) -> Array:
    pca = PCA().fit(fit)
    q = 1 + int(np.flatnonzero(pca.explained_variance_ratio_.cumsum() >= variance)[0])
    centered, axes = tested - pca.mean_, pca.components_[:q]
    found: Array = -np.linalg.norm(centered - centered @ axes.T @ axes, axis=1)
    return found


def cop(tested: Outputs, variance: float = 0.85) -> Array:
    return residual_of(units(TRAINING), units(tested.features.numpy()), variance)


def corp(
    tested: Outputs,
    variance: float = 0.8,
    gamma: float = 2.0,
    components: int | None = None,
    seed: int = 0,
) -> Array:
    m = components or 4 * DIMENSION
    random = np.random.default_rng(seed)
    omega, u = random.normal(0, (2 * gamma) ** 0.5, (m, DIMENSION)), None
    u = random.uniform(0, 2 * np.pi, m)

    def phi(features: Array) -> Array:
        return np.array([(2 / m) ** 0.5 * np.cos(omega @ q + u) for q in units(features)])

    return residual_of(phi(TRAINING), phi(tested.features.numpy()), variance)


def neco(
    tested: Outputs, variance: float = 0.9, dim: int | None = None, max_logit: bool = True
) -> Array:
    scaler = StandardScaler().fit(TRAINING)
    pca = PCA().fit(scaler.transform(TRAINING))
    reached = np.flatnonzero(pca.explained_variance_ratio_.cumsum() >= variance)[0] + 1
    standardized = scaler.transform(tested.features.numpy())
    reduced = pca.transform(standardized)[:, : dim or reached]
    shares = np.linalg.norm(reduced, axis=1) / np.linalg.norm(standardized, axis=1)
    found: Array = shares * tested.logits.numpy().max(axis=1) if max_logit else shares
    return found


REFERENCES: dict[str, Callable[..., Any]] = {
    reference.__name__: reference for reference in (gini, lts, relation, pnml, cop, corp, neco)
}
CASES = [
    ("gini", {}),
    ("gini", {"temperature": 1.5}),
    *(("lts", {"percentile": p}) for p in (0.65, 0.95)),
    ("lts", {"base": "max_probability", "percentile": 0.5}),
    ("relation", {}),
    ("relation", {"power": 4, "threshold": 0.0}),
    ("relation", {"power": 2.5, "threshold": 0.2}),
    ("pnml", {}),
    *(("cop", {"variance": v}) for v in (0.5, 0.85, 0.99)),
    *(("corp", {"variance": v}) for v in (0.5, 0.8)),
    ("corp", {"gamma": 0.5, "components": 30, "seed": 3}),
    *(("neco", {"variance": v}) for v in (0.5, 0.9, 0.99)),
    ("neco", {"dim": 4, "max_logit": False}),
    ("neco", {"dim": DIMENSION}),
]


@pytest.mark.parametrize(("name", "parameters"), CASES, ids=lambda value: str(value))
def test_reference(name: str, parameters: dict[str, Any]) -> None:
    tested = outputs_of(TESTED)
    expected = np.array(REFERENCES[name](tested, **parameters))
    found = scores(name, tested, **parameters)
    known = np.isfinite(expected)
    assert known.sum() >= len(TESTED) - 1
    np.testing.assert_allclose(found[known], expected[known], rtol=1e-8, atol=1e-12)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["gini", "pnml"])
def test_logits_of_a_thousand_are_not_tied(name: str) -> None:
    """Where probabilities round to 1, the scores have the order of the formula."""
    tested = outputs_of(TESTED[:30:2], scale=100.0 if name == "gini" else 400.0)
    found = scores(name, tested)
    expected = np.array(REFERENCES[name](tested, digits=1200))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert expected.max() > 300
    assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("name", REFERENCES)
def test_batches_and_precision_do_not_matter(name: str) -> None:
    """Batches of 7 and 300 to fit, 1 and 46 to score; float32 features."""
    tested = outputs_of(TESTED)
    whole = fitted(name).score(tested)
    other = fitted(name, size=7)
    one_by_one = torch.cat([other.score(tested[i : i + 1]) for i in range(len(tested))])
    torch.testing.assert_close(one_by_one, whole, rtol=1e-9, atol=1e-9)
    detector = oodbench.load_detector(name)
    if "fit" in detector.info.needs:
        detector.fit(PlantedBatches(outputs_of(TRAINING, dtype=torch.float32), CLASSES))
    single = detector.score(outputs_of(TESTED, dtype=torch.float32))
    inside = slice(0, len(TESTED) - 1)  # not the zero vector, whose kappa is rounding
    torch.testing.assert_close(single[inside], whole[inside], rtol=2e-3, atol=2e-3)


def test_signed_copies_and_scales_of_directions() -> None:
    """Scores of directions do not see lengths; scores of a repeated image are tied."""
    tested = outputs_of(np.concatenate([TESTED[:5], 3 * TESTED[:5]]))
    for name in ("cop", "corp", "pnml"):
        first, second = fitted(name).score(tested).split(5)
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)
    twice = outputs_of(np.concatenate([TESTED[:5], TESTED[:5]]))
    for name in REFERENCES:
        first, second = fitted(name).score(twice).split(5)
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "training", "said"),
    [
        *((name, TRAINING[:0], "no training image") for name in ("cop", "corp", "pnml", "neco")),
        ("relation", TRAINING[:0], "no training image"),
        *((name, TRAINING[:1], "do not vary") for name in ("cop", "corp", "neco")),
        *((name, np.full((9, 12), 0.1), "do not vary") for name in ("cop", "corp", "neco")),
        ("pnml", np.zeros((9, 12)), "are zero"),
    ],
)
def test_training_images_that_say_nothing(name: str, training: Array, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fitted(name, training)


def test_one_training_image() -> None:
    """Relation and pNML are defined; the span of one direction is a line."""
    tested = outputs_of(np.concatenate([TRAINING[:1], TESTED[:3]]))
    found = fitted("relation", TRAINING[:1]).score(tested)
    p = tested.logits.softmax(dim=1)
    cosines = torch.from_numpy(units(tested.features.numpy()) @ units(TRAINING[:1])[0])
    relations = cosines.clamp_min(0) * (p @ p[0])
    torch.testing.assert_close(found, relations.where(relations > 0.03, 0.0))
    assert fitted("pnml", TRAINING[:1]).score(tested).isfinite().all()


def test_all_axes_leave_a_residual() -> None:
    """With less variance outside than rounding, one axis remains."""
    flat = TRAINING.copy()
    flat[:, 2:] = 0.0
    detector = fitted("cop", flat, variance=0.999999)
    assert detector.axes.dimension(detector.variance) < DIMENSION
    assert detector.score(outputs_of(TESTED[:4])).max() < 0


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("cop", {"variance": 1.0}, "fraction in (0, 1)"),
        ("corp", {"gamma": 0.0}, "gamma must be positive"),
        ("neco", {"dim": 0}, "dim must be at least 1"),
        ("relation", {"threshold": -1.0}, "threshold must not be negative"),
        ("gini", {"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_bad_parameters(name: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(oodbench.errors.UserError) as raised:
        oodbench.load_detector(name, **parameters)
    assert said in str(raised.value)


def test_a_dimension_above_the_number_of_features() -> None:
    with pytest.raises(ValueError, match="dim = 40"):
        scores("neco", outputs_of(TESTED), dim=40)


def test_neco_needs_positive_logits() -> None:
    training = outputs_of(TRAINING)
    low = training.replaced(logits=training.logits - 100)
    with pytest.raises(ValueError, match="NECO multiplies"):
        oodbench.load_detector("neco").fit(PlantedBatches(low, CLASSES))
    oodbench.load_detector("neco", max_logit=False).fit(PlantedBatches(low, CLASSES))


def test_neco_is_skipped_on_a_dismax_head_whose_logits_are_never_positive() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), DisMaxHead(6, 3))
    images, labels = torch.rand(12, 3, 2, 2), torch.arange(12) % 3
    result = oodbench.evaluate(
        model,
        ["neco", "energy"],
        id_data=TensorDataset(images, labels),
        ood_data={"other": TensorDataset(images + 1)},
        fit_data=TensorDataset(images, labels),
        progress=False,
    )
    assert "linear head" in result.skipped["neco"]


def test_shared_statistics() -> None:
    """Fitted together, detectors share banks and moments; each scores as if fitted alone."""
    names = ("knn", "nnguide", "relation", "cop", "pnml", "neco", "vim", "residual")
    together = {name: oodbench.load_detector(name) for name in names}

    def batches() -> Iterator[Outputs]:
        yield from PlantedBatches(outputs_of(TRAINING), CLASSES, 64)

    fits = fit_together(together, batches, CLASSES)
    assert not any(fit.error for fit in fits.values()), fits
    assert together["knn"].bank is together["relation"].bank is together["nnguide"].bank
    assert together["vim"].axes is together["residual"].axes
    for name in names:
        expected = scores(name, outputs_of(TESTED))
        np.testing.assert_array_equal(together[name].score(outputs_of(TESTED)), expected)


def test_banks_are_bounded_and_aligned() -> None:
    """Relation keeps the same random images in both of its banks."""
    detector = fitted("relation", bank_size=50)
    kept = torch.cat(detector.bank._rows.blocks)[:, :-1] + detector.bank._origin
    rows = (torch.from_numpy(units(TRAINING))[:, None] - kept).norm(dim=2).argmin(dim=0)
    assert len(rows.unique()) == 50
    p = outputs_of(TRAINING).logits.softmax(dim=1)[rows]
    torch.testing.assert_close(torch.cat(detector.probabilities.blocks), p)
