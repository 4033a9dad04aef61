"""What a run computes with, got when first needed: images and classifiers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from oodbench.data import ImageArray, checked_split
from oodbench.data.limiting import limited
from oodbench.errors import counted
from oodbench.models import create_loss, head_info
from oodbench.models.classifier import Classifier
from oodbench.progress import Meter, Reporter, Silent
from oodbench.specs import BenchmarkSpec, DatasetSpec, ModelSpec, SplitName
from oodbench.training.checkpoints import CheckpointKey, load_or_train, read_history
from oodbench.training.loop import new_classifier, train, with_precision
from oodbench.training.state import Epoch, TrainingState


class DataStore:
    """The images of data sets, read when first needed and then kept.

    Args:
        specs: the manifests by name.
        data_root: the folder that data sets lie in; default: `OODBENCH_DATA`, else in the cache.
        say: takes progress and warnings; default: warnings become Python warnings.
        most: most images of a split; None for all (`oodbench.data.limiting`).
    """

    def __init__(
        self,
        specs: Mapping[str, DatasetSpec],
        data_root: str | Path | None = None,
        say: Reporter | None = None,
        most: int | None = None,
    ) -> None:
        self._specs, self._data_root, self._say = specs, data_root, say or Silent()
        self._most = most
        self._loaded: dict[tuple[str, str], tuple[ImageArray, str]] = {}

    def num_classes(self, dataset: str) -> int:
        """Number of classes that a manifest declares; 0 for data without classes."""
        return self._specs[dataset].num_classes or 0

    def get(self, dataset: str, split: str) -> ImageArray:
        """Images of a split; held against the fingerprint they had when they were decoded."""
        return self._load(dataset, split)[0]

    def fingerprint(self, dataset: str, split: SplitName) -> str:
        """SHA-256 of a split."""
        return self._load(dataset, split)[1]

    def _load(self, dataset: str, split: str) -> tuple[ImageArray, str]:
        key = dataset, split
        if key not in self._loaded:
            spec = self._specs[dataset]
            data, fingerprint = checked_split(spec, split, self._data_root, self._say)
            if self._most is not None and len(data) > self._most:
                data = limited(data, self._most, dataset, split)
                fingerprint = data.fingerprint()
            self._loaded[key] = data, fingerprint
        return self._loaded[key]


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
        spec, dataset = self._spec(model), self._benchmark.id
        calibrated = head_info(spec.head).calibrated
        tested = spec.training.test_accuracy != "no"
        return CheckpointKey(
            model=spec,
            data=self._data.fingerprint(dataset, "train"),
            num_classes=self._num_classes,
            seed=seed,
            validation=self._data.fingerprint(dataset, "validation") if calibrated else "",
            test=self._data.fingerprint(dataset, "test") if tested else "",
        )

    def _spec(self, model: str) -> ModelSpec:
        """A model's spec with the precision that the device trains in."""
        spec = self._benchmark.models[model]
        training = with_precision(spec.training, self._device)
        return spec.model_copy(update={"training": training})

    def check(self, models: Iterable[str]) -> None:
        """Make every model and its loss once: what cannot be made is said before any training.

        Raises:
            UserError: if a network, a head or an option is not what it should be.
        """
        for model in models:
            spec = self._spec(model)
            create_loss(spec.head, **spec.loss_options)
            self.untrained(model, seed=0)

    def untrained(self, model: str, seed: int) -> Classifier:
        """A classifier with its initial weights, on the device, in evaluation mode."""
        spec, images = self._spec(model), self._data.get(self._benchmark.id, "train")
        return new_classifier(spec, self._num_classes, images, seed).to(self._device).eval()

    def trained(self, model: str, seed: int) -> Classifier:
        """A trained classifier on the device, in evaluation mode.

        A training that was stopped goes on after its last whole epoch.
        """
        key = self.key(model, seed)
        return load_or_train(
            self.untrained(model, seed), key, lambda: self._train(model, key), self._say.warn
        )

    def history(self, model: str, seed: int) -> list[dict[str, Any]]:
        """What each epoch of a trained model ended with, as in `training_state.Epoch`."""
        return read_history(self.key(model, seed).path)

    def _train(self, model: str, key: CheckpointKey) -> tuple[Classifier, list[Epoch]]:
        spec, dataset = key.model, self._benchmark.id
        state = TrainingState(key.state_path, key.address)

        images = self._data.get(dataset, "train")
        epochs = spec.training.epochs
        what = f"training, {counted(epochs, 'epoch')}"
        meter = Meter(self._say.detail, what, epochs * len(images))

        def on_epoch(epoch: Epoch) -> None:
            nonlocal meter
            tested = epoch.test_accuracy
            said = (
                f"training, after epoch {epoch.epoch} of {epochs}: "
                f"loss {epoch.loss:.3f}, accuracy {100 * epoch.accuracy:.1f} %"
                + ("" if tested is None else f", test accuracy {100 * tested:.1f} %")
            )
            self._say.detail(said)
            meter = Meter(self._say.detail, said, (epochs - epoch.epoch) * len(images))

        tested = spec.training.test_accuracy != "no"
        calibrated = head_info(spec.head).calibrated
        return train(
            spec,
            self._num_classes,
            images,
            seed=key.seed,
            device=self._device,
            test=self._data.get(dataset, "test") if tested else None,
            validation=self._data.get(dataset, "validation") if calibrated else None,
            state=state,
            on_epoch=on_epoch,
            on_images=lambda count: meter.add(count),
        )
