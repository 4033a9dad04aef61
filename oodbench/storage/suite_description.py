"""The description of a run of a suite: contents of `suite.json`, read and written here alone."""

from __future__ import annotations

from typing import Any, Literal

from oodbench.specs import PublishedSpec, SuiteSpec
from oodbench.specs.spec_base import RunName
from oodbench.storage.description import Description, DescriptionPart
from oodbench.storage.run_description import RunStatus

NAME = "suite.json"

MemberStatus = Literal["waiting", "complete", "incomplete", "failed"]
"""Not ended; everything is there; something is missing; did not run."""


class DescribedMember(DescriptionPart):
    """A benchmark of the suite.

    Attributes:
        member: its key in the suite's members.
        name: its name in the suite, and the name of its run directory.
        status: its status.
        reason: why it is not complete, on one line; None if it is complete or waiting.
    """

    member: str
    name: RunName
    status: MemberStatus = "waiting"
    reason: str | None = None


class SuiteDescription(Description):
    """Contents of `suite.json`.

    Attributes:
        schema_version: version of this form.
        status: status of the suite.
        written: when the file was written, ISO 8601 in UTC; "" before the first time.
        command: the command line.
        oodbench: version of the package.
        request: arguments of the run.
        members: the benchmarks of the suite, in its order.
        suite: the suite.
        published: the published numbers that its results are compared with.
    """

    schema_version: Literal[1] = 1
    status: RunStatus = "running"
    written: str = ""
    command: str = ""
    oodbench: str = ""
    request: dict[str, Any] = {}
    members: list[DescribedMember]
    suite: SuiteSpec
    published: PublishedSpec | None = None

    @classmethod
    def of(
        cls, suite: SuiteSpec, published: PublishedSpec | None, request: dict[str, Any]
    ) -> SuiteDescription:
        """The description of a run before any benchmark has run."""
        members = [
            DescribedMember(member=member, name=suite.member_name(member))
            for member in suite.members
        ]
        return cls(request=request, members=members, suite=suite, published=published)

    @property
    def complete(self) -> bool:
        """Whether every benchmark is complete."""
        return all(each.status == "complete" for each in self.members)

    def status_of(self, member: str) -> MemberStatus:
        """The status of a benchmark."""
        return next(each.status for each in self.members if each.member == member)

    def with_member(
        self, member: str, status: MemberStatus, reason: str | None
    ) -> SuiteDescription:
        """The description with another status of one benchmark."""
        changed = [
            each.model_copy(update={"status": status, "reason": reason})
            if each.member == member
            else each
            for each in self.members
        ]
        return self.model_copy(update={"members": changed})
