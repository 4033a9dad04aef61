"""Two benchmarks, two models, three seeds: a Ray cluster of two nodes against a local run; by hand.

    python scripts/scale/ray_grid.py [--seeds 3] [--epochs 2] [--limit 500] [--kill-node]

The benchmarks are a suite, and so one grid. The nodes are processes of this machine with one core
each; the local run has two workers with one core each. All begin without checkpoints. Compares all
records and scores, and prints the wall times with the cluster started before. With --kill-node, a
second run on Ray loses its second node after half of the time. The exit code is 1 if anything
differs.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).parents[1]))
from robustness.small_content import difference
from small_suite import suite_files

BENCHMARKS = {"first": "uniform-noise", "second": "gaussian-noise"}
"""Name -> far-OOD set."""
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
    parser.add_argument("--kill-node", action="store_true", help="also lose a node midway")
    options = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="oodbench-grid-") as name:
        place = Path(name)
        texts = suite_files(
            "grid",
            {name: ("Net", name) for name in BENCHMARKS},
            {"letters": "Letters"},
            "SoftMax+MSP",
            {(name, "letters"): 50.0 for name in BENCHMARKS},
        )
        for benchmark, far in BENCHMARKS.items():
            text = CONTENT.format(name=benchmark, far=far, epochs=options.epochs)
            texts[f"benchmarks/{benchmark}.yaml"] = text
        for file, text in texts.items():
            (place / "content" / file).parent.mkdir(parents=True, exist_ok=True)
            (place / "content" / file).write_text(text)
        local = _end(_start(place, "local", options, "--workers", "2", threads=2))
        on_ray = _on_ray(place, "ray", options)
        print(f"local {local:.1f} s, Ray {on_ray:.1f} s, ratio {on_ray / local:.2f}", flush=True)
        names = ["ray"]
        if options.kill_node:
            took = _on_ray(place, "killed", options, kill_after=on_ray / 2)
            print(f"a node lost after {on_ray / 2:.1f} s: {took:.1f} s")
            names.append("killed")
        wrong = 0
        for name in names:
            for benchmark in BENCHMARKS:
                found = difference(place / name / benchmark, place / "local" / benchmark)
                wrong += bool(found)
                print(f"{name}, {benchmark}: {found or 'same records and scores'}")
    return 1 if wrong else 0


def _on_ray(
    place: Path, name: str, options: argparse.Namespace, kill_after: float | None = None
) -> float:
    """Seconds of the run on a new cluster, of which a node may be lost."""
    os.environ["OODBENCH_CACHE"] = str(place / f"{name}-cache")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        ray = ("--executor", "ray", "--address", cluster.address)
        started = _start(place, name, options, *ray, threads=1)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(second.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        return _end(started)
    finally:
        cluster.shutdown()


def _start(
    place: Path, name: str, options: argparse.Namespace, *executor: str, threads: int
) -> tuple[subprocess.Popen[bytes], float]:
    """The process of a run of the suite, and when it was started."""
    limit = ("--limit", str(options.limit)) if options.limit else ()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "oodbench", "run", "grid", "--device", "cpu"),
            *("--seeds", str(options.seeds), "--plugins", str(place / "content"), *limit),
            *("--out", str(place / name), *executor),
        ],
        stdout=subprocess.DEVNULL,
        env=os.environ
        | {"OODBENCH_CACHE": str(place / f"{name}-cache"), "OMP_NUM_THREADS": str(threads)},
    )
    return process, time.monotonic()


def _end(started: tuple[subprocess.Popen[bytes], float]) -> float:
    """Wait for a run; returns its seconds."""
    process, begun = started
    if process.wait() != 0:
        raise SystemExit(f"a run ended with exit code {process.returncode}")
    return time.monotonic() - begun


if __name__ == "__main__":
    sys.exit(main())
