"""CLIP models of open_clip and transformers, with small random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_clip import DIMENSION, WIDTH, save_hub_clip, save_open_clip
from torch import Tensor

from oodbench.errors import UserError
from oodbench.models.vision_language.image_encoders import of_open_clip
from oodbench.models.vision_language.sources import Encoders, load_encoders

NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def open_clip_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Encoders]:
    folder = tmp_path_factory.mktemp("open_clip")
    return folder, load_encoders(save_open_clip(folder), offline=True)


@pytest.fixture(scope="module")
def hub_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Encoders]:
    folder = tmp_path_factory.mktemp("hub")
    return folder, load_encoders(save_hub_clip(folder), offline=True)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_features_are_those_of_open_clip(
    open_clip_model: tuple[Path, Encoders], images: Tensor
) -> None:
    import open_clip

    folder, encoders = open_clip_model
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.tokenize([f"a photo of a {name}" for name in NAMES], context_length=16)
    with torch.no_grad():
        expected_text = model.encode_text(tokens, normalize=True)
        expected = model.encode_image(images, normalize=True) @ expected_text.T
        classifier = encoders.classifier(NAMES)
        assert torch.allclose(classifier.text_features, expected_text, atol=1e-6)
        assert torch.allclose(classifier(images), expected, atol=1e-6)
    assert encoders.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert encoders.preprocessing.mean == (0.5, 0.4, 0.3)
    assert encoders.preprocessing.size == (8, 8)
    assert encoders.preprocessing.resize == "resize 8 bicubic, center crop 8x8"


def test_features_are_those_of_transformers(
    hub_model: tuple[Path, Encoders], images: Tensor
) -> None:
    from transformers import AutoTokenizer, CLIPModel

    folder, encoders = hub_model
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = [f"a photo of a {name}" for name in NAMES]
    with torch.no_grad():
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        logits = model(pixel_values=images, **tokens).logits_per_image
        classifier = encoders.classifier(NAMES, scaled_logits=True)
        assert torch.allclose(classifier(images), logits, rtol=1e-4, atol=1e-4)
    assert encoders.preprocessing.size == (8, 8)


@pytest.mark.parametrize("change", [{"quick_gelu": True}, {"text_cfg": {"heads": 4}}])
def test_stored_text_features_are_those_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """The same weights in another configuration: OpenAI's with QuickGELU, for one."""
    network, file = save_open_clip(tmp_path), tmp_path / "open_clip_config.json"

    def features(cache: str) -> Tensor:
        monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / cache))
        return load_encoders(network, offline=True).classifier(NAMES).text_features

    before = features("used")
    about = json.loads(file.read_text())
    model = about["model_cfg"]
    model |= {
        key: {**model[key], **value} if isinstance(value, dict) else value
        for key, value in change.items()
    }
    file.write_text(json.dumps(about))
    expected = features("empty")
    assert not torch.allclose(expected, before, atol=1e-4)
    assert torch.equal(features("used"), expected)


def normalized(x: Any, weight: Any, bias: Any) -> Any:
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5) * weight + bias


