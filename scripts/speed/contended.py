"""`oodbench run` alone and beside busy processes, with several settings of its threads.

    python scripts/speed/contended.py [--busy N] [--only NAME ...] [-- ARGUMENTS OF oodbench run]

Each setting is run four times: from nothing and with trained networks in the cache, idle and beside
N processes that compute without a pause. Printed are wall times, the ratio of busy to idle, the
CPU time that an idle run takes, and idle time relative to the first setting. Nothing else may run
meanwhile. Settings that change the number of threads change results in their last digits.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "as it is": {},
    "spin 300000 (GNU OpenMP's)": {"GOMP_SPINCOUNT": "300000"},
    "spin 5000": {"GOMP_SPINCOUNT": "5000"},
    "spin 2000": {"GOMP_SPINCOUNT": "2000"},
    "spin 500": {"GOMP_SPINCOUNT": "500"},
    "spin 100": {"GOMP_SPINCOUNT": "100"},
    "no spinning": {"GOMP_SPINCOUNT": "0"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 2000, BLAS sleeps": {"GOMP_SPINCOUNT": "2000", "OPENBLAS_THREAD_TIMEOUT": "4"},
    "spin 2000, BLAS in one thread": {"GOMP_SPINCOUNT": "2000", "OPENBLAS_NUM_THREADS": "1"},
    "one thread": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
}
"""What is set in the environment; what `oodbench.process` would set gives way to it."""

_SET = {name for setting in SETTINGS.values() for name in setting}


@dataclass(frozen=True)
class Times:
    """Seconds of one run.

    Attributes:
        wall: from start to end.
        cpu: of all its threads.
    """

    wall: float
    cpu: float


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that compute without a pause."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def timed(setting: Mapping[str, str], cache: Path, out: Path, arguments: Sequence[str]) -> Times:
    """One run in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in _SET}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "oodbench", "run", "--out", str(out), *arguments],
        env={**kept, "OODBENCH_CACHE": str(cache), **setting},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Times(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def measured(
    setting: Mapping[str, str], processes: int, arguments: Sequence[str]
) -> tuple[Times, Times]:
    """From nothing, then from the cache, beside some busy processes (the CPU time is the run's)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with busy(processes):
            first = timed(setting, folder / "cache", folder / "first", arguments)
            return first, timed(setting, folder / "cache", folder / "second", arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busy", type=int, default=1, help="number of busy processes")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, metavar="NAME", default=None)
    parser.add_argument("arguments", nargs="*", help="of oodbench run, after --")
    options = parser.parse_args()
    names = options.only or list(SETTINGS)
    print(f"{os.cpu_count()} cores, {options.busy} busy; seconds\n")
    print("| setting | work | idle | CPU, idle | busy | busy / idle | idle / first |")
    print("|---|---|---|---|---|---|---|")
    reference: tuple[Times, Times] | None = None
    for name in names:
        idle = measured(SETTINGS[name], 0, options.arguments)
        beside = measured(SETTINGS[name], options.busy, options.arguments)
        reference = reference or idle
        for work, alone, crowded, first in zip(
            ("from nothing", "from the cache"), idle, beside, reference, strict=True
        ):
            print(
                f"| {name} | {work} | {alone.wall:.1f} | {alone.cpu:.1f} | {crowded.wall:.1f} | "
                f"{crowded.wall / alone.wall:.2f} | {alone.wall / first.wall:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
