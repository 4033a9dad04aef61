"""Threads, order and subsets of methods, resumed runs, executors: the same records.

    python scripts/robustness/same_records.py [--methods all] [--executors workers,ray,submitit]

All runs share one cache: a checkpoint is trained once (on a CPU, the last digits of its weights
depend on the number of threads). Scores have to be equal bit for bit, and records to the last
character. Two exceptions are those of docs/explanation/architecture.md: between numbers of threads,
scores of detectors that decompose matrices may differ by 1e-12 of their largest value, and values
of records by 1e-9. The exit code is 1 if anything else differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.small_content import METHODS, run_small, write_content

SCORES, VALUES = 1e-12, 1e-9
"""Largest differences between numbers of threads, relative to the largest score and absolute."""

EXECUTORS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "workers": lambda root: {"workers": 2},
    "ray": lambda root: {"workers": 2, "executor": "ray"},
    "submitit": lambda root: {
        "workers": 2,
        "executor": "submitit",
        "submitit_options": {"folder": str(root / "jobs"), "cluster": "local"},
    },
}
_NUMBERS = ("value", "ci_low", "ci_high")


def compare(
    out: Path, base: Path, methods: Sequence[str], seeds: int | None = None
) -> tuple[str, float]:
    """What differs beyond rounding in the records and scores of some methods.

    Args:
        out: a run directory.
        base: the run directory that it is compared with.
        methods: names of the methods.
        seeds: compare the first ones only; None: all.

    Returns:
        The first difference, or ""; and the largest difference of two scores, relative to the
        largest score of the method.
    """
    got, wanted = ({_key(r): r for r in _records(folder, methods, seeds)} for folder in (out, base))
    if got.keys() != wanted.keys():
        return f"records of {sorted({str(key) for key in got.keys() ^ wanted.keys()})[0]}", 0.0
    largest = 0.0
    for method in methods:
        for path in sorted((base / "scores" / method).glob("*.npz")):
            with np.load(path) as want, np.load(out / path.relative_to(base)) as have:
                for key in want:
                    size = max(1e-300, float(np.abs(want[key]).max()))
                    largest = max(largest, float(np.abs(want[key] - have[key]).max()) / size)
    for key, record in wanted.items():
        for name, value in record.items():
            other = got[key][name]
            numbers = isinstance(value, float) and isinstance(other, float) and name in _NUMBERS
            if other != value and not (numbers and largest and abs(other - value) <= VALUES):
                return f"{key}: {name} is {other}, not {value}", largest
    return "", largest


def _records(folder: Path, methods: Sequence[str], seeds: int | None) -> list[dict[str, Any]]:
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        record
        for record in map(json.loads, lines)
        if record["method"] in methods and (seeds is None or record["seed"] < seeds)
    ]


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("method", "seed", "metric", "ood_dataset"))


def campaign(
    root: Path,
    methods: Sequence[str],
    threads: Sequence[int],
    say: Callable[[str], None],
    executors: Sequence[str] = (),
) -> list[str]:
    """Run in all ways; returns what differs from the run with one thread."""
    content, cache, base = write_content(root / "content"), root / "cache", root / "base"
    before = torch.get_num_threads()
    different = []

    def check(
        what: str,
        folder: Path,
        names: Sequence[str],
        tolerance: float = 0.0,
        seeds: int | None = None,
    ) -> None:
        wrong, largest = compare(folder, base, names, seeds)
        if largest > tolerance:
            wrong = wrong or f"scores differ by {largest:.1e}"
        different.extend([f"{what}: {wrong}"] if wrong else [])
        rounding = f", scores within {largest:.1e}" if largest else ""
        say(f"{what:44} {wrong or f'same{rounding}'}")

    try:
        torch.set_num_threads(1)
        first = run_small(content, base, cache, methods=list(methods))
        names = list(dict.fromkeys(record.method for record in first.records))
        detectors = {record.method: record.detector for record in first.records}
        for count in threads:
            torch.set_num_threads(count)
            folder = root / f"threads{count}"
            run_small(content, folder, cache, methods=list(methods))
            check(f"{count} threads", folder, names, SCORES)
        torch.set_num_threads(1)
        folder = root / "reversed"
        run_small(content, folder, cache, methods=names[::-1])
        check("methods in the other order", folder, names)
        for part, some in (("first", names[: len(names) // 2]), ("last", names[len(names) // 2 :])):
            folder = root / part
            run_small(content, folder, cache, methods=some)
            check(f"the {part} {len(some)} methods alone", folder, some)
        folder = root / "first"
        run_small(content, folder, cache, methods=names, resume=True)
        check("resumed with the other methods", folder, names)
        folder = root / "alone"
        run_small(content, folder, cache, methods=[names[-1]])
        check(f"{names[-1]} alone ({detectors[names[-1]]})", folder, [names[-1]])
        for name in executors:
            folder = root / name
            options = EXECUTORS[name](root)
            # Two cells, of which the first is compared; each trains, with one thread.
            torch.set_num_threads(2 if name == "workers" else 1)
            with patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
                run_small(
                    content, folder, root / f"cache-{name}", methods=names, seeds=2, **options
                )
            check(f"executor {name}, trained again", folder, names, seeds=1)
    finally:
        torch.set_num_threads(before)
    return different


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default=",".join([*METHODS, "mahalanobis", "vim", "gram"]))
    parser.add_argument("--threads", default="1,2,4")
    parser.add_argument("--executors", default=",".join(EXECUTORS))
    options = parser.parse_args()
    methods, threads = options.methods.split(","), [int(n) for n in options.threads.split(",")]
    with tempfile.TemporaryDirectory(prefix="oodbench-same-") as name:
        executors = [name for name in options.executors.split(",") if name]
        wrong = campaign(
            Path(name), methods, threads, lambda line: print(line, flush=True), executors
        )
    print("\n".join(wrong) if wrong else "all runs have the same records")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
