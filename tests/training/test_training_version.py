"""The same spec, data and seed give the same weights for as long as TRAINING_VERSION is the same.

`python tests/training/test_training_version.py` stores the weights of a new version.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.data import ImageArray
from oodbench.models.registry import HEADS
from oodbench.specs import AuxiliarySpec, ModelSpec, TrainingSpec
from oodbench.training.checkpoints import TRAINING_VERSION
from oodbench.training.loop import as_floats, train
from oodbench.training.schedule import learning_rate

STORED = Path(__file__).with_name("reference_weights.json")

TOLERANCE = 1e-3
"""Of the norm of what is stored of a tensor; CPUs and versions of torch differ by far less."""

ENTRIES = 6
"""How many entries of a tensor are stored beside the root of its mean square."""

AUGMENT = {"crop_padding": 1, "horizontal_flip": True}


def model(head: str = "softmax", network: str = "resnet8", **changes: Any) -> ModelSpec:
    """Two epochs of four steps; everything that a recipe can ask of the optimizer is used."""
    recipe = {
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 0.01,
        "schedule": "one_cycle",
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "augment": AUGMENT,
        "precision": "float32",
        **changes,
    }
    return ModelSpec(network=network, head=head, training=TrainingSpec.model_validate(recipe))


CHANGES: dict[str, dict[str, Any]] = {
    "oe": {"auxiliary": AuxiliarySpec(dataset="noise")},
    "vos": {"loss_options": {"start": 0.5, "queue": 5, "samples": 100, "select": 2}},
}
"""Values that let every part of a loss take part in these short trainings."""

MODELS = {
    **{head: model(head).model_copy(update=CHANGES.get(head)) for head in HEADS},
    "dismax2022, mixed quadrants": model("dismax2022").model_copy(
        update={"loss_options": {"mixed_quadrants": True}}
    ),
    "densenet_bc100": model(network="densenet_bc100", epochs=1, batch_size=64),
}


def noise(count: int) -> ImageArray:
    """Images of one channel from a formula, so that no generator of numpy matters."""
    numbers = np.arange(count * 64, dtype=np.uint64) * np.uint64(2654435761)
    images = ((numbers >> np.uint64(13)) % np.uint64(256)).astype(np.uint8)
    return ImageArray(images.reshape(count, 1, 8, 8), np.arange(count) % 10)


def _as_doubles(images: Tensor) -> Tensor:
    return as_floats(images).double()


def trained(spec: ModelSpec) -> dict[str, Tensor]:
    """Weights and statistics after a training in one thread.

    The network is made and trained in float64: in float32 rounding switches single ReLUs on or off,
    and the weights of two CPUs then differ by several percent.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("oodbench.training.loop.as_floats", _as_doubles)
            classifier, _ = train(
                spec,
                10,
                noise(64),
                seed=0,
                device=torch.device("cpu"),
                validation=noise(40),
                auxiliary=noise(50),
            )
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
    return dict(classifier.state_dict())


def summary(weights: dict[str, Tensor]) -> dict[str, list[float]]:
    """Of each tensor the root mean square and some entries."""
    found = {}
    for name, tensor in weights.items():
        values = tensor.double().flatten()
        places = torch.linspace(0, len(values) - 1, min(ENTRIES, len(values))).long()
        numbers = [values.square().mean().sqrt(), *values[places]]
        found[name] = [float(f"{float(number):.7g}") for number in numbers]
    return found


def largest_difference(
    found: dict[str, list[float]], expected: dict[str, list[float]]
) -> tuple[float, str]:
    """The largest difference relative to a tensor's norm, and the name of that tensor."""
    assert found.keys() == expected.keys(), "raise TRAINING_VERSION: other tensors"
    return max(
        (math.dist(found[name], stored) / (math.hypot(*stored) or 1.0), name)
        for name, stored in expected.items()
    )


@pytest.fixture(scope="module")
def stored() -> dict[str, dict[str, list[float]]]:
    content = json.loads(STORED.read_text())
    assert content["training_version"] == TRAINING_VERSION, (
        f"{STORED.name} is of another TRAINING_VERSION: run `python {Path(__file__).name}` here"
    )
    weights: dict[str, dict[str, list[float]]] = content["weights"]
    assert weights.keys() == MODELS.keys(), "a head without stored weights, or the other way round"
    return weights


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_of_this_version(
    stored: dict[str, dict[str, list[float]]], name: str
) -> None:
    difference, tensor = largest_difference(summary(trained(MODELS[name])), stored[name])
    assert difference < TOLERANCE, (
        f"{name}: {tensor} differs by {difference:.1e} of its norm from the weights stored for "
        f"version {TRAINING_VERSION}. If training is meant to give other weights now, raise "
        f"TRAINING_VERSION in oodbench/training/checkpoints.py, then run "
        f"`python tests/training/{Path(__file__).name}`."
    )


def _late_schedule(patch: pytest.MonkeyPatch) -> ModelSpec:
    def late(recipe: TrainingSpec, position: float) -> float:
        return learning_rate(recipe, max(0.0, position - 1 / 4))  # four steps to an epoch

    patch.setattr("oodbench.training.loop.learning_rate", late)
    return model()


def _wide_crops(patch: pytest.MonkeyPatch) -> ModelSpec:
    return model(augment={**AUGMENT, "crop_padding": 2})


def _other_initialization(patch: pytest.MonkeyPatch) -> ModelSpec:
    real = torch.nn.init.kaiming_normal_

    def fan_in(tensor: Tensor, **options: Any) -> Tensor:
        return real(tensor, nonlinearity="relu")

    patch.setattr(torch.nn.init, "kaiming_normal_", fan_in)
    return model()


def _no_nesterov(patch: pytest.MonkeyPatch) -> ModelSpec:
    return model(nesterov=False)


def _other_order(patch: pytest.MonkeyPatch) -> ModelSpec:
    real = torch.randperm
    patch.setattr(torch, "randperm", lambda count, **options: real(count, **options).flip(0))
    return model()


@pytest.mark.parametrize(
    "change", [_late_schedule, _wide_crops, _other_initialization, _no_nesterov, _other_order]
)
def test_a_small_change_of_training_is_seen(
    stored: dict[str, dict[str, list[float]]],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pytest.MonkeyPatch], ModelSpec],
) -> None:
    difference, _ = largest_difference(summary(trained(change(monkeypatch))), stored["softmax"])
    assert difference > 10 * TOLERANCE


def _lines() -> Iterator[str]:
    """The file's content, a line for each tensor."""
    yield f'{{"training_version": {TRAINING_VERSION}, "weights": {{'
    for number, (name, spec) in enumerate(MODELS.items()):
        yield f'{"," if number else ""}"{name}": {{'
        rows = [f'"{tensor}": {values}' for tensor, values in summary(trained(spec)).items()]
        yield ",\n".join(rows)
        yield "}"
    yield "}}"


if __name__ == "__main__":
    STORED.write_text("\n".join(_lines()) + "\n")
