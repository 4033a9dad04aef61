"""Tuning: adversarial or oracle data, one gradient per swept temperature, exact selection.

The protocol of Lee et al. 2018 for adversarial validation was never published as code; what is
built here is this project's definition of it:

- ID images held out from training are attacked with the fast gradient sign method (true labels) and
  disturbed with noise; both are clamped to [0, 1].
- Kept are the images whose clean and noisy forms are classified right and whose attacked form is
  not. They are shuffled and halved: one half fits what a detector trains, the other selects.
- Negatives are the attacked images. Positives are the clean ones; a detector that trains a model of
  its own (a logistic regression) also gets the noisy ones.
- The setting with the highest TNR at 95 % TPR wins; a later one must be strictly better. The grid
  holds the setting without temperature or perturbation. One setting serves all OOD sets.

The `ood_oracle` protocol takes held-out images of the OOD set itself for negatives, one setting per
OOD set: an upper bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench import metrics
from oodbench.data import ImageArray
from oodbench.detector import Detector, Outputs
from oodbench.engine.network import NetworkRunner, input_gradients
from oodbench.engine.perturbation import gradients_of, perturbed_outputs, uses_input_gradient
from oodbench.engine.scoring import Scorer, checked_scores
from oodbench.plan import Method
from oodbench.specs import TuningSpec
from oodbench.training import as_floats, resident


class TuningError(Exception):
    """Tuning data that cannot tune anything; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class TuningData:
    """Images in [0, 1] that a detector is tuned on, on the CPU.

    Attributes:
        positives: in-distribution images.
        noisy: the same with noise; empty for the oracle.
        negatives: attacked images, or images of an OOD set.
    """

    positives: Tensor
    noisy: Tensor
    negatives: Tensor

    def sides(self, *, with_noisy: bool) -> tuple[Tensor, Tensor]:
        """Positives, with the noisy ones or without, and negatives."""
        positives = torch.cat([self.positives, self.noisy]) if with_noisy else self.positives
        return positives, self.negatives

    def halves(self) -> tuple[TuningData, TuningData]:
        """The half that fits and the half that selects; they share no original image."""
        cut, negative_cut = len(self.positives) // 2, len(self.negatives) // 2
        return (
            TuningData(self.positives[:cut], self.noisy[:cut], self.negatives[:negative_cut]),
            TuningData(self.positives[cut:], self.noisy[cut:], self.negatives[negative_cut:]),
        )


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning chose.

    Attributes:
        detector: with the chosen parameters, and calibrated if it calibrates.
        parameters: the chosen values of the search space.
        tnr: TNR at 95 % TPR of that setting on the selecting half, a fraction.
    """

    detector: Detector
    parameters: dict[str, Any]
    tnr: float


def adversarial_data(
    runner: NetworkRunner, data: ImageArray, spec: TuningSpec, seed: int
) -> TuningData:
    """Clean, noisy and attacked images, kept and shuffled as the module's docstring says.

    Args:
        runner: attached.
        data: ID images with labels that were not trained on.
        spec: strengths of attack and noise.
        seed: of noise and shuffling.

    Raises:
        TuningError: if the attack fools the network on too few images.
    """
    generator = torch.Generator().manual_seed(seed)
    std = runner.classifier.std.cpu()
    # Drawn at once: the noise of an image must not depend on the batch size.
    noise = torch.randn(data.images.shape, generator=generator) * spec.noise_std * std
    clean: list[Tensor] = []
    noisy: list[Tensor] = []
    attacked: list[Tensor] = []
    kept: list[Tensor] = []
    done = 0
    for images, labels in runner.batches(data):
        assert labels is not None
        originals = images.cpu()
        disturbed = (originals + noise[done : done + len(images)]).clamp(0, 1)
        done += len(images)

        def attack(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
            assert labels is not None
            with torch.enable_grad():
                images = images.detach().requires_grad_()
                logits = runner.outputs(images).logits
                loss = F.cross_entropy(logits, labels, reduction="none")
                gradient = input_gradients({"logits": loss}, images)["logits"]
            moved = (images.detach() + spec.fgsm_step * gradient.sign()).clamp(0, 1)
            return moved, logits.argmax(dim=1)

        parts = runner.within_memory(attack, images, labels)
        moved = torch.cat([part for _, (part, _) in parts])
        right = torch.cat([predicted for _, (_, predicted) in parts]) == labels
        right &= _predictions(runner, disturbed.to(images)) == labels
        fooled = _predictions(runner, moved) != labels
        clean.append(originals)
        noisy.append(disturbed)
        attacked.append(moved.cpu())
        kept.append((right & fooled).cpu())
    keep = torch.cat(kept)
    count = int(keep.sum())
    if count < spec.min_adversarial:
        raise TuningError(
            f"the attack with fgsm_step {spec.fgsm_step:g} fooled the network on {count} of "
            f"{len(data)} tuning images, too few to tune on (min_adversarial "
            f"{spec.min_adversarial}); raise tuning.fgsm_step in the benchmark"
        )
    order = torch.randperm(count, generator=generator)
    return TuningData(*(torch.cat(images)[keep][order] for images in (clean, noisy, attacked)))


def oracle_data(
    positives: ImageArray, negatives: ImageArray, spec: TuningSpec, seed: int
) -> TuningData:
    """Held-out images of the ID set and of an OOD set, shuffled.

    Raises:
        TuningError: if either has too few images.
    """
    for images in (positives, negatives):
        if len(images) < spec.min_adversarial:
            raise TuningError(f"{len(images)} held-out images are too few to tune on")
    generator = torch.Generator().manual_seed(seed)
    shuffled = [
        as_floats(resident(images, torch.device("cpu")))[
            torch.randperm(len(images), generator=generator)
        ]
        for images in (positives, negatives)
    ]
    return TuningData(shuffled[0], shuffled[0][:0], shuffled[1])


def _predictions(runner: NetworkRunner, images: Tensor) -> Tensor:
    def predict(images: Tensor, labels: Tensor | None) -> Tensor:
        with torch.no_grad():
            return runner.outputs(images).logits.argmax(dim=1)

    return torch.cat([part for _, part in runner.within_memory(predict, images, None)])


def tune(runner: NetworkRunner, method: Method, detector: Detector, data: TuningData) -> Tuned:
    """Choose a method's parameters, and calibrate its detector, on tuning data.

    Args:
        runner: attached.
        method: its search space is swept.
        detector: fitted.
        data: what to tune on.
    """
    calibrates = "calibration" in method.detector.needs
    settings = list(_settings(method.search_space))
    fitting, selecting = data.halves()
    sides = [*selecting.sides(with_noisy=calibrates)]
    if calibrates:
        sides += fitting.sides(with_noisy=True)
    best: Tuned | None = None
    for setting, outputs in zip(
        settings, _sweep(runner, method, detector, settings, sides), strict=True
    ):
        candidate = detector.with_parameters(**setting)
        with torch.no_grad():
            if calibrates:
                candidate.calibrate(*outputs[2:])
        scorer = Scorer(method, candidate)
        positives = checked_scores(scorer, outputs[0], "tuning images, in-distribution", 0)
        negatives = checked_scores(scorer, outputs[1], "tuning images, negatives", 0)
        tnr = metrics.tnr_at_95_tpr(positives, negatives)
        if best is None or tnr > best.tnr:
            best = Tuned(candidate, setting, tnr)
    assert best is not None
    return best


def _settings(space: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination, the step size fastest, in the order of the published grid."""
    names = sorted(space, key=lambda name: name == "epsilon")
    for values in itertools.product(*(space[name] for name in names)):
        yield dict(zip(names, values, strict=True))


