"""Decoding large images while a network computes: throughput and memory of a pass.

    python scripts/speed/imagenet_scale.py [--images 3000] [--fit 1000] [--classes 100]
        [--network resnet18] [--detectors all|A,B] [--workers 1] [--rounds 3] [--folder DIR]
        [--pass-only]

JPEG files of about 500x375 are resized (short side 256, bilinear, in Pillow), cropped to 224x224
and scored by all detectors that one forward pass serves, as a run does it with a split that is read
once. `--images 50000 --fit 50000 --classes 1000` has the size of ImageNet's validation images.

In each round, in turns:

- decode: worker processes decode some images, and this process only receives them;
- compute: the network and the detectors, on as many images that are decoded already;
- both: the pass, on all images of the round.

Workers and the network share the cores of the machine. "With its share" gives decoding alone and
computing alone the cores that they have in the pass: `--workers` processes for the one, the other
cores as threads for the other. "On all cores" gives each of them the whole machine. A pass cannot
reach that: if decoding takes D seconds an image and computing C, both on all cores, the pass takes
at least D + C. Both ratios to the slower one are printed; the goal of 90 % is for the first. The
network waits for the first batch: a round of N batches loses one part in N, which a long pass does
not.

The images are synthetic: smooth shapes and texture, about 110 kB each, as ImageNet's. Files repeat
after `--unique` images (at least one for each class) and come from the page cache: the time of a
disk is not measured. The network is random but for batch statistics and a last layer of class
means. Memory is the sum over this process and its workers: of proportional set sizes, in which
shared memory counts once (the goal is for these), and of resident sizes, in which it counts for
each process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from oodbench.process import prepare_process

prepare_process()  # as `oodbench run` does, before torch is loaded

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

import oodbench
from oodbench.data.split_decoder import SplitDecoder
from oodbench.data.store.stored_dataset import StoredDataset
from oodbench.data.streamed_split import StreamedSplit
from oodbench.detector import Detector
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.image_sources import Batch, SplitImages
from oodbench.engine.passes.layer_readers import layer_readers
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import score_split
from oodbench.models.classifier import Classifier
from oodbench.models.feature_map import find_map
from oodbench.models.structure.analysis import analyze
from oodbench.planning.plan import FITTED_ON
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Silent
from oodbench.specs import DatasetSpec

SIZES = ((500, 375), (500, 333), (375, 500), (500, 400))
SERVED = {
    *("features", "feature_map", "taps", "tap_maps", "layers", "labels", "head"),
    *("fit", "validation"),
}
"""Needs that a forward pass of any network serves, without a gradient or tuning."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GOAL_SHARE, GOAL_BYTES = 0.90, 4e9
ALONE = 5
"""Decoding and computing alone are measured on one in so many images of a round."""


# --- images --------------------------------------------------------------------------------------


def write_images(folder: Path, counts: dict[str, int], classes: int, unique: int) -> None:
    """Write `folder/<split>/<class>/<number>.jpg`; files after the first `unique` are links."""
    pool = folder / "unique"
    pool.mkdir(parents=True, exist_ok=True)
    unique = max(unique, classes)
    for number in range(unique):
        path = pool / f"{number}.jpg"
        if not path.exists():
            image = picture(number % classes, number)
            image.save(path.with_suffix(".part"), "JPEG", quality=94)
            path.with_suffix(".part").rename(path)
    for split, count in counts.items():
        for number in range(count):
            path = folder / split / f"{number % classes:04}" / f"{number:06}.jpg"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                # The same class: `unique` may be no multiple of `classes`.
                source = number % (unique - unique % classes)
                os.link(pool / f"{source}.jpg", path)


def picture(label: int, number: int) -> Image.Image:
    """A picture of a class: shapes of the class, shapes of its own, and texture."""
    look, own = np.random.default_rng([0, label]), np.random.default_rng([1, number])
    size = SIZES[number % len(SIZES)]
    pixels = (
        _field(look, 5, size, 50)
        + _field(own, 12, size, 25)
        + _field(own, 90, size, 14)
        + own.normal(128, 11, (size[1], size[0], 3))
    )
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _field(
    generator: np.random.Generator, cells: int, size: tuple[int, int], spread: float
) -> np.ndarray:
    """Noise of about `cells` x `cells` values, interpolated; shape [H, W, 3]."""
    coarse = generator.normal(0, spread, (3, cells, cells)).astype(np.float32)
    resized = [Image.fromarray(each).resize(size, Image.Resampling.BICUBIC) for each in coarse]
    return np.stack([np.asarray(each) for each in resized], axis=2)


