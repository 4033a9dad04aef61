"""Copies of a run directory that a stranger has edited: no digest shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from robustness.hostile_inputs.trial import Place


def edited_run(place: Place) -> Path:
    """A copy of the run without the digests of its files, as a stranger would send it."""
    run = place.folder / "run"
    shutil.copytree(place.shared / "run", run)
    about = json.loads((run / "run.json").read_text())
    for key in ("seal", "files", "records"):
        about.pop(key, None)
    (run / "run.json").write_text(json.dumps(about))
    return run


def reading(command: str, run: Path) -> list[str | Path]:
    """A command that reads a run."""
    if command == "compare":
        return ["compare", run, run]
    if command == "site":
        return ["site", run, "--out", run.parent / "site"]
    return [command, run]