def block_input(layer: torch.nn.Module, run: Any) -> Any:
    """What a block is given."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        run()
    handle.remove()
    return seen[0].double().numpy()


def test_local_features_of_open_clip_follow_the_formula(
    open_clip_model: tuple[Path, Encoders], images: Tensor
) -> None:
    """Each patch alone, in float64: values for attention, residuals, MLP, norm, projection."""
    encoder = open_clip_model[1].images
    visual: Any = encoder.encoder
    block = visual.transformer.resblocks[-1]
    x = block_input(block, lambda: encoder(images))
    w = {name: each.detach().double().numpy() for name, each in visual.named_parameters()}
    of = {name.removeprefix("transformer.resblocks.1."): each for name, each in w.items()}
    expected = np.zeros((4, 4, DIMENSION))
    for image in range(4):
        for patch in range(4):
            token = x[image, 1 + patch]
            y = normalized(token, of["ln_1.weight"], of["ln_1.bias"])
            value = (
                of["attn.in_proj_weight"][2 * WIDTH :] @ y + of["attn.in_proj_bias"][2 * WIDTH :]
            )
            u = token + of["attn.out_proj.weight"] @ value + of["attn.out_proj.bias"]
            hidden = of["mlp.c_fc.weight"] @ normalized(u, of["ln_2.weight"], of["ln_2.bias"])
            hidden = torch.from_numpy(hidden + of["mlp.c_fc.bias"])
            active = torch.nn.functional.gelu(hidden).numpy()
            last = u + of["mlp.c_proj.weight"] @ active + of["mlp.c_proj.bias"]
            last = normalized(last, w["ln_post.weight"], w["ln_post.bias"])
            expected[image, patch] = last @ w["proj"]
    with torch.no_grad():
        features, local = encoder.with_local_features(images)
        assert torch.equal(features, encoder(images))
    np.testing.assert_allclose(local.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_local_features_of_transformers_follow_the_formula(
    hub_model: tuple[Path, Encoders], images: Tensor
) -> None:
    encoder = hub_model[1].images
    model: Any = encoder.encoder.model  # type: ignore[union-attr]
    x = block_input(model.vision_model.encoder.layers[-1], lambda: encoder(images))
    w = {name: each.detach().double().numpy() for name, each in model.named_parameters()}
    of = {name.removeprefix("vision_model.encoder.layers.1."): each for name, each in w.items()}
    y = normalized(x, of["layer_norm1.weight"], of["layer_norm1.bias"])
    value = y @ of["self_attn.v_proj.weight"].T + of["self_attn.v_proj.bias"]
    u = x + value @ of["self_attn.out_proj.weight"].T + of["self_attn.out_proj.bias"]
    hidden = normalized(u, of["layer_norm2.weight"], of["layer_norm2.bias"])
    hidden = hidden @ of["mlp.fc1.weight"].T + of["mlp.fc1.bias"]
    hidden = hidden / (1 + np.exp(-1.702 * hidden))  # QuickGELU
    last = u + hidden @ of["mlp.fc2.weight"].T + of["mlp.fc2.bias"]
    last = normalized(
        last, w["vision_model.post_layernorm.weight"], w["vision_model.post_layernorm.bias"]
    )
    with torch.no_grad():
        _, local = encoder.with_local_features(images)
    expected = last[:, 1:] @ w["visual_projection.weight"].T
    np.testing.assert_allclose(local.numpy(), expected, rtol=1e-3, atol=1e-5)


def test_local_features_of_a_residual_network_are_projected_values() -> None:
    from open_clip.modified_resnet import ModifiedResNet

    torch.manual_seed(0)
    visual = ModifiedResNet(layers=[1, 1, 1, 1], output_dim=6, heads=4, image_size=64, width=8)
    encoder = of_open_clip(visual.eval())
    images = torch.rand(2, 3, 64, 64)
    feature_map = block_input(visual.attnpool, lambda: encoder(images))
    pool = {
        name: each.detach().double().numpy() for name, each in visual.attnpool.named_parameters()
    }
    with torch.no_grad():
        _, local = encoder.with_local_features(images)
    assert local.shape == (2, 4, 6)
    for row in range(2):
        for column in range(2):
            place = feature_map[:, :, row, column]
            values = place @ pool["v_proj.weight"].T + pool["v_proj.bias"]
            expected = values @ pool["c_proj.weight"].T + pool["c_proj.bias"]
            np.testing.assert_allclose(local[:, 2 * row + column], expected, rtol=1e-3, atol=1e-5)


def test_a_tower_of_another_make_has_no_local_features() -> None:
    from open_clip.transformer import VisionTransformer

    visual = VisionTransformer(8, 4, WIDTH, 2, 2, 2.0, output_dim=DIMENSION, attentional_pool=True)
    assert not of_open_clip(visual).has_local_features


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "message", "hint"),
    [
        ("open_clip:ViT-B-23/openai", "open_clip has no model 'ViT-B-23'", "ViT-B-32"),
        ("open_clip:ViT-B-32/opnai", "open_clip has no weights 'opnai' of 'ViT-B-32'", "openai"),
        ("open_clip:ViT-B-32", "names no weights", "open_clip:ViT-B-32/TAG"),
        ("open_clip:local-dir:/nowhere", "its weights cannot be loaded", "open_clip_config.json"),
        ("hf_clip:/nowhere/clip", "its weights cannot be loaded", "hf_clip:FOLDER"),
    ],
)
def test_unknown_models_and_weights(network: str, message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        load_encoders(network, offline=True)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("network", "package", "extra"),
    [
        ("open_clip:ViT-B-32/openai", "open_clip", "clip"),
        ("hf_clip:openai/clip-vit-base-patch32", "transformers", "transformers"),
    ],
)
def test_a_missing_package_names_its_extra(
    network: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"needs the package {package}, which is not") as caught:
        load_encoders(network, offline=True)
    assert f"pip install 'oodbench[{extra}]'" in caught.value.hint


def test_a_model_without_one_space_is_refused(tmp_path: Path) -> None:
    from helpers.small_vit import save_vit

    save_vit(tmp_path)
    with pytest.raises(UserError, match=r"cannot be loaded|has no image and text encoder"):
        load_encoders(f"hf_clip:{tmp_path}", offline=True)


def test_weights_of_another_activation_are_noted(tmp_path: Path) -> None:
    """The mismatch that open_clip warns of: OpenAI's weights with GELU in place of QuickGELU."""
    import warnings

    from oodbench.models.vision_language.sources import _quiet

    with _quiet() as said:
        warnings.warn("QuickGELU mismatch between a and b.", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
        print("noise")
    assert said() == ("QuickGELU mismatch between a and b",)
