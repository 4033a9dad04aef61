"""One engine cycle against pytorch-ood, detector by detector, on the same network and images.

    python scripts/speed/against_pytorch_ood.py [--images FOLDER] [--fit 5000] [--test 2000]
                                              [--threads 2] [--rounds 1]

A ResNet-20, trained for a moment, and 32x32 images: `--fit` to fit on, a fifth of them held out
from training, and twice `--test` to score, in- and out-of-distribution. Images are stripes in the
colors of ten classes, or the photographs of FOLDER, which has one folder for each class.

- oodbench: one cycle of its engine for several detectors together, from bytes to scores: thirteen
  that one starts with, all that pytorch-ood has too, and all of oodbench's catalog; each time those
  that one forward pass is enough for, and that run on a linear last layer.
- pytorch-ood: each detector as its documentation shows, `fit(loader)` and then `predict` for every
  batch of both sets. Its loaders are lists of ready float32 batches, already normalized: what a
  DataLoader and transforms take is not counted.
- pytorch-ood, shared: its `Benchmark.evaluate(detectors, cache=True)`, which computes logits and
  pooled features of the test images once for all detectors that need no more. It fits no detectors:
  here, logits and features of the images to fit on are computed once, too, for its `fit_logits` and
  `fit_features`. Detectors of maps run the network for themselves. The loader gets ready batches,
  and metrics are left out.
- The bare forward: one loop over all images, without gradients, in the default memory layout, over
  ready float32 batches. And once more in channels_last.

Where the two differ in a parameter, oodbench takes pytorch-ood's. Contestants take turns, so that a
busy machine disturbs all alike, and the short ones have several turns in each round; medians.
Beside seconds by the clock stand those of processor time, which others on the machine disturb less.
All run in one process with the settings of our command line, which help theirs too. Peak memory is
measured in a process of its own for each side, theirs without those settings: how far the resident
size grows.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from oodbench.process import prepare_process

prepare_process()  # as `oodbench run` does, before torch is loaded

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

import oodbench
from oodbench.data import ImageArray
from oodbench.detector import Detector, Outputs, head_obstacle
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.folding import find_folding
from oodbench.engine.passes.layer_readers import layer_readers
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_split
from oodbench.models.classifier import Classifier
from oodbench.models.feature_map import find_map
from oodbench.planning.plan import FITTED_ON
from oodbench.plugins.catalog import Catalog
from oodbench.specs import ModelSpec, TrainingSpec
from oodbench.training.loop import train

CLASSES = 10
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
FASTER = 8.0
"""Goal: times faster than pytorch-ood's `fit` and `predict`."""

VALIDATION = 5
"""One in so many of the images to fit on is held out from training."""


# --- images and network --------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What both sides get.

    Attributes:
        classifier: trained, in channels_last order, as training gives it.
        splits: "train", "validation", "id", "ood" -> images as bytes.
        batch: images in a batch.
    """

    classifier: Classifier
    splits: Mapping[str, ImageArray]
    batch: int

    @property
    def count(self) -> int:
        """Images in all splits."""
        return sum(map(len, self.splits.values()))


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Write images and a trained network to a folder."""
    counts = {
        "train": options.fit - options.fit // VALIDATION,
        "validation": options.fit // VALIDATION,
    }
    counts["id"] = options.test
    if options.images is None:
        images, labels = stripes(sum(counts.values()), seed=0)
    else:
        images, labels = photographs(options.images, sum(counts.values()))
    start = 0
    for split, count in counts.items():
        np.save(folder / f"{split}.npy", images[start : start + count])
        np.save(folder / f"{split}_labels.npy", labels[start : start + count])
        start += count
    np.save(folder / "ood.npy", stripes(options.test, seed=1)[0])
    recipe = TrainingSpec(epochs=3, batch_size=64, learning_rate=0.05, weight_decay=5e-4)
    spec = ModelSpec(network="resnet20", head="softmax", training=recipe)
    data = ImageArray(images[:3000], labels[:3000])
    classifier, history = train(spec, CLASSES, data, seed=0, device=torch.device("cpu"))
    accuracy = f"{100 * history[-1].accuracy:.0f} %"
    print(f"trained for {len(history)} epochs: training accuracy {accuracy}", flush=True)
    torch.save(classifier.state_dict(), folder / "weights.pt")


