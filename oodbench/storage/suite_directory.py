"""The directory of a suite: `suite.json`, and a run directory for each of its benchmarks.

    SUITE_RUN/
      suite.json                the suite, the published numbers, the status of each benchmark
      <benchmark>/              a run directory like any other
      comparison.md .csv .json .html
      figures/test-accuracy.png

Reports are made from this directory alone: later changes of the suite's files do not change them.
"""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oodbench.errors import UserError
from oodbench.storage.records import QualityRecord, TrainingRecord
from oodbench.storage.run_description import RunDescription, RunStatus
from oodbench.storage.run_directory import RunDirectory
from oodbench.storage.suite_description import NAME, MemberStatus, SuiteDescription
from oodbench.version import __version__


@dataclass(frozen=True, slots=True)
class MemberRecords:
    """Records of one benchmark of a suite, as they are on disk.

    Attributes:
        member: its key in the suite's members.
        name: its name in the suite, and the benchmark of its records.
        status: its status.
        reason: why it is not complete, on one line; None if it is complete or waiting.
        quality: its quality records.
        training: its training records.
        described: contents of its `run.json`; None if it has not run.
    """

    member: str
    name: str
    status: MemberStatus = "waiting"
    reason: str | None = None
    quality: Sequence[QualityRecord] = ()
    training: Sequence[TrainingRecord] = ()
    described: RunDescription | None = None


class SuiteDirectory:
    """Reads and writes the directory of one suite.

    Args:
        folder: the directory; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def description_path(self) -> Path:
        """The file that makes a folder the directory of a suite."""
        return self.folder / NAME

    def exists(self) -> bool:
        """Whether there is a suite in the folder."""
        try:
            return self.description_path.exists()
        except OSError:
            return False

    def open(self, state: SuiteDescription, *, resume: bool) -> SuiteDescription:
        """Create the directory, or read the state of the run in it.

        Args:
            state: the suite, before any benchmark has run.
            resume: whether to continue a run that is there.

        Returns:
            The state to continue from.

        Raises:
            UserError: if the folder holds a run of the suite and `resume` is not set, or holds
                another suite or something else.
        """
        if not self.exists():
            RunDirectory(self.folder).create()
            return state
        if not resume:
            raise UserError(
                f"{self.folder} holds a run of a suite already.",
                "Continue it with --resume, or choose another folder with --out.",
            )
        before = self.read()
        if before.suite.identity() != state.suite.identity():
            same = (before.suite.name, before.suite.version) == (
                state.suite.name,
                state.suite.version,
            )
            held = f"'{before.suite.name}' version {before.suite.version}"
            raise UserError(
                f"{self.folder} holds a run of suite "
                f"{f'{held} in another state' if same else held}, not of '{state.suite.name}' "
                f"version {state.suite.version} as it is now; their results do not mix.",
                "Start a new run in another folder with --out.",
            )
        return state.model_copy(update={"members": before.members, "written": before.written})

    def read(self) -> SuiteDescription:
        """Read `suite.json`.

        Raises:
            UserError: if there is none, or it is not readable.
        """
        try:
            return SuiteDescription.read(self.description_path)
        except FileNotFoundError as error:
            raise UserError(
                f"{self.folder} holds no suite: there is no {NAME} in it.",
                "Give the folder that `oodbench run` printed.",
            ) from error

    def write(self, state: SuiteDescription, status: RunStatus) -> None:
        """Write `suite.json`.

        Args:
            state: status of each benchmark.
            status: status of the suite.
        """
        written = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        about = {
            "status": status,
            "written": written,
            "command": shlex.join(["oodbench", *sys.argv[1:]]),
            "oodbench": __version__,
        }
        state.model_copy(update=about).write(self.description_path)

    def write_text(self, name: str, content: str) -> None:
        """Write a file of the suite."""
        RunDirectory(self.folder).write_text(name, content)

    def member_records(self, state: SuiteDescription) -> list[MemberRecords]:
        """Records on disk of each benchmark, including those of benchmarks that have not ended."""
        found = []
        for each in state.members:
            directory = RunDirectory(self.folder / each.name)
            found.append(
                MemberRecords(
                    member=each.member,
                    name=each.name,
                    status=each.status,
                    reason=each.reason,
                    quality=directory.read_records()[0],
                    training=directory.read_training(),
                    described=directory.read_description() if directory.exists() else None,
                )
            )
        return found
