"""What the scripts here run: a benchmark of small images in folders, and how two runs differ.

The images are PNG files, so that a run decodes them into the cache; a run trains a small network,
and its checkpoint goes into the cache, too.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from small_suite import suite_files

import oodbench
from oodbench.cli import main as cli
from oodbench.engine import costs
from oodbench.results import Run

CLASSES = ("blue", "green", "red")
COUNTS = {"train": 24, "test": 12}
"""Images of each class."""

METHODS = ("Net+MSP", "Net+KNN", "Net+ODIN")

_MANIFEST = """\
schema_version: 1
name: {name}
title: {name}
summary: Small images
kind: folder
paths: {paths}
shape: {shape}
num_classes: {classes}
splits: {splits}
license: none
citation: none
"""

_BENCHMARK = """\
schema_version: 1
name: {name}
version: 1
title: Small
summary: Small images in folders
id: colors
ood: {{near: [dark], far: [noise]}}
models:
  Net:
    network: resnet8
    head: softmax
    training: {{epochs: {epochs}, batch_size: 32, learning_rate: 0.05}}
methods:
  Net+MSP: {{model: Net, detector: baseline}}
  Net+KNN: {{model: Net, detector: knn, parameters: {{k: 5}}}}
  Net+ODIN: {{model: Net, detector: odin, parameters: {{temperature: 10.0, epsilon: 0.01}}}}
matrix: {{models: [Net], detectors: all}}
default_detectors: []
reference: Net+MSP
tuning: {{detectors: []}}
evaluation: {{resamples: 100, batch_size: 16}}
"""


def write_content(folder: Path, *, epochs: int = 1) -> Path:
    """A folder of content with two benchmarks, a suite and, in `data`, their images."""
    sets = {
        "colors": ({"train": 72, "test": 36}, 3),
        "dark": ({"test": 20}, None),
        "noise": ({"test": 20}, None),
    }
    texts = {
        "benchmarks/small.yaml": _BENCHMARK.format(name="small", epochs=epochs),
        "benchmarks/other.yaml": _BENCHMARK.format(name="other", epochs=epochs + 1),
        **suite_files(
            "pair",
            {"small": ("Net", "Colors"), "other": ("Other", "Colors")},
            {"dark": "Dark", "noise": "Noise"},
            METHODS[0],
            {("small", "dark"): 12.3, ("other", "noise"): 45.6},
        ),
    }
    for name, (splits, classes) in sets.items():
        validation = "\nsplit_from: {validation: train}" if classes else ""
        counts = {"train": 54, "validation": 18, "test": 36} if classes else splits
        texts[f"data_manifests/{name}.yaml"] = _MANIFEST.format(
            name=name,
            paths=json.dumps({split: split for split in splits}),
            shape=[3, 8, 8],
            classes=classes or "null",
            splits=json.dumps(counts) + validation,
        )
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    data = folder / "data"
    for split, count in COUNTS.items():
        for channel, name in enumerate(CLASSES):
            _images(data / "colors" / split / name, count, 10 * count + channel, channel)
    _images(data / "dark" / "test", 20, 1, scale=0.6)
    _images(data / "noise" / "test", 20, 2)
    return folder


def write_manifest(
    content: Path,
    name: str,
    *,
    path: str,
    shape: tuple[int, int, int],
    count: int,
    files: Sequence[Mapping[str, Any]] = (),
) -> None:
    """The manifest of a data set with test images alone, in a folder, perhaps of `files`."""
    text = _MANIFEST.format(
        name=name,
        paths=json.dumps({"test": path}),
        shape=list(shape),
        classes="null",
        splits=json.dumps({"test": count}),
    )
    if files:
        text += f"files: {json.dumps([*map(dict, files)])}\n"
    (content / "data_manifests" / f"{name}.yaml").write_text(text, encoding="utf-8")


def save_weights(path: Path) -> None:
    """Weights of the network of `evaluation_words`."""
    torch.manual_seed(0)
    network = oodbench.models.create("resnet8", num_classes=len(CLASSES))
    torch.save(network.state_dict(), path)


def evaluation_words(data: Path, weights: Path, out: Path) -> tuple[str, ...]:
    """`oodbench evaluate` of a network, whose weights `save_weights` makes, on the images here."""
    return (
        *("evaluate", "--model", "resnet8", "--normalization", "none"),
        *("--checkpoint", str(weights), "--classes", "folders"),
        *("--id", f"colors={data / 'colors' / 'test'}", "--fit", str(data / "colors" / "train")),
        *("--ood", f"near/dark={data / 'dark'}", "--ood", f"far/noise={data / 'noise'}"),
        *("--methods", "baseline,knn", "--transform", "8", "--device", "cpu", "--out", str(out)),
    )


def _images(
    folder: Path, count: int, seed: int, channel: int | None = None, scale: float = 1.0
) -> None:
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = generator.uniform(0, 160, (8, 8, 3)) * scale
        if channel is not None:
            pixels[:, :, channel] += 60
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02}.png")


class Warnings(oodbench.progress.Silent):
    """A progress reporter that keeps the warnings."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def run_small(content: Path, out: Path, cache: Path, **options: Any) -> Run:
    """Run the small benchmark in this process, with one seed and times measured once."""
    chosen = {"seeds": 1, "methods": list(METHODS), "device": "cpu"} | options
    with cached_in(cache):
        return oodbench.run(
            "small", out=out, plugins=[content], data_root=content / "data", **chosen
        )


