"""Many calls of `oodbench.evaluate`, `fit` and `predict` in one process: does anything grow?

    python scripts/robustness/soak.py [--calls 200]

Every call evaluates the same model on the same images, fits a detector, sets its threshold,
decides, saves and loads it. After the first calls, these have to stay as they are: the scores, the
hooks and the tensors of the model, the number of threads, open files, files in the temporary
folder, and tensors alive. Resident memory may grow by at most 24 KiB a call on average (pages that
the allocator does not return are counted with it). The exit code is 1 if anything grew.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.small_content import one_thread

import oodbench

DETECTORS = ("baseline", "knn", "odin", "mahalanobis", "react")
MOST_BYTES_A_CALL = 24 * 1024


class Net(nn.Module):
    """Two convolutions with a BatchNorm each, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.fc = nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.fc(self.body(self.stem(images)).mean(dim=(2, 3)))
        return found


def images(count: int, seed: int) -> TensorDataset:
    """Random images of four classes."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(count) % 4
    noise = torch.rand(count, 3, 8, 8, generator=generator)
    return TensorDataset(0.4 * centers[labels] + 0.6 * noise, labels)


@dataclass(frozen=True)
class Usage:
    """What a process holds."""

    memory: int
    threads: int
    files: int
    temporary: int
    hooks: int
    tensors: int

    @classmethod
    def now(cls, model: nn.Module, temporary: Path) -> Usage:
        gc.collect()
        hooks = sum(
            len(value)
            for module in model.modules()
            for name, value in vars(module).items()
            if name.endswith("_hooks") and value is not None
        )
        return cls(
            memory=_resident(),
            threads=len(os.listdir("/proc/self/task")) if _LINUX else threading.active_count(),  # noqa: PTH208
            files=len(os.listdir("/proc/self/fd")) if _LINUX else 0,  # noqa: PTH208
            temporary=sum(1 for _ in temporary.rglob("*")),
            hooks=hooks,
            tensors=sum(issubclass(type(each), Tensor) for each in gc.get_objects()),
        )

    def growth(self, first: Usage, calls: int) -> list[str]:
        """What is more than at first, in words."""
        counted = ("threads", "files", "temporary", "hooks", "tensors")
        found = [
            f"{name}: {getattr(first, name)} -> {getattr(self, name)}"
            for name in counted
            if getattr(self, name) > getattr(first, name)
        ]
        grown = (self.memory - first.memory) / calls
        return found + [f"memory: {grown / 1024:.1f} KiB a call"] * (grown > MOST_BYTES_A_CALL)


_LINUX = sys.platform == "linux"


def _resident() -> int:
    """Bytes of resident memory; 0 where it is not known."""
    if not _LINUX:
        return 0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def call(model: nn.Module, folder: Path) -> list[np.ndarray]:
    """Everything that a program may do with a model; its scores and decisions."""
    data = {"fit_data": images(64, 1), "validation_data": images(40, 2)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = oodbench.evaluate(
            model,
            list(DETECTORS),
            id_data=images(32, 3),
            ood_data={"noise": TensorDataset(torch.rand(24, 3, 8, 8, generator=_generator()))},
            device="cpu",
            **data,
        )
        fitted = oodbench.fit(model, "knn", device="cpu", **data)
        fitted.calibrate(images(40, 2))
        fitted.save(folder)
        again = oodbench.load_fitted(folder, model, device="cpu")
        decided = again.predict(images(16, 4))
    found = [s for sets in result.scores.values() for s in sets.values()]
    return [*found, decided.scores, decided.accepted]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def soak(calls: int, warm: int, say: Callable[[str], None]) -> list[str]:
    """Call `calls` times; returns what grew or changed after the first `warm` calls."""
    one_thread()
    torch.manual_seed(0)
    model = Net().eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory(prefix="oodbench-soak-") as name:
        place = Path(name)
        before = tempfile.tempdir
        tempfile.tempdir = str(place / "tmp")
        (place / "tmp").mkdir()
        try:
            first_scores = call(model, place / "artifact")
            first = Usage.now(model, place / "tmp")
            for number in range(2, calls + 1):
                scores = call(model, place / "artifact")
                if any(not np.array_equal(a, b) for a, b in zip(scores, first_scores, strict=True)):
                    return [f"the scores of call {number} differ from those of the first"]
                if number == warm:
                    first = Usage.now(model, place / "tmp")
                if number % max(1, calls // 10) == 0:
                    say(f"{number:4} calls: {Usage.now(model, place / 'tmp')}")
            last = Usage.now(model, place / "tmp")
        finally:
            tempfile.tempdir = before
    changed = [n for n, value in model.state_dict().items() if not torch.equal(value, weights[n])]
    return last.growth(first, max(1, calls - warm)) + [f"weights changed: {n}" for n in changed]


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=200)
    calls = parser.parse_args().calls
    grown = soak(calls, min(calls // 2, max(12, calls // 5)), lambda line: print(line, flush=True))
    print("\n".join(grown) if grown else f"nothing grew in {calls} calls")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
