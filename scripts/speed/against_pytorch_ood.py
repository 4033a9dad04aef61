"""One engine cycle against pytorch-ood, detector by detector, on the same network and images.

    python scripts/speed/against_pytorch_ood.py [--images FOLDER] [--fit 5000] [--test 2000]
                                              [--threads 2] [--rounds 1]

A ResNet-20, trained for a moment, and 32x32 images: `--fit` to fit on, a fifth of them for
validation, and twice `--test` to score, in- and out-of-distribution. Images are stripes in the
colors of ten classes, or the photographs of FOLDER, which has one folder for each class.

- oodbench: one cycle of its engine for several detectors together, from bytes to scores: thirteen
  that one starts with, all that pytorch-ood has too, and all of oodbench's catalog; each time those
  that one forward pass is enough for, and that run on a linear last layer.
- pytorch-ood: each detector as its documentation shows, `fit(loader)` and then `predict` for every
  batch of both sets. Its loaders are lists of ready float32 batches, already normalized: what a
  DataLoader and transforms take is not counted.
- pytorch-ood, shared: its `Benchmark.evaluate(detectors, cache=True)`, which computes logits and
  pooled features of the test images once for all detectors that need no more. It fits no detectors:
  here, logits and features of the images to fit on are computed once, too, for its `fit_logits` and
  `fit_features`. Detectors of maps run the network for themselves. The loader gets ready batches,
  and metrics are left out.
- The bare forward: one loop over all images, without gradients, in the default memory layout, over
  ready float32 batches. And once more in channels_last.

Where the two differ in a parameter, oodbench takes pytorch-ood's. Contestants take turns, so that a
busy machine disturbs all alike, and the short ones have several turns in each round; medians.
Beside seconds by the clock stand those of processor time, which others on the machine disturb less.
All run in one process with the settings of our command line, which help theirs too. Peak memory is
measured in a process of its own for each side, theirs without those settings: how far the resident
size grows.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from oodbench.process import prepare_process

prepare_process()  # as `oodbench run` does, before torch is loaded

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from speed.contest.case import Case, load, prepare
from speed.contest.contests import (
    BARE,
    CHANNELS_LAST,
    Contest,
    Seconds,
    added,
    bare_contest,
    in_turns,
    one_by_one,
    our_contest,
    their_contest,
    their_shared_contest,
)
from speed.contest.ours import Work, our_work
from speed.contest.pairs import (
    ALL,
    CATALOG,
    COMPARED,
    OURS,
    OVER_BARE,
    PAIRS,
    SHARED,
    WITHOUT_GRADIENTS,
)
from speed.contest.theirs import Loaders
from speed.resident_size import largest_resident, resident

FASTER = 8.0
"""Goal: times faster than pytorch-ood's `fit` and `predict`."""

UNTOUCHED_ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.check=0"}
"""A default: `prepare_process` leaves the allocator alone where the user has set something."""


# --- memory --------------------------------------------------------------------------------------


def memory(case: Case, side: str) -> int:
    """How far the resident size grows while one side does everything, in bytes."""
    few = torch.zeros(8, *case.splits["id"].images.shape[1:])
    work: list[Callable[[], object]]
    if side == "oodbench":
        work = [our_contest(case)[CATALOG]]
        classifier = case.classifier
        few = few.to(memory_format=torch.channels_last)
    else:
        import pytorch_ood.detector  # noqa: F401 - before the start, with what it imports

        loaders = Loaders.of(case)
        classifier = loaders.classifier
        contests: Mapping[str, Callable[[], Contest]] = {
            BARE: lambda: {BARE: bare_contest(case, loaders)[BARE]},
            "pytorch-ood": lambda: their_contest(loaders),
            SHARED[ALL]: lambda: {ALL: their_shared_contest(case, loaders)[SHARED[ALL]]},
        }
        work = list(contests[side]().values())
    with torch.no_grad():
        classifier(few)  # libraries are loaded
    before = resident()
    for each in work:
        each()
    return largest_resident() - before


# --- what is printed -----------------------------------------------------------------------------


def table(times: Mapping[str, Seconds], works: Sequence[Work]) -> None:
    """Detector by detector."""

    def median(kind: str, name: str) -> float:
        return statistics.median(getattr(work, kind)[name] for work in works)

    kinds = ("fit", "score", "copies")
    own = {name: [median(kind, name) for kind in kinds] for name in OURS}

    def milliseconds(seconds: Sequence[float]) -> str:
        return "".join(f"{1e3 * value:8.0f}" for value in seconds)

    print(f"\n{'':44}{'pytorch-ood':>12}   oodbench, own work in ms")
    print(f"{'oodbench':22}{'pytorch-ood':22}{'seconds':>12}   {'fit':>8}{'score':>8}{'copies':>8}")
    for name in sorted(own, key=lambda name: -sum(own[name])):
        peer, seconds = "", ""
        if name in WITHOUT_GRADIENTS:
            peer = PAIRS[name].name + "*" * PAIRS[name].core
            seconds = f"{times[name].wall:.2f}"
        print(f"{name:22}{peer:22}{seconds:>12}   {milliseconds(own[name])}")
    total = [sum(column) for column in zip(*own.values(), strict=True)]
    print(f"{'together':44}{added(times, WITHOUT_GRADIENTS).wall:12.2f}   {milliseconds(total)}")
    passes = statistics.median(work.passes for work in works)
    print(f"{'the network, over all images':59}{milliseconds([passes])}")


