"""Runs in new processes, killed at random moments and resumed, against one that was left alone.

    python scripts/robustness/killed_runs.py [--times 20] [--benchmark digits] [--seed 0]
        [--workers 2] [--shard-images 100]

`kill_and_resume.py` kills all commands, but not while Python imports. Here, each run is a whole
process, of any benchmark. It has a process group of its own, which is killed with SIGKILL at a
moment drawn between nothing and the time of the undisturbed run. For half of the times the cache is
empty, so that training and the writing of checkpoints are hit too. With several workers, every
second of the killed runs loses its main process alone, and the workers must end by themselves; it
is resumed with one worker. Prints one line for each time; the exit code is 1 if any run ended with
other records or scores than the undisturbed one, or left a process.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.forked_processes import group_ends
from robustness.small_content import difference
from robustness.started_runs import start


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    options = _options()
    generator = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory(prefix="oodbench-kill-") as name:
        place = Path(name)
        command = [
            *(sys.executable, "-m", "oodbench", "run", options.benchmark, "--device", "cpu"),
            *("--seeds", str(options.seeds), "--workers", str(options.workers)),
            *(word for folder in options.plugins for word in ("--plugins", str(folder.resolve()))),
        ]
        warm, expected = place / "warm", place / "undisturbed"
        seconds = _time(command, expected, place / "cold")
        print(f"undisturbed: {seconds:.1f} s, training included")
        shutil.copytree(place / "cold", warm)
        if options.shard_images:  # the undisturbed run has scored whole sets
            command += ["--shard-images", str(options.shard_images)]
        warm_seconds = _time(command, place / "again", warm)
        print(f"undisturbed: {warm_seconds:.1f} s, checkpoints in the cache")
        wrong = difference(place / "again", expected)
        if wrong:
            print(f"two undisturbed runs differ: {wrong}")
            return 1
        different = 0
        for number in range(options.times):
            train = number % 2 == 0
            cache, out = place / f"cache{number}", place / f"run{number}"
            if not train:
                shutil.copytree(warm, cache)
            moment = generator.uniform(0, seconds if train else warm_seconds)
            alone = options.workers > 1 and number % 4 > 1
            found, wrong = _once(command, out, cache, moment, expected, alone=alone)
            different += bool(wrong)
            print(
                f"{number + 1:3}/{options.times}  killed at {moment:6.2f} s  "
                f"{'training' if train else 'cached  '}  {found:<48}  {wrong or 'same'}",
                flush=True,
            )
            shutil.rmtree(cache, ignore_errors=True)
            shutil.rmtree(out, ignore_errors=True)
    print(f"{options.times - different} of {options.times} ended with the same records and scores")
    return 1 if different else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="runs to kill")
    parser.add_argument("--benchmark", default="digits", help="name or YAML file")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the benchmark")
    parser.add_argument("--workers", type=int, default=1, help="of each run")
    parser.add_argument("--shard-images", type=int, help="images of a shard of the killed runs")
    parser.add_argument("--plugins", type=Path, action="append", default=[], metavar="DIR")
    return parser.parse_args()


def _start(command: list[str], out: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    return start([*command, "--out", str(out), *more], cache)


def _time(command: list[str], out: Path, cache: Path) -> float:
    """Seconds of a run from its start to its end."""
    started = time.monotonic()
    process = _start(command, out, cache)
    _, said = process.communicate()
    if process.returncode not in (0, 3):
        raise SystemExit(f"the undisturbed run ended with exit code {process.returncode}:\n{said}")
    return time.monotonic() - started


def _once(
    command: list[str], out: Path, cache: Path, moment: float, expected: Path, *, alone: bool
) -> tuple[str, str]:
    """Kill one run and resume it.

    Args:
        command: of the run.
        out: its run directory.
        cache: its cache.
        moment: seconds after which it is killed.
        expected: an undisturbed run.
        alone: kill the main process alone, and resume with one worker.

    Returns:
        What was on the disk after the kill, and what is wrong in the end ("" if nothing).
    """
    process = _start(command, out, cache)
    try:
        process.communicate(timeout=moment)
        found = "had ended; "
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL) if alone else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        found = "main process; " if alone else ""
        if not group_ends(process.pid):
            return found, "A WORKER IS LEFT"
    found += _on_disk(out, cache)
    resumed = _start(command, out, cache, "--resume", *(("--workers", "1") if alone else ()))
    _, said = resumed.communicate()
    if resumed.returncode not in (0, 3):  # 3: something asked for is skipped, as without the kill
        return found, f"DOES NOT RESUME, exit code {resumed.returncode}: {said.strip()[-500:]}"
    leftovers = [path.name for path in out.rglob(".writing-*")]
    wrong = difference(out, expected) or (f"LEFTOVERS: {leftovers}" if leftovers else "")
    return found, wrong


def _on_disk(out: Path, cache: Path) -> str:
    """What a killed run left, in words."""
    lines = out / "records.jsonl"
    records = len(lines.read_bytes().splitlines()) if lines.exists() else 0
    scores, checkpoints = list(out.glob("scores/*/*.npz")), list(cache.rglob("*.safetensors"))
    torn = [*out.rglob(".writing-*"), *cache.rglob(".writing-*")]
    if not out.exists():
        return f"no folder, {len(checkpoints)} checkpoints"
    return (
        f"{records} records, {len(scores)} scores, {len(checkpoints)} checkpoints, "
        f"{len(torn)} half-written"
    )


if __name__ == "__main__":
    sys.exit(main())
