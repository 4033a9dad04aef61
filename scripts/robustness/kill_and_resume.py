"""Commands killed with SIGKILL at random moments and given again, against undisturbed ones.

    python scripts/robustness/kill_and_resume.py [--times 100] [--seed 0] [--commands train,site]
        [--at times|writes]

Each command runs in a process that is forked from one that has imported everything, and is killed
at a moment drawn between nothing and the time of the undisturbed command; or, with `--at writes`,
before one of the moments in which it opens a file to write, renames or removes something, or makes
a folder. Then it is given again, with --resume where it has that. Its exit code, records, scores
and files must be those of the undisturbed command, times and costs apart; no unfinished file, lock
or process may be left. For moments in which Python imports, `killed_runs.py` starts whole
processes.

Prints a line a trial, a table, and what commands warned of when they were given again. The exit
code is 1 if a trial has not held. Needs a system with fork.
"""

from __future__ import annotations

import os

if __name__ == "__main__":  # before the libraries are loaded: this process forks
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

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

from robustness.forked_processes import (
    COUNT,
    LOG,
    TEMPORARY,
    Ended,
    Moment,
    command_of,
    forked,
    preload,
)
from robustness.killed_commands import ARCHIVE, CASES, Case, Ground, archive_content
from robustness.same_folders import folder_difference
from robustness.slow_server import serving

from oodbench.files import TEMPORARY_PREFIX

DOWNLOAD = 0.6
"""Seconds that a download takes."""

VERIFIED = 5
"""Of so many trials, one is verified, too: equal records give equal metrics anyway."""

MOMENTS = ("times", "writes")

_NOT_WRITTEN = (LOG, TEMPORARY, COUNT)
"""What `forked` has in the folder of a trial."""


@dataclass(frozen=True)
class Trial:
    """One command that was killed and given again.

    Attributes:
        command: its name in the table.
        hit: whether it was killed before it had ended.
        wrong: what is wrong in the end; "" if nothing.
        warnings: what it warned of when it was given again, and the undisturbed one did not.
    """

    command: str
    hit: bool
    wrong: str
    warnings: tuple[str, ...]


class Undisturbed:
    """A command that was left alone: what it writes, how often, and how long it takes.

    Args:
        ground: what it works on.
        case: the command.
        expected: folder for what it writes.
    """

    def __init__(self, ground: Ground, case: Case, expected: Path) -> None:
        self._ground, self.case, self._expected = ground, case, expected
        self._first = self._run(modules=ground.root / "modules")
        preload(ground.root / "modules")
        expected.parent.mkdir(exist_ok=True)
        ground.trial.rename(expected)
        second = self._run()
        self.seconds, self.writes = second.seconds, second.writes
        wrong = self._difference()
        if wrong:
            raise SystemExit(f"{' '.join(case.words)}: two undisturbed ones differ: {wrong}")

    def _run(self, *, modules: Path | None = None) -> Ended:
        self._ground.begin(self.case)
        done = self._call(self.case.words, modules=modules)
        if done.code not in (0, 1):  # 1: a finding
            raise SystemExit(f"{' '.join(self.case.words)}: exit code {done.code}\n{done.said}")
        return done

    def _call(
        self, words: tuple[str, ...], *, until: Moment | None = None, modules: Path | None = None
    ) -> Ended:
        trial = self._ground.trial
        return forked(command_of(words, trial / "cache"), trial, until=until, modules=modules)

    def _difference(self) -> str:
        return folder_difference(self._ground.trial, self._expected, but=_NOT_WRITTEN)

    def moment(self, draw: np.random.Generator, at: str) -> Moment:
        """A random moment."""
        if at == "times":
            return Moment(seconds=float(draw.uniform(0, self.seconds)))
        return Moment(write=int(draw.integers(1, self.writes + 1)))

    def killed(self, moment: Moment, *, verify: bool) -> tuple[Trial, str]:
        """Kill it at a moment, and give it again; also says what the kill left.

        Args:
            moment: one of the undisturbed command.
            verify: also compute all metrics of its run directories again.
        """
        case, trial = self.case, self._ground.trial
        self._ground.begin(case)
        first = self._call(case.words, until=moment)
        found = _found(trial) if first.code is None else "had ended"
        again = self._call((*case.words, *case.again))
        wrong = ""
        if first.left or again.left:
            wrong = "A PROCESS IS LEFT"
        elif again.code != self._first.code:
            wrong = f"EXIT CODE {again.code}: {again.said.strip()[-500:]}"
        wrong = wrong or self._difference() or (self._unverified() if verify else "")
        warnings = tuple(sorted(_warnings(again) - _warnings(self._first)))
        name = f"{case.command} {case.variant}" if case.command == "run" else case.command
        return Trial(name, first.code is None, wrong, warnings), found

    def _unverified(self) -> str:
        """What `verify` finds in the run directories."""
        for name in self.case.runs:
            done = self._call(("verify", str(self._ground.trial / name)))
            if done.code != 0:
                return f"VERIFY: {done.said.strip()[-500:]}"
        return ""


