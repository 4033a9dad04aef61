"""The classifiers of a benchmark: published, from the cache, or trained now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oodbench.data.loaded_splits import LoadedSplits
from oodbench.data.store.availability import dataset_state
from oodbench.data.store.download import OfflineError, offline
from oodbench.data.store.locations import root_folder
from oodbench.errors import UserError, counted, did_you_mean
from oodbench.files import cache_folder
from oodbench.models import head_info
from oodbench.models.classifier import Classifier
from oodbench.models.registry import AUXILIARY_HINT, auxiliary_problem
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Meter, Reporter
from oodbench.specs import BenchmarkSpec, DatasetSpec, ModelSpec, SplitName
from oodbench.storage.run_description import TrainedOn
from oodbench.training.auxiliary_images import refuse_test_images
from oodbench.training.checkpoints import (
    CheckpointKey,
    load_or_train,
    read_history,
    read_trained_on,
)
from oodbench.training.initialization import new_classifier, new_loss
from oodbench.training.loop import train
from oodbench.training.precision import with_precision
from oodbench.training.published_models import Images, Publication, published_classifier
from oodbench.training.state import Epoch, TrainingState


class ModelStore:
    """The classifiers of a benchmark: published, from the cache, or trained.

    Attributes:
        publications: model and seed -> where its published weights come from, once it was made.
    """

    def __init__(
        self, benchmark: BenchmarkSpec, data: LoadedSplits, device: torch.device, say: Reporter
    ) -> None:
        self._benchmark = benchmark
        self._num_classes = data.num_classes(benchmark.id)
        self._data, self._device, self._say = data, device, say
        self.publications: dict[tuple[str, int], Publication] = {}

    def is_published(self, model: str) -> bool:
        """Whether a model has published weights in place of a training."""
        return self._benchmark.models[model].training is None

    def source(self, model: str, seed: int) -> str:
        """Where the next `trained` gets a classifier from, in words."""
        if self.is_published(model):
            return "checkpoint of the benchmark"
        return "checkpoint from the cache" if self.key(model, seed).path.exists() else "trained"

    def cached_path(self, model: str, seed: int) -> str:
        """Path of a model's checkpoint in the cache, with "/"; "" of published weights."""
        if self.is_published(model):
            return ""
        return self.key(model, seed).path.relative_to(cache_folder()).as_posix()

    def key(self, model: str, seed: int) -> CheckpointKey:
        """The key of a model's checkpoint."""
        spec, dataset = self._spec(model), self._benchmark.id
        calibrated = head_info(spec.head).calibrated
        tested, auxiliary = spec.recipe.test_accuracy != "no", self._auxiliary(spec)
        return CheckpointKey(
            model=spec,
            data=self._data.fingerprint(dataset, "train"),
            num_classes=self._num_classes,
            seed=seed,
            validation=self._data.fingerprint(dataset, "validation") if calibrated else "",
            test=self._data.fingerprint(dataset, "test") if tested else "",
            auxiliary=self._data.fingerprint(*auxiliary) if auxiliary else "",
        )

    def _auxiliary(self, spec: ModelSpec) -> tuple[str, SplitName] | None:
        """Data set and split of a model's auxiliary images."""
        found = spec.auxiliary
        return None if found is None else (found.dataset, found.split)

    def _spec(self, model: str) -> ModelSpec:
        """A model's spec with the precision that the device trains in."""
        spec = self._benchmark.models[model]
        training = with_precision(spec.recipe, self._device)
        return spec.model_copy(update={"training": training})

    def check(self, models: Iterable[str], seeds: Iterable[int]) -> dict[str, list[str]]:
        """Create every model and its loss once, so that errors come before any training.

        Published weights are downloaded and read for each seed. Offline, all that are missing are
        named together.

        Returns:
            "weights of model, seed k" -> warnings about published weights; "training of model" ->
            warnings about losses without effect.

        Raises:
            UserError: if a network, a head or an option is not valid, or published weights are
                missing or do not fit.
        """
        warnings, problems = {}, []
        for model in models:
            spec = self._benchmark.models[model]
            if not self.is_published(model):
                obstacle = self._checked_loss(spec, self.untrained(model, 0))
                if obstacle:
                    self._say.warn(f"{model}: {obstacle}")
                    warnings[f"training of {model}"] = [obstacle]
                continue
            for seed in seeds:
                try:
                    self.untrained(model, seed)
                except UserError as error:
                    if not offline():
                        raise
                    problems.append(error)
                    continue
                found = self.publications.get((model, seed))
                label = f"{model}, seed {seed}"
                if found is not None and found.taken:
                    self._say.result(f"{label}: {found.source}: {', '.join(found.taken)}")
                if found is not None and found.warning:
                    self._say.warn(f"{label}: {found.warning}")
                    warnings[f"weights of {label}"] = [found.warning]
        if problems:
            messages = dict.fromkeys(error.message for error in problems)
            hints = dict.fromkeys(error.hint for error in problems)
            raise OfflineError(" ".join(messages), " ".join(hints))
        return warnings

    def _checked_loss(self, spec: ModelSpec, classifier: Classifier) -> str:
        """Why the loss of a trained model has no effect; "" if it has.

        Raises:
            UserError: if its options are not valid, or auxiliary images do not fit it.
        """
        problem = auxiliary_problem(spec)
        if problem is not None:
            raise UserError(f"{problem[0].upper()}{problem[1:]}.", AUXILIARY_HINT)
        labels = self._data.get(self._benchmark.id, "train").labels
        assert labels is not None  # of an ID set
        images = np.bincount(labels, minlength=self._num_classes).tolist()
        return new_loss(spec, classifier, seed=0).obstacle(images, spec.recipe.epochs)

    def untrained(self, model: str, seed: int) -> Classifier:
        """A classifier that has the speed of the trained one, on the device, for evaluation.

        Its weights are the initial ones, or the published ones.
        """
        if self.is_published(model):
            return self._published(model, seed)
        spec, images = self._spec(model), self._data.get(self._benchmark.id, "train")
        return new_classifier(spec, self._num_classes, images, seed).to(self._device).eval()

    def trained(self, model: str, seed: int) -> Classifier:
        """A trained classifier on the device, in evaluation mode.

        A training that was stopped continues after its last complete epoch; published weights are
        read.
        """
        if self.is_published(model):
            return self._published(model, seed)
        key = self.key(model, seed)
        return load_or_train(
            self.untrained(model, seed),
            key,
            lambda: self._train(model, key),
            self._say.warn,
            self._say.detail,
        )

    def history(self, model: str, seed: int) -> list[dict[str, Any]]:
        """Results of each epoch, with the keys of `state.Epoch`; of published weights none."""
        if self.is_published(model):
            return []
        return read_history(self.key(model, seed).path)

    def trained_on(self, model: str, seed: int) -> dict[str, TrainedOn]:
        """As `RunDescription.trained_on`, of one trained model; {} if it is not known."""
        if self.is_published(model):
            return {}
        found = read_trained_on(self.key(model, seed).path)
        return {} if found is None else {f"{model}/seed{seed}": found}

    def _published(self, model: str, seed: int) -> Classifier:
        dataset = self._benchmark.id
        images = Images(
            dataset,
            self._data.shape(dataset),
            self._num_classes,
            self._data.class_names(dataset),
        )
        try:
            classifier, self.publications[model, seed] = published_classifier(
                self._benchmark.models[model],
                seed,
                images,
                benchmark=self._benchmark.file,
                root=self._data.root,
                device=self._device,
                say=self._say,
            )
        except UserError as error:
            error.say_first(f"models.{model}")
            raise
        return classifier.to(self._device)

    def _train(self, model: str, key: CheckpointKey) -> tuple[Classifier, list[Epoch]]:
        spec, dataset = key.model, self._benchmark.id
        state = TrainingState(key.state_path, key.address)

        images = self._data.get(dataset, "train")
        epochs = spec.recipe.epochs
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

        tested, auxiliary = spec.recipe.test_accuracy != "no", self._auxiliary(spec)
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
            auxiliary=self._data.get(*auxiliary) if auxiliary else None,
            on_epoch=on_epoch,
            on_images=lambda count: meter.add(count),
        )


