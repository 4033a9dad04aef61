"""pytorch-ood's detectors on the same images: one by one, and with what its benchmark shares."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
from speed.contest.case import CLASSES, MEAN, STD, Case
from speed.contest.pairs import PAIRS, Parts
from torch import Tensor
from torch.utils.data import Dataset

import oodbench
from oodbench.data import ImageArray
from oodbench.models.classifier import Classifier

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Loaders:
    """Ready batches, on the CPU, for pytorch-ood and for the bare forward.

    Attributes:
        parts: of a network of its own in the default memory layout.
        normalized: split -> batches of normalized images with labels; -1 for OOD images.
        ready: the same images as data sets; "test" has both sets.
        classifier: what the bare forward runs.
    """

    parts: Parts
    normalized: Mapping[str, Sequence[Batch]]
    ready: Mapping[str, ReadyImages]
    classifier: Classifier

    @staticmethod
    def of(case: Case) -> Loaders:
        """Batches of a case."""
        classifier = Classifier(oodbench.models.create("resnet20", CLASSES), MEAN, STD)
        classifier.load_state_dict(case.classifier.state_dict())
        classifier.eval().to(memory_format=torch.contiguous_format)
        normalized = {
            split: [
                (classifier.normalized(images), labels)
                for images, labels in ready_batches(data, case.batch)
            ]
            for split, data in case.splits.items()
        }
        ready = {split: ReadyImages(batches) for split, batches in normalized.items()}
        ready["test"] = ReadyImages([*normalized["id"], *normalized["ood"]])
        return Loaders(Parts(classifier), normalized, ready, classifier)


def ready_batches(data: ImageArray, batch: int) -> Iterator[Batch]:
    """Float32 images in [0, 1] and labels; -1 where there are none."""
    labels = np.full(len(data), -1) if data.labels is None else data.labels
    for start in range(0, len(data), batch):
        rows = slice(start, start + batch)
        yield torch.from_numpy(data.images[rows]).float() / 255, torch.from_numpy(labels[rows])


def their_detector(name: str, parts: Parts) -> Any:
    from pytorch_ood import detector as peer

    return PAIRS[name].make(getattr(peer, PAIRS[name].name), parts)


def their_run(
    loaders: Loaders, detector: Any, *, validation: bool = False, gradients: bool = False
) -> dict[str, Tensor]:
    """Fit and predict, as the documentation shows; gives set -> outlier scores."""
    if detector.requires_fit:
        detector.to("cpu").fit(loaders.normalized["validation" if validation else "train"])
    with torch.set_grad_enabled(gradients):
        return {
            split: torch.cat([detector(images).detach() for images, _ in loaders.normalized[split]])
            for split in ("id", "ood")
        }


class ReadyImages(Dataset[Batch]):
    """Images and labels that a DataLoader gets as whole batches, without collating them."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.images, self.labels = (torch.cat(each) for each in zip(*batches, strict=True))

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        batch = slice(rows[0], rows[-1] + 1)
        return self.images[batch], self.labels[batch]


class NoMetrics:
    """In the place of their metrics, which are not compared."""

    def update(self, *values: Tensor) -> None:
        pass

    def compute(self) -> dict[str, float]:
        return {}


def their_shared_run(loaders: Loaders, names: Sequence[str], batch: int) -> None:
    """Fit and score several detectors, sharing what `Benchmark.evaluate` shares."""
    from pytorch_ood import api
    from pytorch_ood.benchmark import base

    class Comparison(base.Benchmark):  # type: ignore[misc]
        ood_names: ClassVar = ["ood"]

        def train_set(self) -> Dataset[Batch]:
            return loaders.ready["train"]

        def test_sets(self, known: bool = True, unknown: bool = True) -> list[Dataset[Batch]]:
            return [loaders.ready["test"]]

    @functools.cache
    def computed(producer: Callable[[Tensor], Tensor], split: str) -> Batch:
        with torch.no_grad():
            values = [producer(images) for images, _ in loaders.normalized[split]]
        return torch.cat(values), loaders.ready[split].labels

    detectors = []
    for name in names:
        detector = their_detector(name, loaders.parts).to("cpu")
        detectors.append(detector)
        split = "validation" if PAIRS[name].validation else "train"
        if not detector.requires_fit:
            continue
        if isinstance(detector, api.LogitsDetector):
            detector.fit_logits(*computed(detector.model, split))
        elif isinstance(detector, api.FeaturesDetector):
            detector.fit_features(*computed(detector.encoder, split))
        else:
            detector.fit(loaders.normalized[split])
    as_it_is = {"batch_size": batch, "collate_fn": lambda given: given}
    with torch.no_grad(), mock.patch.object(base, "OODMetrics", NoMetrics):
        Comparison().evaluate(detectors, loader_kwargs=as_it_is, cache=True)
