"""Data to tune on: attacked images, or validation images of an OOD set.

The protocol of Lee et al. 2018 for adversarial validation was never published as code; what is
built here is this project's definition of it:

- ID images that were not trained on are attacked with the fast gradient sign method (true labels)
  and disturbed with noise; both are clamped to [0, 1].
- Kept are the images whose clean and noisy forms are classified correctly and whose attacked form
  is not. They are shuffled and halved: one half fits what a detector trains, the other selects.
- Negatives are the attacked images. Positives are the clean ones; a detector that trains a model of
  its own (a logistic regression) also gets the noisy ones.

The `ood_oracle` protocol takes validation images of the OOD set itself for negatives, one setting
per OOD set: an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench.data import ImageArray
from oodbench.detector import Outputs
from oodbench.engine.passes.contract import TuningError
from oodbench.engine.passes.image_sources import ImageSource, SplitImages
from oodbench.engine.passes.input_gradients import input_gradients
from oodbench.engine.passes.memory import arranged
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.specs import TuningSpec
from oodbench.training.loop import as_floats, resident

T = TypeVar("T", Tensor, Outputs)


@dataclass(frozen=True, slots=True)
class TuningData(Generic[T]):
    """Data to tune detectors on: images in [0, 1] on the CPU, or the outputs for them.

    Attributes:
        positives: in-distribution images.
        noisy: the same with noise; empty for the oracle.
        negatives: attacked images, or images of an OOD set.
    """

    positives: T
    noisy: T
    negatives: T

    def sides(self, *, with_noisy: bool) -> tuple[T, T]:
        """Positives, with the noisy ones or without, and negatives."""
        positives = _joined(self.positives, self.noisy) if with_noisy else self.positives
        return positives, self.negatives

    def halves(self) -> tuple[TuningData[T], TuningData[T]]:
        """The half that fits and the half that selects; they share no original image."""
        cut, negative_cut = len(self.positives) // 2, len(self.negatives) // 2
        return (
            TuningData(self.positives[:cut], self.noisy[:cut], self.negatives[:negative_cut]),
            TuningData(self.positives[cut:], self.noisy[cut:], self.negatives[negative_cut:]),
        )


def _joined(first: T, second: T) -> T:
    if isinstance(first, Tensor):
        return torch.cat([first, second])
    return Outputs.concatenate([first, second])


def adversarial_data(
    runner: NetworkRunner,
    data: ImageArray,
    spec: TuningSpec,
    seed: int,
    *,
    name: str = "the tuning data",
) -> TuningData[Tensor]:
    """Clean, noisy and attacked images, selected and shuffled as the module's docstring says.

    Args:
        runner: attached.
        data: ID images with labels that were not trained on.
        spec: strengths of attack and noise.
        seed: seed of noise and shuffling.
        name: name of the data, for messages.

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
    for images, labels in runner.batches(SplitImages(name, lambda: data)):
        assert labels is not None
        originals = images.cpu()
        disturbed = (originals + noise[done : done + len(images)]).clamp(0, 1)

        def attack(
            images: Tensor, labels: Tensor | None, first: int | None
        ) -> tuple[Tensor, Tensor]:
            assert labels is not None
            with torch.enable_grad():
                images = images.detach().requires_grad_()
                logits = runner.outputs(images, first=first).logits
                loss = F.cross_entropy(logits, labels, reduction="none")
                gradient = input_gradients({"logits": loss}, images)["logits"]
                assert gradient is not None
            moved = (images.detach() + spec.fgsm_step * gradient.sign()).clamp(0, 1)
            return moved, logits.argmax(dim=1)

        parts = runner.within_memory(attack, images, labels, done)
        done += len(images)
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
            f"attacking {name} with fgsm_step {spec.fgsm_step:g} fooled the model on {count} of "
            f"{len(data)} images, too few to tune on (min_adversarial {spec.min_adversarial}): "
            "give more images; in a benchmark, raise tuning.fgsm_step"
        )
    order = torch.randperm(count, generator=generator)
    return TuningData(*(torch.cat(images)[keep][order] for images in (clean, noisy, attacked)))


def in_memory(source: ImageSource) -> ImageArray:
    """All images of a source, in [0, 1] or uint8, with their labels.

    Raises:
        TuningError: if they have several sizes.
    """
    batches = list(source.batches())
    for images, labels in batches:
        if len(batches) == 1 and isinstance(images, np.ndarray):
            return ImageArray(images, None if labels is None else np.asarray(labels))
    if len({images.shape[1:] for images, _ in batches}) > 1:
        raise TuningError(f"images of {source.name} have several sizes, and are not attacked")
    whole = torch.cat([torch.as_tensor(images) for images, _ in batches])
    if whole.dtype != torch.uint8:
        whole = whole.float().clamp(0, 1)
    known = [torch.as_tensor(labels) for _, labels in batches if labels is not None]
    return ImageArray(whole.cpu().numpy(), torch.cat(known).cpu().numpy() if known else None)


def oracle_data(
    positives: ImageArray, negatives: ImageArray, spec: TuningSpec, seed: int
) -> TuningData[Tensor]:
    """Validation images of the ID set and of an OOD set, shuffled.

    Raises:
        TuningError: if either has too few images.
    """
    for images in (positives, negatives):
        if len(images) < spec.min_adversarial:
            raise TuningError(f"{len(images)} validation images are too few to tune on")
    generator = torch.Generator().manual_seed(seed)
    shuffled = [
        as_floats(resident(images, torch.device("cpu")))[
            torch.randperm(len(images), generator=generator)
        ]
        for images in (positives, negatives)
    ]
    return TuningData(shuffled[0], shuffled[0][:0], shuffled[1])


def _predictions(runner: NetworkRunner, images: Tensor) -> Tensor:
    def predict(images: Tensor, labels: Tensor | None, first: int | None) -> Tensor:
        with torch.no_grad():
            return runner.outputs(images).logits.argmax(dim=1)

    return torch.cat([part for _, part in runner.within_memory(predict, images, None)])


def clean_outputs(runner: NetworkRunner, data: TuningData[Tensor]) -> TuningData[Outputs]:
    """Outputs of the network for tuning images, without maps: one pass for all methods.

    Args:
        runner: attached.
        data: the images.
    """

    def this_pass(images: Tensor) -> Outputs:
        return Outputs.concatenate(
            [
                outputs
                for batch in image_batches(runner, images)
                for outputs in _forward(runner, batch)
            ]
        )

    positives = this_pass(data.positives)
    noisy = this_pass(data.noisy) if len(data.noisy) else positives[:0]
    return TuningData(positives, noisy, this_pass(data.negatives))


def image_batches(runner: NetworkRunner, images: Tensor) -> Iterator[Tensor]:
    """Images on the device, batch by batch, of the current batch size of the runner."""
    start, meter = 0, runner.meter(len(images))
    while start < len(images):
        batch = images[start : start + runner.batch_size]
        start += len(batch)
        yield arranged(batch.to(runner.device), runner.classifier.dtype)
        meter.add(len(batch))


def _forward(runner: NetworkRunner, images: Tensor) -> list[Outputs]:
    """Outputs of a batch, in parts if it does not fit in memory, without a graph."""
    with torch.no_grad():
        return [outputs for _, outputs in runner.within_memory(runner.outputs, images, None)]
