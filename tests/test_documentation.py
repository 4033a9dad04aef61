"""What the README and CONTRIBUTING show to be written is written, and works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench.plugins.catalog import Catalog

ROOT = Path(__file__).parent.parent


def detector_in(document: str) -> str:
    """The one block of a document that registers a detector."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)
    (block,) = [block for block in blocks if "@register" in block]
    return str(block)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_detector_that_is_shown_runs_beside_the_built_in_ones(
    document: str, tmp_path: Path
) -> None:
    code = detector_in(document)
    (name,) = re.findall(r"@register\(\s*\"(\w+)\"", code)
    assert re.search(rf"detectors/(<name>|{name})\.py", (ROOT / document).read_text())
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / f"{name}.py").write_text(code)
    built_in = set(Catalog().detectors)
    catalog = Catalog([tmp_path])
    assert set(catalog.detectors) - built_in == {name}
    assert all(status.error is None for status in catalog.imported_detectors().values())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    data = TensorDataset(torch.rand(30, 3, 8, 8), torch.arange(30) % 3)
    result = oodbench.evaluate(
        model,
        [catalog.load_detector(name), "baseline"],
        id_data=data,
        ood_data={"other": TensorDataset(torch.rand(20, 3, 8, 8))},
        fit_data=data,
    )
    assert result.failed == result.skipped == {}
    assert len(result.scores[name]["id"]) == 30


def write_photographs(folder: Path, count: int, seed: int) -> None:
    """Images as people have them: of all sizes, in color and gray, with and without alpha."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        height, width = generator.integers(20, 90, 2)
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert(("RGB", "L", "RGBA", "P")[index % 4])
        image.save(folder / f"{index}.png")


def test_the_evaluation_that_is_shown_runs_on_plain_folders_of_any_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With small images, so that it is quick: the sizes of the transform are divided by eight."""
    for split, count in (("test", 4), ("train", 30), ("val", 30)):
        for number, name in enumerate(("daisy", "rose")):
            write_photographs(tmp_path / "flowers" / split / name, count, 10 * number + count)
    write_photographs(tmp_path / "birds", 6, 1)
    write_photographs(tmp_path / "textures" / "inside", 5, 2)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    (code,) = [block for block in blocks if "result = oodbench.evaluate(" in block]
    assert "Resize(256), CenterCrop(224)" in code
    code = code.replace("Resize(256), CenterCrop(224)", "Resize(32), CenterCrop(28)")
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    names: dict[str, Any] = {"model": nn.Sequential(*layers, nn.Linear(8, 2)).eval()}
    exec(compile(code, "README.md", "exec"), names)
    result = names["result"]
    assert {name: len(scores) for name, scores in result.scores["energy"].items()} == {
        "id": 8,
        "birds": 6,
        "textures": 5,
    }
    # Of noise and a network that was not trained, what is fitted may not be; the data are read.
    assert "id_data" not in str(result.failed)
    assert not result.skipped


def test_architecture_names_modules_that_exist() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    names = {
        name
        for name in re.findall(r"`([\w/.]+)`", text)
        if name.endswith((".py", "/", ".yaml")) and not name.startswith(".")
    }
    assert len(names) > 30
    missing = {
        name
        for name in names
        if not ((ROOT / "oodbench" / name).exists() or (ROOT / name).exists())
    }
    assert not missing
    (picture,) = re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)
    drawn = set(re.findall(r"(?:^|\s)(\w+(?:/|\.py))(?=\s|$)", picture))
    packages = {path.parent.name + "/" for path in (ROOT / "oodbench").glob("*/__init__.py")}
    assert packages <= drawn, packages - drawn
