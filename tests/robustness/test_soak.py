"""A short form of `scripts/robustness/soak.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from robustness.soak import MOST_BYTES_A_CALL, Net, Usage, soak


@pytest.mark.full
def test_nothing_grows(one_thread: None) -> None:
    grown = soak(6, 3, lambda line: None)
    # A few calls are too few for the memory, which grows in steps.
    assert not [each for each in grown if not each.startswith("memory")]


def test_growth_is_said(tmp_path: Path) -> None:
    model = Net()
    first = Usage.now(model, tmp_path)
    kept = [torch.zeros(1) for _ in range(3)]
    model.fc.register_forward_hook(lambda module, inputs, output: None)
    (tmp_path / "left").touch()
    with (tmp_path / "left").open():
        last = Usage.now(model, tmp_path)
    said = replace(last, memory=first.memory + 3 * MOST_BYTES_A_CALL).growth(first, 2)
    assert {each.split(":")[0] for each in said} >= {"temporary", "hooks", "tensors", "memory"}
    assert len(kept) == 3
