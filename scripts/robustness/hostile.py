"""Hostile files and servers: each is refused in a line or two, in bounded memory and time.

    python scripts/robustness/hostile.py [--formats tar,YAML] [--only "negative"] [--all]

Every input is read by the command that a user would run on it, in a process of its own. It is held
if the command ends with the exit code of bad input (or the documented one: 1 of `verify`, 3 of
`score`), says so in at most three lines of at most 2,200 characters each, and has no traceback; if
the process grows by no more than the trial allows; if it ends in time; and if nothing outside of
the trial's folder was written or shown. Prints a line for each trial that is not held (with --all,
for each), and a table; the exit code is 1 if any is not held. `hostile_inputs` has the inputs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.hostile_inputs import archives, arrays, images, servers, texts, weights
from robustness.hostile_inputs.trial import Place, Trial
from robustness.small_content import cached_in, command, one_thread, run_small, write_content

from oodbench.cli import main as cli

SECRET = "a secret that no message may show"
ADDRESSES = 8 << 30
"""Bytes of addresses that a trial may add: no trial takes the memory of the machine."""

MOST_LINES, LONGEST = 3, 2200


@dataclass(frozen=True)
class Ended:
    """How a trial ended.

    Attributes:
        trial: the trial.
        code: exit code; None if it did not end in time.
        said: standard output and error.
        grown: bytes by which the process grew.
        seconds: wall time.
        outside: what it changed outside of its folder.
    """

    trial: Trial
    code: int | None
    said: str
    grown: int
    seconds: float
    outside: str = ""

    @property
    def faults(self) -> list[str]:
        """Why it is not held; empty if it is."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        found = []
        if self.code is None:
            found.append(f"NO END in {self.trial.seconds:.0f} s")
        elif self.code not in self.trial.ends:
            found.append(f"EXIT CODE {self.code}")
        if "Traceback" in self.said:
            found.append("TRACEBACK")
        elif self.code == 2:  # after what was done before
            begins = [number for number, line in enumerate(lines) if line.startswith("error:")]
            if not begins:
                found.append("NO MESSAGE")
            elif len(lines) - begins[0] > MOST_LINES:
                found.append(f"{len(lines) - begins[0]} LINES")
        if any(len(line) > LONGEST for line in lines):
            found.append(f"A LINE OF {max(map(len, lines)):,} CHARACTERS")
        if self.grown > self.trial.memory:
            found.append(f"GREW by {self.grown >> 20:,} MiB")
        if SECRET in self.said or "root:x:" in self.said:
            found.append("SAID WHAT IS OUTSIDE")
        if self.outside:
            found.append(f"OUTSIDE: {self.outside}")
        return found

    @property
    def words(self) -> str:
        """The message, in a line."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error:")] or lines
        shown = lines[-1] if "Traceback" in self.said else errors[0] if errors else ""
        return shown[:160]


# --- the process of a trial -----------------------------------------------------------------------


def _memory(key: str) -> int:
    """A value of this process in bytes: VmRSS, VmHWM or VmSize."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


def _in_child(trial: Trial, words: Sequence[str | Path], folder: Path) -> None:
    """Run the command in this process, a fork; its outputs go to files, and what it took."""
    out = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    for name, value in trial.settings:
        module, attribute = name.split(":")
        setattr(importlib.import_module(module), attribute, value)
    os.environ.update(OODBENCH_CACHE=str(folder / "cache"), NO_PROXY="127.0.0.1")
    os.chdir(folder)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the highest memory is that of now
    before = _memory("VmRSS")
    most = _memory("VmSize") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 30, 2 << 30))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.argv = ["oodbench", *map(str, words)]
    code = 1
    try:
        cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        (folder / "grown").write_text(str(_memory("VmHWM") - before))
        os._exit(code)


