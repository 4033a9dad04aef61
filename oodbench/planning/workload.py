"""Estimate of what a plan costs, before anything is run: passes over data, images, operations.

The estimate is for choosing a machine, not for comparing detectors; the costs in reports are
measured. Fitting and scoring make exactly the shared forward passes that it lists. The rest depends
on what is found while running (which attacks succeed, which step size is chosen), so these rules
apply, in forward passes of the whole network (F) for each image:

- training: 3 F (a forward pass, and a backward pass for inputs and weights, twice as much), also
  for auxiliary images and for each further orientation of an image;
- a pass that methods share: 1 F;
- a method with input gradients: another 2 F, one backward pass for the input alone and the second
  forward pass; 5 F for a feature ensemble, which does both for each of its four or five feature
  layers, on half of the network on average;
- a method with gradients of feature layers: another 1 F at most;
- fits that take gradients do so for a sample of the images, which is not counted;
- a method that replaces feature layers: another 1 F at most, as the network continues from there;
- a method with passes with dropout: another 1 F at most for each of them, likewise;
- a method that looks at rotated images: another 3 F;
- tuning: attacked images are made and verified (4 F); then clean, noisy and attacked images, or
  those of an OOD set, once for all methods, and through the grid of each that has input gradients
  or replaces feature layers; a gradient serves all step sizes.

Only operations of convolutions are counted, two for each multiply-add. Measuring costs takes a few
more passes over one batch, which are not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from oodbench.models.registry import HEADS, NETWORKS
from oodbench.planning.plan import FITTED_ON, Method, Plan
from oodbench.specs import ModelSpec, SplitName

Purpose = Literal["fit", "tune", "score"]

_SAMPLES = 30
"""Passes with dropout of a detector whose arguments do not say how many."""

_PIXELS = 32 * 32
"""Pixels of the images that `NetworkInfo.macs_32` is given for."""

_TRAINING = 3.0
_ENSEMBLE = 2.5
"""Passes of a feature ensemble, over all feature layers: half of the network for each."""
_ATTACK = 4.0
"""A forward and a backward pass, and two forward passes to see whether the network is fooled."""
_KINDS = 3.0
"""Clean, noisy and attacked images."""
_GRADIENTS = frozenset({"input_gradient", "input_gradients", "tap_gradients"})


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass of one model over one split, made for each seed.

    One forward pass serves all its methods. To tune, methods with gradients take more, for their
    grids.

    Attributes:
        methods: names of the methods that share it.
        gradients: names of these methods that also take input gradients.
        replacing: names of these methods that also replace feature layers.
        rotating: names of these methods that also look at rotated images.
        taps: whether all feature layers are captured.
    """

    model: str
    dataset: str
    split: SplitName
    images: int
    purpose: Purpose
    methods: tuple[str, ...]
    gradients: tuple[str, ...]
    replacing: tuple[str, ...]
    rotating: tuple[str, ...]
    taps: bool


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


def passes_of(plan: Plan) -> tuple[Pass, ...]:
    """The passes over data for each seed, in the order of the run."""
    return tuple(each for model in plan.models for each in _passes_of_model(plan, model))


def reads_of(plan: Plan) -> Counter[tuple[str, SplitName]]:
    """Data set and split -> how often the passes of a plan read its images, of all seeds.

    Images to tune on are kept in memory or read several times: they count twice; so do those that
    are scored in shards, each of which begins in the middle.
    """
    reads: Counter[tuple[str, SplitName]] = Counter()
    for planned in passes_of(plan):
        sharded = planned.purpose == "score" and plan.shard_images is not None
        times = 2 if planned.purpose == "tune" or sharded else 1
        reads[planned.dataset, planned.split] += times * len(plan.seeds)
    return reads


def _passes_of_model(plan: Plan, model: str) -> Iterator[Pass]:
    benchmark, mine = plan.benchmark, plan.methods_of(model)
    tuning = benchmark.tuning.split

    def over(
        dataset: str, split: SplitName, purpose: Purpose, methods: Sequence[Method]
    ) -> Iterator[Pass]:
        if methods:
            yield Pass(
                model=model,
                dataset=dataset,
                split=split,
                images=benchmark.images_of(plan.datasets[dataset], split),
                purpose=purpose,
                methods=_names(methods),
                gradients=_names(m for m in methods if m.detector.needs & _GRADIENTS),
                replacing=_names(m for m in methods if "replaced_logits" in m.detector.needs),
                rotating=_names(m for m in methods if "rotations" in m.detector.needs),
                taps=any(m.detector.needs & {"taps", "tap_maps"} for m in methods),
            )

    for split in dict.fromkeys(FITTED_ON.values()):
        fitted = [m for m in mine if split in m.fitted_on().values()]
        yield from over(benchmark.id, split, "fit", fitted)
        yield from over(benchmark.id, split, "fit", [m for m in fitted if m.keeps_out])
    yield from over(benchmark.id, tuning, "tune", [m for m in mine if m.tuned_on != "none"])
    oracles = [m for m in mine if m.tuned_on == "ood_oracle"]
    for name in benchmark.ood_groups:
        yield from over(name, tuning, "tune", oracles)
    if benchmark.tuning_ood is not None:
        on_validation = [m for m in mine if m.tuned_on == "ood_validation"]
        yield from over(benchmark.tuning_ood, tuning, "tune", on_validation)
    for name in benchmark.names:
        yield from over(name, "test", "score", mine)
    if plan.sets_thresholds:
        yield from over(benchmark.id, "validation", "score", mine)