def manifest(counts: dict[str, int], classes: int) -> DatasetSpec:
    """The manifest of the images."""
    return DatasetSpec.model_validate(
        {
            "schema_version": 1,
            "name": "synthetic",
            "title": "Synthetic",
            "summary": "Synthetic JPEG files",
            "kind": "folder",
            "paths": {split: split for split in counts},
            "resize": {"short_side": 256, "filter": "bilinear"},
            "shape": [3, 224, 224],
            "num_classes": classes,
            "splits": counts,
            "license": "none",
            "citation": "none",
        }
    )


@dataclass(frozen=True)
class Repeated:
    """Decoded images, again and again, as a source of `size` images.

    Attributes:
        given: images [B, 3, 224, 224], uint8.
        size: number of images.
    """

    given: Tensor
    size: int
    name: str = "decoded images"

    def first(self) -> Batch:
        """The images."""
        return self.given, None

    def batches(self) -> Iterator[Batch]:
        """The images, as often as needed."""
        for start in range(0, self.size, len(self.given)):
            yield self.given[: self.size - start], None


# --- network and detectors -----------------------------------------------------------------------


def classifier_of(
    name: str, batches: Sequence[tuple[Tensor, np.ndarray]], classes: int
) -> Classifier:
    """A random network with batch statistics and a last layer of class means of some images."""
    torch.manual_seed(0)
    module: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    module = module.to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    normalized = [(images / 255 - mean) / std for images, _ in batches[:4]]
    with torch.no_grad():
        module.train()
        for images in normalized:
            module(images)
        module.eval()
        last = [each for each in module.modules() if isinstance(each, nn.Linear)][-1]
        kept: list[Tensor] = []
        handle = last.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        for images, _ in batches:
            module((images / 255 - mean) / std)
        handle.remove()
        features = torch.cat(kept)
        members = torch.from_numpy(np.concatenate([labels for _, labels in batches]))
        means = torch.stack([features[members == label].mean(dim=0) for label in range(classes)])
        scale = 10 / means.var(dim=0).sum()  # of logits between classes
        last.weight.copy_(scale * means)
        last.bias.copy_(-scale * means.square().sum(dim=1) / 2)
    network = analyze(module, normalized[0][:4], "auto").network
    return Classifier(network, MEAN, STD).eval().to(memory_format=torch.channels_last)


def chosen_detectors(asked: str) -> dict[str, Detector]:
    """The detectors that were asked for, else all that the one forward pass serves."""
    wanted = None if asked == "all" else asked.split(",")
    return {
        name: oodbench.load_detector(name)
        for name, status in Catalog().detectors.items()
        if status.info is not None
        and (status.info.needs <= SERVED if wanted is None else name in wanted)
    }


def runner_of(
    classifier: Classifier, detectors: dict[str, Detector], few: Tensor, batch: int
) -> NetworkRunner:
    """A runner that captures what the detectors need; failures are printed."""
    needs = frozenset[str]().union(*(each.info.needs for each in detectors.values()))
    name = None
    if "feature_map" in needs:
        with evaluating(classifier):
            name = find_map(classifier, few)
    readers, failures = layer_readers(classifier, detectors, few)
    for method, error in failures.items():
        print(f"left out: {method}: {error}")
        del detectors[method]
    return NetworkRunner(classifier, batch_size=batch, capture=Capture.of(needs, name, readers))


def fit(
    runner: NetworkRunner, detectors: dict[str, Detector], source: SplitImages, classes: int
) -> None:
    """Fit the detectors on a source; those that fail are printed and left out."""
    for need in FITTED_ON:
        chosen = {name: each for name, each in detectors.items() if need in each.info.needs}
        if not chosen:
            continue
        fits = fit_together(
            chosen,
            lambda chosen=chosen: pass_outputs(runner, source, chosen),
            classes,
            needs=need,
        )
        for name, fitted in fits.items():
            if fitted.error is not None:
                print(f"left out: {name}: {fitted.error}")
                del detectors[name]


