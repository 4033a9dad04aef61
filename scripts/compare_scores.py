"""Compare the scores of two checkouts of oodbench bit for bit.

    python scripts/compare_scores.py BEFORE AFTER [--seeds 3] [--rename OLD=NEW ...]

In each checkout the benchmark `digits` is run with all methods, and `oodbench.evaluate` with all
detectors on one network; both checkouts use this Python environment, and train their own networks.
The exit code is 1 if an array of scores differs, or is in one of the two only. Where a method was
renamed in between, `--rename MaxProb=MSP` applies the new name to the methods of BEFORE.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

EVALUATE = """
import sys
import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset
from sklearn.datasets import load_digits
import oodbench

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
labels = torch.tensor(labels)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for step in range(300):
    rows = torch.randint(0, 1000, (64,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
    optimizer.step()
model.eval()
generator = torch.Generator().manual_seed(1)
noise = torch.rand(200, 1, 8, 8, generator=generator)
result = oodbench.evaluate(
    model,
    "all",
    id_data=TensorDataset(images[1300:], labels[1300:]),
    ood_data={"noise": noise, "inverted": 1 - images[1300:]},
    fit_data=TensorDataset(images[:1000], labels[:1000]),
    validation_data=TensorDataset(images[1000:1300], labels[1000:1300]),
    normalization=((0.3,), (0.4,)),
    tune="all",
    device="cpu",
    progress=False,
)
arrays = {
    f"{method}/{name}": np.asarray(scores)
    for method, by_set in result.scores.items()
    for name, scores in by_set.items()
}
np.savez(sys.argv[1], **arrays)
"""


def main() -> int:
    """Run both checkouts and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        type=lambda text: tuple(text.split("=", 1)),
        help="in the names of the methods of BEFORE; repeatable",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name in ("before", "after"):
            place = Path(folder) / name
            place.mkdir()
            found[name] = scores_of(getattr(arguments, name).resolve(), place, arguments.seeds)
    before = {renamed(name, arguments.rename): array for name, array in found["before"].items()}
    return compare(before, found["after"])


def renamed(name: str, changes: Sequence[tuple[str, str]]) -> str:
    """The name of an array, with changes in the name of its method (the second part)."""
    start, method, rest = name.split("/", 2)
    for old, new in changes:
        method = method.replace(old, new)
    return f"{start}/{method}/{rest}"


def scores_of(checkout: Path, place: Path, seeds: int) -> dict[str, np.ndarray]:
    """Scores of a checkout: "digits/method/seed/set" and "evaluate/method/set" -> array."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "OODBENCH_CACHE": str(place / "cache"),
    }
    script = place / "evaluate.py"
    script.write_text(EVALUATE)
    run = ["-m", "oodbench", "run", "digits", "--seeds", str(seeds), "--device", "cpu"]
    for command in ([*run, "--out", str(place / "run")], [str(script), str(place / "user.npz")]):
        done = subprocess.run(
            [sys.executable, *command], cwd=place, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{checkout}: {' '.join(command)}\n{done.stderr[-3000:]}")
    files = {
        f"digits/{path.parent.name}/{path.stem}": path
        for path in sorted((place / "run" / "scores").rglob("*.npz"))
    }
    found = {}
    for prefix, path in {**files, "evaluate": place / "user.npz"}.items():
        with np.load(path) as arrays:
            found |= {f"{prefix}/{name}": arrays[name] for name in arrays.files}
    return found


def compare(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> int:
    """Print the arrays that differ; 1 if there are any."""
    differing = 0
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            print(f"only {'after' if name in after else 'before'}: {name}")
        elif before[name].tobytes() != after[name].tobytes():
            gap = np.abs(before[name] - after[name]).max() if before[name].size else 0.0
            print(f"differs: {name}, by at most {gap:.3g}")
        else:
            continue
        differing += 1
    print(f"{len(before.keys() & after.keys())} arrays in both, {differing} differ")
    return int(differing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