@contextmanager
def cached_in(cache: Path) -> Iterator[None]:
    """Runs in this process use a cache, and measure times once: these are not compared."""
    with (
        patch.dict(os.environ, {"OODBENCH_CACHE": str(cache)}),
        patch.dict(costs.measure.__kwdefaults__, {"rounds": 1}),
    ):
        yield


def command_line(content: Path, out: Path, *more: str) -> list[str]:
    """The command of the same run, in a process of its own."""
    return [
        *(sys.executable, "-m", "oodbench", "run", "small", "--plugins", str(content)),
        *("--data-root", str(content / "data"), "--seeds", "1", "--device", "cpu"),
        *("--methods", ",".join(METHODS), "--out", str(out), *more),
    ]


@dataclass(frozen=True)
class Said:
    """How a command ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str


def command(*words: str | Path) -> Said:
    """Run the command `oodbench` in this process."""
    out, err = io.StringIO(), io.StringIO()
    arguments = ["oodbench", *map(str, words)]
    code = 0
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", arguments):
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            logging.getLogger().handlers.clear()
    return Said(code, out.getvalue(), err.getvalue())


def difference(out: Path, expected: Path) -> str:
    """How the records, scores, predictions or training of two runs differ; "" if not at all."""
    for name in ("records.jsonl", "differences.jsonl"):
        got, wanted = out / name, expected / name
        if got.exists() != wanted.exists():
            return f"{name} IS IN ONE OF THEM"
        if wanted.exists() and got.read_bytes() != wanted.read_bytes():
            pairs = zip(got.read_text().splitlines(), wanted.read_text().splitlines(), strict=False)
            first = next((number for number, (g, w) in enumerate(pairs, 1) if g != w), "the end")
            return f"DIFFERENT {name}, first in line {first}"
    if _epochs(out) != _epochs(expected):
        return "DIFFERENT training.jsonl"
    arrays = ("scores/*/*.npz", "predictions/*/*.npz")
    names = {path.relative_to(expected) for each in arrays for path in expected.glob(each)}
    found = {path.relative_to(out) for each in arrays for path in out.glob(each)}
    if names != found:
        return f"DIFFERENT FILES OF SCORES: {sorted(map(str, names ^ found))}"
    for name in sorted(names):
        with np.load(expected / name) as want, np.load(out / name) as have:
            if set(want) != set(have):
                return f"DIFFERENT DATA SETS in {name}"
            for key in want:
                if not np.array_equal(want[key], have[key]):
                    return f"DIFFERENT SCORES in {name}: {key}"
    return ""


def _epochs(folder: Path) -> list[dict[str, Any]]:
    """Training records without their times, which no two trainings share."""
    path = folder / "training.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def one_thread() -> None:
    """One thread: those of small networks wait for each other on a busy machine."""
    torch.set_num_threads(1)
