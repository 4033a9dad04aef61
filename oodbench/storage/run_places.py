"""Where a run is written: the folder that is given, the newest one to resume, or a new one."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oodbench.errors import InterruptedRun
from oodbench.storage.locks import claim, held

RUNS = Path("runs")
"""Default folder of run directories, in the working directory."""


@contextmanager
def place_of_run(out: str | Path | None, name: str, resume: bool) -> Iterator[Path]:
    """The run directory, locked: the given one, the newest one to resume, or a new one.

    Raises:
        UserError: if another process uses it, or it cannot be written.
        InterruptedRun: if the user interrupts the run.
    """
    if out is not None:
        folder = Path(out)
    else:
        folder = (newest(name) if resume else None) or new_folder(name)
    with held(folder):
        try:
            yield folder
        except KeyboardInterrupt:
            raise InterruptedRun(folder) from None


def newest(name: str) -> Path | None:
    """The newest default run directory of a benchmark or a suite."""
    # Times sort as text. The pattern of the time keeps digits-open-set apart from digits.
    before = sorted(RUNS.glob(f"{name}-[0-9]*-[0-9]*"))
    return before[-1] if before else None


def new_folder(name: str) -> Path:
    """A new folder `runs/<name>-<time>`, with a number if another run has that name."""
    stem = f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(RUNS / each for each in names if claim(RUNS / each))
