"""Progress reporters: a bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from oodbench.debugging import breakpoints
from oodbench.errors import UserError, counted


@runtime_checkable
class Reporter(Protocol):
    """Reports the progress of a run."""

    @contextmanager
    def work(self, total: int) -> Iterator[None]:
        """A piece of work of `total` stages."""
        ...

    def stage(self, text: str) -> None:
        """A stage begins; `text` names it."""
        ...

    def detail(self, text: str) -> None:
        """Progress within the current stage; a line for each part of it that is done at once."""
        ...

    def done(self, text: str) -> None:
        """A stage has ended; `text` says how."""
        ...

    def result(self, text: str) -> None:
        """First results of a stage, which stay on the screen."""
        ...

    def warn(self, text: str) -> None:
        """A warning for the user."""
        ...


class Silent:
    """Prints nothing; warnings become Python warnings."""

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

    def result(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """A Python warning."""
        import warnings

        warnings.warn(text, stacklevel=3)


class Titled:
    """Reports the progress of one of several works that are done at once, as part of the whole.

    Args:
        say: reporter of all.
        title: name of this one; lines begin with it.
    """

    def __init__(self, say: Reporter, title: str) -> None:
        self._say, self._title = say, title

    @contextmanager
    def work(self, total: int) -> Iterator[None]:
        """Nothing: the whole is the piece of work."""
        yield

    def stage(self, text: str) -> None:
        """A stage with the title."""
        self._say.stage(f"{self._title}: {text}")

    def detail(self, text: str) -> None:
        """The detail: its stage has the title."""
        self._say.detail(text)

    def done(self, text: str) -> None:
        """An end of a stage with the title."""
        self._say.done(f"{self._title}: {text}")

    def result(self, text: str) -> None:
        """A result with the title."""
        self._say.result(f"{self._title}: {text}")

    def warn(self, text: str) -> None:
        """A warning with the title."""
        self._say.warn(f"{self._title}: {text}")


class PlainLines:
    """Lines with the seconds since the start.

    After nearly ten seconds without a line, a line with the current stage is printed.

    Args:
        console: where to print.
        every_stage: print a line for each stage that ends, however short.
    """

    _PATIENCE = 9.0
    """Longest time without a line, in seconds."""

    def __init__(self, console: Console, *, every_stage: bool = True) -> None:
        self._console, self._every_stage = console, every_stage
        self._started = self._printed = time.monotonic()
        self._stage = self._detail = ""

    @contextmanager
    def work(self, total: int) -> Iterator[None]:
        """A piece of work."""
        self._started = self._printed = time.monotonic()
        ended = threading.Event()
        reminder = threading.Thread(target=self._remind, args=(ended,), daemon=True)
        reminder.start()
        try:
            with breakpoints(ended.set):  # no line interrupts a debugger
                yield
        finally:
            ended.set()
            reminder.join()

    def _remind(self, ended: threading.Event) -> None:
        """Print the current stage after a time without a line, until the work ends."""
        while not ended.wait(max(0.01, self._printed + self._PATIENCE - time.monotonic())):
            if time.monotonic() - self._printed >= self._PATIENCE:
                for line in (self._detail or self._stage).splitlines():
                    parts = (self._stage, line) if self._detail else (line,)
                    self._say("... " + ": ".join(filter(None, parts)))

    def stage(self, text: str) -> None:
        """Remember the stage; a line is printed when it ends or takes long."""
        self._stage, self._detail = text, ""

    def detail(self, text: str) -> None:
        """Remember the progress; a line is printed if there was none for long."""
        self._detail = text

    def done(self, text: str) -> None:
        """One line, if `every_stage` is set."""
        if self._every_stage:
            self._say(text)

    def result(self, text: str) -> None:
        """One line, if `every_stage` is set."""
        self.done(text)

    def _say(self, text: str) -> None:
        self._printed = time.monotonic()
        self._print(f"{self._printed - self._started:6.1f} s  {text}")

    def warn(self, text: str) -> None:
        """One line that begins with "warning"."""
        self._print(f"warning: {text}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class OneLine:
    """One line that is overwritten, for notebooks; it is erased when the work ends."""

    _INTERVAL = 0.2
    """Shortest time between two updates, in seconds."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self._write = write
        self._stage = ""
        self._width, self._shown = 0, -self._INTERVAL
        self._total = self._ended = 0

    @contextmanager
    def work(self, total: int) -> Iterator[None]:
        """A piece of work."""
        self._total, self._ended = total, 0
        try:
            yield
        finally:
            self._write("\r" + " " * self._width + "\r")

    def stage(self, text: str) -> None:
        """Show the stage."""
        self._stage = text
        self._show(text)

    def detail(self, text: str) -> None:
        """Show the progress within the stage."""
        if time.monotonic() - self._shown >= self._INTERVAL:
            self._show(": ".join(filter(None, (self._stage, text.replace("\n", " | ")))))

    def done(self, text: str) -> None:
        """Count."""
        self._ended += 1

    def result(self, text: str) -> None:
        """Nothing: the line is overwritten anyway."""

    def warn(self, text: str) -> None:
        """One line that is not overwritten."""
        self._write("\r" + f"warning: {text}".ljust(self._width) + "\n")

    def _show(self, text: str) -> None:
        shown = f"[{self._ended}/{self._total}] {text}"
        self._write("\r" + shown.ljust(self._width))
        self._width, self._shown = len(shown), time.monotonic()


