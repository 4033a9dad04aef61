"""Standard output and error of the command: any encoding, a reader that leaves, a full disk."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from pathlib import Path
from typing import Any, TextIO, cast

from oodbench.errors import UserError

READABLE = "oodbench.readable"
"""Name of the error handler that puts ASCII in the place of what an encoding lacks."""

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
    """Whoever reads standard output, such as `head`, has closed it.

    Not an `Exception`: nothing on the way to `main` takes it for a failure of its own.
    """


def readable(text: str) -> str:
    """ASCII for each character: a sign that resembles it, its letter without accents, or an escape.

    A byte of a file name that is not text, which Python holds as a lone surrogate, is written as
    a backslash, x and its two hexadecimal digits.
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
    """A text stream whose failures end the command as they should.

    Args:
        stream: where text goes.
        matters: whether a failure to write is the command's. Progress and messages that nobody can
            read do not stop a run.
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
        # What the stream still holds would fail again when Python ends.
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
        """Write what is left; raise what a caller has swallowed."""
        self.flush()
        if self._failure is not None:
            raise self._failure


def prepare_streams() -> None:
    """Make standard output and error of this process write whatever they are given.

    What an encoding lacks is written as ASCII. A reader that leaves raises `ReaderLeft`, a disk
    that is full `UserError`; on standard error, both are ignored.
    """
    for name, matters in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, _Stream):  # closed, or prepared before
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=READABLE)
        setattr(sys, name, cast(TextIO, _Stream(stream, matters=matters)))


def finish_output() -> None:
    """Write what standard output still holds: a failure can be reported now, and not later.

    Raises:
        ReaderLeft: whoever reads standard output has closed it.
        UserError: it cannot be written.
    """
    if isinstance(sys.stdout, _Stream):
        sys.stdout.finish()
