"""The warning about files of a run that were changed or removed after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oodbench.errors import listed
from oodbench.storage.run_directory import COSTS, DIFFERENCES, RECORDS, TRAINING


def changed_files(folder: Path, names: Sequence[str]) -> str:
    """The warning about files of a run that were changed or removed after it.

    Args:
        folder: folder of the run, or of the suite.
        names: names of the files, relative to the folder.
    """
    missing = [name for name in names if not (folder / name).exists()]
    changed = [name for name in names if name not in missing]
    found = []
    if changed:
        found.append(
            f"{listed(changed)} changed after the run: reports may differ from what was measured"
        )
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        found.append(f"{listed(missing)} {verb} missing: {_not_shown(missing)}")
    return f"{folder}: {'; '.join(found)}. `oodbench run` with --resume makes it again."


def _not_shown(missing: Sequence[str]) -> str:
    """What reports lack without some files of a run."""
    kinds = {
        name.partition("/")[0] if name.endswith(".npz") else name.rpartition("/")[2]
        for name in missing
    }
    ties = "which methods are tied is not shown" if "scores" in kinds else "ties are tested again"
    lacking = {
        RECORDS: "the results in it are not shown",
        COSTS: "costs are not shown",
        TRAINING: "training is not shown",
        DIFFERENCES: ties,
        "scores": "figures cannot be drawn of these scores",
        "predictions": "metrics that need them cannot be added",
    }
    found = ", ".join(text for kind, text in lacking.items() if kind in kinds)
    unaffected = kinds <= {"scores", "predictions"}
    return f"{found}; values in tables are not affected" if unaffected else found