# --- memory --------------------------------------------------------------------------------------


class PeakMemory(threading.Thread):
    """Samples the memory of this process and its children.

    Attributes:
        proportional, resident: largest sums, in bytes.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.proportional = self.resident = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Sample until `end`."""
        while not self._ended.wait(0.5):
            proportional = resident = 0
            for process in self._processes():
                try:
                    text = Path(f"/proc/{process}/smaps_rollup").read_text()
                except OSError:  # it has ended
                    continue
                sizes = {line.split(":")[0]: line.split() for line in text.splitlines()[1:]}
                proportional += 1024 * int(sizes["Pss"][1])
                resident += 1024 * int(sizes["Rss"][1])
            self.proportional = max(self.proportional, proportional)
            self.resident = max(self.resident, resident)

    def end(self) -> None:
        """Stop sampling."""
        self._ended.set()
        self.join()

    @staticmethod
    def _processes() -> list[int]:
        me = os.getpid()
        children: list[int] = []
        for task in Path(f"/proc/{me}/task").iterdir():
            try:
                children += map(int, (task / "children").read_text().split())
            except OSError:
                continue
        return [me, *children]


# --- measurement ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """What is measured.

    Attributes:
        decoder: decodes an image.
        indices: all images of the pass.
        runner: attached.
        detectors: fitted.
        decoded: a batch of decoded images.
        batch: images of a batch.
    """

    decoder: SplitDecoder
    indices: np.ndarray
    runner: NetworkRunner
    detectors: dict[str, Detector]
    decoded: Tensor
    batch: int

    def stream(self, rows: slice, workers: int) -> StreamedSplit:
        """A part of the images."""
        indices = self.indices[rows]
        return StreamedSplit(
            self.decoder, indices, batch_size=self.batch, workers=workers, say=Silent()
        )

    def decode(self, rows: slice, workers: int) -> float:
        """Images per second of decoding alone."""
        images = self.stream(rows, workers)
        return self._rate(len(images), lambda: [None for _ in images.batches()])

    def compute(self, count: int, threads: int) -> float:
        """Images per second of the network and the detectors alone."""
        torch.set_num_threads(threads)
        return self._rate(count, lambda: self._score(Repeated(self.decoded, count)))

    def both(self, rows: slice, threads: int, workers: int) -> float:
        """Images per second of a pass."""
        torch.set_num_threads(threads)
        images = self.stream(rows, workers)
        return self._rate(len(images), lambda: self._score(SplitImages("images", lambda: images)))

    def _score(self, source: SplitImages | Repeated) -> None:
        scores = score_split(self.runner, source, self.detectors, dataset="images")
        for name, error in scores.errors.items():
            print(f"left out: {name}: {error}")
            del self.detectors[name]

    @staticmethod
    def _rate(count: int, work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return count / (time.perf_counter() - started)


@dataclass(frozen=True)
class Rates:
    """Images per second of a round: decoding, computing, both."""

    decode: float
    compute: float
    both: float

    @property
    def share(self) -> float:
        """Both, over the slower one alone."""
        return self.both / min(self.decode, self.compute)

    def __str__(self) -> str:
        return (
            f"decode {self.decode:7.1f}  compute {self.compute:7.1f}  both {self.both:7.1f} "
            f"images/s: {100 * self.share:5.1f} % of the slower one"
        )


def measure(bench: Bench, rounds: int, workers: int, cores: int) -> None:
    """All rounds, each printed, and the medians."""
    threads = max(1, cores - workers)
    shared: list[Rates] = []
    whole: list[Rates] = []
    length = len(bench.indices) // rounds
    for number in range(rounds):
        rows = slice(number * length, (number + 1) * length)
        few = slice(rows.start, rows.start + max(bench.batch, length // ALONE))
        count = few.stop - few.start
        shared.append(
            Rates(
                bench.decode(few, workers),
                bench.compute(count, threads),
                bench.both(rows, threads, workers),
            )
        )
        print(f"round {number + 1}: its share: {shared[-1]}", flush=True)
        whole.append(
            Rates(
                bench.decode(few, cores),
                bench.compute(count, cores),
                bench.both(few, cores, max(1, cores - 1)),
            )
        )
        print(f"         all cores: {whole[-1]}", flush=True)
    for name, rates in (
        (f"alone with its share ({workers} workers, {threads} threads)", shared),
        (f"alone on all cores ({cores} each)", whole),
    ):
        share = statistics.median(each.share for each in rates)
        print(f"{name}: median {100 * share:.1f} %")
    share = statistics.median(each.share for each in shared)
    print(f"goal: at least {100 * GOAL_SHARE:.0f} % with its share: {_met(share >= GOAL_SHARE)}")


def _met(met: bool) -> str:
    return "met" if met else "NOT met"


def main() -> None:
    """Parse the command line, prepare, measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--fit", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--unique", type=int, default=500)
    parser.add_argument("--network", default="resnet18", help="of torchvision")
    parser.add_argument("--detectors", default="all")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the images")
    parser.add_argument(
        "--pass-only", action="store_true", help="the pass and its memory, nothing alone"
    )
    options = parser.parse_args()
    if min(options.images, options.fit) < options.classes:
        parser.error("--images and --fit must be at least --classes: each class has an image")
    warnings.simplefilter("ignore")
    with ExitStack() as stack:
        folder = options.folder
        if folder is None:
            folder = Path(tempfile.mkdtemp())
            stack.callback(shutil.rmtree, folder)
        run(folder, options, stack)


