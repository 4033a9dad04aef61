"""The description of a run of a suite, as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import oodbench
from oodbench.errors import UserError
from oodbench.specs import SuiteSpec
from oodbench.storage.suite_description import SuiteDescription
from oodbench.storage.suite_directory import SuiteDirectory

SUITE: dict[str, Any] = {
    "schema_version": 1,
    "name": "two",
    "version": 3,
    "title": "Two",
    "summary": "A test",
    "members": {
        "one": {"network": "Net", "id": "One"},
        "other": {"network": "Net", "id": "Other"},
    },
}
EARLIER = {
    "schema_version": 1,
    "status": "incomplete",
    "written": "2026-11-20T12:00:00+00:00",
    "command": "oodbench run two",
    "oodbench": "0.1.0",
    "request": {"seeds": 3, "methods": None},
    "members": [
        {"member": "one", "name": "one", "status": "complete", "reason": None},
        {"member": "other", "name": "other", "status": "failed", "reason": "no data"},
    ],
    "suite": SUITE
    | {"ood": {}, "published": None, "tables": {}, "deviations": [], "tune": ["odin"]},
    "published": None,
}
"""As the first version wrote it."""


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "suite.json"
    path.write_text(json.dumps(EARLIER | changes))
    return path


def test_a_description_of_an_earlier_version_is_readable(tmp_path: Path) -> None:
    found = SuiteDescription.read(written(tmp_path))
    assert found.suite.tune == ("odin",)
    assert [each.status for each in found.members] == ["complete", "failed"]
    assert found.members[1].reason == "no data"
    assert not found.complete
    assert SuiteDescription.read(written(tmp_path, later="unknown")) == found


def test_what_is_written_is_read(tmp_path: Path) -> None:
    fresh = SuiteDescription.of(SuiteSpec.model_validate(SUITE), None, {"seeds": 2})
    assert [each.status for each in fresh.members] == ["waiting", "waiting"]
    state = fresh.with_member("one", "incomplete", "na\udcefve").with_member(
        "other", "complete", None
    )
    assert state.status_of("one") == "incomplete"
    assert state.members[0].reason == "na\udcefve"
    assert not state.complete
    assert state.with_member("one", "complete", None).complete
    directory = SuiteDirectory(tmp_path)
    directory.write(state, "incomplete")
    found = directory.read()
    assert found.status == "incomplete"
    assert found.written
    assert (found.members, found.suite, found.request) == (
        state.members,
        state.suite,
        {"seeds": 2},
    )


def test_a_run_is_continued_with_what_is_done(tmp_path: Path) -> None:
    folder, spec = tmp_path / "run", SuiteSpec.model_validate(SUITE)
    state = SuiteDescription.of(spec, None, {"seeds": 2})
    directory = SuiteDirectory(folder)
    assert directory.open(state, resume=False) is state
    directory.write(state.with_member("one", "complete", None), "incomplete")
    again = directory.open(SuiteDescription.of(spec, None, {"seeds": 3}), resume=True)
    assert [each.status for each in again.members] == ["complete", "waiting"]
    assert again.request == {"seeds": 3}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema_version": 2}, "schema_version: Input should be 1"),
        ({"suite": SUITE | {"version": 0}}, "suite.version: "),
        ({"members": [{"member": "one", "name": "one", "status": "done"}]}, "members.0.status: "),
        ({"members": [{"member": "one", "name": "../one"}]}, "members.0.name: "),
        ({"members": {}}, "members: "),
        ({"published": []}, "published: "),
    ],
)
def test_what_is_no_description_is_one_clear_error(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    written(tmp_path, **changes)
    with pytest.raises(UserError, match=rf"Cannot read .*suite\.json: {problem}") as raised:
        oodbench.open_run(tmp_path).report()
    assert len(raised.value.message.splitlines()) == 1
