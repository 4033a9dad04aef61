"""Networks of torchvision, timm and Transformers: scores against a few lines of torch.

Small configurations with random weights, in float64. The last layer is named here, and a hook of
the test's own gives its input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_models import (
    MORE_OF_TIMM,
    TIMM,
    TORCHVISION,
    TRANSFORMERS,
    logits_of,
)
from helpers.tiers import by_default
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import oodbench

pytestmark = pytest.mark.usefixtures("quick_evaluation")

CLASSES = 5
NEIGHBOR = 3
LAST_LAYERS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "torchvision": (
        TORCHVISION,
        {
            "resnet": "fc",
            "densenet": "classifier",
            "mobilenet_v3": "classifier.3",
            "efficientnet": "classifier.1",
            "convnext": "classifier.2",
            "swin": "head",
            "vit": "heads.head",
            "maxvit": "classifier.5",
            "regnet": "fc",
            "shufflenet": "fc",
            "googlenet": "fc",
            "inception": "fc",
        },
    ),
    "timm": (
        TIMM | MORE_OF_TIMM,
        {
            "vit": "head",
            "deit": "head",
            "beit": "head",
            "resmlp": "head",
            "xcit": "head",
            "levit": "head.linear",
            "convnextv2": "head.fc",
            "nfnet": "head.fc",
        },
    ),
    "HF": (TRANSFORMERS, {"ViT": "classifier", "Swin": "classifier", "Dinov2": "classifier"}),
}
ZOO: dict[str, tuple[int, Callable[[], nn.Module], str]] = {
    f"{library} {name}": (*networks[name], layer)
    for library, (networks, layers) in LAST_LAYERS.items()
    for name, layer in layers.items()
}


def drawn(count: int, size: int, seed: int) -> Tensor:
    """Images of a few large squares each, in [0, 1], which differ in color and contrast."""
    generator = torch.Generator().manual_seed(seed)
    squares = torch.rand(count, 3, 4, 4, generator=generator, dtype=torch.float64)
    scale = torch.rand(count, 1, 1, 1, generator=generator, dtype=torch.float64)
    fine = torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64)
    return scale * nn.functional.interpolate(squares, size) * 0.7 + 0.3 * fine


def passed(model: nn.Module, layer: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the input of the last layer."""
    given: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_pre_hook(lambda _, x: given.append(x[0]))
    with torch.no_grad():
        logits = logits_of(model.eval(), (images - 0.5) / 0.25)
    hook.remove()
    return logits, given[0]


def expected(logits: Tensor, features: Tensor, bank: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Scores of the detectors.

    Args:
        logits: shape [B, C].
        features: shape [B, D].
        bank: features of the images to fit on, shape [N, D].
        labels: of these, shape [N].
    """
    p = logits.softmax(1).amax(1)
    means = torch.stack([bank[labels == label].mean(0) for label in range(CLASSES)])
    _, values, axes = torch.linalg.svd(bank - means[labels], full_matrices=False)
    kept = values > 1e-9 * values[0]
    axes = axes[kept] / values[kept, None] * len(bank) ** 0.5
    distances = ((features[:, None] - means) @ axes.T).square().sum(2).amin(1)
    unit, units = (nn.functional.normalize(each) for each in (features, bank))
    return {
        "baseline": p.log() - (1 - p).log(),
        "energy": logits.logsumexp(1),
        "mahalanobis_single": -0.5 * distances,
        "knn": -torch.cdist(unit, units, compute_mode="donot_use_mm_for_euclid_dist")
        .sort(dim=1)
        .values[:, NEIGHBOR - 1],
    }


@pytest.mark.parametrize(
    "name",
    by_default(
        ["torchvision resnet", "torchvision vit", "timm beit", "timm levit", "HF Swin", "HF ViT"],
        ZOO,
    ),
)
def test_scores_are_those_of_a_few_lines(name: str) -> None:
    size, make, layer = ZOO[name]
    torch.manual_seed(0)
    model = make().double().train()  # as after training: `evaluate` puts it in evaluation mode
    nn.init.normal_(model.get_parameter(f"{layer}.weight"), std=0.2)  # some libraries give zeros
    labels = torch.arange(30) % CLASSES
    training, *tested = drawn(30, size, 0), drawn(8, size, 1), drawn(6, size, 2).square()
    result = oodbench.evaluate(
        model,
        {
            "baseline": "baseline",
            "energy": "energy",
            "mahalanobis_single": "mahalanobis_single",
            "knn": oodbench.load_detector("knn", k=NEIGHBOR),
        },
        id_data=TensorDataset(tested[0], labels[:8]),
        ood_data={"ood": TensorDataset(tested[1])},
        fit_data=TensorDataset(training, labels),
        normalization=(0.5, 0.25),
        device="cpu",
    )
    assert model.training
    assert not result.skipped
    assert not result.failed
    assert result.head == layer
    _, bank = passed(model, layer, training)
    for dataset, images in zip(("id", "ood"), tested, strict=True):
        wanted = expected(*passed(model, layer, images), bank, labels)
        for detector, scores in wanted.items():
            np.testing.assert_allclose(
                result.scores[detector][dataset], scores, rtol=1e-6, err_msg=detector
            )
