"""The verification of a suite's own files: its description, and the comparison of its records."""

from __future__ import annotations

from pathlib import Path

from oodbench.errors import UserError
from oodbench.report.writers.suite_files import SUITE_FILES, comparison_of
from oodbench.storage.description import is_sealed
from oodbench.storage.suite_description import NAME
from oodbench.storage.suite_directory import SuiteDirectory
from oodbench.verification.outcome import Discrepancy, Verification
from oodbench.version import __version__


def verify_suite(folder: Path) -> Verification:
    """Check that the comparison of a suite follows from the records of its members.

    The members are runs, which `verify_run` checks.

    Args:
        folder: the directory of a suite.

    Raises:
        UserError: if it holds no suite, or its description cannot be read.
    """
    directory = SuiteDirectory(folder)
    state = directory.read()
    found, checked, unchecked = [], [], []
    sealed = is_sealed(directory.description_path)
    if sealed is False:
        reason = "its values do not have the digest that it holds"
        found.append(Discrepancy(file=NAME, reason=reason))
    elif sealed is None:
        unchecked.append(f"digest: {NAME} has none; an older version wrote it")
    if found:
        unchecked.append("the comparison, which follows from it")
    elif state.oodbench != __version__:
        unchecked.append("the comparison: another version of oodbench wrote it")
    else:
        wrong = _comparison_differences(directory)
        found += wrong
        checked += [] if wrong else [f"comparison: {', '.join(SUITE_FILES)}"]
    return Verification(
        folder=folder,
        discrepancies=tuple(found),
        checked=tuple(checked),
        unchecked=tuple(unchecked),
    )


def _comparison_differences(directory: SuiteDirectory) -> list[Discrepancy]:
    try:
        comparison = comparison_of(directory)
    except UserError as error:
        return [Discrepancy(file=next(iter(SUITE_FILES)), reason=error.message.rstrip("."))]
    found = []
    for name, method in SUITE_FILES.items():
        try:
            stored = (directory.folder / name).read_bytes()
        except FileNotFoundError:
            found.append(Discrepancy(file=name, reason="it is not there"))
            continue
        if stored != getattr(comparison, method)().encode():
            found.append(
                Discrepancy(file=name, reason="it does not follow from the records of the members")
            )
    return found
