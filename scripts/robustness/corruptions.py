"""Random damage to run directories, suites, saved detectors and caches: found, healed or harmless.

    python scripts/robustness/corruptions.py [--times 200] [--seed 0] [--places run,artifact]

Each time one file of a copy is damaged: a bit is flipped, the file is cut, removed, overwritten
with zeros, gets more bytes, or changes places with another one. Then all that read it are called:

    run, evaluation   `verify`, `report`, and the command again with `--resume`
    suite             `verify`, `report`, `run --resume`
    artifact          `load_fitted`, then scores and decisions
    checkpoint, half-trained, decoded    a new run with this cache

Outcomes: *found*, if `verify`, `report` or `load_fitted` says so; *healed*, if a run ends with the
records of the undamaged one; *harmless*, if nothing is said, and reports, records and scores are
the same. A number that differs without a word is SILENT, an error with a traceback a CRASH. The
exit code is 1 if there is one of these.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.damaged_places import READERS, Places
from robustness.small_content import one_thread

FAULTS = ("SILENT", "CRASH")
COLUMNS = ("found", "healed", "harmless", *FAULTS)

# --- damage --------------------------------------------------------------------------------------


def damage(folder: Path, files: Sequence[Path], draw: np.random.Generator) -> str:
    """Damage one of some files; returns what was done."""
    path = files[draw.integers(len(files))]
    name, content = path.relative_to(folder).as_posix(), bytearray(path.read_bytes())
    kind = str(
        draw.choice(["flip", "flip", "flip", "digit", "cut", "remove", "zeros", "append", "swap"])
    )
    # Half of the damages are in the first bytes, which have the names and numbers of binary files.
    reach = min(len(content), 2048) if draw.random() < 0.5 else len(content)
    place = int(draw.integers(max(1, reach)))
    if kind == "digit":  # the likeliest damage to a number in a text
        places = [index for index, byte in enumerate(content[:reach]) if chr(byte) in "0123456789"]
        if not places:
            kind = "flip"
        else:
            place = places[draw.integers(len(places))]
            old = content[place]
            content[place] = ord("0") + (old - ord("0") + int(draw.integers(1, 10))) % 10
            path.write_bytes(content)
            return f"{name}: digit {chr(old)} at {place} is {chr(content[place])}"
    if kind == "remove":
        path.unlink()
        return f"{name}: removed"
    if kind == "swap":
        same = [each for each in files if each.suffix == path.suffix and each != path] or [path]
        other = same[draw.integers(len(same))]
        if other.read_bytes() == bytes(content):
            kind = "append"
        else:
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
            return f"{name}: swapped with {other.relative_to(folder).as_posix()}"
    if kind == "flip" and content:
        bit = int(draw.integers(8))
        content[place] ^= 1 << bit
    elif kind == "cut":
        del content[place:]
    elif kind == "zeros":
        content[place : place + 512] = bytes(len(content[place : place + 512]))
    else:
        kind = "append"
        content += bytes(draw.integers(0, 256, int(draw.integers(1, 40)), dtype=np.uint8))
    same_as_before = bytes(content) == path.read_bytes()
    path.write_bytes(content)
    return f"{name}: {kind} at {place} of {path.stat().st_size}{' (no change)' * same_as_before}"


# --- the campaign --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One damage and its outcome."""

    place: str
    what: str
    outcome: str
    words: str


def campaign(
    root: Path, kinds: Sequence[str], times: int, seed: int, say: Callable[[str], None]
) -> list[Result]:
    """Damage places `times` times, in turns."""
    one_thread()
    draw, places = np.random.default_rng(seed), Places(root)
    results = []
    for number in range(times):
        kind = kinds[number % len(kinds)]
        pattern, read = READERS[kind]
        pristine, copy = places.place(kind), root / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(pristine, copy)
        files = sorted(path for path in copy.glob(pattern) if path.is_file())
        what = damage(copy, files, draw)
        reading = read(places, copy)
        results.append(Result(kind, what, reading.outcome, reading.words))
        say(f"{number + 1:3}/{times} {kind:12} {what:58} {reading.outcome:8} {reading.words[:150]}")
    return results


def table(results: Sequence[Result]) -> str:
    """Kind of place by outcome."""
    counts = Counter((each.place, each.outcome) for each in results)
    lines = [f"{'place':14}{'times':>7}" + "".join(f"{name:>10}" for name in COLUMNS)]
    for place in READERS:
        times = sum(counts[place, name] for name in COLUMNS)
        if times:
            cells = "".join(f"{counts[place, name]:>10}" for name in COLUMNS)
            lines.append(f"{place:14}{times:>7}{cells}")
    return "\n".join(lines)


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=200, help="how often something is damaged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--places", default=",".join(READERS), help="kinds of places")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oodbench-damage-") as name:
        results = campaign(
            Path(name),
            options.places.split(","),
            options.times,
            options.seed,
            lambda line: print(line, flush=True),
        )
    print(table(results))
    return 1 if any(each.outcome in FAULTS for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())
