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
per OOD set: an upper bound. The `ood_validation` protocol, OpenOOD's automatic parameter search,
takes validation images of one OOD set for all. Its settings are selected on all validation images,
as there, by AUROC. A detector that trains a model of its own is trained on one half of the images
of both sides and selected on the other; OpenOOD has no rule for it, as it searches nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from oodbench.data import ImageArray
from oodbench.engine.passes.contract import TuningError
from oodbench.engine.passes.image_sources import Batch, ImageSource, SplitImages
from oodbench.engine.passes.input_gradients import input_gradients
from oodbench.engine.passes.memory import arranged
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.specs import TuningSpec

Kind = Literal["positives", "noisy", "negatives"]
SelectedBy = Literal["tnr_at_95_tpr", "auroc"]
"""Metric whose largest value selects a setting."""


class Part(NamedTuple):
    """A part of the tuning images.

    Attributes:
        kind: in-distribution images, the same with noise, or negatives.
        fits: whether it is the half that detectors train models of their own on.
    """

    kind: Kind
    fits: bool


class TuningImages(Protocol):
    """Images that detectors are tuned on."""

    @property
    def selected_by(self) -> SelectedBy:
        """Metric whose largest value selects a setting."""
        ...

    @property
    def whole(self) -> bool:
        """Whether both halves select the setting of a detector that trains no model of its own."""
        ...

    def batches(
        self, runner: NetworkRunner, wanted: Callable[[Part], bool]
    ) -> Iterator[tuple[Part, Tensor]]:
        """The wanted images on the device, in one pass; a batch is of one part.

        Args:
            runner: attached.
            wanted: whether a part is read.
        """
        ...


@dataclass(frozen=True, slots=True)
class TuningData:
    """Attacked images and their originals in memory; the first half of each kind fits.

    Attributes:
        positives: in-distribution images in [0, 1], on the CPU, shape [N, C, H, W].
        noisy: the same with noise, or none.
        negatives: attacked images.
    """

    positives: Tensor
    noisy: Tensor
    negatives: Tensor
    selected_by: SelectedBy = field(default="tnr_at_95_tpr", init=False)
    whole: bool = field(default=False, init=False)

    def batches(
        self, runner: NetworkRunner, wanted: Callable[[Part], bool]
    ) -> Iterator[tuple[Part, Tensor]]:
        """As the protocol says."""
        sides: dict[Kind, Tensor] = {
            "positives": self.positives,
            "noisy": self.noisy,
            "negatives": self.negatives,
        }
        for kind, images in sides.items():
            fits = np.arange(len(images)) < len(images) // 2
            yield from _batches_of(runner, kind, _InMemory(kind, [(images, None)]), fits, wanted)


@dataclass(frozen=True, slots=True)
class ValidationImages:
    """Validation images of the ID set and of an OOD set, read batch by batch.

    Attributes:
        positives: images of the ID set.
        negatives: images of the OOD set.
        fits: for both, whether an image is of the half that fits, shape [N].
        selected_by, whole: as the protocol `TuningImages` says.
    """

    positives: ImageSource
    negatives: ImageSource
    fits: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    selected_by: SelectedBy
    whole: bool

    @classmethod
    def of(
        cls,
        positives: ImageSource,
        negatives: ImageSource,
        spec: TuningSpec,
        seed: int,
        *,
        oracle: bool,
    ) -> ValidationImages:
        """The tuning images of `ood_oracle` or `ood_validation`.

        Args:
            positives: images of the ID set.
            negatives: images of the OOD set.
            spec: says how many images are enough.
            seed: seed of the halves.
            oracle: whether the protocol is `ood_oracle`.

        Raises:
            TuningError: if either has too few images.
        """
        generator = torch.Generator().manual_seed(seed)
        inside, outside = _sized(positives, spec), _sized(negatives, spec)
        return cls(
            inside,
            outside,
            fits=(_half(inside, generator), _half(outside, generator)),
            selected_by="tnr_at_95_tpr" if oracle else "auroc",
            whole=not oracle,
        )

    def batches(
        self, runner: NetworkRunner, wanted: Callable[[Part], bool]
    ) -> Iterator[tuple[Part, Tensor]]:
        """As the protocol says."""
        yield from _batches_of(runner, "positives", self.positives, self.fits[0], wanted)
        yield from _batches_of(runner, "negatives", self.negatives, self.fits[1], wanted)


def _sized(source: ImageSource, spec: TuningSpec) -> ImageSource:
    """The source, or its images if it does not say how many it has.

    Raises:
        TuningError: if it has too few.
    """
    if source.size is None:
        source = _InMemory(source.name, list(source.batches()))
    if not source.size or source.size < spec.min_adversarial:
        raise TuningError(
            f"{source.name}: {source.size} images are too few to tune on "
            f"(min_adversarial {spec.min_adversarial})"
        )
    return source


def _half(source: ImageSource, generator: torch.Generator) -> NDArray[np.bool_]:
    """Half of the images of a source, at random, shape [N]."""
    count = source.size or 0
    chosen = np.zeros(count, dtype=np.bool_)
    chosen[torch.randperm(count, generator=generator)[: count // 2].numpy()] = True
    return chosen


@dataclass(frozen=True)
class _InMemory:
    """A source of batches that are in memory."""

    name: str
    kept: Sequence[Batch]

    @property
    def size(self) -> int:
        return sum(len(images) for images, _ in self.kept)

    def first(self) -> Batch:
        return self.kept[0]

    def batches(self) -> Iterator[Batch]:
        yield from self.kept


def _batches_of(
    runner: NetworkRunner,
    kind: Kind,
    source: ImageSource,
    fits: NDArray[np.bool_],
    wanted: Callable[[Part], bool],
) -> Iterator[tuple[Part, Tensor]]:
    """Batches of one kind; each is divided into its halves, whichever of them are wanted."""
    parts = [part for part in (Part(kind, True), Part(kind, False)) if wanted(part)]
    if not parts:
        return
    start = 0
    for images, _ in runner.batches(source):
        halves = fits[start : start + len(images)]
        start += len(images)
        for part in parts:
            rows = np.flatnonzero(halves == part.fits)
            if len(rows) == len(images):
                yield part, images
            elif len(rows):
                mine = images[torch.from_numpy(rows).to(images.device)]
                yield part, arranged(mine, runner.classifier.dtype)


def adversarial_data(
    runner: NetworkRunner,
    data: ImageArray,
    spec: TuningSpec,
    seed: int,
    *,
    name: str = "the tuning data",
) -> TuningData:
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


def _predictions(runner: NetworkRunner, images: Tensor) -> Tensor:
    def predict(images: Tensor, labels: Tensor | None, first: int | None) -> Tensor:
        with torch.no_grad():
            return runner.outputs(images).logits.argmax(dim=1)

    return torch.cat([part for _, part in runner.within_memory(predict, images, None)])
