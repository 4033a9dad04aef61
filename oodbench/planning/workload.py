"""How much work a plan is: images and floating-point operations, estimated before anything is run.

The estimate is for choosing a machine, not for comparing detectors; costs that are reported are
counted. It has the convolutions alone, two operations for each multiply-add, and these rules, in
forwards of the whole network (F) for each image:

- training: 3 F (forward, and a backward for inputs and weights, which is twice as much);
- a pass that methods share: 1 F;
- a method with input gradients: another 2 F, one backward for the input alone and the second
  forward; 5 F for a feature ensemble, which does both for each of its four or five taps, on half of
  the network on average;
- tuning: the images attacked and verified (4 F), then clean, noisy and attacked images once for all
  methods whose parameters change the score alone, once more for each that reads maps, and through
  the grid of each that has input gradients; a gradient serves all step sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oodbench.models.registry import NETWORKS
from oodbench.planning.plan import Method, Pass, Plan
from oodbench.specs import ModelSpec

_PIXELS = 32 * 32
"""Pixels of the images that `NetworkInfo.macs_32` is given for."""

_TRAINING = 3.0
_ENSEMBLE = 2.5
"""What a feature ensemble passes of the network, over all taps: half of it for each."""
_ATTACK = 4.0
"""A forward and a backward, and two forwards that see whether the network was fooled."""
_KINDS = 3.0
"""Clean, noisy and attacked images."""
_SWEPT_ALONE = frozenset(
    {
        *("input_gradient", "input_gradients", "replaced_logits"),
        *("feature_map", "tap_maps", "layers"),
    }
)
"""What makes a method pass the tuning images by itself; the others share stored outputs."""


@dataclass(frozen=True, slots=True)
class Work:
    """An amount of work.

    Attributes:
        images: images that go through the network once or more.
        flops: floating-point operations; None if those of a network are not known.
    """

    images: int = 0
    flops: float | None = 0.0

    def __add__(self, other: Work) -> Work:
        unknown = self.flops is None or other.flops is None
        return Work(
            self.images + other.images,
            None if unknown else (self.flops or 0.0) + (other.flops or 0.0),
        )

    def times(self, count: int) -> Work:
        """The same work several times."""
        return Work(self.images * count, None if self.flops is None else self.flops * count)


def total(parts: Iterable[Work]) -> Work:
    """The sum."""
    return sum(parts, Work())


def training(plan: Plan, model: str) -> Work:
    """One training of a model, with the test accuracies that it notes."""
    dataset = plan.datasets[plan.benchmark.id]
    spec = plan.benchmark.models[model]
    recipe = spec.training
    tests = {"no": 0, "last": 1, "each": recipe.epochs}[recipe.test_accuracy]
    images = plan.benchmark.images_of(dataset, "train") * recipe.epochs
    tested = plan.benchmark.images_of(dataset, "test") * tests
    forwards = _TRAINING * images + tested
    return Work(images + tested, _flops(plan, spec, forwards))


def this_pass(plan: Plan, planned: Pass) -> Work:
    """One pass, for one seed."""
    forwards = planned.images * _forwards(plan, planned)
    spec = plan.benchmark.models[planned.model]
    return Work(planned.images, _flops(plan, spec, forwards))


def trainings(plan: Plan) -> Work:
    """Every training of a plan, of all seeds."""
    return total(training(plan, model) for model in plan.models).times(len(plan.seeds))


def passes(plan: Plan) -> Work:
    """Every pass of a plan, of all seeds."""
    return total(this_pass(plan, planned) for planned in plan.passes).times(len(plan.seeds))


def _flops(plan: Plan, model: ModelSpec, forwards: float) -> float | None:
    """Operations of this many forwards of one image."""
    info = NETWORKS.get(model.network)
    if info is None or info.macs_32 is None:
        return None
    _, height, width = plan.datasets[plan.benchmark.id].shape
    return 2 * info.macs_32 * height * width / _PIXELS * forwards


def _forwards(plan: Plan, planned: Pass) -> float:
    """What a pass takes for each image."""
    methods = [method for method in plan.methods if method.name in planned.methods]
    if planned.purpose == "fit":
        return 1.0
    if planned.purpose == "score":
        return 1.0 + sum(2 * _share(method) + _shown(method) for method in methods)
    attacked = any(method.tuned_on == "fgsm" for method in methods)
    kinds = _KINDS if attacked else 1.0
    own = [method for method in methods if method.detector.needs & _SWEPT_ALONE]
    shared = kinds if len(own) < len(methods) else 0.0  # one pass for all that change scores only
    return (_ATTACK if attacked else 0.0) + shared + kinds * sum(_grid(method) for method in own)


def _share(method: Method) -> float:
    """What one gradient, or one forward after it, passes of the network."""
    if "input_gradient" not in method.detector.needs:
        return 0.0
    return _ENSEMBLE if "taps" in method.detector.needs else 1.0


def _shown(method: Method) -> float:
    """What the gradients that a detector looks at pass: one loss, of which most have one."""
    return 1.0 if "input_gradients" in method.detector.needs else 0.0


def _grid(method: Method) -> float:
    """Tuning one method on one image."""
    space = method.search_space
    steps: Sequence[float] = space.get("epsilon", (0.0,))
    settings = math.prod(len(values) for name, values in space.items() if name != "epsilon")
    moved = sum(step != 0 for step in steps)
    gradients = settings if moved else 0
    own = _share(method) * (gradients + settings * moved)
    return 1.0 + own + _shown(method) * settings * len(steps)