def _found(trial: Path) -> str:
    """What a killed command has left, in words."""
    names = [path.relative_to(trial).as_posix() for path in trial.rglob("*") if path.is_file()]
    written = [name for name in names if name.split("/")[0] not in _NOT_WRITTEN]
    torn = [name for name in written if TEMPORARY_PREFIX in name or name.endswith(".part")]
    return f"{len(written)} files, {len(torn)} unfinished"


def _warnings(ended: Ended) -> set[str]:
    return {line.strip() for line in ended.said.splitlines() if "warning" in line.lower()}


def campaign(
    root: Path,
    commands: Sequence[str],
    times: int,
    seed: int,
    say: Callable[[str], None],
    *,
    at: str = "times",
    download: float = DOWNLOAD,
) -> list[Trial]:
    """Kill each command `times` times, at random times or writes (`MOMENTS`)."""
    draw, trials = np.random.default_rng(seed), []
    root.mkdir(parents=True, exist_ok=True)
    archive = archive_content()
    with serving({ARCHIVE: archive}, download) as server:
        ground = Ground(root, server, archive)
        for command in commands:
            undisturbed = [
                Undisturbed(ground, case, root / "expected" / f"{command}-{number}")
                for number, case in enumerate(CASES[command](ground))
            ]
            for number in range(times):
                one = undisturbed[number % len(undisturbed)]
                whole = f"{one.seconds:.2f} s" if at == "times" else str(one.writes)
                moment = one.moment(draw, at)
                trial, found = one.killed(moment, verify=number % VERIFIED == 0)
                trials.append(trial)
                say(
                    f"{number + 1:3}/{times}  {command:11} {one.case.variant:16}  killed at "
                    f"{moment!s:>9} of {whole:7}  {found:<24}  {trial.wrong or 'same'}"
                )
                if trial.wrong:
                    _keep(ground.trial, root / "failed" / f"{command}-{number}")
    return trials


def _keep(trial: Path, place: Path) -> None:
    """Keep the folder of a trial that has not held, where the root folder is kept."""
    shutil.copytree(trial, place, dirs_exist_ok=True)


def table(trials: Sequence[Trial]) -> str:
    """Command -> how often it was tried, hit while it ran, and held."""
    lines = [f"{'command':14}{'tried':>7}{'hit':>7}{'held':>7}"]
    for command in dict.fromkeys(each.command for each in trials):
        mine = [each for each in trials if each.command == command]
        hit, held = sum(each.hit for each in mine), sum(not each.wrong for each in mine)
        lines.append(f"{command:14}{len(mine):>7}{hit:>7}{held:>7}")
    said = Counter((each.command, text) for each in trials for text in each.warnings)
    lines += [f"{command}, {count} times: {text}" for (command, text), count in said.items()]
    return "\n".join(lines)


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=100, help="how often each command is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--commands", default=",".join(CASES), help="which of them")
    parser.add_argument("--at", choices=MOMENTS, default="times", help="where moments are drawn")
    parser.add_argument("--root", type=Path, help="an empty folder, which is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oodbench-kill-") as name:
        trials = campaign(
            options.root.resolve() if options.root else Path(name),
            options.commands.split(","),
            options.times,
            options.seed,
            lambda line: print(line, flush=True),
            at=options.at,
        )
    print(table(trials))
    return 1 if any(each.wrong for each in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
