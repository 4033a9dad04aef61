"""What the system does to the command: encodings, closed pipes, full disks, SIGTERM."""

from __future__ import annotations

import codecs
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from oodbench.errors import UserError

READABLE = "oodbench.readable"
"""Name of the error handler that writes ASCII for characters that an encoding lacks."""

_SUBSTITUTES = {
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{UPWARDS ARROW}": "^",
    "\N{DOWNWARDS ARROW}": "v",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{BOX DRAWINGS LIGHT HORIZONTAL}": "-",
    "\N{BOX DRAWINGS HEAVY HORIZONTAL}": "-",
    "\N{BOX DRAWINGS LIGHT VERTICAL}": "|",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
}


class ReaderLeft(BaseException):
    """The reader of standard output, such as `head`, has closed it.

    Not an `Exception`, so that no handler of failures catches it before `main`.
    """


def readable(text: str) -> str:
    """ASCII for each character: a similar sign, the letter without accents, or an escape.

    A byte of a file name that is not text (a lone surrogate in Python) becomes an escape of two
    hexadecimal digits.
    """
    return "".join(map(_readable, text))


def _readable(character: str) -> str:
    if character.isascii():
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    escaped = character.encode("ascii", "backslashreplace").decode()
    return _SUBSTITUTES.get(character) or plain or escaped


def _handle(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return readable(error.object[error.start : error.end]), error.end


codecs.register_error(READABLE, _handle)


class _Stream:
    """A text stream that turns failed writes into the errors that `main` expects.

    Args:
        stream: the stream to write to.
        matters: whether a failed write ends the command. On standard error it does not: a run goes
            on without its messages.
    """

    def __init__(self, stream: TextIO, *, matters: bool) -> None:
        self._stream, self._matters = stream, matters
        self._failure: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        """As the stream's."""
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        # Text left in the buffer would fail again when Python ends.
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
        if self._matters:
            self._failure = (
                ReaderLeft()
                if isinstance(error, BrokenPipeError)
                else UserError(
                    f"Cannot write to standard output: {error.strerror or error}.",
                    "What the command stored before is whole. Send the output elsewhere.",
                )
            )
            raise self._failure from error

    def finish(self) -> None:
        """Flush; raise a failure again that a caller has caught."""
        self.flush()
        if self._failure is not None:
            raise self._failure


def prepare_streams() -> None:
    """Let standard output and error of this process write any text.

    Characters that the encoding lacks are written as ASCII. On standard output, a closed pipe
    raises `ReaderLeft` and a full disk `UserError`; on standard error, both are ignored.
    """
    for name, matters in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, _Stream):  # closed, or prepared before
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=READABLE)
        setattr(sys, name, cast(TextIO, _Stream(stream, matters=matters)))


def finish_output() -> None:
    """Flush standard output while a failure can still be reported.

    Raises:
        ReaderLeft: the reader of standard output has closed it.
        UserError: writing failed.
    """
    if isinstance(sys.stdout, _Stream):
        sys.stdout.finish()


@contextmanager
def stopped_as_by_a_user() -> Iterator[None]:
    """SIGTERM, which schedulers and containers send, interrupts this process as Ctrl-C does, once.

    Not under torchrun, which ends its processes with SIGTERM when one of them has failed.
    """
    here, main = os.getpid(), threading.current_thread() is threading.main_thread()
    if not main or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        yield
        return

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process
        if os.getpid() == here:
            raise KeyboardInterrupt
        os.kill(os.getpid(), number)  # in a process that was forked from this one

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