def run(folder: Path, options: argparse.Namespace, stack: ExitStack) -> None:
    """Prepare and measure, with images in a folder."""
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, load average {os.getloadavg()[0]:.1f} at the start", flush=True)
    counts = {"train": options.fit, "test": options.images}
    root = folder / f"{options.images}-{options.fit}-{options.classes}"
    write_images(root / "synthetic", counts, options.classes, options.unique)
    stored = StoredDataset(manifest(counts, options.classes), root, Silent())
    kilobytes = [path.stat().st_size / 1000 for path in (root / "synthetic/unique").iterdir()]
    print(
        f"{options.images:,} JPEG files of {statistics.mean(kilobytes):.0f} kB on average, "
        f"{len(kilobytes):,} of them different",
        flush=True,
    )
    memory = PeakMemory()
    memory.start()
    stack.callback(memory.end)
    decoder, indices = stored.fetched("train")
    # Files are sorted by class; the pass and the fit see the classes in turns.
    mixed = np.random.default_rng(0).permutation(indices)
    training = StreamedSplit(
        decoder, mixed, batch_size=options.batch, workers=options.workers, say=Silent()
    )
    few = StreamedSplit(
        decoder,
        indices[np.argsort(np.arange(len(indices)) % (len(indices) // options.classes))][
            : 2 * options.classes
        ],
        batch_size=options.batch,
        workers=options.workers,
        say=Silent(),
    )
    torch.set_num_threads(cores)
    batches = [(images, labels) for images, labels in few.batches() if labels is not None]
    classifier = classifier_of(options.network, batches, options.classes)
    detectors = chosen_detectors(options.detectors)
    first = batches[0][0]
    runner = runner_of(classifier, detectors, first[:4] / 255, options.batch)
    with runner.attached():
        started = time.perf_counter()
        fit(runner, detectors, SplitImages("images", lambda: training), options.classes)
        seconds = time.perf_counter() - started
        print(f"fitted on {options.fit:,} images in {seconds:.0f} s", flush=True)
        decoder, indices = stored.fetched("test")
        indices = np.random.default_rng(1).permutation(indices)
        bench = Bench(decoder, indices, runner, detectors, first, options.batch)
        bench.compute(options.batch, cores)  # warm
        print(f"{options.network}, {len(detectors)} detectors: {', '.join(detectors)}", flush=True)
        if options.pass_only:
            threads = max(1, cores - options.workers)
            rate = bench.both(slice(None), threads, options.workers)
            print(f"the pass over {options.images:,} images: {rate:.1f} images a second")
        else:
            measure(bench, options.rounds, options.workers, cores)
    print(
        f"largest memory: {memory.proportional / 1e9:.2f} GB proportional, "
        f"{memory.resident / 1e9:.2f} GB resident: goal of {GOAL_BYTES / 1e9:.0f} GB "
        f"{_met(memory.proportional < GOAL_BYTES)}"
    )
    print(f"load average {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
