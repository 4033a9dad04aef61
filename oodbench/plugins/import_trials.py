"""Tries in another process whether detectors' files import and take parameters.

`python -m oodbench.plugins.import_trials` reads trials as JSON and prints JSON, so that the process
that makes a list, or a plan, imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oodbench.errors import UserError
from oodbench.files import cache_folder, canonical_json, digest, write_atomic
from oodbench.plugins.declarations import BrokenDetectorError
from oodbench.plugins.imported_files import source_digest
from oodbench.plugins.importing import instantiate, load_class
from oodbench.version import __version__

TIME_LIMIT = 120
"""Seconds that importing may take, torch included; `importing` limits each file."""


Trial = tuple[Path, str]
"""A detector's file, and parameters to make an instance with, as JSON; "" to import it only."""


def import_errors(files: Sequence[Path]) -> dict[Path, str | None]:
    """Import each file in another process.

    Returns:
        file -> why it does not import, or None.
    """
    found = _tried([(file, "") for file in files])
    return {file: error for (file, _), error in found.items()}


def parameter_errors(
    wanted: Sequence[tuple[Path, Mapping[str, Any]]],
) -> list[tuple[str, str] | None]:
    """Make an instance of each file's detector with parameters, in another process.

    Returns:
        In the same order: message and hint of why that is not possible, or None.
    """
    trials = [(file, canonical_json(dict(parameters))) for file, parameters in wanted]
    found = _tried(trials)
    errors = [found[trial] for trial in trials]
    return [None if error is None else _parted(error) for error in errors]


def _parted(error: str) -> tuple[str, str]:
    message, _, hint = error.partition("\n")
    return message, hint


def _tried(trials: Sequence[Trial]) -> dict[Trial, str | None]:
    """Trial -> why it fails, or None.

    A success is cached by the content of the file and of its helpers, and the parameters. A failure
    is not cached: installing a package may repair it.
    """
    remembered = cache_folder() / "probed"
    marks = {
        trial: remembered / digest(source_digest(trial[0]), sys.version, __version__, trial[1])
        for trial in trials
    }
    unknown = [trial for trial in marks if not marks[trial].exists()]
    errors: dict[Trial, str | None] = dict.fromkeys(marks)
    for trial, error in _tried_elsewhere(unknown).items():
        errors[trial] = error
        if error is None:
            # A cache that cannot be written costs time, not the list.
            with contextlib.suppress(UserError):
                write_atomic(marks[trial], "")
    return errors


def _tried_elsewhere(trials: Sequence[Trial]) -> dict[Trial, str | None]:
    """Trial -> why it fails, or None; found by one other process for all."""
    if not trials:
        return {}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "oodbench.plugins.import_trials"],
            input=json.dumps([(str(file), parameters) for file, parameters in trials]),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIME_LIMIT,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        return dict(zip(trials, found, strict=True))
    except subprocess.TimeoutExpired:
        why = f"takes longer than {TIME_LIMIT} s to import"
    except (ValueError, IndexError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        why = f"stops Python while it is imported: {last}"
    if len(trials) == 1:
        return {trials[0]: why}
    # One of them stops the process: try each alone.
    return {trial: error for one in trials for trial, error in _tried_elsewhere([one]).items()}


def _error_of(file: str, parameters: str) -> str | None:
    try:
        detector = load_class(Path(file))
        if parameters:
            instantiate(detector, json.loads(parameters))
    except (BrokenDetectorError, UserError) as error:
        return str(error)
    return None


if __name__ == "__main__":
    print("\n" + json.dumps([_error_of(*trial) for trial in json.load(sys.stdin)]))