def train_models(
    benchmark: BenchmarkSpec,
    catalog: Catalog,
    *,
    model: str | None,
    seeds: Sequence[int],
    device: torch.device,
    say: Reporter,
    data_root: Path | None = None,
) -> dict[str, Path]:
    """Train the models that are not in the cache; inside `distributed.group`, together.

    Args:
        benchmark: names the models.
        catalog: names the training data.
        model: name of one model; None for all.
        seeds: which seeds to train.
        device: where to train.
        say: progress reporter.
        data_root: folder of the data sets that are not built in.

    Returns:
        "model seed k" -> checkpoint file, of each model that is trained.

    Raises:
        UserError: if there is no such model, or training fails.
    """
    if model is not None and model not in benchmark.models:
        raise UserError(
            f"Benchmark '{benchmark.name}' has no model '{model}'.",
            did_you_mean(model, benchmark.models),
        )
    chosen = [model] if model is not None else list(benchmark.models)
    names = [name for name in chosen if benchmark.models[name].training is not None]
    if not names:
        return {}
    specs = _datasets_here(benchmark, catalog, root_folder(data_root))
    data = LoadedSplits(specs, data_root, say, benchmark.most_images)
    store = ModelStore(benchmark, data, device, say)
    refuse_test_images(benchmark, data)
    store.check(names, seeds)
    paths = {}
    with say.work(len(names) * len(seeds)):
        for name in names:
            for seed in seeds:
                label = f"{name} seed {seed}"
                say.stage(label)
                path = store.key(name, seed).path
                source = "in the cache" if path.exists() else "trained"
                store.trained(name, seed)
                last = read_history(path)[-1]
                say.done(
                    f"{label}: {source}, {counted(last['epoch'], 'epoch')}, "
                    f"loss {last['loss']:.3f}, training accuracy {100 * last['accuracy']:.1f} %"
                )
                paths[label] = path
    return paths


def _datasets_here(
    benchmark: BenchmarkSpec, catalog: Catalog, root: Path
) -> dict[str, DatasetSpec]:
    """The data sets that are trained on, and with auxiliary images the test sets on this machine.

    Auxiliary images are compared with these; `run` compares them with all.
    """
    auxiliary = [dataset for dataset, _ in benchmark.auxiliary_splits]
    wanted = dict.fromkeys([benchmark.id, *auxiliary])
    tested = benchmark.names if auxiliary else ()
    specs = {
        name: benchmark.decoded(catalog.dataset(benchmark.manifest(name)))
        for name in dict.fromkeys([*wanted, *tested])
    }
    absent = ("missing", "not fetched")
    return {
        name: spec
        for name, spec in specs.items()
        if name in wanted or dataset_state(spec, root).state not in absent
    }