def attempt(trial: Trial, place: Place) -> Ended:
    """Write the input and run the command on it."""
    folder = place.folder.parent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that write unusual files
        words = trial.make(place)
    before = _contents(folder.parent, folder)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _in_child(trial, words, folder)
    code = _wait(child, trial.seconds)
    seconds = time.monotonic() - start
    said = (folder / "said").read_bytes().decode(errors="replace")
    grown = folder / "grown"
    after = _contents(folder.parent, folder)
    changed = sorted(name for name in before.keys() | after if before.get(name) != after.get(name))
    return Ended(
        trial,
        code,
        said,
        int(grown.read_text()) if grown.exists() else 0,
        seconds,
        ", ".join(changed),
    )


def _wait(child: int, seconds: float) -> int | None:
    """The exit code of a process; None if it was killed because its time was over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _contents(root: Path, without: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file beside a folder, and of places that inputs name."""
    found = [path for path in root.rglob("*") if not path.is_relative_to(without)]
    found += [path for path in [Path("/tmp/oodbench-hostile")] if path.exists()]
    stats = {str(path): path.lstat() for path in found}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


# --- the campaign --------------------------------------------------------------------------------


def prepared(root: Path) -> Path:
    """A folder with content, a run and a saved detector, which inputs are made from."""
    one_thread()
    shared = root / "shared"
    content = write_content(shared / "content")
    run_small(content, shared / "run", shared / "cache")
    with cached_in(shared / "cache"):
        said = command("fit", shared / "run", "Net+KNN", "--accept", 0.9, "--out",
                       shared / "artifact")  # fmt: skip
    assert said.code == 0, said.err
    return shared


@contextmanager
def server() -> Iterator[str]:
    """A hostile web server in a process of its own; gives its address."""
    running = subprocess.Popen(
        [sys.executable, servers.__file__], stdout=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        yield f"http://127.0.0.1:{int(running.stdout.readline())}"
    finally:
        running.kill()
        running.wait()


def all_trials() -> list[Trial]:
    """The trials of all formats."""
    modules = (archives, arrays, weights, texts, images, servers)
    return [trial for module in modules for trial in module.trials()]


def campaign(root: Path, trials: Sequence[Trial], address: str, *, every: bool) -> list[Ended]:
    """Make all attempts; prints those that are not held, or all."""
    shared = prepared(root)
    outside = root / "outside"
    outside.mkdir()
    (outside / "secret").write_text(SECRET)
    results = []
    for number, trial in enumerate(trials, start=1):
        folder = root / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "in").mkdir(parents=True)
        ended = attempt(trial, Place(folder / "in", shared, address, outside))
        results.append(ended)
        if ended.faults or every:
            state = "; ".join(ended.faults) or "held"
            print(
                f"{number:4}/{len(trials)} {trial.format:11} {trial.name:50} {state}"
                f" [{ended.code}, {ended.grown >> 20} MiB, {ended.seconds:.1f} s] {ended.words}",
                flush=True,
            )
    return results


def table(results: Sequence[Ended]) -> str:
    """Tried and held by format, with the largest growth and the longest time."""
    tried, held = (
        Counter(each.trial.format for each in results if accepted(each))
        for accepted in (lambda each: True, lambda each: not each.faults)
    )
    lines = [f"{'format':12}{'tried':>7}{'held':>7}{'MiB':>8}{'s':>7}"]
    for name in tried:
        mine = [each for each in results if each.trial.format == name]
        most, longest = max(e.grown for e in mine) >> 20, max(e.seconds for e in mine)
        lines.append(f"{name:12}{tried[name]:>7}{held[name]:>7}{most:>8,}{longest:>7.1f}")
    lines.append(f"{'all':12}{tried.total():>7}{held.total():>7}")
    return "\n".join(lines)


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--formats", default="", help="formats, with commas; default: all")
    parser.add_argument("--only", default="", help="a part of the names of trials")
    parser.add_argument("--all", action="store_true", help="print a line for each trial")
    options = parser.parse_args()
    formats = [name for name in options.formats.split(",") if name]
    trials = [
        trial
        for trial in all_trials()
        if (not formats or trial.format in formats) and options.only in trial.name
    ]
    with tempfile.TemporaryDirectory(prefix="oodbench-hostile-") as name, server() as address:
        results = campaign(Path(name), trials, address, every=options.all)
    print(table(results))
    return 1 if any(each.faults for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())
