"""Whether detectors' files import: `python -m oodbench.probe FILE ...` prints JSON.

Run in a process of its own, so that the one that makes a list imports no torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from oodbench.files import cache_folder, digest, make_folder, write_atomic
from oodbench.inspection import BrokenDetectorError


def probe(files: Sequence[Path]) -> dict[Path, str | None]:
    """Import each file in another process.

    A success is remembered by the file's content; a failure is not, since installing a package may
    mend it.

    Returns:
        file -> why it does not import, or None.
    """
    remembered = make_folder(cache_folder() / "probed")
    marks = {file: remembered / digest(file.read_bytes(), sys.version) for file in files}
    unknown = [file for file in files if not marks[file].exists()]
    errors: dict[Path, str | None] = dict.fromkeys(files)
    if unknown:
        done = subprocess.run(
            [sys.executable, "-m", "oodbench.probe", *map(str, unknown)],
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            found = json.loads(done.stdout.splitlines()[-1])
        except (json.JSONDecodeError, IndexError):
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            found = {str(file): f"stops Python while it is imported: {last}" for file in unknown}
        for file in unknown:
            errors[file] = found[str(file)]
            if errors[file] is None:
                write_atomic(marks[file], "")
    return errors


def _main(files: Sequence[str]) -> None:
    from oodbench.catalog import load_class

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
