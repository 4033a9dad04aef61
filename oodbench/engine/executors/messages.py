"""Messages between the process of a run and its workers: pickles with their length, over pipes.

Both ends of a pipe are this program on this machine; nothing that is read from a file or a network
gets here.
"""

from __future__ import annotations

import pickle
import struct
import traceback
from typing import IO, Any

_LENGTH = struct.Struct("<Q")


def encoded(message: Any) -> bytes:
    """A message with its length.

    Raises:
        Exception: if it cannot be pickled.
    """
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


def portable(error: Exception) -> Exception:
    """An error that can be sent, with its traceback as a note."""
    trace = "".join(traceback.format_exception(error))
    try:
        encoded(error)
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"In a worker process:\n{trace}")
    return error


def received(pipe: IO[bytes]) -> bytearray:
    """The next message, to be given to `decoded`.

    Raises:
        EOFError: if the other end was closed, also in the middle of a message.
    """
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    return _exactly(pipe, length)


def decoded(content: bytearray) -> Any:
    """A message that was received. This may import modules, which takes seconds.

    Raises:
        Exception: if it cannot be unpickled here.
    """
    return pickle.loads(content)


def _exactly(pipe: IO[bytes], count: int) -> bytearray:
    content = bytearray()
    while len(content) < count:
        part = pipe.read(min(count - len(content), 2**20))
        if not part:
            raise EOFError
        content += part
    return content
