"""The progress of tasks in other processes: sent by each, shown by the process of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from oodbench.progress import Reporter


class SentProgress:
    """A reporter that sends everything to the process of the run.

    Args:
        send: takes a kind, "detail", "result" or "warn", and a text.
    """

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        self._send = send

    @contextmanager
    def work(self, total: int) -> Iterator[None]:
        """A piece of work."""
        yield

    def stage(self, text: str) -> None:
        """Send a detail."""
        self._send("detail", text)

    def detail(self, text: str) -> None:
        """Send a detail."""
        self._send("detail", text)

    def done(self, text: str) -> None:
        """Send a detail."""
        self._send("detail", text)

    def result(self, text: str) -> None:
        """Send a result."""
        self._send("result", text)

    def warn(self, text: str) -> None:
        """Send a warning."""
        self._send("warn", text)


class ShownProgress:
    """Shows what tasks send, with a line for each that runs.

    Args:
        say: reporter of the run.
    """

    def __init__(self, say: Reporter) -> None:
        self._say = say
        self._rows: dict[str, str] = {}

    def take(self, label: str, kind: str, text: str) -> None:
        """Show what the task of a label has sent."""
        if kind == "result":
            self._say.result(f"{label}: {text}")
        elif kind == "warn":
            self._say.warn(text)
        else:
            self.row(label, text)

    def row(self, label: str, text: str | None) -> None:
        """Show the progress of a task; None when it has ended."""
        if text is None:
            self._rows.pop(label, None)
        else:
            self._rows[label] = text
        self._say.detail("\n".join(": ".join(filter(None, row)) for row in self._rows.items()))
