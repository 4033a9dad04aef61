"""Classifiers of any image and text encoder: text features, logits, bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench import UserError
from oodbench.models import VisionLanguageClassifier
from oodbench.models.vision_language import text_features

NAMES = ("cat", "dog", "owl")
PROMPTS = ("a photo of a {c}", "the {} in a drawing", "a {c}.")


def tokens_of(texts: list[str]) -> Tensor:
    """Character codes, padded."""
    return torch.tensor([[ord(letter) for letter in f"{text:<30}"[:30]] for text in texts])


class Texts(nn.Module):
    """A text encoder in float64."""

    def __init__(self, dimension: int = 6) -> None:
        super().__init__()
        self.table = nn.Embedding(128, dimension).double()
        self.calls = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        places = torch.arange(1, tokens.shape[1] + 1, dtype=torch.float64)
        return (self.table(tokens) * places[:, None]).sum(dim=1)


@pytest.fixture
def texts() -> Texts:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Texts()


def images_to(dimension: int = 6) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, dimension)).double()


def expected_features(texts: Texts, prompts: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """The mean of the directions of all prompts of a class, again of unit length."""
    rows = []
    for name in NAMES:
        total = np.zeros(6)
        for prompt in prompts:
            text = prompt.replace("{c}", name).replace("{}", name)
            raw = np.zeros(6)
            for place, letter in enumerate(f"{text:<30}"[:30]):
                raw += (place + 1) * texts.table.weight[ord(letter)].detach().numpy()
            total += raw / np.sqrt((raw**2).sum())
        mean = total / len(prompts)
        rows.append(mean / np.sqrt((mean**2).sum()))
    return np.stack(rows)


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS])
def test_logits_are_cosines_of_image_and_averaged_text_features(
    texts: Texts, prompts: tuple[str, ...]
) -> None:
    model = VisionLanguageClassifier(images_to(), texts, tokens_of, NAMES, prompts)
    batch = torch.rand(5, 3, 4, 4, dtype=torch.float64)
    features = expected_features(texts, prompts)
    np.testing.assert_allclose(model.text_features.numpy(), features, rtol=1e-9)
    raw = images_to()(batch).detach().numpy()
    expected = raw / np.sqrt((raw**2).sum(axis=1, keepdims=True)) @ features.T
    with torch.no_grad():
        np.testing.assert_allclose(model(batch).numpy(), expected, rtol=1e-9)
    scaled = VisionLanguageClassifier(
        images_to(), texts, tokens_of, NAMES, prompts, logit_scale=50.0, scaled_logits=True
    )
    with torch.no_grad():
        np.testing.assert_allclose(scaled(batch).numpy(), 50 * expected, rtol=1e-9)
    np.testing.assert_allclose(scaled.language.text_features.numpy(), features, rtol=1e-9)


def test_text_features_are_computed_once_and_tokens_may_have_names(texts: Texts) -> None:
    def named(words: list[str]) -> dict[str, Tensor]:
        return {"tokens": tokens_of(words)}

    model = VisionLanguageClassifier(images_to(), texts, named, NAMES)
    assert texts.calls == 1
    with torch.no_grad():
        model(torch.rand(2, 3, 4, 4, dtype=torch.float64))
    assert texts.calls == 1
    assert model.prompts == ("a photo of a {c}",)
    words = model.language.encode(["a photo of a cat", "anything"])
    assert torch.equal(words[0], model.text_features[0])


def test_stored_text_features_are_those_of_weights_tokens_and_prompts(
    texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path))

    def made(names: tuple[str, ...] = NAMES, prompts: Any = PROMPTS) -> tuple[Tensor, int]:
        before = texts.calls
        model = VisionLanguageClassifier(images_to(), texts, tokens_of, names, prompts, store=True)
        return model.text_features, texts.calls - before

    first, calls = made()
    assert calls == 1
    again, calls = made()
    assert calls == 0
    assert torch.equal(first, again)
    assert made(("cat", "dog", "fox"))[1] == 1
    assert made(prompts=PROMPTS[:2])[1] == 1
    assert made(prompts="a {} on a road")[1] == 1
    with torch.no_grad():
        texts.table.weight += 1
    changed, calls = made()
    assert calls == 1
    assert not torch.equal(first, changed)
    for file in (tmp_path / "text-features").iterdir():
        file.write_bytes(b"damaged")
    repaired, calls = made()
    assert calls == 1
    assert torch.equal(repaired, changed)


def test_many_texts_are_encoded_in_parts(texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = VisionLanguageClassifier(images_to(), texts, tokens_of, NAMES, PROMPTS).text_features
    monkeypatch.setattr(text_features, "_BATCH", 4)
    parts = VisionLanguageClassifier(images_to(), texts, tokens_of, NAMES, PROMPTS).text_features
    np.testing.assert_allclose(parts.numpy(), whole.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": "a photo"}, r"prompts: 'a photo' has no single place for the class name"),
        ({"prompts": ["{c}", "{c} and {}"]}, r"prompts: '\{c\} and \{\}' has no single place"),
        ({"prompts": []}, r"prompts: expected texts such as 'a photo of a \{c\}', not \[\]"),
        ({"class_names": "cat"}, "class_names: expected a list of names"),
        ({"class_names": ["cat", ""]}, "class_names: expected names, not ''"),
        ({"class_names": ["cat"]}, "class_names: expected a name for each class, not 1 name"),
        ({"tokenizer": None}, "tokenizer: expected a callable, not None"),
        ({"scaled_logits": True}, "scaled_logits: give logit_scale"),
        ({"text_encoder": lambda tokens: tokens.float()[0]}, r"text_encoder: .* of shape \[30\]"),
        (
            {"text_encoder": lambda tokens: tokens.float() * float("nan")},
            "text_encoder: its features are not finite",
        ),
        (
            {"text_encoder": lambda tokens: tokens.float(), "store": True},
            "store: the text encoder is no torch.nn.Module",
        ),
    ],
)
def test_bad_input_is_one_sentence(texts: Texts, change: dict[str, Any], message: str) -> None:
    arguments = {
        "image_encoder": images_to(),
        "text_encoder": texts,
        "tokenizer": tokens_of,
        "class_names": NAMES,
    }
    with pytest.raises(UserError, match=message):
        VisionLanguageClassifier(**{**arguments, **change})


def test_an_image_encoder_of_another_space_is_named(texts: Texts) -> None:
    model = VisionLanguageClassifier(images_to(5), texts, tokens_of, NAMES)
    with pytest.raises(UserError, match=r"image_encoder: expected features \[2, 6\].*\[2, 5\]"):
        model(torch.rand(2, 3, 4, 4, dtype=torch.float64))


# --- evaluate -------------------------------------------------------------------------------------


class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.rand(count, 3, 4, 4, generator=generator, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= len(self):
            raise IndexError
        return self.images[index], index % len(NAMES)


def evaluated(model: nn.Module, detectors: Any, batch_size: int = 16) -> Any:
    def loader(count: int, seed: int) -> Any:
        return torch.utils.data.DataLoader(Images(count, seed), batch_size=batch_size)

    return oodbench.evaluate(
        model,
        detectors,
        id_data=loader(30, 1),
        ood_data={"other": loader(20, 2)},
        fit_data=loader(60, 3),
        progress=False,
    )


def with_patches(encoder: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """An encoder with the images' rows as patches."""

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        rows = [images * (torch.arange(4) == row)[:, None] for row in range(4)]
        return encoder(images), torch.stack([encoder(each) for each in rows], dim=1)

    return encode


