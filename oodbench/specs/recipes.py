"""Training recipes by name: values of `oodbench.specs.TrainingSpec`.

`lee` and `iso` are what is known of how the DisMax paper's networks were trained. The paper says
"exactly the same protocol (learning rates, learning rate schedule and weight decay values, etc)
presented in Lee et al. 2018"; Lee et al. published no training code. So:

- `lee`: DenseNets as trained for ODIN (Liang et al. 2018): 300 epochs, batches of 64. Other
  networks: 200 epochs, batches of 128, the usual recipe of the time (not stated anywhere). Rate
  0.1, divided by 10 at 50 % and 75 %.
- `iso`: the DisMax author's later public code: 300 epochs, batches of 64, rate 0.1 divided by 10
  after epochs 150, 200 and 250, weight decay on everything, prototypes included. That code keeps
  the epoch with the best *test* accuracy; here it is the last one.

Both: Nesterov momentum 0.9, weight decay 1e-4 (not stated by Lee et al.), random crops after
padding by 4, horizontal flips (the author's code flips digits, too).

- `openood`: OpenOOD v1.5 on CIFAR (Zhang et al. 2023): 100 epochs, batches of 128, rate 0.1 with a
  cosine schedule, weight decay 5e-4.
- `quick`: 30 epochs with one cycle of the rate, in bfloat16 where the device has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_CROP_AND_FLIP = {"crop_padding": 4, "horizontal_flip": True}

_STEPS = {
    "learning_rate": 0.1,
    "schedule": "step",
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-4,
    "augment": _CROP_AND_FLIP,
}

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "lee": {**_STEPS, "epochs": 200, "batch_size": 128, "milestones": (0.5, 0.75)},
        "iso": {
            **_STEPS,
            "epochs": 300,
            "batch_size": 64,
            "milestones": (150 / 300, 200 / 300, 250 / 300),
        },
        "openood": {
            "epochs": 100,
            "batch_size": 128,
            "learning_rate": 0.1,
            "schedule": "cosine",
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
            "augment": _CROP_AND_FLIP,
        },
        "quick": {
            "epochs": 30,
            "batch_size": 128,
            "learning_rate": 0.2,
            "schedule": "one_cycle",
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
            "augment": _CROP_AND_FLIP,
            "precision": "auto",
        },
    }
)
"""Recipe -> values for any network."""

_FOR_NETWORKS: Mapping[tuple[str, str], Mapping[str, Any]] = MappingProxyType(
    {("lee", "densenet"): {"epochs": 300, "batch_size": 64}}
)
"""(Recipe, beginning of the network's name) -> values that differ."""


def values_for(recipe: str, network: str) -> dict[str, Any]:
    """The values of a recipe for a network; empty if there is no such recipe."""
    values = dict(RECIPES.get(recipe, {}))
    for (name, family), change in _FOR_NETWORKS.items():
        if name == recipe and network.startswith(family):
            values |= change
    return values
