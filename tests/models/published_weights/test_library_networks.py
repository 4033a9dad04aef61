"""Networks of torchvision, timm and transformers with their weights; nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.small_vit import save_vit

from oodbench import models
from oodbench.errors import UserError
from oodbench.models.published_weights.library_access import EXTRAS
from oodbench.models.published_weights.library_networks import published


def refusal(network: str, weights: str = "pretrained", *, offline: bool = True) -> UserError:
    with pytest.raises(UserError) as raised:
        published(network, weights, offline=offline)
    return raised.value


def test_torchvision_s_weights_have_their_own_preprocessing() -> None:
    made = published("torchvision:regnet_y_400mf", "IMAGENET1K_V2", offline=True)
    assert made.preprocessing.size == (224, 224)
    assert made.preprocessing.resize == "resize 232 bilinear, center crop 224"
    assert made.preprocessing.mean == (0.485, 0.456, 0.406)
    assert made.url.startswith("https://download.pytorch.org/models/regnet_y_400mf-")
    swag = published("torchvision:regnet_y_16gf", "IMAGENET1K_SWAG_LINEAR_V1", offline=True)
    assert "bicubic" in swag.preprocessing.resize


def test_torchvision_s_names_are_checked() -> None:
    error = refusal("torchvision:resnet51", "IMAGENET1K_V1")
    assert "torchvision has no classifier of this name" in error.message
    assert "'resnet50'" in error.hint
    error = refusal("torchvision:resnet50", "IMAGENET1K_V3")
    assert "has no weights 'IMAGENET1K_V3'" in error.message
    assert "'IMAGENET1K_V1'" in error.hint


def test_weights_of_other_libraries_are_chosen_by_the_network_s_name() -> None:
    assert "weights: pretrained" in refusal("timm:resnet18", "IMAGENET1K_V1").hint


@pytest.mark.parametrize(
    ("network", "package", "extra"),
    [
        ("timm:resnet18", "timm", "oodbench[timm]"),
        ("hf:google/vit-base-patch16-224", "transformers", "oodbench[transformers]"),
    ],
)
def test_a_library_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, network: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    error = refusal(network)
    assert f"needs the package {package}, which is not installed" in error.message
    assert error.hint == f"Install it with: pip install '{extra}'."


def test_timm_s_names_are_checked() -> None:
    error = refusal("timm:resnet1888")
    assert "timm has no network of this name" in error.message
    assert "Did you mean" in error.hint
    error = refusal("timm:resnet18.nothing")
    assert "Invalid pretrained tag (nothing)" in error.message
    assert "resnet18." in error.hint


def test_offline_says_what_to_place_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    error = refusal("timm:resnet18.a1_in1k")
    assert "are not on this machine" in error.message
    assert "OODBENCH_OFFLINE" in error.message
    assert "model.safetensors of https://huggingface.co/timm/resnet18.a1_in1k/" in error.hint
    assert "checkpoint: {path: FILE}" in error.hint
    error = refusal("hf:google/some-model-that-is-not-here")
    assert "https://huggingface.co/google/some-model-that-is-not-here/tree/main" in error.hint
    assert "network: hf:FOLDER" in error.hint


def test_timm_s_weights_and_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `pretrained=True` gives, with fresh weights in place of the download."""
    import timm

    made: dict[str, Any] = {}
    create = timm.create_model

    def without_download(name: str, *, pretrained: bool) -> Any:
        made.update(name=name, pretrained=pretrained)
        return create(name, pretrained=False)

    monkeypatch.setattr(timm, "create_model", without_download)
    found = published("timm:resnet10t.c3_in1k", "pretrained", offline=True)
    assert made == {"name": "resnet10t.c3_in1k", "pretrained": True}
    assert found.preprocessing.size == (176, 176)
    assert found.preprocessing.resize == "resize 201 bicubic, center crop 176x176"
    assert not found.url


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    save_vit(tmp_path)
    found = published(f"hf:{tmp_path}", "pretrained", offline=True)
    assert found.preprocessing.mean == (0.5, 0.4, 0.3)
    assert found.preprocessing.size == (16, 16)
    assert found.preprocessing.resize == "resize 16x16 bilinear"
    (tmp_path / "model.safetensors").unlink()
    error = refusal(f"hf:{tmp_path}")
    assert "cannot be made of the folder" in error.message
    assert "save_pretrained" in error.hint


def test_timm_s_networks_can_be_trained_from_fresh_weights() -> None:
    network = models.create("timm:resnet10t.c3_in1k", 5, "dismax")
    assert network.head is not None
    assert type(network.head).__name__ == "DisMaxHead"
    assert models.code_version("timm:resnet10t.c3_in1k").startswith("timm ")


def test_networks_of_transformers_are_not_trained() -> None:
    with pytest.raises(UserError, match="comes with its own weights") as raised:
        models.create("hf:google/vit", 5)
    assert "weights: pretrained" in raised.value.hint


def test_every_extra_is_in_the_packages_metadata() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert extras[extra][0].startswith(package)