def stripes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 3, 32, 32] and labels: a class has a color and a pattern, under noise."""
    looks, generator = np.random.default_rng([7, seed]), np.random.default_rng(seed)
    colors = looks.uniform(60, 195, (CLASSES, 3))
    waves = looks.uniform(-0.9, 0.9, (CLASSES, 2))
    rows, columns = np.mgrid[:32, :32]
    labels = generator.permutation(np.arange(count) % CLASSES)
    images = np.empty((count, 3, 32, 32), dtype=np.uint8)
    for index, label in enumerate(labels):
        angle = waves[label, 0] * rows + waves[label, 1] * columns + generator.uniform(0, 6)
        noise = generator.normal(0, 30, (3, 32, 32))
        image = colors[label][:, None, None] + 40 * np.sin(angle) + noise
        images[index] = image.clip(0, 255)
    return images, labels


def photographs(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of each folder in a folder, made 32x32, in turns, and their labels."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())[:CLASSES]
    if len(classes) < CLASSES:
        sys.exit(f"{folder}: expected {CLASSES} folders of images, found {len(classes)}")
    suffixes = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
    files = [
        sorted(path for path in place.rglob("*") if path.suffix.lower() in suffixes)
        for place in classes
    ]
    chosen = [(number % CLASSES, number // CLASSES) for number in range(count)]
    if min(map(len, files)) <= chosen[-1][1]:
        sys.exit(f"{folder}: needs {chosen[-1][1] + 1} images of each class for {count} in all")
    images = np.empty((count, 3, 32, 32), dtype=np.uint8)
    for row, (label, index) in enumerate(chosen):
        with Image.open(files[label][index]) as image:
            images[row] = np.asarray(image.convert("RGB").resize((32, 32))).transpose(2, 0, 1)
    return images, np.array([label for label, _ in chosen])


def load(folder: Path, batch: int) -> Case:
    """What `prepare` wrote."""
    classifier = Classifier(oodbench.models.create("resnet20", num_classes=CLASSES), MEAN, STD)
    classifier.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    splits = {
        split: ImageArray(
            np.load(folder / f"{split}.npy"),
            np.load(folder / f"{split}_labels.npy") if split != "ood" else None,
        )
        for split in ("train", "validation", "id", "ood")
    }
    return Case(classifier.eval().to(memory_format=torch.channels_last), splits, batch)


# --- oodbench ------------------------------------------------------------------------------------


def our_detector(name: str) -> Detector:
    """A detector, with pytorch-ood's parameters if it has the detector."""
    return oodbench.load_detector(name, **(PAIRS[name].ours if name in PAIRS else {}))


@contextmanager
def our_runner(case: Case, detectors: Sequence[Detector]) -> Iterator[NetworkRunner]:
    """As `oodbench.engine.model_evaluation` sets it up."""
    needs = frozenset[str]().union(*(detector.info.needs for detector in detectors))
    few, _ = next(NetworkRunner(case.classifier, batch_size=4).batches(case.splits["id"]))
    with evaluating(case.classifier):
        name = find_map(case.classifier, few) if "feature_map" in needs else None
        folding = find_folding(case.classifier, few)
    named = {detector.info.name: detector for detector in detectors}
    readers, _ = layer_readers(case.classifier, named, few)
    runner = NetworkRunner(
        case.classifier,
        batch_size=case.batch,
        capture=Capture.of(needs, name, readers),
        folding=folding,
    )
    with runner.attached():
        yield runner


def our_fit(
    case: Case, runner: NetworkRunner, detectors: Mapping[str, Detector]
) -> dict[str, float]:
    """Fit detectors; gives the seconds that each took for itself."""
    seconds = dict.fromkeys(detectors, 0.0)
    for need, split in FITTED_ON.items():
        to_fit = {name: each for name, each in detectors.items() if need in each.info.needs}
        if to_fit:
            this_pass = functools.partial(pass_outputs, runner, case.splits[split])
            fits = fit_together(to_fit, this_pass, CLASSES, needs=need)
            for name, fit in fits.items():
                if fit.error is not None:
                    raise fit.error
                seconds[name] += fit.seconds
    return seconds


