"""Saying what is going on: a bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from oodbench.debugging import breakpoints


class Reporter(Protocol):
    """Takes what a run has to say while it works."""

    @contextmanager
    def work(self, total: int) -> Iterator[None]:
        """A piece of work of `total` stages."""
        ...

    def stage(self, text: str) -> None:
        """Say what is being done now."""
        ...

    def detail(self, text: str) -> None:
        """Say how far the present stage is."""
        ...

    def done(self, text: str) -> None:
        """Say that a stage ended, and with what."""
        ...

    def warn(self, text: str) -> None:
        """Say something the user should know."""
        ...


class Silent:
    """Says nothing; warnings go to `warnings.warn`."""

    @contextmanager
    def work(self, total: int) -> Iterator[None]:
        """A piece of work."""
        yield

    def stage(self, text: str) -> None:
        """Nothing."""

    def detail(self, text: str) -> None:
        """Nothing."""

    def done(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """A Python warning."""
        import warnings

        warnings.warn(text, stacklevel=3)


class PlainLines:
    """One line for each stage that ends, with the seconds since the start.

    A stage that takes long says now and then how far it is.
    """

    _PATIENCE = 30.0
    """Seconds without a line after which a detail is printed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = self._printed = time.monotonic()
        self._stage = ""

    @contextmanager
    def work(self, total: int) -> Iterator[None]:
        """A piece of work."""
        self._started = self._printed = time.monotonic()
        with breakpoints(lambda: None):
            yield

    def stage(self, text: str) -> None:
        """Nothing yet: a line is printed when the stage ends, or takes long."""
        self._stage = text

    def detail(self, text: str) -> None:
        """One line, if there was none for a while."""
        if time.monotonic() - self._printed >= self._PATIENCE:
            self._say(f"... {self._stage}: {text}")

    def done(self, text: str) -> None:
        """One line."""
        self._say(text)

    def _say(self, text: str) -> None:
        self._print(f"{time.monotonic() - self._started:6.1f} s  {text}")
        self._printed = time.monotonic()

    def warn(self, text: str) -> None:
        """One line that says it is a warning."""
        self._print(f"warning: {text}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bar:
    """A progress bar with the present stage beside it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
        )
        self._stage = ""
        self._plain: PlainLines | None = None  # what goes on when a debugger has been started

    @contextmanager
    def work(self, total: int) -> Iterator[None]:
        """Show the bar while it lasts."""
        with breakpoints(self._make_room), self._progress:
            self._task = self._progress.add_task("", total=total)
            try:
                yield
            finally:  # the next piece of work has a bar of its own
                self._progress.remove_task(self._task)

    def _make_room(self) -> None:
        """Take the bar off the terminal, for good: a debugger needs it."""
        if self._plain is None:
            self._progress.stop()
            self._plain = PlainLines(self._console)
            self._plain.stage(self._stage)

    def stage(self, text: str) -> None:
        """Show what is being done."""
        if self._plain is not None:
            self._plain.stage(text)
        self._stage = text
        self._progress.update(self._task, description=text)

    def detail(self, text: str) -> None:
        """Show how far it is."""
        if self._plain is not None:
            self._plain.detail(text)
        self._progress.update(self._task, description=f"{self._stage}: {text}")

    def done(self, text: str) -> None:
        """Move the bar."""
        if self._plain is not None:
            self._plain.done(text)
        self._progress.advance(self._task)

    def warn(self, text: str) -> None:
        """One line above the bar."""
        self._console.print(f"warning: {text}", markup=False, highlight=False, soft_wrap=True)


def reporter_for(console: Console) -> Reporter:
    """A bar on a terminal, plain lines elsewhere."""
    return Bar(console) if console.is_terminal else PlainLines(console)