def _names(methods: Iterable[Method]) -> tuple[str, ...]:
    return tuple(method.name for method in methods)


def training_work(plan: Plan, model: str) -> Work:
    """One training of a model, with the test accuracies that it records."""
    dataset = plan.datasets[plan.benchmark.id]
    spec = plan.benchmark.models[model]
    recipe, auxiliary = spec.training, spec.auxiliary
    if recipe is None:  # published weights
        return Work()
    tests = {"no": 0, "last": 1, "each": recipe.epochs}[recipe.test_accuracy]
    passing = HEADS[spec.head].passes + (0 if auxiliary is None else auxiliary.per_image)
    images = plan.benchmark.images_of(dataset, "train") * recipe.epochs * passing
    tested = plan.benchmark.images_of(dataset, "test") * tests
    forwards = _TRAINING * images + tested
    return Work(images + tested, _flops(plan, spec, forwards))


def pass_work(plan: Plan, planned: Pass) -> Work:
    """One pass, for one seed."""
    forwards = planned.images * forwards_of(plan, planned)
    spec = plan.benchmark.models[planned.model]
    return Work(planned.images, _flops(plan, spec, forwards))


def forward_passes(plan: Plan, model: str) -> float:
    """Forward passes of one image that the passes of a model take, for one seed."""
    mine = (each for each in passes_of(plan) if each.model == model)
    return sum(each.images * forwards_of(plan, each) for each in mine)


def training_count(plan: Plan) -> int:
    """Number of trainings of all seeds; models with published weights have none."""
    trained = [name for name in plan.models if plan.benchmark.models[name].training is not None]
    return len(trained) * len(plan.seeds)


def all_trainings(plan: Plan) -> Work:
    """Every training of a plan, of all seeds."""
    return total(training_work(plan, model) for model in plan.models).times(len(plan.seeds))


def all_passes(plan: Plan) -> Work:
    """Every pass of a plan, of all seeds."""
    return total(pass_work(plan, each) for each in passes_of(plan)).times(len(plan.seeds))


def _flops(plan: Plan, model: ModelSpec, forwards: float) -> float | None:
    """Operations of this many forward passes of one image."""
    info = NETWORKS.get(model.network)
    if info is None or info.macs_32 is None:
        return None
    _, height, width = plan.datasets[plan.benchmark.id].shape
    return 2 * info.macs_32 * height * width / _PIXELS * forwards


def forwards_of(plan: Plan, planned: Pass) -> float:
    """Work of a pass for each image, in forward passes of the whole network."""
    methods = [method for method in plan.methods if method.name in planned.methods]
    if planned.purpose == "fit":
        return 1.0
    if planned.purpose == "score":
        return 1.0 + sum(2 * _share(each) + _further(each) for each in methods)
    attacked = any(method.tuned_on == "fgsm" for method in methods)
    kinds = _KINDS if attacked else 1.0
    return (_ATTACK if attacked else 0.0) + kinds * (1.0 + sum(map(_grid, methods)))


def _share(method: Method) -> float:
    """Share of the network that one gradient, or the forward pass after it, takes."""
    if "input_gradient" not in method.detector.needs:
        return 0.0
    return _ENSEMBLE if "taps" in method.detector.needs else 1.0


def _further(method: Method) -> float:
    """Passes beside those of an input step.

    One backward pass for the gradients that a detector reads, as most have one loss; a forward pass
    from a replaced feature layer on; forward passes of the rotated images; passes with dropout, as
    if the first dropout were at the start of the network.
    """
    needs = method.detector.needs
    backward = 1.0 if needs & {"input_gradients", "tap_gradients"} else 0.0
    passes = {"replaced_logits": 1.0, "rotations": 3.0}
    passes["dropout_logits"] = float(method.arguments.get("samples", _SAMPLES))
    return backward + sum(passes.get(need, 0.0) for need in needs)


def _grid(method: Method) -> float:
    """Tuning one method on one image, beside the forward pass that all share."""
    space = method.search_space
    steps: Sequence[float] = space.get("epsilon", (0.0,))
    settings = math.prod(len(values) for name, values in space.items() if name != "epsilon")
    moved = sum(step != 0 for step in steps)
    gradients = settings if moved else 0
    if "perturbed" in method.detector.needs:  # one step serves the grid
        return _share(method) * 2
    own = _share(method) * (gradients + settings * moved)
    return own + _further(method) * settings * len(steps)