def our_cycle(case: Case, detectors: Sequence[Detector]) -> dict[str, dict[str, np.ndarray]]:
    """One engine cycle: fit together, score both sets; gives set -> detector -> scores."""
    by_name = {detector.info.name: detector for detector in detectors}
    found = {}
    with our_runner(case, detectors) as runner:
        our_fit(case, runner, by_name)
        for split in ("id", "ood"):
            scored = score_split(
                runner, case.splits[split], by_name, dataset=split, check_batches=split == "id"
            )
            for error in scored.errors.values():
                raise error
            found[split] = scored.scores
    return found


@dataclass
class Work:
    """Where the time of a cycle goes, in seconds.

    Attributes:
        passes: the network, with images made and activations captured.
        fit, score: detector -> its own work.
        copies: detector -> the copies it is given.
    """

    passes: float
    fit: dict[str, float]
    score: dict[str, float]
    copies: dict[str, float]


def our_work(case: Case, names: Sequence[str]) -> Work:
    """The same cycle taken to pieces."""
    detectors = {name: our_detector(name) for name in names}
    score, copies = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    passes = 0.0

    def copied(name: str, outputs: Outputs) -> Outputs:
        started = time.perf_counter()
        view = outputs.copied(detectors[name].info.needs, name)
        copies[name] += time.perf_counter() - started
        return view

    with our_runner(case, list(detectors.values())) as runner:
        fit = our_fit(case, runner, detectors)
        for split, images in case.splits.items():
            started = time.perf_counter()
            need = {split: need for need, split in FITTED_ON.items()}.get(split)
            for outputs in pass_outputs(runner, images):
                passes += time.perf_counter() - started
                for name, detector in detectors.items():
                    if need is not None:
                        if need in detector.info.needs:
                            copied(name, outputs)
                        continue
                    view = copied(name, outputs)
                    began = time.perf_counter()
                    with torch.no_grad():
                        detector.score(view)
                    score[name] += time.perf_counter() - began
                started = time.perf_counter()
    return Work(passes, fit, score, copies)


# --- pytorch-ood ---------------------------------------------------------------------------------


class Parts:
    """The network in the parts that pytorch-ood's detectors are made of, on normalized images."""

    def __init__(self, classifier: Classifier) -> None:
        self.model = classifier.network
        self.layers = list(self.model.tap_modules.values())
        self.fc: nn.Linear = self.model.head
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.features = self._features  # one object: their cache tells producers apart by it

    def maps(self, x: Tensor) -> Tensor:
        """Maps before pooling, shape [B, D, H, W]."""
        for layer in self.layers:
            x = layer(x)
        return x

    def _features(self, x: Tensor) -> Tensor:
        """Penultimate features, shape [B, D]."""
        return self.maps(x).mean(dim=(2, 3))

    def from_maps(self, maps: Tensor) -> Tensor:
        """Logits, shape [B, C]."""
        return self.fc(maps.mean(dim=(2, 3)))


@dataclass(frozen=True)
class Pair:
    """One method in both libraries.

    Attributes:
        name: its class in pytorch-ood.
        make: makes it there.
        ours: parameters of oodbench's detector.
        validation: fitted on validation images.
        core: of logits or pooled features: one of the thirteen that one starts with.
    """

    name: str
    make: Callable[[Any, Parts], Any]
    ours: Mapping[str, Any]
    validation: bool = False
    core: bool = False


def pair(
    name: str,
    make: Callable[[Any, Parts], Any] | None = None,
    *,
    validation: bool = False,
    core: bool = False,
    **ours: Any,
) -> Pair:
    return Pair(name, make or (lambda cls, parts: cls(parts.model)), ours, validation, core)


def of_features(cls: Any, parts: Parts) -> Any:
    return cls(parts.features)


def of_features_and_head(cls: Any, parts: Parts) -> Any:
    return cls(parts.features, parts.fc)


def of_maps(cls: Any, parts: Parts) -> Any:
    return cls(backbone=parts.maps, head=parts.from_maps)


STEP = 0.0014

