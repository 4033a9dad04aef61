"""MCM, GL-MCM and NegLabel against references in plain float64 loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import pytorch_ood.detector as peer
import torch
from numpy.typing import NDArray

import oodbench
from oodbench import Outputs
from oodbench.detector import Language
from oodbench.errors import UserError

CLASSES = ("cat", "dog", "cow")
D = 6

Array = NDArray[np.float64]


def direction(text: str) -> Array:
    """A feature of unit length for a text."""
    raw = np.random.default_rng([ord(letter) for letter in text]).normal(size=D)
    return raw / math.sqrt(sum(value * value for value in raw))


def encode(texts: Sequence[str]) -> torch.Tensor:
    return torch.from_numpy(np.stack([direction(text) for text in texts]))


def language(names: Sequence[str] = CLASSES) -> Language:
    return Language(tuple(names), encode([f"a photo of a {name}" for name in names]), encode, 100.0)


def outputs(images: int = 7, patches: int = 5, names: Sequence[str] = CLASSES) -> Outputs:
    rng = np.random.default_rng(0)
    features, local = rng.normal(size=(images, D)), rng.normal(size=(images, patches, D))
    features[3] = features[2]  # two images alike
    texts = language(names)
    return Outputs(
        logits=texts.cosines(torch.from_numpy(features)),
        features=torch.from_numpy(features),
        language=texts,
        local_features=torch.from_numpy(local),
    )


def cosine(a: Array, b: Array) -> float:
    return float(sum(a * b)) / math.sqrt(float(sum(a * a)) * float(sum(b * b)))


def largest_probability(feature: Array, names: Sequence[str], temperature: float) -> float:
    powers = [
        math.exp(cosine(feature, direction(f"a photo of a {name}")) / temperature) for name in names
    ]
    return max(powers) / sum(powers)


@pytest.mark.parametrize("temperature", [1.0, 0.01, 5.0])
def test_mcm_is_the_largest_probability_of_the_cosines(temperature: float) -> None:
    batch = outputs()
    found = oodbench.load_detector("mcm", temperature=temperature).score(batch)
    expected = [
        largest_probability(feature, CLASSES, temperature) for feature in batch.features.numpy()
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    assert found[2] == found[3]


@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 1.0), (0.5, 0.1), (0.0, 1.0)])
def test_gl_mcm_adds_the_largest_probability_of_any_patch(
    weight: float, temperature: float
) -> None:
    batch = outputs()
    detector = oodbench.load_detector("gl_mcm", weight=weight, temperature=temperature)
    assert batch.local_features is not None
    expected = []
    for feature, patches in zip(batch.features.numpy(), batch.local_features.numpy(), strict=True):
        local = max(largest_probability(patch, CLASSES, temperature) for patch in patches)
        expected.append(largest_probability(feature, CLASSES, temperature) + weight * local)
    np.testing.assert_allclose(detector.score(batch).numpy(), expected, rtol=1e-9)


def test_mcm_agrees_with_pytorch_ood() -> None:
    batch = outputs(images=50)
    theirs = peer.MCM(None, language().text_features, temperature=0.5)
    expected = -theirs.predict_features(batch.features)
    found = oodbench.load_detector("mcm", temperature=0.5).score(batch)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=2e-6)


def test_gl_mcm_works_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, detector = outputs(), oodbench.load_detector("gl_mcm")
    whole = detector.score(batch)
    module = __import__("sys").modules[type(detector).__module__]
    monkeypatch.setattr(module, "_BLOCK", 2 * 5 * len(CLASSES))
    np.testing.assert_allclose(detector.score(batch).numpy(), whole.numpy(), rtol=1e-12)


# --- NegLabel -------------------------------------------------------------------------------------

NOUNS = [f"noun{index}" for index in range(40)]
ADJECTIVES = [f"adjective{index}" for index in range(20)]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "nouns.txt").write_text("\n".join([*NOUNS, NOUNS[0], ""]))
    (tmp_path / "adjectives.txt").write_text("\n".join([*ADJECTIVES, NOUNS[1]]))
    return {
        "words": str(tmp_path / "nouns.txt"),
        "adjectives": str(tmp_path / "adjectives.txt"),
    }


def mined(words: Sequence[str], prompt: str, kept: float, quantile: float) -> list[Array]:
    """The words with the smallest quantile of their cosines to the classes, by sorting."""
    nearness = []
    for word in words:
        feature = direction(prompt.format(word))
        values = sorted(cosine(feature, direction(f"a photo of a {name}")) for name in CLASSES)
        place = quantile * (len(values) - 1)
        low = math.floor(place)
        high = min(low + 1, len(values) - 1)
        nearness.append((values[low] + (place - low) * (values[high] - values[low]), feature))
    chosen = sorted(nearness, key=lambda pair: pair[0])[: int(len(words) * kept)]
    return [feature for _, feature in chosen]


def neglabel_reference(
    features: Array, *, groups: int, temperature: float, kept: float = 0.5
) -> list[float]:
    negatives = mined(NOUNS, "The nice {}.", kept, 0.95)
    negatives += mined(ADJECTIVES, "This is a {} photo", kept, 0.95)
    order = torch.randperm(len(negatives), generator=torch.Generator().manual_seed(0)).tolist()
    size = len(negatives) // groups
    scores = []
    for feature in features:
        positive = sum(
            math.exp(cosine(feature, direction(f"a photo of a {name}")) / temperature)
            for name in CLASSES
        )
        shares = []
        for group in range(groups):
            members = order[group * size : (group + 1) * size]
            negative = sum(
                math.exp(cosine(feature, negatives[index]) / temperature) for index in members
            )
            shares.append(positive / (positive + negative))
        scores.append(sum(shares) / groups)
    return scores


@pytest.mark.parametrize(("groups", "temperature"), [(7, 0.01), (1, 0.1), (4, 1.0)])
def test_neglabel_is_the_mean_share_of_the_classes(
    files: dict[str, str], groups: int, temperature: float
) -> None:
    batch = outputs()
    detector = oodbench.load_detector(
        "neglabel", **files, kept=0.5, groups=groups, temperature=temperature
    )
    expected = neglabel_reference(batch.features.numpy(), groups=groups, temperature=temperature)
    np.testing.assert_allclose(detector.score(batch).numpy(), expected, rtol=1e-6)
    assert batch.language is not None
    apart = torch.cat([detector.score(batch[:2]), detector.score(batch[2:])])
    np.testing.assert_allclose(apart.numpy(), expected, rtol=1e-6)


def test_neglabel_encodes_the_words_once_for_a_model(files: dict[str, str]) -> None:
    counted: list[int] = []

    def counting(texts: Sequence[str]) -> torch.Tensor:
        counted.append(len(texts))
        return encode(texts)

    texts = Language(CLASSES, language().text_features, counting)
    batch = outputs().replaced(language=texts)
    detector = oodbench.load_detector("neglabel", **files, kept=0.5, groups=3)
    first = detector.score(batch)
    assert counted == [len(NOUNS), len(ADJECTIVES)]  # each word once, a noun is no adjective
    assert torch.equal(detector.with_parameters(temperature=0.01).score(batch), first)
    assert len(counted) == 2


def test_neglabel_takes_fewer_groups_where_there_are_fewer_words(files: dict[str, str]) -> None:
    batch = outputs()
    detector = oodbench.load_detector("neglabel", **files, kept=0.1)
    expected = neglabel_reference(batch.features.numpy(), groups=6, temperature=0.01, kept=0.1)
    np.testing.assert_allclose(detector.score(batch).numpy(), expected, rtol=1e-6)


def test_neglabel_reads_wordnet() -> None:
    module = __import__("oodbench.numerics.word_lists", fromlist=["word_lists"])
    nouns, adjectives = module.word_lists("wordnet", None)
    assert len(nouns) > 50_000
    assert len(adjectives) > 15_000
    assert {"zebra", "violin"} <= set(nouns)
    assert "wonderful" in adjectives
    assert not set(nouns) & set(adjectives)


def test_bad_words_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = outputs()
    with pytest.raises(UserError, match=r"words: .*absent\.txt' cannot be read: No such file"):
        oodbench.load_detector("neglabel", words=str(tmp_path / "absent.txt")).score(batch)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match=r"empty\.txt has no words"):
        oodbench.load_detector("neglabel", words=str(tmp_path / "empty.txt")).score(batch)
    (tmp_path / "one.txt").write_text("stone")
    with pytest.raises(ValueError, match=r"kept = 0\.15 leaves none of the 1 words"):
        oodbench.load_detector("neglabel", words=str(tmp_path / "one.txt")).score(batch)
    from oodbench.numerics import word_lists

    word_lists._wordnet.cache_clear()
    monkeypatch.setattr(word_lists, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="spacy-lookups-data") as caught:
        word_lists.word_lists("wordnet", None)
    assert "pip install 'oodbench[clip]'" in caught.value.hint
    word_lists._wordnet.cache_clear()


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("mcm", {"temperature": 0.0}),
        ("gl_mcm", {"weight": -1.0}),
        ("neglabel", {"kept": 0.0}),
        ("neglabel", {"quantile": 1.5}),
        ("neglabel", {"groups": 0}),
    ],
)
def test_bad_parameters(name: str, bad: dict[str, float]) -> None:
    with pytest.raises((ValueError, UserError), match=next(iter(bad))):
        oodbench.load_detector(name, **bad)