def _sweep(
    runner: NetworkRunner,
    method: Method,
    detector: Detector,
    settings: Sequence[Mapping[str, Any]],
    sides: Sequence[Tensor],
) -> Iterator[list[Outputs]]:
    """Outputs under every setting, for each of several sets of images that are swept as one.

    The first forward is made once per batch, the gradient once per combination of the parameters
    other than the step size, and a further forward once per step.
    """
    perturbs = uses_input_gradient(method)

    def compute(images: Tensor, labels: Tensor | None) -> list[Outputs]:
        images = images.detach().requires_grad_(perturbs)
        with torch.set_grad_enabled(perturbs):
            outputs = runner.outputs(images)
            if not perturbs:
                return [outputs] * len(settings)
            views = []
            key: dict[str, Any] | None = None
            gradients: dict[str, Tensor] = {}
            for setting in settings:
                candidate = detector.with_parameters(**setting)
                others = {name: value for name, value in setting.items() if name != "epsilon"}
                if others != key:
                    key, gradients = others, gradients_of(candidate, outputs, images)
                views.append(perturbed_outputs(runner, candidate, images, outputs, gradients))
            return views

    batches: list[list[Outputs]] = []
    images, start = torch.cat(list(sides)), 0
    while start < len(images):
        batch = images[start : start + runner.batch_size]
        start += len(batch)
        on_device = batch.to(runner.device, runner.classifier.dtype)
        batches += [views for _, views in runner.within_memory(compute, on_device, None)]
    ends = list(itertools.accumulate(map(len, sides), initial=0))
    for parts in zip(*batches, strict=True):
        outputs = Outputs.concatenate(parts)
        yield [outputs[start:end] for start, end in itertools.pairwise(ends)]
