"""A few images through each model before the run: errors, the order of classes, the speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from oodbench.data.loaded_splits import LoadedSplits
from oodbench.data.store.checkpoint_files import Weights
from oodbench.data.store.locations import root_folder
from oodbench.data.store.stored_dataset import StoredDataset
from oodbench.engine.mistakes import Confusion, labels_signs, other_order
from oodbench.errors import UserError, counted
from oodbench.models.classifier import Classifier
from oodbench.models.published_weights.torchvision_networks import weights_url
from oodbench.planning.plan import Plan
from oodbench.progress import Reporter
from oodbench.specs import OWN, ModelSpec, SplitName
from oodbench.training.trained_models import ModelStore

_MOST_CLASSES = 40
"""Classes that are looked at."""
_LEAST, _MOST = 5, 10
"""Images of a class: five show its place in the order of classes."""
_IMAGES = 200
"""Images of all classes, if `_LEAST` of each are fewer."""
_OTHERS = 4
"""Images of each other set, which are decoded to see whether they can be."""
_SHOWN = 5
"""Exchanged classes that a message names."""


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What a model does with a few ID images.

    Attributes:
        images: number of the images.
        classes: number of their classes.
        right: number of images that the model classifies correctly.
        rate: images per second in a forward pass.
        signs: sentences on what is wrong, perhaps.
    """

    images: int
    classes: int
    right: int
    rate: float
    signs: tuple[str, ...]

    @property
    def text(self) -> str:
        """What was seen, in words."""
        return (
            f"accuracy {self.right / self.images:.0%} of {counted(self.images, 'image')} of "
            f"{counted(self.classes, 'class')}, {self.rate:,.0f} images/s"
        )


def weights_are_here(model: ModelSpec) -> bool:
    """Whether the weights of a model are known to be on this machine.

    They are if they are in a file or a folder that the user gives, made by the user's code, or of
    torchvision and downloaded before. What other libraries have stored is not known.
    """
    if model.checkpoint or model.weights == OWN:
        return True
    library, _, name = model.network.partition(":")
    if library == "torchvision" and model.weights is not None:
        weights = Weights(model.network, weights_url(model.network, model.weights))
        return any(place.is_file() for place in weights.places(root_folder(None)))
    if library == "open_clip":
        return Path(name.partition("/")[2]).is_file()
    return library in ("hf", "hf_clip") and Path(name).is_dir()


def look(
    plan: Plan,
    model: str,
    *,
    device: torch.device,
    say: Reporter,
    data_root: Path | None = None,
    as_they_are: bool = False,
) -> FirstLook:
    """Classify a few ID test images of each class; images of the other sets are decoded.

    Args:
        plan: of a benchmark whose models have published weights.
        model: name of the model.
        device: where to compute.
        say: progress reporter.
        data_root: the data root.
        as_they_are: whether the order of the classes is right, whatever the model says.

    Raises:
        UserError: the model or an image cannot be used, or the classes have another order.
    """
    benchmark = plan.benchmark
    data = LoadedSplits(plan.datasets, data_root, say)
    classifier = ModelStore(benchmark, data, device, say).untrained(model, 0)
    root = root_folder(data_root)
    for name, spec in plan.datasets.items():
        for split in spec.splits:
            if (name, split) != (benchmark.id, "test"):
                _decoded(StoredDataset(spec, root, say), split, _OTHERS)
    stored = StoredDataset(plan.datasets[benchmark.id], root, say)
    images, labels = _of_each_class(stored)
    predicted, rate = _predicted(classifier, images, device, benchmark.evaluation.batch_size)
    seen = Confusion.of(data.num_classes(benchmark.id), labels, predicted)
    names = stored.source("test").classes
    if not as_they_are and (order := other_order(seen.counts)):
        raise _permuted(model, order, names, seen)
    return FirstLook(
        images=len(labels),
        classes=len(np.unique(labels)),
        right=seen.right,
        rate=rate,
        signs=tuple(labels_signs(f"'{benchmark.id}'", seen)),
    )


def _of_each_class(stored: StoredDataset) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A few images of each class, or of classes spread over all: [N, C, H, W], and labels [N]."""
    decoder, indices = stored.fetched("test")
    assert decoder.source.labels is not None  # of an ID set
    labels = decoder.source.labels[indices]
    present = np.unique(labels)
    if len(present) > _MOST_CLASSES:
        present = present[np.linspace(0, len(present) - 1, _MOST_CLASSES).astype(int)]
    each = min(_MOST, max(_LEAST, _IMAGES // len(present)))
    chosen = np.concatenate([_spread(indices[labels == label], each) for label in present])
    pixels, kept = [], []
    for index in chosen.tolist():
        image = decoder.decoded(index).pixels
        if image is not None:
            pixels.append(image)
            kept.append(index)
    if not pixels:
        raise UserError("--id: none of the first images can be decoded.")
    return np.stack(pixels), decoder.source.labels[kept]


def _decoded(stored: StoredDataset, split: SplitName, most: int) -> None:
    """Decode a few images.

    Raises:
        UserError: if one cannot be decoded.
    """
    decoder, indices = stored.fetched(split)
    for index in _spread(indices, most).tolist():
        decoder.decoded(index)


def _spread(indices: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many indices, spread over all."""
    steps = np.linspace(0, len(indices) - 1, min(most, len(indices))).astype(int)
    found: NDArray[np.int64] = indices[steps]
    return found


def _predicted(
    classifier: Classifier, images: NDArray[np.uint8], device: torch.device, batch: int
) -> tuple[NDArray[np.int64], float]:
    """The predicted classes [N], and images per second of all batches but the first."""
    found, seconds, counted_images = [], 0.0, 0
    with torch.inference_mode():
        classifier(_scaled(images[:2], device))  # memory, kernels
        for start in range(0, len(images), batch):
            part = _scaled(images[start : start + batch], device)
            began = time.perf_counter()
            found.append(classifier(part).argmax(dim=1).cpu().numpy())
            seconds += time.perf_counter() - began
            counted_images += len(part)
    return np.concatenate(found), counted_images / max(seconds, 1e-9)


def _scaled(images: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(images).to(device).float() / 255


def _permuted(
    model: str, order: Sequence[tuple[int, int]], names: Sequence[str], seen: Confusion
) -> UserError:
    """The error of classes in another order than the model's outputs."""

    def name(label: int) -> str:
        return f'"{names[label]}"' if names else str(label)

    pairs = [f"images of {name(label)} are predicted as {name(given)}" for label, given in order]
    more = f", and {counted(len(pairs) - _SHOWN, 'other class')}" if len(pairs) > _SHOWN else ""
    raised = seen.right + sum(
        int(seen.counts[label, given] - seen.counts[label, label]) for label, given in order
    )
    return UserError(
        f"The order of the class folders seems to be another one than that of model '{model}': "
        f"{', '.join(pairs[:_SHOWN])}{more} (accuracy {seen.right / seen.images:.0%} of "
        f"{counted(seen.images, 'image')}, {raised / seen.images:.0%} if exchanged).",
        "Give the names of the class folders in the order of the model's outputs, one a line: "
        "--classes FILE. If the order is right, --classes folders takes it without a check.",
    )
