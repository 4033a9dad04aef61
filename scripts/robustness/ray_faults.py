"""Runs on a Ray cluster of two nodes whose processes are killed, against a local run; by hand.

    python scripts/robustness/ray_faults.py [--times 20] [--benchmark digits] [--seeds 2] [--seed 0]
        [--plugins DIR]

The nodes are processes of this machine. In turn, a worker, the raylet of the second node, or the
process of the run (the driver) is killed with SIGKILL, at a moment drawn between nothing and the
time of the undisturbed run. A killed driver is resumed with the local executor. Prints a line for
each time; the exit code is 1 if any run ended with other records or scores than the local one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).parents[1]))
from robustness.small_content import difference

VICTIMS = ("worker", "raylet", "driver")


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    options = _options()
    generator = np.random.default_rng(options.seed)
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="oodbench-ray-") as name:
        place = Path(name)
        command = [
            *(sys.executable, "-m", "oodbench", "run", options.benchmark, "--device", "cpu"),
            *("--seeds", str(options.seeds)),
            *(word for folder in options.plugins for word in ("--plugins", str(folder.resolve()))),
        ]
        expected, started = place / "local", time.monotonic()
        _finish(_start(command, expected, place / "local-cache"))
        seconds = time.monotonic() - started
        print(f"local run: {seconds:.1f} s", flush=True)
        same = 0
        for number in range(options.times):
            victim, moment = VICTIMS[number % len(VICTIMS)], generator.uniform(0, seconds)
            out, cache = place / f"run{number}", place / f"cache{number}"
            found = _once(command, out, cache, victim, moment)
            wrong = difference(out, expected)
            same += not wrong
            print(
                f"{number + 1:3}/{options.times}  {victim:6} killed at {moment:6.1f} s  "
                f"{found:<40}  {wrong or 'same'}",
                flush=True,
            )
            shutil.rmtree(cache, ignore_errors=True)
            shutil.rmtree(out, ignore_errors=True)
    print(f"{same} of {options.times} ended with the records and scores of the local run")
    return 0 if same == options.times else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="runs to disturb")
    parser.add_argument("--benchmark", default="digits", help="name or YAML file")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of the benchmark")
    parser.add_argument("--plugins", type=Path, action="append", default=[], metavar="DIR")
    return parser.parse_args()


def _start(command: list[str], out: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, "--out", str(out), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OODBENCH_CACHE": str(cache)},
    )


def _finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    if process.returncode not in (0, 3):  # 3: something asked for is skipped, as in every run
        raise SystemExit(f"a run ended with exit code {process.returncode}:\n{said}")


def _once(command: list[str], out: Path, cache: Path, victim: str, moment: float) -> str:
    """Kill one process of a run on a new cluster, and let the run end; returns what was killed."""
    os.environ["OODBENCH_CACHE"] = str(cache)  # of the nodes
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        ray = ("--executor", "ray", "--address", cluster.address)
        process = _start(command, out, cache, *ray)
        time.sleep(moment)
        if process.poll() is not None:
            found = "had ended"
        elif victim == "driver":
            process.kill()
            process.communicate()
            found = "resumed with the local executor"
            process = _start(command, out, cache, "--resume")
        elif victim == "raylet":
            cluster.remove_node(second, allow_graceful=False)
            found = "the second node was lost"
        else:
            found = _kill_worker(cluster)
        _finish(process)
        return found
    finally:
        cluster.shutdown()


def _kill_worker(cluster: Cluster) -> str:
    """Kill a worker that has a task; returns its name."""
    for node in cluster.list_all_nodes():
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for each in raylet.children():
            title = " ".join(each.cmdline())
            if title.startswith("ray::") and "seed" in title:
                os.kill(each.pid, signal.SIGKILL)
                return title.strip()
    return "no worker had a task"


if __name__ == "__main__":
    sys.exit(main())
