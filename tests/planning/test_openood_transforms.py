"""OpenOOD's other ImageNet networks have the transform of their weights, as torchvision has it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from oodbench.data.image_decoder import decode_image
from oodbench.planning.planner import make_plan
from oodbench.plugins.catalog import Catalog

NETWORKS = {
    "openood-imagenet": "ResNet50_Weights.IMAGENET1K_V1",
    "openood-imagenet-vit": "ViT_B_16_Weights.IMAGENET1K_V1",
    "openood-imagenet-swin": "Swin_T_Weights.IMAGENET1K_V1",
    "openood-imagenet-regnet": "RegNet_Y_16GF_Weights.IMAGENET1K_SWAG_E2E_V1",
}
"""Benchmark -> weights that OpenOOD's leaderboard has results of."""


@pytest.mark.parametrize(("benchmark", "weights"), NETWORKS.items())
def test_images_are_those_of_the_transform_of_the_weights(benchmark: str, weights: str) -> None:
    catalog = Catalog()
    plan = make_plan(catalog.benchmark(benchmark), catalog, catalog.detectors)
    (model,) = plan.benchmark.models.values()
    owner, name = weights.split(".")
    assert str(model.network) == f"torchvision:{owner.removesuffix('_Weights').lower()}"
    assert model.weights == name
    transform = torchvision.models.get_weight(weights).transforms()
    generator = np.random.default_rng(0)
    for size in ((500, 375), (333, 500), (401, 397)):
        content = io.BytesIO()
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(content, "PNG")
        wanted = transform(Image.open(content))
        spec = plan.benchmark.decoded(plan.datasets[plan.benchmark.id])
        found, _ = decode_image(content.getvalue(), spec.shape, spec.resize)
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (transform.mean, transform.std))
        torch.testing.assert_close((torch.from_numpy(found) / 255 - mean) / std, wanted)
