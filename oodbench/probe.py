"""Whether detectors' files import: `python -m oodbench.probe FILE ...` prints JSON.

Run in a process of its own, so that the one that makes a list imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from oodbench.content import source_digest
from oodbench.errors import UserError
from oodbench.files import cache_folder, digest, write_atomic
from oodbench.inspection import BrokenDetectorError
from oodbench.loader import load_class

TIME_LIMIT = 60
"""Seconds that importing may take, torch included."""


def probe(files: Sequence[Path]) -> dict[Path, str | None]:
    """Import each file in another process.

    A success is remembered by the content of the file and of its helpers; a failure is not, since
    installing a package may mend it.

    Returns:
        file -> why it does not import, or None.
    """
    remembered = cache_folder() / "probed"
    marks = {file: remembered / digest(source_digest(file), sys.version) for file in files}
    unknown = [file for file in files if not marks[file].exists()]
    errors: dict[Path, str | None] = dict.fromkeys(files)
    for file, error in _import_elsewhere(unknown).items():
        errors[file] = error
        if error is None:
            # A cache that cannot be written costs time, not the list.
            with contextlib.suppress(UserError):
                write_atomic(marks[file], "")
    return errors


def _import_elsewhere(files: Sequence[Path]) -> dict[Path, str | None]:
    """File -> why it does not import, or None; found by one other process for all files."""
    if not files:
        return {}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "oodbench.probe", *map(str, files)],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIME_LIMIT,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        return {file: found[str(file)] for file in files}
    except subprocess.TimeoutExpired:
        why = f"takes longer than {TIME_LIMIT} s to import"
    except (ValueError, IndexError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        why = f"stops Python while it is imported: {last}"
    if len(files) == 1:
        return {files[0]: why}
    # One of them is to blame: find out which.
    return {file: error for one in files for file, error in _import_elsewhere([one]).items()}


def _main(files: Sequence[str]) -> None:
    errors: dict[str, str | None] = {}
    for file in files:
        try:
            load_class(Path(file))
            errors[file] = None
        except BrokenDetectorError as error:
            errors[file] = str(error)
    print("\n" + json.dumps(errors))


if __name__ == "__main__":
    _main(sys.argv[1:])
