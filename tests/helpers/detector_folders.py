"""A plug-in folder with a detector and a helper beside it."""

from __future__ import annotations

from pathlib import Path

import torch

from oodbench import Detector, Outputs

DETECTOR = '''\
"""A detector."""

{imports}

from oodbench import Detector, Outputs, register


class State:
    """What is fitted."""

    def __init__(self, shift):
        self.shift = shift


@register("{name}")
class Mine(Detector):
    """The largest logit, moved."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.state = State(0.5)

    def score(self, outputs: Outputs):
        return moved(outputs.logits.amax(dim=1), self.scale + self.state.shift)
'''

HELPER = '''\
"""Shared."""

def moved(values, by):
    return values + by + {shift}
'''


def folder(place: Path, imports: str, shift: float = 0.0, name: str = "mine") -> Path:
    """A plug-in folder with a detector and the helper `_shared.py`; gives the detector's file."""
    detectors = place / "detectors"
    detectors.mkdir(parents=True, exist_ok=True)
    (detectors / f"{name}.py").write_text(DETECTOR.format(imports=imports, name=name))
    (detectors / "_shared.py").write_text(HELPER.format(shift=shift))
    return detectors / f"{name}.py"


def scored(cls: type[Detector]) -> float:
    """What a detector of `folder` gives for an image whose largest logit is 0."""
    return float(cls().score(Outputs(torch.zeros(1, 3).double(), torch.zeros(1, 2)))[0])
