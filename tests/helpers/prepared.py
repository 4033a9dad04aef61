"""What pages take for granted: a trained classifier, folders of photographs, runs, score arrays.

Each function puts names into the namespace of a page, or files into the working directory.
"""

from __future__ import annotations

import contextlib
import functools
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import oodbench
from helpers.commands import captured

ROOT = Path(__file__).parents[2]
Namespace = dict[str, Any]
Preparation = Callable[[Namespace, bool], None]


def write_photographs(folder: Path, count: int, seed: int) -> None:
    """Images as people have them: of all sizes, in color and gray, with and without alpha."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        height, width = generator.integers(20, 90, 2)
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert(("RGB", "L", "RGBA", "P")[index % 4])
        image.save(folder / f"{index}.png")


def once(make: Preparation) -> Preparation:
    """Files are made once, and copied for each page that needs them."""
    made: dict[bool, tempfile.TemporaryDirectory[str]] = {}

    @functools.wraps(make)
    def copied(names: Namespace, full: bool) -> None:
        if full not in made:
            made[full] = tempfile.TemporaryDirectory()
            with contextlib.chdir(made[full].name):
                make(names, full)
        shutil.copytree(made[full].name, ".", symlinks=True, dirs_exist_ok=True)

    return copied


def command(*arguments: str) -> None:
    """Run `oodbench`, which must succeed."""
    done = captured(*arguments)
    assert done.code == 0, f"oodbench {' '.join(arguments)}\n{done.err}"


def shown_detectors() -> dict[str, str]:
    """Name -> text of every detector that a page shows whole."""
    found = {}
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
            if name := re.search(r"^@register\(\s*\"(\w+)\"", block, flags=re.MULTILINE):
                found[name[1]] = block
    return found


def mine(names: Namespace, full: bool) -> None:
    """A folder of plug-ins `mine` with the detector `steepness` of the guide."""
    Path("mine/detectors").mkdir(parents=True)
    text = shown_detectors()["steepness"]
    Path("mine/detectors/steepness.py").write_text(text, encoding="utf-8")


def content(names: Namespace, full: bool) -> None:
    """A folder of plug-ins `content` with a detector `my_detector`."""
    command("new", "detector", "my_detector", "--out", "content")


def broken_detector(names: Namespace, full: bool) -> None:
    """The change of `my_detector` that the tutorial about the gate asks for."""
    path = Path("content/detectors/my_detector.py")
    *kept, last = path.read_text(encoding="utf-8").splitlines()
    assert "return" in last
    path.write_text("\n".join([*kept, "        return scaled.amin(dim=1)", ""]), encoding="utf-8")


def flawed(names: Namespace, full: bool) -> None:
    """The detector `steepness` in `mine` with three faults that `oodbench check` finds."""
    path = Path("mine/detectors/steepness.py")
    text = path.read_text(encoding="utf-8")
    for old, new in (
        ('needs=("input_gradients",))', f'needs=("features", "input_gradients"), {_SEARCHED})'),
        ("-gradient.double()", "gradient.double()"),
        ("    def gradient_losses", f"{_UNUSED}    def gradient_losses"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


_SEARCHED = 'search_space={"power": (1.0, 2.0)}'
_UNUSED = """    def __init__(self, power: float = 1.0) -> None:
        self.power = power

"""


def edited_record(names: Namespace, full: bool) -> None:
    """A value in the records of the run `submissions/mine` that does not follow from its scores."""
    if not full:
        return  # the run is slow
    path = Path("submissions/mine/records.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    place = next(i for i, line in enumerate(lines) if '"tnr_at_95_tpr"' in line)
    lines[place] = re.sub(r'"value":[\d.]+', '"value":0.97', lines[place])
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def repository(names: Namespace, full: bool) -> None:
    """The working directory is a repository of Git."""
    subprocess.run(["git", "init", "--quiet"], check=True)


@once
def images(names: Namespace, full: bool) -> None:
    """Folders and weights in `images`, of examples/own_images/make_images.py."""
    make = runpy.run_path(str(ROOT / "examples" / "own_images" / "make_images.py"))["main"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make_images.py", "images"])
        make()


@once
def detector(names: Namespace, full: bool) -> None:
    """These, their evaluation `runs/mine`, and a `detector` saved of it."""
    images(names, full)
    command(
        *("evaluate", "--model", "resnet8", "--checkpoint", "images/weights.safetensors"),
        *("--transform", "8x8", "--normalization", "0.3/0.38", "--id", "digits=images/test"),
        *("--fit", "images/train", "--validation", "images/validation"),
        *("--ood", "near/new-digits=images/new-digits", "--ood", "far/noise=images/noise"),
        *("--methods", "msp,energy,vim", "--out", "runs/mine"),
    )
    command("fit", "runs/mine", "energy", "--out", "detector")


def resnet18(names: Namespace, full: bool) -> None:
    """A checkpoint `net.pt` of torchvision's ResNet-18 with two classes, not trained."""
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), "net.pt")


