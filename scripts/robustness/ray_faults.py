"""A suite on a Ray cluster of two nodes whose processes are killed, against a local run; by hand.

    python scripts/robustness/ray_faults.py [--times 20] [--seeds 2] [--epochs 20] [--seed 0]
        [--victims worker,raylet,driver]

The nodes are processes of this machine with one core each; the suite has two benchmarks of small
images, whose networks are trained anew each time. In turn, a worker with a task, the raylet of the
second node, or the process of the run (the driver) is killed with SIGKILL, at a moment drawn
between nothing and the time of an undisturbed run on Ray. A killed driver is resumed with the local
executor. Prints a line for each time; the exit code is 1 if any run ended with other records or
scores than the local one.
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
from robustness.small_content import METHODS, difference, write_content
from robustness.started_runs import start

VICTIMS = ("worker", "raylet", "driver")


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    options = _options()
    generator, victims = np.random.default_rng(options.seed), options.victims.split(",")
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="oodbench-ray-") as name:
        place = Path(name)
        content = write_content(place / "content", epochs=options.epochs)
        command = [
            *(sys.executable, "-m", "oodbench", "run", "pair", "--device", "cpu"),
            *("--plugins", str(content), "--data-root", str(content / "data")),
            *("--seeds", str(options.seeds), "--methods", ",".join(METHODS)),
        ]
        expected, started = place / "local", time.monotonic()
        _finish(_start(command, expected, place / "local-cache"))
        print(f"local run: {time.monotonic() - started:.1f} s", flush=True)
        seconds, same = 0.0, 0
        for number in range(options.times + 1):
            victim = victims[(number - 1) % len(victims)] if number else "none"
            moment = generator.uniform(0, seconds)
            out, cache = place / f"run{number}", place / f"cache{number}"
            found, took = _once(command, out, cache, victim, moment)
            seconds = seconds or took
            wrong = next(
                filter(None, (difference(out / m, expected / m) for m in ("small", "other"))), ""
            )
            same += not wrong
            print(
                f"{number:3}/{options.times}  {victim:6} killed at {moment:6.1f} of {took:6.1f} s  "
                f"{found:<40}  {wrong or 'same'}",
                flush=True,
            )
            shutil.rmtree(cache, ignore_errors=True)
            shutil.rmtree(out, ignore_errors=True)
    print(f"{same} of {options.times + 1} ended with the records and scores of the local run")
    return 0 if same == options.times + 1 else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="runs to disturb")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of the benchmarks")
    parser.add_argument("--epochs", type=int, default=20, help="of a training")
    parser.add_argument("--victims", default=",".join(VICTIMS), help="which of them, in turn")
    return parser.parse_args()


def _start(command: list[str], out: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    return start([*command, "--out", str(out), *more], cache)


def _finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    if process.returncode not in (0, 3):  # 3: something asked for is skipped, as in every run
        raise SystemExit(f"a run ended with exit code {process.returncode}:\n{said}")


def _once(
    command: list[str], out: Path, cache: Path, victim: str, moment: float
) -> tuple[str, float]:
    """Kill one process of a run on a new cluster, and let the run end.

    Returns:
        What was killed, and the seconds of the run.
    """
    os.environ["OODBENCH_CACHE"] = str(cache)  # of the nodes
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        ray = ("--executor", "ray", "--address", cluster.address)
        started = time.monotonic()
        process = _start(command, out, cache, *ray)
        found = ""
        if victim != "none":
            time.sleep(moment)
            found = "had ended"
        if victim == "none" or process.poll() is not None:
            pass
        elif victim == "driver":
            process.kill()
            process.communicate()
            found = "resumed with the local executor"
            process = _start(command, out, cache, "--resume")
        elif victim == "raylet":
            os.kill(second.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            found = "the second node was lost"
        else:
            found = _kill_worker(cluster, process)
        _finish(process)
        return found, time.monotonic() - started
    finally:
        cluster.shutdown()


def _kill_worker(cluster: Cluster, run: subprocess.Popen[str]) -> str:
    """Kill a worker that has a task, as soon as there is one; returns its name."""
    while run.poll() is None:
        for node in cluster.list_all_nodes():
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for each in raylet.children():
                try:
                    title = " ".join(each.cmdline()).strip()
                except psutil.Error:  # it has ended
                    continue
                if title.startswith("ray::") and "seed" in title:
                    os.kill(each.pid, signal.SIGKILL)
                    return title
        time.sleep(0.05)
    return "no worker had a task"


if __name__ == "__main__":
    sys.exit(main())
