"""Two benchmarks, two models, three seeds: a Ray cluster of two nodes against a local run; by hand.

    python scripts/scale/ray_grid.py [--seeds 3] [--epochs 2] [--limit 500]

The nodes are processes of this machine with one core each; the local run has two workers with one
core each. Both begin without checkpoints. Compares all records and scores, and prints the wall
times with the cluster started before. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).parents[1]))
from robustness.small_content import difference

BENCHMARKS = ("first", "second")
CONTENT = """\
schema_version: 1
name: {name}
version: 1
title: Grid
summary: For scripts/scale/ray_grid.py
id: digits
ood: {{near: [letters], far: [{far}]}}
models:
  SoftMax: {{network: resnet8, head: softmax, training: &training
    {{epochs: {epochs}, batch_size: 64, learning_rate: 0.1}}}}
  DisMax: {{network: resnet8, head: dismax, loss_options: {{alpha: 10}}, training: *training}}
methods:
  SoftMax+MSP: {{model: SoftMax, detector: baseline}}
  SoftMax+KNN: {{model: SoftMax, detector: knn}}
  DisMax+Entropy: {{model: DisMax, detector: dismax_entropy}}
"""


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--limit", type=int, default=None, help="most images of a split")
    options = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="oodbench-grid-") as name:
        place = Path(name)
        (place / "content" / "benchmarks").mkdir(parents=True)
        for benchmark, far in zip(BENCHMARKS, ("uniform-noise", "gaussian-noise"), strict=True):
            text = CONTENT.format(name=benchmark, far=far, epochs=options.epochs)
            (place / "content" / "benchmarks" / f"{benchmark}.yaml").write_text(text)
        local = _seconds(place, "local", options, "--workers", "2", threads=2)
        os.environ["OODBENCH_CACHE"] = str(place / "ray-cache")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            cluster.add_node(num_cpus=1)
            ray = ("--executor", "ray", "--address", cluster.address)
            on_ray = _seconds(place, "ray", options, *ray, threads=1)
        finally:
            cluster.shutdown()
        wrong = {
            benchmark: difference(place / "ray" / benchmark, place / "local" / benchmark)
            for benchmark in BENCHMARKS
        }
        print(f"local {local:.1f} s, Ray {on_ray:.1f} s, ratio {on_ray / local:.2f}")
        for benchmark, found in wrong.items():
            print(f"{benchmark}: {found or 'same records and scores'}")
    return 1 if any(wrong.values()) else 0


def _seconds(
    place: Path, name: str, options: argparse.Namespace, *executor: str, threads: int
) -> float:
    """Seconds of the runs of both benchmarks."""
    started = time.monotonic()
    limit = ("--limit", str(options.limit)) if options.limit else ()
    for benchmark in BENCHMARKS:
        subprocess.run(
            [
                *(sys.executable, "-m", "oodbench", "run", benchmark, "--device", "cpu"),
                *("--seeds", str(options.seeds), "--plugins", str(place / "content"), *limit),
                *("--out", str(place / name / benchmark), *executor),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ
            | {
                "OODBENCH_CACHE": str(place / f"{name}-cache"),
                "OMP_NUM_THREADS": str(threads),
            },
        )
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