@pytest.fixture
def model(texts: Texts) -> VisionLanguageClassifier:
    encoder = images_to()
    return VisionLanguageClassifier(
        encoder, texts, tokens_of, NAMES, local_encoder=with_patches(encoder)
    )


def test_evaluate_runs_language_detectors_and_all_others(
    model: VisionLanguageClassifier, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("\n".join(f"word{index}" for index in range(30)))
    words = oodbench.load_detector("neglabel", words=str(tmp_path / "words.txt"), kept=0.5)
    chosen = {
        **{name: name for name in ("mcm", "gl_mcm", "baseline", "energy", "knn", "react", "odin")},
        "neglabel": words,
    }
    found = evaluated(model, chosen)
    assert found.skipped == {}
    assert set(found.scores) == set(chosen)
    test = Images(30, 1).images
    with torch.no_grad():
        cosines = model(test)
        local = with_patches(model.image_encoder)(test)[1]  # type: ignore[arg-type]
    probability = cosines.softmax(dim=1).amax(dim=1)
    np.testing.assert_allclose(found.scores["mcm"]["id"], probability.numpy(), rtol=1e-9)
    directions = nn.functional.normalize(local, dim=2) @ model.text_features.T
    of_patches = directions.softmax(dim=2).amax(dim=(1, 2))
    np.testing.assert_allclose(
        found.scores["gl_mcm"]["id"], (probability + of_patches).numpy(), rtol=1e-9
    )
    assert not model._takers  # nothing is left in the model
    smaller = evaluated(model, chosen, batch_size=7)
    for label, sets in found.scores.items():
        for name, scores in sets.items():
            np.testing.assert_allclose(smaller.scores[label][name], scores, rtol=1e-6)


def test_detectors_that_a_model_does_not_serve_are_skipped_with_their_reason(
    texts: Texts,
) -> None:
    alone = VisionLanguageClassifier(images_to(), texts, tokens_of, NAMES)
    found = evaluated(alone, ["mcm", "gl_mcm", "dismax_entropy"])
    assert found.skipped["gl_mcm"] == (
        "needs features of patches, and the model's image encoder gives none"
    )
    assert "the model has a linear head" in found.skipped["dismax_entropy"]
    usual = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    found = evaluated(usual, ["baseline", "mcm", "neglabel"])
    reason = "needs a vision-language model, such as CLIP; the model has no text encoder"
    assert found.skipped == {"mcm": reason, "neglabel": reason}


# --- callables of any kind ------------------------------------------------------------------------


def test_encoders_may_return_outputs_of_transformers(texts: Texts) -> None:
    def pooled(encoder: Any) -> Any:
        return lambda given: SimpleNamespace(pooler_output=encoder(given), last_hidden_state=0)

    plain = VisionLanguageClassifier(images_to(), texts, tokens_of, NAMES)
    wrapped = VisionLanguageClassifier(pooled(images_to()), pooled(texts), tokens_of, NAMES)
    images = torch.rand(2, 3, 4, 4).double()
    assert torch.equal(wrapped(images), plain(images))


def test_a_text_encoder_comes_back_in_its_mode(texts: Texts) -> None:
    modes: list[bool] = []
    texts.register_forward_hook(lambda module, given, output: modes.append(module.training))
    VisionLanguageClassifier(images_to(), texts.train(), tokens_of, NAMES)
    assert modes == [False]
    assert texts.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_encoder": lambda given: torch.rand(2, 6)}, "features of 2 texts for 3"),
        ({"text_encoder": lambda given: torch.zeros(3, 6)}, "the features of a text are all zero"),
        ({"text_encoder": lambda given: 1 / 0}, "text_encoder: ZeroDivisionError: division"),
        ({"tokenizer": lambda given: 1 / 0}, "tokenizer: ZeroDivisionError: division"),
        ({"logit_scale": float("nan")}, "logit_scale: expected a positive number, not nan"),
        ({"logit_scale": torch.tensor(-2.0)}, r"logit_scale: expected a positive number, not -2"),
    ],
)
def test_callables_that_fail_are_named(texts: Texts, change: dict[str, Any], message: str) -> None:
    given = {"image_encoder": images_to(), "text_encoder": texts, "tokenizer": tokens_of, **change}
    with pytest.raises(UserError, match=message):
        VisionLanguageClassifier(**given, class_names=NAMES)


@pytest.mark.parametrize(
    ("local", "message"),
    [
        (lambda images: images_to()(images), r"not \[2, 6\]"),
        (lambda images: (images_to()(images),) * 2, r"not \[2, 6\], \[2, 6\]"),
        (lambda images: (images_to()(images), torch.rand(2, 4, 5)), r"not \[2, 6\], \[2, 4, 5\]"),
        (lambda images: (images_to()(images), torch.rand(1, 4, 6)), r"not \[2, 6\], \[1, 4, 6\]"),
    ],
)
def test_local_features_of_another_shape_are_named(texts: Texts, local: Any, message: str) -> None:
    model = VisionLanguageClassifier(images_to(), texts, tokens_of, NAMES, local_encoder=local)
    handles = model.watch_local_features(lambda features: None)
    with pytest.raises(UserError, match=f"local_encoder: expected .*, {message}"):
        model(torch.rand(2, 3, 4, 4).double())
    assert len(handles) == 1