def dismax_checkpoint(names: Namespace, full: bool) -> None:
    """A checkpoint `dismax.pt` of this network with the head of DisMax."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=2)
    model.fc = oodbench.losses.DisMaxHead(512, 2)
    nn.init.normal_(next(model.fc.parameters()))  # at first, all prototypes are equal
    torch.save(model.state_dict(), "dismax.pt")


def flowers(names: Namespace, full: bool) -> None:
    """Folders `flowers/{test,train,val}/<class>`, `birds`, `textures`, `new-images`; a `model`."""
    many = 160 if full else 30  # the detectors of a run need more images than they keep dimensions
    for split, count in (("test", 4), ("train", many), ("val", 30)):
        for number, name in enumerate(("daisy", "rose")):
            write_photographs(Path("flowers", split, name), count, 10 * number + count)
    write_photographs(Path("birds"), 6, 1)
    write_photographs(Path("textures", "inside"), 5, 2)
    write_photographs(Path("new-images"), 3, 3)
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    names["model"] = nn.Sequential(*layers, nn.Linear(8, 2)).eval()


@once
def runs(names: Namespace, full: bool) -> None:
    """Run directories `runs/base` (also `RUN`) and `runs/head` (also `OTHER`) of the digits."""
    few = () if full else ("--limit", "60", "--epochs", "1", "--seeds", "1")
    for name, other in (("base", "RUN"), ("head", "OTHER")):
        methods = ("--methods", "SoftMax+MSP,SoftMax+KNN,DisMax+Entropy")
        command("run", "digits", *methods, *few, "--out", f"runs/{name}")
        Path(other).symlink_to(f"runs/{name}")


def training(names: Namespace, full: bool) -> None:
    """A `model` that ends in `fc`, a `loader` of labeled images, an `optimizer`."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.AdaptiveAvgPool2d(13), nn.Flatten()))
    model.add_module("fc", nn.Linear(507, 10))
    data = TensorDataset(torch.rand(8, 3, 16, 16), torch.arange(8) % 10)
    names |= {"model": model, "loader": DataLoader(data, batch_size=4)}
    names["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.1)
    names |= {"epochs": 1, "generator": torch.Generator().manual_seed(0)}


def scores(names: Namespace, full: bool) -> None:
    """Arrays `id_scores`, `ood_scores`, `id_correct`, `validation_scores`, `test_scores`."""
    generator = np.random.default_rng(0)
    names |= {
        "id_scores": generator.normal(1, 1, 200),
        "ood_scores": generator.normal(0, 1, 150),
        "id_correct": generator.random(200) < 0.9,
        "validation_scores": generator.normal(1, 1, 500),
        "test_scores": generator.normal(1, 1, 200),
    }


def classifier(names: Namespace, full: bool) -> None:
    """A trained `model` with `train_data`, `validation_data`, `test_data` and `ood_data`.

    Images [3, 8, 8] of three classes that look different from each other; OOD images are noise.
    """
    torch.manual_seed(0)
    centers = torch.rand(3, 3, 8, 8)

    def images(count: int) -> TensorDataset:
        labels = torch.arange(count) % 3
        noise = 0.1 * torch.randn(count, 3, 8, 8)
        return TensorDataset((centers[labels] + noise).clamp(0, 1), labels)

    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *pooled, nn.Linear(8, 3))
    names |= {"train_data": images(120), "validation_data": images(60), "test_data": images(40)}
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(60):
        optimizer.zero_grad()
        pixels, labels = names["train_data"].tensors
        nn.functional.cross_entropy(model(pixels), labels).backward()
        optimizer.step()
    names |= {"model": model.eval(), "ood_data": TensorDataset(torch.rand(30, 3, 8, 8))}
    names["images"] = names["test_data"].tensors[0]
    names["loader"] = DataLoader(names["test_data"], batch_size=20)
    names |= {"mean": 0.0, "std": 1.0}  # the network takes images in [0, 1]


def evaluated(names: Namespace, full: bool) -> None:
    """These, and the `result` of an evaluation."""
    classifier(names, full)
    names["result"] = oodbench.evaluate(
        names["model"],
        ["baseline", "knn"],
        id_data=names["test_data"],
        ood_data={"noise": names["ood_data"]},
        fit_data=names["train_data"],
    )


def vision_language(names: Namespace, full: bool) -> None:
    """Encoders of `clip` and a `tokenizer`, without training; `train`, `test` and `birds`."""

    class Clip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.text = nn.Linear(3 * 8 * 8, 16), nn.Embedding(128, 16)

        def encode_image(self, images: Tensor) -> Tensor:
            return self.image(images.flatten(1))

        def encode_text(self, tokens: Tensor) -> Tensor:
            return self.text(tokens).mean(dim=1)

    def tokenizer(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[min(ord(char), 127) for char in f"{text:40.40}"] for text in texts])

    classifier(names, full)
    torch.manual_seed(0)
    names |= {"clip": Clip().eval(), "tokenizer": tokenizer}
    names |= {"train": names["train_data"], "test": names["test_data"], "birds": names["ood_data"]}


PREPARED: Mapping[str, Preparation] = {
    each.__name__: each
    for each in (
        *(broken_detector, classifier, content, detector, dismax_checkpoint),
        *(edited_record, evaluated, flawed, flowers, images, mine, repository, resnet18, runs),
        *(scores, training, vision_language),
    )
}
"""Name in `<!-- prepare: NAME -->` -> the function."""