PAIRS: Mapping[str, Pair] = {
    "baseline": pair("MaxSoftmax", core=True),
    "max_logit": pair("MaxLogit", core=True),
    "energy": pair("EnergyBased", core=True),
    "entropy": pair("Entropy", core=True),
    "gen": pair("GEN", core=True),
    "kl_matching": pair("KLMatching", validation=True, core=True),
    "mahalanobis_single": pair("Mahalanobis", of_features, core=True),
    "relative_mahalanobis": pair("RMD", of_features, core=True),
    "knn": pair("KNN", of_features, core=True, k=50),
    "vim": pair(
        "ViM",
        lambda cls, parts: cls(parts.features, d=32, w=parts.fc.weight, b=parts.fc.bias),
        core=True,
        dim=32,
    ),
    "dice": pair(
        "DICE",
        lambda cls, parts: cls(parts.features, w=parts.fc.weight, b=parts.fc.bias, p=0.65),
        core=True,
        p=0.65,
    ),
    "she": pair("SHE", of_features_and_head, core=True),
    "react": pair("ReAct", of_maps, core=True, on="map", percentile=0.9),
    "temperature_scaling": pair("TemperatureScaling", validation=True),
    "openmax": pair("OpenMax", tail_size=25, alpha=10),
    "nnguide": pair("NNGuide", of_features_and_head, k=10),
    "fdbd": pair("fDBD", of_features_and_head),
    "nci": pair("NCI", of_features_and_head),
    "lts": pair("LTS", of_features_and_head),
    "pnml": pair("PNML", of_features_and_head),
    "ash": pair("ASH", of_maps, on="map", percentile=0.65),
    "scale": pair("SCALE", of_maps, on="map", percentile=0.65),
    "vra": pair("VRA", of_maps),
    "rankfeat": pair("RankFeat", of_maps),
    "gram": pair(
        "Gram",
        lambda cls, parts: cls(
            head=nn.Sequential(parts.pool, parts.fc),
            feature_layers=parts.layers,
            num_classes=CLASSES,
        ),
        powers=4,
        layers="taps",
        divide_by_confidence=False,
    ),
    # --- with gradients, or of several layers: compared one by one
    "odin": pair(
        "ODIN",
        lambda cls, parts: cls(parts.model, norm_std=list(STD), eps=STEP, temperature=1000.0),
        epsilon=STEP,
        temperature=1000.0,
    ),
    "mahalanobis": pair("MultiMahalanobis", lambda cls, parts: cls(parts.layers), epsilon=0.0),
}

OURS = tuple(
    name
    for name, status in Catalog().detectors.items()
    if status.info is not None
    and status.info.shares_forward
    and head_obstacle(status.info.needs, "linear", "resnet20") is None
)
"""Every detector of oodbench that needs one forward pass, and no other head."""

WITHOUT_GRADIENTS = tuple(name for name in PAIRS if name not in ("odin", "mahalanobis"))
CORE = tuple(name for name, each in PAIRS.items() if each.core)
ALL = f"all {len(WITHOUT_GRADIENTS)} detectors of both"
CATALOG = f"all {len(OURS)} detectors of oodbench"
COMPARED = {f"{len(CORE)} detectors marked *": CORE, ALL: WITHOUT_GRADIENTS}
LISTS = {**COMPARED, CATALOG: OURS}
OVER_BARE = dict(zip(LISTS, (0.9, 1.1, 1.5), strict=True))
"""Goals: at most this many times the bare forward."""

SHARED = {list_name: f"{list_name}, shared" for list_name in COMPARED}

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


# --- contests ------------------------------------------------------------------------------------

Contest = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Seconds:
    """By the wall clock, and of processor time over all threads."""

    wall: float
    processor: float


