"""Runs whose disk fills up, or turns read-only, at random moments; and the same runs resumed.

    python scripts/robustness/disk_full.py [--times 30] [--seed 0]

Where small file systems can be mounted (Linux, root), cache, run directory or temporary folder is
one: of random size, or with room that turns read-only at a random moment. Elsewhere the process may
write no file beyond a random size (RLIMIT_FSIZE). A run may end with exit code 0 or with one error
without a traceback. Then there is space again, and `--resume` has to end with the records, scores
and predictions of a run that had space all the time. The exit code is 1 if any did not.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.small_content import command_line, difference, write_content

PLACES = ("cache", "run", "tmp")
TROUBLES = ("full", "read-only")


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a file system in memory."""
    try:
        with small_disk(folder / "try", 64):
            return True
    except OSError:
        return False


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[None]:
    """A file system in memory of this size, while it lasts.

    Raises:
        OSError: if this process may not mount one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


def _mount(*words: str | Path) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())


class Trial:
    """One run in trouble, and its resumption.

    Args:
        root: a folder for it.
        content: of `write_content`.
        expected: the run directory of an undisturbed run.
        warm: the cache of that run, or None: an empty one.
    """

    def __init__(self, root: Path, content: Path, expected: Path, warm: Path | None) -> None:
        self.content, self.expected = content, expected
        self.places = {name: root / name for name in PLACES}
        for name, folder in self.places.items():
            folder.mkdir(parents=True)
            if name == "cache" and warm is not None:
                shutil.copytree(warm, folder, dirs_exist_ok=True)

    def run(
        self, *more: str, limit: int | None = None, later: Callable[[], None] | None = None
    ) -> str:
        """Run the command; what is wrong with its end, or ""."""
        environment = os.environ | {
            "OODBENCH_CACHE": str(self.places["cache"]),
            "TMPDIR": str(self.places["tmp"]),
        }

        def limited() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = subprocess.Popen(
            command_line(self.content, self.places["run"] / "out", *more),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=environment, preexec_fn=limited,
        )  # fmt: skip
        if later is not None:
            later()
        _, self.said = process.communicate()
        self.code = process.returncode
        if "Traceback" in self.said:
            return f"TRACEBACK: {self.said.strip().splitlines()[-1]}"
        errors = [line for line in self.said.splitlines() if line.startswith("error: ")]
        if self.code not in (0, 3) and len(errors) != 1:
            return f"EXIT CODE {self.code}, {len(errors)} errors: {self.said[-300:]}"
        return ""

    def on_small_disk(self, place: str, kibibytes: int) -> str:
        """A run with one folder on a disk of this size; what was written there stays."""
        folder = self.places[place]
        before = folder.with_name(f"{place}-before")
        shutil.copytree(folder, before)
        with small_disk(folder, kibibytes):
            with suppress(shutil.Error):  # the disk is full before the run begins
                shutil.copytree(before, folder, dirs_exist_ok=True)
            wrong = self.run()
            shutil.rmtree(before)
            shutil.copytree(folder, before)
        shutil.copytree(before, folder, dirs_exist_ok=True)
        return wrong

    def on_read_only_disk(self, place: str, moment: float) -> str:
        """A run with one folder that turns read-only after some seconds."""
        folder = self.places[place]
        before = folder.with_name(f"{place}-before")
        shutil.copytree(folder, before)
        with small_disk(folder, 1 << 18):
            shutil.copytree(before, folder, dirs_exist_ok=True)

            def turn() -> None:
                ends = time.monotonic() + moment
                while time.monotonic() < ends:
                    time.sleep(0.01)
                while True:  # busy while a file is being written
                    try:
                        return _mount("-o", "remount,ro", folder)
                    except OSError:
                        time.sleep(0.005)

            wrong = self.run(later=turn)
            shutil.rmtree(before)
            shutil.copytree(folder, before)
        shutil.copytree(before, folder, dirs_exist_ok=True)
        return wrong

    def resumed(self) -> str:
        """Resume with space; what is wrong in the end, or ""."""
        wrong = self.run("--resume")
        if wrong or self.code not in (0, 3):
            return wrong or f"DOES NOT RESUME: {self.said[-300:]}"
        out = self.places["run"] / "out"
        leftovers = [path.name for path in out.rglob(".writing-*")]
        return difference(out, self.expected) or (f"LEFTOVERS {leftovers}" if leftovers else "")


def _amount(folder: Path) -> int:
    """KiB of the files of a folder, in whole pages."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(4 * (path.stat().st_size // 4096 + 1) for path in files)


def campaign(root: Path, times: int, seed: int, say: Callable[[str], None]) -> int:
    """Runs in trouble, one after another; returns how many did not end as they should."""
    draw = np.random.default_rng(seed)
    content = write_content(root / "content")
    undisturbed = Trial(root / "undisturbed", content, root, None)
    started = time.monotonic()
    wrong = undisturbed.run()
    seconds = time.monotonic() - started
    if wrong or undisturbed.code:
        raise SystemExit(f"the undisturbed run fails: {undisturbed.said}")
    expected, warm = undisturbed.places["run"] / "out", undisturbed.places["cache"]
    amounts = {name: _amount(folder) for name, folder in undisturbed.places.items()}
    mounts, failed = can_mount(root), 0
    for number in range(times):
        place, trouble = PLACES[number % 3], TROUBLES[number // 3 % 2]
        cached = bool(draw.random() < 0.3) and place != "cache"
        trial = Trial(root / f"trial{number}", content, expected, warm if cached else None)
        if not mounts:
            place, size = "any", int(draw.integers(1, 1024 * max(amounts.values())))
            what = f"no file beyond {size} bytes"
            wrong = trial.run(limit=size)
        elif trouble == "full":
            size = int(draw.integers(4, amounts[place] + 16))
            what = f"disk of {size} KiB of about {amounts[place]}"
            wrong = trial.on_small_disk(place, size)
        else:
            moment = float(draw.uniform(0, seconds))
            what = f"read-only after {moment:.1f} of about {seconds:.1f} s"
            wrong = trial.on_read_only_disk(place, moment)
        ended = f"exit code {trial.code}"
        wrong = wrong or trial.resumed()
        failed += bool(wrong)
        say(f"{number + 1:3}/{times}  {place:5}  {what:42}  {ended}  {wrong or 'same'}")
        shutil.rmtree(root / f"trial{number}", ignore_errors=True)
    return failed


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oodbench-disk-") as name:
        failed = campaign(
            Path(name), options.times, options.seed, lambda line: print(line, flush=True)
        )
    print(f"{options.times - failed} of {options.times} ended as the undisturbed run")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
