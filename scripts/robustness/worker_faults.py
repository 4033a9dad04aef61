"""Runs with two workers, of which one is killed, and that are interrupted; by hand.

    python scripts/robustness/worker_faults.py [--times 20] [--seed 0] [--epochs 60]

In turn, a worker is killed with SIGKILL while it imports, in a training, and while it writes a
checkpoint; and the run is interrupted as by Ctrl-C, at a moment drawn between nothing and the time
of the undisturbed run, and resumed. Prints a line for each time, with the seconds from an interrupt
to the end of the last process. The exit code is 1 if any run ended with other records or scores
than the undisturbed one, or left a process, or took more than `--most` seconds to stop.
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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.small_content import command_line, difference, write_content
from robustness.started_runs import start

MOMENTS = ("import", "training", "checkpoint", "interrupt")


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="runs to disturb")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--epochs", type=int, default=60, help="of a training")
    parser.add_argument("--moments", default=",".join(MOMENTS), help="which of them, in turn")
    parser.add_argument("--most", type=float, default=10.0, help="seconds that a run may stop in")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "2"
    generator, moments = np.random.default_rng(options.seed), options.moments.split(",")
    held, longest = 0, 0.0
    with tempfile.TemporaryDirectory(prefix="oodbench-workers-") as name:
        place = Path(name)
        content, expected = write_content(place / "content", epochs=options.epochs), place / "base"
        started = time.monotonic()
        _end(_start(content, expected, place / "cache"))
        seconds = time.monotonic() - started
        print(f"undisturbed: {seconds:.1f} s", flush=True)
        for number in range(options.times):
            moment, out = moments[number % len(moments)], place / f"run{number}"
            cache = place / f"cache{number}"
            if moment == "interrupt":
                after = generator.uniform(0, seconds)
                found, took = _interrupted(content, out, cache, after)
                longest = max(longest, took)
                wrong = "TOOK TOO LONG" if took > options.most else ""
            else:
                found, wrong = _worker_killed(content, out, cache, moment), ""
            wrong = wrong or difference(out, expected)
            held += not wrong
            print(f"{number + 1:3}/{options.times}  {moment:10}  {found:<76}  {wrong or 'same'}")
            sys.stdout.flush()
            shutil.rmtree(cache, ignore_errors=True)
            shutil.rmtree(out, ignore_errors=True)
    print(f"{held} of {options.times} held; the longest stop took {longest:.1f} s")
    return 0 if held == options.times else 1


def _start(content: Path, out: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    return start(command_line(content, out, "--seeds", "2", "--workers", "2", *more), cache)


def _end(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"a run ended with exit code {process.returncode}:\n{said}")
    return said


def _interrupted(content: Path, out: Path, cache: Path, after: float) -> tuple[str, float]:
    """Interrupt a run and resume it; says what there was, and the seconds that it took to stop."""
    process = _start(content, out, cache)
    time.sleep(after)
    processes = _tree(process.pid)
    stopping = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.stderr is not None
    told = 0.0
    for line in process.stderr:
        if line.startswith("Interrupted"):
            told = time.monotonic() - stopping
    process.wait()
    process.stderr.close()
    main = time.monotonic() - stopping
    _, left = psutil.wait_procs(processes, timeout=60)
    took = time.monotonic() - stopping
    said = (
        f"after {after:.1f} s, exit code {process.returncode}, told at {told:.1f} s, ended at "
        f"{main:.1f} s, workers {took:.1f} s"
    )
    if left:
        return f"{said}, {len(left)} PROCESSES LEFT", 60.0
    _end(_start(content, out, cache, "--resume"))
    return said, took


def _worker_killed(content: Path, out: Path, cache: Path, moment: str) -> str:
    """Kill a worker of a run at some moment, and let the run end; says what it wrote."""
    process = _start(content, out, cache)
    checkpoints = cache / "checkpoints"
    reached: Callable[[], bool] = {
        "import": lambda: True,
        "training": lambda: any(checkpoints.glob("*.lock")),
        "checkpoint": lambda: any(checkpoints.glob(".writing-*")),
    }[moment]
    killed = 0
    while process.poll() is None and not killed:
        if reached() and (workers := _workers(process.pid)):
            time.sleep(0.3 if moment == "training" else 0.0)
            workers[0].kill()
            killed = workers[0].pid
        time.sleep(0.001)
    said = _end(process)
    again = sum("tried again" in line or "again when" in line for line in said.splitlines())
    return f"{'killed' if killed else 'NONE KILLED'}, {again} warnings"


def _workers(pid: int) -> list[psutil.Process]:
    """The worker processes of a run, the oldest first."""
    found = []
    for child in psutil.Process(pid).children():
        try:
            if "executors.worker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return sorted(found, key=lambda each: each.create_time())


def _tree(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


if __name__ == "__main__":
    sys.exit(main())