def in_turns(contest: Contest, rounds: int, often: Contest | None = None) -> dict[str, Seconds]:
    """Median seconds of each.

    Args:
        contest: what has one turn in each round.
        rounds: how many.
        often: what has a turn before every sixth of those, too.
    """
    order: list[str] = []
    for number, name in enumerate(contest):
        order += [*(often or {})] * (number % 6 == 0) + [name]
    work = {**(often or {}), **contest}
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for name in order * rounds:
        started = time.perf_counter(), time.process_time()
        work[name]()
        turns[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
        print(f"  {name:40}{turns[name][-1][0]:8.2f} s", file=sys.stderr, flush=True)
    return {
        name: Seconds(*(statistics.median(clock) for clock in zip(*values, strict=True)))
        for name, values in turns.items()
    }


def added(times: Mapping[str, Seconds], names: Sequence[str]) -> Seconds:
    """Seconds of several contestants."""
    return Seconds(
        sum(times[name].wall for name in names), sum(times[name].processor for name in names)
    )


BARE, CHANNELS_LAST = "bare", "bare, channels_last"

UNTOUCHED_ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.check=0"}
"""A default: `prepare_process` leaves the allocator alone where the user has set something."""


def bare_contest(case: Case, loaders: Loaders) -> dict[str, Callable[[], object]]:
    """The plain loop in both memory layouts."""
    batches = [
        images for data in case.splits.values() for images, _ in ready_batches(data, case.batch)
    ]
    last = [images.to(memory_format=torch.channels_last) for images in batches]

    def this_pass(classifier: Classifier, batches: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for images in batches:
                classifier(images)

    return {
        BARE: functools.partial(this_pass, loaders.classifier, batches),
        CHANNELS_LAST: functools.partial(this_pass, case.classifier, last),
    }


def our_contest(case: Case) -> dict[str, Callable[[], object]]:
    """One cycle of each list of detectors."""

    def cycle(names: Sequence[str]) -> None:
        our_cycle(case, [our_detector(name) for name in names])

    return {list_name: functools.partial(cycle, names) for list_name, names in LISTS.items()}


def their_contest(loaders: Loaders) -> dict[str, Callable[[], object]]:
    """Every detector by itself."""

    def run(name: str) -> None:
        detector = their_detector(name, loaders.parts)
        their_run(loaders, detector, validation=PAIRS[name].validation)

    return {name: functools.partial(run, name) for name in WITHOUT_GRADIENTS}


def their_shared_contest(case: Case, loaders: Loaders) -> dict[str, Callable[[], object]]:
    """`Benchmark.evaluate` with each list of detectors."""
    return {
        SHARED[list_name]: functools.partial(their_shared_run, loaders, names, case.batch)
        for list_name, names in COMPARED.items()
    }


def one_by_one(case: Case, loaders: Loaders) -> dict[str, tuple[str, Contest]]:
    """Methods with gradients or of several layers: what -> names, and ours against theirs."""
    from pytorch_ood import detector as peer

    last = case.classifier.network.tap_names[-1]

    def last_layer_only() -> None:
        """Mahalanobis with input perturbation of one layer, which is what theirs has."""
        detector = oodbench.load_detector("mahalanobis", epsilon=STEP)
        with our_runner(case, [detector]) as runner:
            our_fit(case, runner, {"mahalanobis": detector})
            detector.gaussians = {last: detector.gaussians[last]}  # type: ignore[attr-defined]
            scorers = {"M": detector}
            for split in ("id", "ood"):
                scored = score_split(runner, case.splits[split], scorers, dataset=split)
                assert not scored.errors, scored.errors

    def ours(name: str, **parameters: Any) -> Callable[[], object]:
        return lambda: our_cycle(case, [oodbench.load_detector(name, **parameters)])

    def theirs(make: Callable[[], Any], *, gradients: bool = True) -> Callable[[], object]:
        return lambda: their_run(loaders, make(), gradients=gradients)

    parts, std = loaders.parts, list(STD)
    contests = {
        "ODIN": (
            "odin / ODIN",
            ours("odin", epsilon=STEP, temperature=1000.0),
            theirs(lambda: their_detector("odin", parts)),
        ),
        "Mahalanobis, one layer, with input perturbation": (
            "mahalanobis / MahalanobisODIN",
            last_layer_only,
            theirs(lambda: peer.MahalanobisODIN(parts.features, eps=STEP, norm_std=std)),
        ),
        "Mahalanobis, ensemble of 4 layers": (
            "mahalanobis / MultiMahalanobis",
            ours("mahalanobis", epsilon=0.0),
            theirs(lambda: their_detector("mahalanobis", parts), gradients=False),
        ),
        "GradNorm, last layer": (
            "gradnorm / GradNorm",
            ours("gradnorm"),
            theirs(lambda: peer.GradNorm(parts.model, lambda name: name == "head.weight")),
        ),
    }
    return {
        what: (names, {"ours": our_work, "theirs": their_work})
        for what, (names, our_work, their_work) in contests.items()
    }


# --- memory --------------------------------------------------------------------------------------


def largest_resident() -> int:
    """The largest resident size of this process so far, in bytes."""
    import resource  # not on Windows

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def resident() -> int:
    """The present one, where it can be had: what came before must not hide what is to come."""
    file = Path("/proc/self/statm")
    if file.exists():
        return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return largest_resident()


def memory(case: Case, side: str) -> int:
    """How far the resident size grows while one side does everything, in bytes."""
    few = torch.zeros(8, *case.splits["id"].images.shape[1:])
    work: list[Callable[[], object]]
    if side == "oodbench":
        work = [our_contest(case)[CATALOG]]
        classifier = case.classifier
        few = few.to(memory_format=torch.channels_last)
    else:
        import pytorch_ood.detector  # noqa: F401 - before the start, with what it imports

        loaders = Loaders.of(case)
        classifier = loaders.classifier
        contests: Mapping[str, Callable[[], Contest]] = {
            BARE: lambda: {BARE: bare_contest(case, loaders)[BARE]},
            "pytorch-ood": lambda: their_contest(loaders),
            SHARED[ALL]: lambda: {ALL: their_shared_contest(case, loaders)[SHARED[ALL]]},
        }
        work = list(contests[side]().values())
    with torch.no_grad():
        classifier(few)  # libraries are loaded
    before = resident()
    for each in work:
        each()
    return largest_resident() - before


# --- what is printed -----------------------------------------------------------------------------


def table(times: Mapping[str, Seconds], works: Sequence[Work]) -> None:
    """Detector by detector."""

    def median(kind: str, name: str) -> float:
        return statistics.median(getattr(work, kind)[name] for work in works)

    kinds = ("fit", "score", "copies")
    own = {name: [median(kind, name) for kind in kinds] for name in OURS}

    def milliseconds(seconds: Sequence[float]) -> str:
        return "".join(f"{1e3 * value:8.0f}" for value in seconds)

    print(f"\n{'':44}{'pytorch-ood':>12}   oodbench, own work in ms")
    print(f"{'oodbench':22}{'pytorch-ood':22}{'seconds':>12}   {'fit':>8}{'score':>8}{'copies':>8}")
    for name in sorted(own, key=lambda name: -sum(own[name])):
        peer, seconds = "", ""
        if name in WITHOUT_GRADIENTS:
            peer = PAIRS[name].name + "*" * PAIRS[name].core
            seconds = f"{times[name].wall:.2f}"
        print(f"{name:22}{peer:22}{seconds:>12}   {milliseconds(own[name])}")
    total = [sum(column) for column in zip(*own.values(), strict=True)]
    print(f"{'together':44}{added(times, WITHOUT_GRADIENTS).wall:12.2f}   {milliseconds(total)}")
    passes = statistics.median(work.passes for work in works)
    print(f"{'the network, over all images':59}{milliseconds([passes])}")


def summary(times: Mapping[str, Seconds], images: int) -> None:
    """Totals, ratios and goals."""
    print(f"\n{'':60}{'seconds':>9}{'x bare':>8}{'processor':>13}{'x bare':>8}")

    def line(what: str, seconds: Seconds) -> None:
        wall = f"{seconds.wall:9.2f}{seconds.wall / times[BARE].wall:8.2f}"
        ratio = seconds.processor / times[BARE].processor
        print(f"{what:60}{wall}{seconds.processor:13.2f}{ratio:8.2f}")

    line(f"bare forward over {images:,} images", times[BARE])
    line("bare forward, channels_last", times[CHANNELS_LAST])

    def over_bare(list_name: str) -> None:
        ours, bare = times[list_name], times[BARE]
        print(
            f"    {ours.wall / bare.wall:.2f} x the bare forward "
            f"({ours.processor / bare.processor:.2f} in processor time); "
            f"goal: at most {OVER_BARE[list_name]:g}",
            flush=True,
        )

    for list_name, names in COMPARED.items():
        ours, theirs = times[list_name], added(times, names)
        shared = times[SHARED[list_name]]
        line(f"pytorch-ood, {list_name}, fit and predict", theirs)
        line(f"pytorch-ood, {list_name}, evaluate(cache=True)", shared)
        line(f"oodbench, {list_name}, one cycle", ours)
        print(
            f"    {theirs.wall / ours.wall:.1f} times faster than fit and predict "
            f"({theirs.processor / ours.processor:.1f} in processor time); "
            f"goal: at least {FASTER:g}\n"
            f"    {shared.wall / ours.wall:.1f} times faster than evaluate(cache=True) "
            f"({shared.processor / ours.processor:.1f} in processor time)"
        )
        over_bare(list_name)
    line(f"oodbench, {CATALOG}, one cycle", times[CATALOG])
    over_bare(CATALOG)


def compare(case: Case, rounds: int) -> None:
    """All that is timed."""
    logging.getLogger("pytorch_ood").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    loaders = Loaders.of(case)
    short = {**bare_contest(case, loaders), **our_contest(case)}
    short[BARE]()  # warms up
    theirs = {**their_contest(loaders), **their_shared_contest(case, loaders)}
    times = in_turns(theirs, rounds, short)
    table(times, [our_work(case, OURS) for _ in range(rounds)])
    summary(times, case.count)
    print(f"\n{'':49}{'':31}{'oodbench':>9}{'pytorch-ood':>13}{'faster':>9}", flush=True)
    for what, (names, contest) in one_by_one(case, loaders).items():
        each = in_turns(contest, rounds)
        ours, theirs = each["ours"].wall, each["theirs"].wall
        ratio = f"{theirs / ours:7.1f} x"
        print(f"{what:49}{names:31}{ours:7.2f} s{theirs:11.2f} s{ratio}", flush=True)


def in_a_process(
    options: argparse.Namespace,
    what: str,
    folder: Path,
    output: Any = None,
    **variables: str,
) -> str:
    """Do a part in a process of its own, on the threads asked for; gives what it prints to a pipe.

    The process that starts them all stays small: its size counts for theirs.
    """
    command = [sys.executable, __file__, *sys.argv[1:], "--part", what, "--folder", str(folder)]
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, **variables}
    done = subprocess.run(command, env=environment, check=True, stdout=output, text=True)
    return done.stdout or ""


def processor() -> str:
    """The processor's name."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="a folder for each class")
    parser.add_argument("--fit", type=int, default=5000)
    parser.add_argument("--test", type=int, default=2000, help="of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="a round has 4 turns of the cycle")
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part == "prepare":
        prepare(options.folder, options)
    elif options.part == "times":
        compare(load(options.folder, options.batch), options.rounds)
    elif options.part:
        print(memory(load(options.folder, options.batch), options.part))
    else:
        everything(options)


def everything(options: argparse.Namespace) -> None:
    """All parts, one after the other."""
    print(
        f"{processor()}, {os.cpu_count()} cores, {options.threads} threads; "
        f"torch {torch.__version__}, pytorch-ood {version('pytorch-ood')}, "
        f"Python {platform.python_version()}\n"
        f"ResNet-20, {options.fit:,} images to fit, {options.test:,} ID + {options.test:,} OOD to "
        f"score, batches of {options.batch}; rounds: {options.rounds}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_a_process(options, "prepare", folder)
        in_a_process(options, "times", folder)
        grown = {
            side: int(in_a_process(options, side, folder, subprocess.PIPE, **variables)) / 2**20
            for side, variables in {
                BARE: UNTOUCHED_ALLOCATOR,
                "oodbench": {},
                "pytorch-ood": UNTOUCHED_ALLOCATOR,
                SHARED[ALL]: UNTOUCHED_ALLOCATOR,
            }.items()
        }
    grown["pytorch-ood, evaluate(cache=True)"] = grown.pop(SHARED[ALL])
    sizes = ", ".join(f"{side} {size:.0f} MiB" for side, size in grown.items())
    print(f"\npeak memory beyond network and images: {sizes}")


if __name__ == "__main__":
    main()
