"""Several runs as one grid: when each begins, what an error ends, and what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from oodbench.engine.executors.executor import Ended
from oodbench.engine.executors.in_process import InProcess
from oodbench.engine.runs.grid_run import run_together
from oodbench.progress import Reporter, Silent

LOG: list[str] = []


@pytest.fixture(autouse=True)
def log() -> list[str]:
    LOG.clear()
    return LOG


@dataclass(frozen=True)
class Step:
    """Notes that it ran; `bad` ones raise."""

    label: str
    files = ()

    def run(self, say: Reporter) -> str:
        LOG.append(self.label)
        if "bad" in self.label:
            raise ValueError(self.label)
        return self.label


@dataclass(eq=False)
class Member:
    name: str
    steps: Sequence[str] = ()
    fails_to: str = ""
    next: str = ""
    got: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    def begin(self, executor: Any) -> list[Step]:
        LOG.append(f"begin {self.name}")
        if self.fails_to == "begin":
            raise ValueError("begin")
        return [Step(f"{self.name}{step}") for step in self.steps]

    def take(self, ended: Ended[Any]) -> list[Any]:
        if self.fails_to == "take":
            raise ValueError("take")
        self.got.append(ended.result)
        new, self.next = self.next, ""
        return [Step(f"{self.name}{step}") for step in new]

    def end(self, error: Exception | None) -> None:
        LOG.append(f"end {self.name}")
        self.ends.append(str(error))


def executor(workers: int) -> InProcess[Any]:
    made: InProcess[Any] = InProcess(Silent())
    made.workers = workers
    return made


def test_one_worker_takes_them_one_after_the_other(log: list[str]) -> None:
    members = [Member("a", "12"), Member("b"), Member("c", "3")]
    run_together(members, executor(1), Silent())
    assert log == [
        *("begin a", "a1", "a2", "end a"),
        *("begin b", "end b"),
        *("begin c", "c3", "end c"),
    ]
    assert [each.got for each in members] == [["a1", "a2"], [], ["c3"]]
    assert [each.ends for each in members] == [["None"]] * 3


def test_a_run_begins_when_a_worker_would_be_free(log: list[str]) -> None:
    run_together([Member("a", "123"), Member("b", "45"), Member("c", "6")], executor(2), Silent())
    assert log == [
        *("begin a", "a1", "a2", "begin b", "a3", "end a", "b4", "begin c", "b5", "end b"),
        *("c6", "end c"),
    ]
    log.clear()
    run_together([Member("a", "1"), Member("b", "2"), Member("c", "3")], executor(2), Silent())
    assert log[:3] == ["begin a", "begin b", "a1"]


def test_an_error_ends_its_run_alone(log: list[str]) -> None:
    """Its waiting tasks are dropped, and those of the others are not."""
    a, b = Member("a", ["1", "bad", "2"]), Member("b", "34")
    c, d, e = Member("c", "5", "begin"), Member("d", "67", "take"), Member("e", "8")
    run_together([a, b, c, d, e], executor(4), Silent())
    assert [each.ends for each in (a, b, c, d, e)] == [
        *(["abad"], ["None"], ["begin"], ["take"], ["None"])
    ]
    assert [each.got for each in (a, b, c, d, e)] == [["a1"], ["b3", "b4"], [], [], ["e8"]]
    assert not {"a2", "c5", "d7"} & set(log)


class Ahead(InProcess[Any]):
    """Runs two tasks before it gives the first result, as two workers may."""

    def ended(self) -> Any:
        while self._waiting:
            tasks = [self._waiting.popleft() for _ in range(min(2, len(self._waiting)))]
            for task in tasks:
                try:
                    yield Ended(task, task.run(self._say))
                except ValueError as error:
                    yield Ended(task, None, error=error)


def test_what_runs_beside_an_error_is_stored(log: list[str]) -> None:
    a = Member("a", ["bad", "1", "2"], next="3")
    run_together([a], Ahead(Silent()), Silent())
    assert (a.got, a.ends) == (["a1"], ["abad"])
    assert log == ["begin a", "abad", "a1", "end a"]
