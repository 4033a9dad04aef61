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
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from oodbench.errors import UserError
from oodbench.specs import PublishedSpec, SuiteSpec
from oodbench.storage.records import QualityRecord, TrainingRecord
from oodbench.storage.run_directory import RunDirectory
from oodbench.version import __version__

DESCRIPTION_SCHEMA = 1

MemberStatus = Literal["waiting", "complete", "incomplete", "failed"]
"""Not ended; everything is there; something is missing; did not run."""


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
    """

    member: str
    name: str
    status: MemberStatus = "waiting"
    reason: str | None = None
    quality: Sequence[QualityRecord] = ()
    training: Sequence[TrainingRecord] = ()


@dataclass(frozen=True, slots=True)
class SuiteState:
    """Contents of `suite.json`.

    Attributes:
        suite: the suite.
        published: the published numbers that its results are compared with.
        status: key of a member -> its status.
        reasons: key of a member -> why it is not complete, on one line.
    """

    suite: SuiteSpec
    published: PublishedSpec | None
    status: Mapping[str, MemberStatus] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every benchmark is complete."""
        return all(self.status.get(member) == "complete" for member in self.suite.members)

    def with_member(self, member: str, status: MemberStatus, reason: str | None) -> SuiteState:
        """The state with another status of one benchmark."""
        reasons = {key: text for key, text in self.reasons.items() if key != member}
        if reason is not None:
            reasons[member] = reason
        return SuiteState(self.suite, self.published, {**self.status, member: status}, reasons)


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
        return self.folder / "suite.json"

    def exists(self) -> bool:
        """Whether there is a suite in the folder."""
        try:
            return self.description_path.exists()
        except OSError:
            return False

    def member_folder(self, state: SuiteState, member: str) -> Path:
        """The run directory of a benchmark."""
        return self.folder / state.suite.member_name(member)

    def open(self, state: SuiteState, *, resume: bool) -> SuiteState:
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
        return SuiteState(state.suite, state.published, before.status, before.reasons)

    def read(self) -> SuiteState:
        """Read `suite.json`.

        Raises:
            UserError: if there is none, or it is not readable.
        """
        try:
            content = json.loads(self.description_path.read_text(encoding="utf-8"))
            members = content["members"]
            published = content["published"]
            return SuiteState(
                SuiteSpec.model_validate(content["suite"]),
                None if published is None else PublishedSpec.model_validate(published),
                {each["member"]: each["status"] for each in members},
                {each["member"]: each["reason"] for each in members if each["reason"]},
            )
        except FileNotFoundError as error:
            raise UserError(f"{self.folder} holds no suite: there is no suite.json.") from error
        except (OSError, ValueError, ValidationError, KeyError, TypeError) as error:
            problem = str(error).splitlines()[0]
            raise UserError(f"Cannot read {self.description_path}: {problem}.") from error

    def write(self, state: SuiteState, status: str, request: Mapping[str, Any]) -> None:
        """Write `suite.json`.

        Args:
            state: status of each benchmark.
            status: of the suite: "running", "complete" or "incomplete".
            request: the arguments of the run.
        """
        content = {
            "schema_version": DESCRIPTION_SCHEMA,
            "status": status,
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["oodbench", *sys.argv[1:]]),
            "oodbench": __version__,
            "request": dict(request),
            "members": [
                {
                    "member": member,
                    "name": state.suite.member_name(member),
                    "status": state.status.get(member, "waiting"),
                    "reason": state.reasons.get(member),
                }
                for member in state.suite.members
            ],
            "suite": state.suite.model_dump(mode="json"),
            "published": None
            if state.published is None
            else state.published.model_dump(mode="json"),
        }
        self.write_text("suite.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_text(self, name: str, content: str) -> None:
        """Write a file of the suite."""
        RunDirectory(self.folder).write_text(name, content)

    def member_records(self, state: SuiteState) -> list[MemberRecords]:
        """Records on disk of each benchmark, including those of benchmarks that have not ended."""
        found = []
        for member in state.suite.members:
            directory = RunDirectory(self.member_folder(state, member))
            found.append(
                MemberRecords(
                    member=member,
                    name=state.suite.member_name(member),
                    status=state.status.get(member, "waiting"),
                    reason=state.reasons.get(member),
                    quality=directory.read_records()[0],
                    training=directory.read_training(),
                )
            )
        return found
