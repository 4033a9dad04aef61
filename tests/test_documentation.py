"""What the README and CONTRIBUTING show to be written is written, and works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import oodbench
from oodbench.catalog import Catalog

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
