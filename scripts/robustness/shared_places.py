"""Processes that share a cache, and processes that want the same run directory.

    python scripts/robustness/shared_places.py [--times 3]

Two and four runs begin at once with one empty cache: all end with the records of a run that had a
cache of its own, and each checkpoint and each decoded split is there once, without leftovers. Then
two runs begin in one run directory: one is told who uses it, and the other ends as if it had been
alone; the same for two that resume. The exit code is 1 if anything else happens.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.small_content import command_line, difference, run_small, write_content


def together(content: Path, outs: list[Path], cache: Path, *more: str) -> list[tuple[int, str]]:
    """Start a run in each folder at once; exit codes and what they said."""
    environment = os.environ | {"OODBENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command_line(content, out, *more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for out in outs
    ]
    said = [process.communicate()[1] for process in processes]
    return [(each.returncode, text) for each, text in zip(processes, said, strict=True)]


def share_cache(root: Path, content: Path, expected: Path, count: int) -> list[str]:
    """What is wrong after `count` runs with one empty cache."""
    outs, cache = [root / f"run{number}" for number in range(count)], root / "cache"
    found = together(content, outs, cache)
    wrong = [f"exit code {code}: {text[-300:]}" for code, text in found if code]
    return wrong or check_shared(outs, cache, expected)


def check_shared(outs: list[Path], cache: Path, expected: Path) -> list[str]:
    """What is wrong with runs that shared a cache, and with the cache."""
    wrong = [text for out in outs if (text := difference(out, expected))]
    files = [path.name for path in cache.rglob("*") if path.is_file()]
    if sum(name.endswith(".safetensors") for name in files) != 1:
        wrong.append(f"checkpoints: {[name for name in files if 'tensors' in name]}")
    wrong += [f"leftover {name}" for name in files if name.startswith(".writing-")]
    wrong += [f"leftover {name}" for name in files if name.endswith((".training", ".damaged"))]
    return wrong


def share_run(root: Path, content: Path, expected: Path, cache: Path) -> list[str]:
    """What is wrong after two runs in one run directory, and after two that resume there."""
    out, wrong = root / "run", []
    for more in ((), ("--resume",)):
        found = together(content, [out, out], cache, *more)
        codes = sorted(code for code, _ in found)
        told = [text for code, text in found if code == 2]
        # One that came after the other had ended is told that there is a run, or resumes it.
        reasons = ("is in use by process", "holds a run already")
        if codes != [0, 2] and not (more and codes == [0, 0]):
            wrong.append(f"exit codes {codes}: {found}")
        wrong += [text for text in told if not any(reason in text for reason in reasons)]
        wrong += [text] if (text := difference(out, expected)) else []
    return wrong


def campaign(times: int, counts: tuple[int, ...], say: Callable[[str], None]) -> list[str]:
    """Share caches and run directories; returns what was wrong."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="oodbench-shared-") as name:
        root = Path(name)
        content, expected = write_content(root / "content"), root / "expected"
        run_small(content, expected, root / "cache")

        def check(what: str, found: list[str]) -> None:
            wrong.extend(f"{what}: {each}" for each in found)
            say(f"{what:32} {'; '.join(found) or 'same'}")

        for number in range(times):
            for count in counts:
                place = root / f"{number}-{count}"
                check(f"{count} runs, one cache", share_cache(place, content, expected, count))
            place = root / f"{number}-directory"
            check("2 runs, one run directory", share_run(place, content, expected, root / "cache"))
    return wrong


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    wrong = campaign(options.times, (2, 4), lambda line: print(line, flush=True))
    print("\n".join(wrong) if wrong else "nothing was lost, and nothing differs")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
