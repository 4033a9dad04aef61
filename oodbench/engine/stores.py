"""What a run computes with, got when first needed: images and classifiers."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from oodbench.checkpoints import CheckpointKey, load_or_train
from oodbench.data import ImageArray, load_split
from oodbench.models.classifier import Classifier
from oodbench.progress import Reporter
from oodbench.specs import BenchmarkSpec, DatasetSpec, SplitName
from oodbench.training import Epoch, new_classifier, train


class DataStore:
    """The images of data sets, read when first needed and then kept."""

    def __init__(self, specs: Mapping[str, DatasetSpec]) -> None:
        self._specs = specs
        self._loaded: dict[tuple[str, str], ImageArray] = {}
        self._fingerprints: dict[tuple[str, str], str] = {}

    def num_classes(self, dataset: str) -> int:
        """Number of classes that a manifest declares; 0 for data without classes."""
        return self._specs[dataset].num_classes or 0

    def get(self, dataset: str, split: str) -> ImageArray:
        """Images of a split."""
        key = dataset, split
        if key not in self._loaded:
            self._loaded[key] = load_split(self._specs[dataset], split)
        return self._loaded[key]

    def fingerprint(self, dataset: str, split: SplitName) -> str:
        """SHA-256 of a split."""
        key = dataset, split
        if key not in self._fingerprints:
            self._fingerprints[key] = self.get(dataset, split).fingerprint()
        return self._fingerprints[key]


class ModelStore:
    """The classifiers of a benchmark: from the cache, or trained."""

    def __init__(
        self, benchmark: BenchmarkSpec, data: DataStore, device: torch.device, say: Reporter
    ) -> None:
        self._benchmark = benchmark
        self._num_classes = data.num_classes(benchmark.id)
        self._data, self._device, self._say = data, device, say

    def key(self, model: str, seed: int) -> CheckpointKey:
        """What a model's checkpoint is made from."""
        return CheckpointKey(
            model=self._benchmark.models[model],
            data=self._data.fingerprint(self._benchmark.id, "train"),
            num_classes=self._num_classes,
            seed=seed,
        )

    def untrained(self, model: str, seed: int) -> Classifier:
        """A classifier with its initial weights, on the device, in evaluation mode."""
        spec, images = self._benchmark.models[model], self._data.get(self._benchmark.id, "train")
        return new_classifier(spec, self._num_classes, images, seed).to(self._device).eval()

    def trained(self, model: str, seed: int) -> Classifier:
        """A trained classifier on the device, in evaluation mode."""
        spec, images = self._benchmark.models[model], self._data.get(self._benchmark.id, "train")

        def on_epoch(epoch: Epoch) -> None:
            self._say.detail(
                f"training, epoch {epoch.epoch}/{spec.training.epochs}, "
                f"loss {epoch.loss:.3f}, accuracy {100 * epoch.accuracy:.1f} %"
            )

        return load_or_train(
            self.untrained(model, seed),
            self.key(model, seed),
            lambda: train(
                spec, self._num_classes, images, seed=seed, device=self._device, on_epoch=on_epoch
            ),
            self._say.warn,
        )