class _Elapsed(TimeElapsedColumn):
    """The time in the terminal's own color: yellow cannot be read on white."""

    def render(self, task: Task) -> Text:
        """The time as H:MM:SS."""
        return Text(super().render(task).plain)


class Bar:
    """A progress bar beside the current stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # On a narrow terminal, the text is cut, not the bar and the time.
        stage = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self._progress = Progress(
            SpinnerColumn("line"),
            BarColumn(bar_width=min(24, max(8, console.width // 8))),
            MofNCompleteColumn(),
            _Elapsed(),
            TextColumn("{task.description}", markup=False, table_column=stage),
            console=console,
            transient=True,
            expand=True,
        )
        self._stage = ""
        self._plain: PlainLines | None = None  # reports in its place once a debugger has started

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
        """Show the stage."""
        if self._plain is not None:
            self._plain.stage(text)
        self._stage = text
        self._progress.update(self._task, description=text)

    def detail(self, text: str) -> None:
        """Show the progress within the stage."""
        if self._plain is not None:
            self._plain.detail(text)
        description = ": ".join(filter(None, (self._stage, text)))
        self._progress.update(self._task, description=description)

    def done(self, text: str) -> None:
        """Move the bar."""
        if self._plain is not None:
            self._plain.done(text)
        self._progress.advance(self._task)

    def result(self, text: str) -> None:
        """A line above the bar, or more if the terminal is narrow."""
        self._console.print(text, markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """One line above the bar that begins with "warning"."""
        self.result(f"warning: {text}")


def reporter_for(console: Console) -> Reporter:
    """A bar on a terminal, plain lines elsewhere."""
    return Bar(console) if console.is_terminal else PlainLines(console)


ProgressArgument = Literal["auto"] | bool | Reporter
"""Values of the argument `progress`: see `reporter_of`."""


def reporter_of(progress: ProgressArgument) -> Reporter:
    """The reporter that the argument `progress` of a function asks for.

    Args:
        progress: "auto": a bar on a terminal, one line in a notebook; elsewhere, a line on standard
            error after nearly ten seconds without one, so that short work prints nothing. True: the
            same, with a line for each stage that ends. False: nothing. A reporter: itself.

    Raises:
        UserError: if it is none of these.
    """
    if progress is False:
        return Silent()
    if progress is True or (isinstance(progress, str) and progress == "auto"):
        console = Console(stderr=True)
        if console.is_jupyter:
            return OneLine(sys.stderr.write)
        if console.is_terminal:
            return Bar(console)
        return PlainLines(console, every_stage=progress is True)
    if not isinstance(progress, Reporter):
        raise UserError(
            f"progress: expected 'auto', True, False or a reporter, not {progress!r}.",
            "A reporter has the methods of oodbench.progress.Reporter.",
        )
    return progress


class Meter:
    """Progress of a pass over images, with its rate and the time left.

    Args:
        say: called with a line, ten times a second at most.
        what: name of the pass.
        total: number of images; None if unknown.
    """

    _INTERVAL = 0.1

    def __init__(self, say: Callable[[str], None], what: str, total: int | None) -> None:
        self.what = what
        self._say, self._total = say, total
        self._done = 0
        self._started = time.monotonic()
        self._next = self._started + self._INTERVAL

    def add(self, images: int) -> None:
        """Count images that are done."""
        self._done += images
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._INTERVAL
            self._say(self.text(now - self._started))

    def text(self, seconds: float) -> str:
        """The line after a time in seconds."""
        if self._total is None:
            parts = [counted(self._done, "image")]
        else:
            parts = [f"{self._done:,} of {counted(self._total, 'image')}"]
        rate = self._done / seconds if seconds > 0 else 0.0
        if rate > 0:
            parts.append(f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.2g} images/s")
            if self._total is not None:
                parts.append(f"{_clock((self._total - self._done) / rate)} left")
        return f"{self.what}: {', '.join(parts)}"


def _clock(seconds: float) -> str:
    """Minutes and seconds, with hours if needed."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
