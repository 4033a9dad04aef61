"""What a verification found, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oodbench.errors import ExitCode, brief, counted, listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """One value of a stored run that does not follow from the rest of it.

    Attributes:
        file: name relative to the run directory.
        line: from 1; None if it concerns the whole file.
        record: what the line is about, as in "SoftMax+MSP, seed 0, auroc on letters"; may be empty.
        field: name of the field; empty if it concerns the whole line or file.
        stored: the value in the file, as text.
        expected: the value that follows, as text; empty if it is not known.
        reason: what it follows from, or what is wrong.
    """

    file: str
    line: int | None = None
    record: str = ""
    field: str = ""
    stored: str = ""
    expected: str = ""
    reason: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        about = f"{self.record}: " if self.record else ""
        if not self.field:
            return brief(f"{where}: {about}{self.reason}.")
        if not self.expected:
            return brief(f"{where}: {about}{self.field} is {self.stored}; {self.reason}.")
        found = f"{self.field} is {self.stored} and should be {self.expected} ({self.reason})."
        return brief(f"{where}: {about}{found}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of verifying one run.

    Attributes:
        folder: the run directory.
        discrepancies: what does not follow, in the order of the files and their lines.
        checked: what was checked, one phrase each.
        unchecked: what could not be checked, and why.
    """

    folder: Path
    discrepancies: tuple[Discrepancy, ...]
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def exit_code(self) -> ExitCode:
        """FINDING after a discrepancy, INCOMPLETE if something could not be checked, else OK."""
        if self.discrepancies:
            return ExitCode.FINDING
        return ExitCode.INCOMPLETE if self.unchecked else ExitCode.OK

    def __str__(self) -> str:
        """The first discrepancy with the number of the others, and what was checked."""
        lines = []
        if self.discrepancies:
            first, others = self.discrepancies[0], len(self.discrepancies) - 1
            lines.append(f"{self.folder} does not follow from its scores and run.json. First:")
            lines.append(f"  {first}")
            if others:
                by_file: dict[str, int] = {}
                for each in self.discrepancies[1:]:
                    by_file[each.file] = by_file.get(each.file, 0) + 1
                where = listed(f"{number} in {name}" for name, number in by_file.items())
                lines.append(f"  and {counted(others, 'other')} ({brief(where)}).")
        else:
            lines.append(f"{self.folder}: every value that was checked follows.")
        lines += [f"  checked: {each}" for each in self.checked]
        lines += [f"  NOT checked: {brief(each)}" for each in self.unchecked]
        return "\n".join(lines)
