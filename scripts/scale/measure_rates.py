"""Measures the rates that `simulate.py` computes with: decoding, intervals, detectors, memory.

    python scripts/scale/measure_rates.py

Prints them as YAML for `rates.yaml`. Times are processor times, which others on the machine disturb
little. Rates of a GPU are read from the cost records of a committed run.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from oodbench.process import prepare_process

prepare_process()
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import yaml
from PIL import Image
from speed.large_features import Source, detector_names, fit_all

import oodbench
from oodbench import bootstrap
from oodbench.data.image_decoder import decode_image
from oodbench.engine.meters import tensor_bytes
from oodbench.specs import ResizeSpec

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "cifar10-folders-resnet34"
IMAGES, RESAMPLES = 20_000, 1000
SIDE = 2048
REPEATS = 5

FEATURES, FEW_CLASSES, MANY_CLASSES = 512, 250, 1000
FITTED, SCORED = 2000, 600


def processor_seconds(function: Callable[[], object]) -> float:
    """Median processor time of a call."""
    function()  # warms up
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return statistics.median(times)


def decoding() -> float:
    """Core seconds to decode, resize and crop a photograph of ImageNet's size, 224x224."""
    generator = np.random.default_rng(0)
    coarse = generator.normal(128, 50, (12, 16, 3)).clip(0, 255).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth) + generator.normal(0, 11, (375, 500, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=94)
    resize = ResizeSpec(short_side=256)
    content = file.getvalue()
    return processor_seconds(lambda: decode_image(content, (3, 224, 224), resize))


def intervals() -> float:
    """Core seconds of all metrics with intervals, for each image and 1,000 resamples."""
    generator = np.random.default_rng(0)
    scores = generator.normal(1, 1, IMAGES // 2), generator.normal(0, 1, IMAGES // 2)

    def once() -> None:
        again = np.random.default_rng(0)
        bootstrap.confidence_intervals(*scores, generator=again, resamples=RESAMPLES)

    return processor_seconds(once) / IMAGES


def core_operations() -> float:
    """Float32 operations that a core does in a second in products of large matrices."""
    torch.set_num_threads(1)
    left, right = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    return 2 * SIDE**3 / processor_seconds(lambda: left @ right)


def detectors(classes: int) -> tuple[float, int]:
    """Core seconds for each image to score with all gradient-free detectors, and their bytes."""
    source = Source(FEATURES, classes)
    fitted = {name: oodbench.load_detector(name) for name in detector_names()}
    fit_all(source, fitted, FITTED)
    seconds = 0.0
    for number, outputs in enumerate(source.this_pass(SCORED, seed=9, labeled=False)):
        for detector in fitted.values():
            view = outputs.copied(detector.info.needs)
            started = time.process_time()
            with torch.no_grad():
                detector.score(view)
            seconds += (time.process_time() - started) if number else 0.0  # the first warms up
    images = SCORED - len(outputs)
    return seconds / images, sum(map(tensor_bytes, fitted.values()))


def gpu_operations() -> tuple[float, float]:
    """Operations a second of a GPU: of forward passes, and with an input gradient; TF32."""
    lines = (RESULTS / "costs.jsonl").read_text(encoding="utf-8").splitlines()
    rates: dict[str, list[float]] = {"baseline": [], "odin": []}
    for cost in map(json.loads, lines):
        if cost["detector"] in rates:
            rate = cost["flops_per_image"] / cost["ms_per_image_batched"] * 1e3
            rates[cost["detector"]].append(rate)
    forward, gradient = (statistics.median(each) for each in rates.values())
    return forward, gradient


def main() -> None:
    """Print the rates."""
    forward, gradient = gpu_operations()
    core = core_operations()
    (few, few_bytes), (many, many_bytes) = detectors(FEW_CLASSES), detectors(MANY_CLASSES)
    size, classes = 2048 / FEATURES, MANY_CLASSES - FEW_CLASSES
    per_class = (many - few) / classes
    rates = {
        "decode_core_seconds": decoding(),
        "interval_core_seconds": intervals(),
        "core_flops": core,
        "detector_flops": size * core * (few - FEW_CLASSES * per_class),
        "detector_flops_per_class": size * core * per_class,
        "memory_per_class": size * (many_bytes - few_bytes) / classes,
        "gpu_flops": forward,
        "gpu_gradient_flops": gradient,
    }
    print(yaml.safe_dump({name: float(f"{value:.3g}") for name, value in rates.items()}), end="")


if __name__ == "__main__":
    main()
