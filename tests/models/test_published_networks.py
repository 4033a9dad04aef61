"""Networks with the names of published checkpoints: names, mathematics, a published file."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from oodbench import models
from oodbench.models.published_weights.weight_loading import load_weights
from oodbench.models.published_weights.weights_file import read_weights
from oodbench.models.registry import (
    IMAGENET_NORMALIZATION,
    LIBRARY_NETWORKS,
    NETWORKS,
    library_of,
)

DATA = Path(__file__).parents[2] / "../shared/data"
PUBLISHED = DATA / "resnet20-12fca82f.th"
JPEGS = DATA / "cifar10-jpeg.tar.gz"


def with_random_statistics(network: nn.Module) -> nn.Module:
    """Means and variances as after a training: fresh ones hide what BatchNorm does."""
    generator = torch.Generator().manual_seed(0)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return network.eval()


def normed(names: list[str]) -> set[str]:
    """The entries of BatchNorm layers in a state dict."""
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{name}.{part}" for name in names for part in parts}


def test_names_of_openood_s_resnet() -> None:
    blocks = [f"layer{layer}.{block}" for layer in (1, 2, 3, 4) for block in (0, 1)]
    convolutions = ["conv1", *(f"{block}.conv{index}" for block in blocks for index in (1, 2))]
    norms = ["bn1", *(f"{block}.bn{index}" for block in blocks for index in (1, 2))]
    for layer in (2, 3, 4):
        convolutions.append(f"layer{layer}.0.shortcut.0")
        norms.append(f"layer{layer}.0.shortcut.1")
    expected = {f"{name}.weight" for name in convolutions} | normed(norms)
    own = models.create("resnet18_32x32", 100).state_dict()
    assert set(own) == expected | {"fc.weight", "fc.bias"}
    assert own["fc.weight"].shape == (100, 512)


def test_names_of_openood_s_wide_network() -> None:
    convolutions, norms = ["conv1"], ["bn1"]
    for block in (1, 2, 3):
        convolutions.append(f"block{block}.layer.0.convShortcut")
        for layer in range(6):
            convolutions += [f"block{block}.layer.{layer}.conv{index}" for index in (1, 2)]
            norms += [f"block{block}.layer.{layer}.bn{index}" for index in (1, 2)]
    expected = {f"{name}.weight" for name in convolutions} | normed(norms)
    own = models.create("wrn40_2", 10).state_dict()
    assert set(own) == expected | {"fc.weight", "fc.bias"}
    assert own["fc.weight"].shape == (10, 128)


def test_openood_s_resnet_computes_what_resnet18_does() -> None:
    ours = with_random_statistics(models.create("resnet18", 5))
    theirs = models.create("resnet18_32x32", 5).eval()
    renamed = {}
    for name, tensor in ours.state_dict().items():
        new = name.replace("stage", "layer").replace("head.", "fc.")
        renamed[new.replace("stem.0.", "conv1.").replace("stem.1.", "bn1.")] = tensor
    theirs.load_state_dict(renamed)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), ours(images))


def reference_wide(w: dict[str, Tensor], images: Tensor) -> Tensor:
    """WRN-40-2 written from the paper and from the names alone."""

    def norm(name: str, x: Tensor) -> Tensor:
        return F.batch_norm(
            x,
            w[f"{name}.running_mean"],
            w[f"{name}.running_var"],
            w[f"{name}.weight"],
            w[f"{name}.bias"],
        ).relu()

    x = F.conv2d(images, w["conv1.weight"], padding=1)
    for block in (1, 2, 3):
        for layer in range(6):
            name = f"block{block}.layer.{layer}"
            stride = 2 if block > 1 and layer == 0 else 1
            active = norm(f"{name}.bn1", x)
            inner = F.conv2d(active, w[f"{name}.conv1.weight"], stride=stride, padding=1)
            inner = F.conv2d(norm(f"{name}.bn2", inner), w[f"{name}.conv2.weight"], padding=1)
            projection = w.get(f"{name}.convShortcut.weight")
            x = inner + (x if projection is None else F.conv2d(active, projection, stride=stride))
    features = F.avg_pool2d(norm("bn1", x), 8).flatten(1)
    return features @ w["fc.weight"].T + w["fc.bias"]


def test_wide_network_is_that_of_its_paper() -> None:
    network = with_random_statistics(models.create("wrn40_2", 4)).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = reference_wide(network.state_dict(), images)
        torch.testing.assert_close(network(images), expected)


def test_option_a_pads_channels_on_both_sides() -> None:
    network = models.create("resnet20_option_a", 4).eval()
    shortcut = network.get_submodule("layer2.0.shortcut")
    x = torch.randn(2, 16, 9, 8)
    expected = torch.zeros(2, 32, 5, 4)
    expected[:, 8:24] = x[:, :, ::2, ::2]
    torch.testing.assert_close(shortcut(x), expected)
    assert not list(shortcut.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_numbers_of_parameters_in_lists(name: str) -> None:
    with torch.device("meta"):
        network = models.create(name, 10)
    assert sum(p.numel() for p in network.parameters()) == NETWORKS[name].parameters


@pytest.mark.parametrize(
    "name", [name for name, listed in LIBRARY_NETWORKS.items() if listed.parameters]
)
def test_numbers_of_libraries_in_lists(name: str) -> None:
    from torchvision import models as library

    listed = LIBRARY_NETWORKS[name]
    assert library_of(name) == "torchvision"
    weights = library.get_model_weights(name.partition(":")[2])[listed.weights.partition(" ")[0]]
    assert weights.meta["num_params"] == listed.parameters
    side = weights.transforms().crop_size[0]
    assert listed.input_size == f"3x{side}x{side}"
    assert "download.pytorch.org" in weights.url


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published file is not there")
def test_a_published_file_loads() -> None:
    network = models.create("resnet20_option_a", 10)
    taken = load_weights(network, read_weights(PUBLISHED), "resnet20_option_a")
    assert taken == ("entry 'state_dict'", "without the prefix 'module.'")
    own = torch.load(PUBLISHED, map_location="cpu", weights_only=True)["state_dict"]
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, own[f"module.{name}"], rtol=0, atol=0)


@pytest.mark.skipif(
    not (PUBLISHED.exists() and JPEGS.exists()), reason="the published file or images are not there"
)
def test_accuracy_of_a_published_file_on_jpeg_test_images(
    record_property: pytest.RecordProperty,
) -> None:
    """91.7 % on the original test images; these are re-encoded, which costs about ten points."""
    network = models.create("resnet20_option_a", 10).eval()
    load_weights(network, read_weights(PUBLISHED), "resnet20_option_a")
    images, labels = jpeg_test_images(per_class=30)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in IMAGENET_NORMALIZATION)
    with torch.no_grad():
        predicted = network((images - mean) / std).argmax(dim=1)
    accuracy = (predicted == labels).double().mean().item()
    record_property("accuracy on 300 JPEG test images", accuracy)
    assert 0.74 < accuracy < 0.90


def jpeg_test_images(per_class: int) -> tuple[Tensor, Tensor]:
    """The first images of each class, in [0, 1], and their labels in alphabetical order."""
    found: dict[str, list[np.ndarray]] = {}
    with tarfile.open(JPEGS) as archive:
        for member in archive:
            parts = member.name.split("/")
            if len(parts) != 4 or parts[1] != "test" or not member.isfile():
                continue
            kept = found.setdefault(parts[2], [])
            if len(kept) < per_class:
                content = archive.extractfile(member)
                assert content is not None
                kept.append(np.asarray(Image.open(content).convert("RGB")))
            if len(found) == 10 and all(len(each) == per_class for each in found.values()):
                break
    arrays = np.concatenate([np.stack(found[name]) for name in sorted(found)])
    labels = torch.arange(10).repeat_interleave(per_class)
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255, labels