def summary(times: Mapping[str, Seconds], images: int) -> None:
    """Totals, ratios and goals."""
    print(f"\n{'':60}{'seconds':>9}{'x bare':>8}{'processor':>13}{'x bare':>8}")

    def line(what: str, seconds: Seconds) -> None:
        wall = f"{seconds.wall:9.2f}{seconds.wall / times[BARE].wall:8.2f}"
        ratio = seconds.processor / times[BARE].processor
        print(f"{what:60}{wall}{seconds.processor:13.2f}{ratio:8.2f}")

    line(f"bare forward over {images:,} images", times[BARE])
    line("bare forward, channels_last", times[CHANNELS_LAST])

    def over_bare(list_name: str) -> None:
        ours, bare = times[list_name], times[BARE]
        print(
            f"    {ours.wall / bare.wall:.2f} x the bare forward "
            f"({ours.processor / bare.processor:.2f} in processor time); "
            f"goal: at most {OVER_BARE[list_name]:g}",
            flush=True,
        )

    for list_name, names in COMPARED.items():
        ours, theirs = times[list_name], added(times, names)
        shared = times[SHARED[list_name]]
        line(f"pytorch-ood, {list_name}, fit and predict", theirs)
        line(f"pytorch-ood, {list_name}, evaluate(cache=True)", shared)
        line(f"oodbench, {list_name}, one cycle", ours)
        print(
            f"    {theirs.wall / ours.wall:.1f} times faster than fit and predict "
            f"({theirs.processor / ours.processor:.1f} in processor time); "
            f"goal: at least {FASTER:g}\n"
            f"    {shared.wall / ours.wall:.1f} times faster than evaluate(cache=True) "
            f"({shared.processor / ours.processor:.1f} in processor time)"
        )
        over_bare(list_name)
    line(f"oodbench, {CATALOG}, one cycle", times[CATALOG])
    over_bare(CATALOG)


def compare(case: Case, rounds: int) -> None:
    """All that is timed."""
    logging.getLogger("pytorch_ood").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    loaders = Loaders.of(case)
    short = {**bare_contest(case, loaders), **our_contest(case)}
    short[BARE]()  # warms up
    theirs = {**their_contest(loaders), **their_shared_contest(case, loaders)}
    times = in_turns(theirs, rounds, short)
    table(times, [our_work(case, OURS) for _ in range(rounds)])
    summary(times, case.count)
    print(f"\n{'':49}{'':31}{'oodbench':>9}{'pytorch-ood':>13}{'faster':>9}", flush=True)
    for what, (names, contest) in one_by_one(case, loaders).items():
        each = in_turns(contest, rounds)
        ours, theirs = each["ours"].wall, each["theirs"].wall
        ratio = f"{theirs / ours:7.1f} x"
        print(f"{what:49}{names:31}{ours:7.2f} s{theirs:11.2f} s{ratio}", flush=True)


def in_a_process(
    options: argparse.Namespace,
    what: str,
    folder: Path,
    output: Any = None,
    **variables: str,
) -> str:
    """Do a part in a process of its own, on the threads asked for; gives what it prints to a pipe.

    The process that starts them all stays small: its size counts for theirs.
    """
    command = [sys.executable, __file__, *sys.argv[1:], "--part", what, "--folder", str(folder)]
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, **variables}
    done = subprocess.run(command, env=environment, check=True, stdout=output, text=True)
    return done.stdout or ""


def processor() -> str:
    """The processor's name."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="a folder for each class")
    parser.add_argument("--fit", type=int, default=5000)
    parser.add_argument("--test", type=int, default=2000, help="of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="a round has 4 turns of the cycle")
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part == "prepare":
        prepare(options.folder, options)
    elif options.part == "times":
        compare(load(options.folder, options.batch), options.rounds)
    elif options.part:
        print(memory(load(options.folder, options.batch), options.part))
    else:
        everything(options)


def everything(options: argparse.Namespace) -> None:
    """All parts, one after the other."""
    print(
        f"{processor()}, {os.cpu_count()} cores, {options.threads} threads; "
        f"torch {torch.__version__}, pytorch-ood {version('pytorch-ood')}, "
        f"Python {platform.python_version()}\n"
        f"ResNet-20, {options.fit:,} images to fit, {options.test:,} ID + {options.test:,} OOD to "
        f"score, batches of {options.batch}; rounds: {options.rounds}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_a_process(options, "prepare", folder)
        in_a_process(options, "times", folder)
        grown = {
            side: int(in_a_process(options, side, folder, subprocess.PIPE, **variables)) / 2**20
            for side, variables in {
                BARE: UNTOUCHED_ALLOCATOR,
                "oodbench": {},
                "pytorch-ood": UNTOUCHED_ALLOCATOR,
                SHARED[ALL]: UNTOUCHED_ALLOCATOR,
            }.items()
        }
    grown["pytorch-ood, evaluate(cache=True)"] = grown.pop(SHARED[ALL])
    sizes = ", ".join(f"{side} {size:.0f} MiB" for side, size in grown.items())
    print(f"\npeak memory beyond network and images: {sizes}")


if __name__ == "__main__":
    main()
