"""What a server sends when it is asked for a file: checked, counted, written; and its failures."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING

from oodbench.data.store.checksums import is_web_page
from oodbench.specs import FileSpec

if TYPE_CHECKING:
    from requests import Response

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP status codes of temporary failures."""


SLOW = 120.0
"""Seconds in which `_LEAST` bytes must arrive."""

_LEAST = 1 << 16  # 64 kB


class FailedError(Exception):
    """A failed attempt.

    Args:
        reason: the message.
        again: whether another attempt at the same address may succeed.
        reached: whether the server was reached.
    """

    def __init__(self, reason: str, *, again: bool = False, reached: bool = True) -> None:
        super().__init__(reason)
        self.again, self.reached = again, reached


class ResponseSink:
    """Checks the headers of a server's response, then counts and writes its body.

    Args:
        file: the received bytes; open for appending.
        spec: the manifest's description of the file.
        progress: called with the number of received bytes, and of all bytes if known.
        is_same: called with length and date of the server's file, and whether it begins; False: it
            is another file than the one that was begun.
    """

    def __init__(
        self,
        file: IO[bytes],
        spec: FileSpec,
        progress: Callable[[int, int | None], None],
        is_same: Callable[..., bool],
    ) -> None:
        self._file, self._progress, self._is_same = file, progress, is_same
        # A text has up to twice as many bytes if its lines end with CRLF.
        self._size = None if spec.text else spec.size
        self._most = spec.size if spec.size is None or not spec.text else 2 * spec.size
        if self._most is None and spec.unpacked_limit is not None:
            # An archive is not much larger than its content.
            self._most = 2 * spec.unpacked_limit + _LEAST
        self._needs_length = not spec.checksum
        self._done = file.tell()
        self._total = self._size
        self._said = 0.0

    def begin(self, response: Response) -> None:
        """Check the headers of a successful response."""
        about = response.headers
        if about.get("Content-Type", "").startswith("text/html"):
            raise FailedError("it sent a web page instead of the file")
        if response.status_code != 206:
            self.start_over()
        elif not about.get("Content-Range", "").startswith(f"bytes {self._done}-"):
            self.start_over()
            raise FailedError("it sent another part of the file than requested", again=True)
        length = about.get("Content-Length", "")
        if length.isdigit():
            announced = self._done + int(length)
            if self._size not in (None, announced):
                raise FailedError(f"it has {announced:,} bytes there instead of {self._size:,}")
            if self._most is not None and announced > self._most:
                raise FailedError(f"it has {announced:,} bytes there, at most {self._most:,} fit")
            self._total = announced
        elif self._needs_length and about.get("Transfer-Encoding") != "chunked":
            raise FailedError(
                "it does not say the length of the file, and no checksum would reveal a missing end"
            )
        version = f"{self._total} bytes, {about.get('Last-Modified', 'no date')}"
        if not self._is_same(version, begins=self._done == 0):
            self.start_over()
            raise FailedError("its file has changed since the first part was received", again=True)

    def start_over(self) -> None:
        """Discard the received bytes: the server sends the file from its start."""
        self._file.truncate(0)
        self._done = 0

    def write(self, chunk: bytes) -> None:
        """Write a piece of the body."""
        if self._done == 0 and is_web_page(chunk):
            raise FailedError("it sent a web page instead of the file")
        self._done += len(chunk)
        if self._most is not None and self._done > self._most:
            self.start_over()
            raise FailedError(f"it sent more than {self._most:,} bytes")
        self._file.write(chunk)
        now = time.monotonic()
        if now - self._said > 0.3:
            self._said = now
            self._progress(self._done, self._total)

    def end(self) -> None:
        """Check that the body is complete: it may end early without an error."""
        if self._total is not None and self._done < self._total:
            raise FailedError(self.stopped(), again=True)

    def stopped(self) -> str:
        """Message about a body that ended early."""
        total = "" if self._total is None else f" of {self._total:,}"
        return f"it stopped after {self._done:,}{total} bytes"


def pieces(response: Response, most: int, *, decode: bool = True) -> Iterator[bytes]:
    """The body of a response as it arrives, in pieces of at most `most` bytes.

    Args:
        response: of a file that was asked for without compression.
        most: number of bytes.
        decode: whether it is decompressed if the server says that it is compressed.

    Raises:
        FailedError: it arrives too slowly.
        requests.RequestException: it ends early, is damaged, or nothing arrives any more.
    """
    since, received = time.monotonic(), 0
    for piece in _arriving(response, most, decode=decode):
        yield piece
        received += len(piece)
        if received >= _LEAST:
            since, received = time.monotonic(), 0
        elif time.monotonic() - since > SLOW:
            raise FailedError(f"it sends less than {_LEAST:,} bytes in {SLOW:.0f} s", again=True)


def _arriving(response: Response, most: int, *, decode: bool) -> Iterator[bytes]:
    """As `Response.iter_content`, which waits until a piece is whole, however slowly it comes."""
    import requests.exceptions as failures
    import urllib3.exceptions as below

    try:
        while piece := response.raw.read1(most, decode_content=decode):
            yield piece
    except below.ProtocolError as error:
        raise failures.ChunkedEncodingError(error) from error
    except below.DecodeError as error:
        raise failures.ContentDecodingError(error) from error
    except below.ReadTimeoutError as error:
        raise failures.ConnectionError(error) from error
    except below.SSLError as error:
        raise failures.SSLError(error) from error


def failure_of(error: Exception, sink: ResponseSink, timeout: float) -> FailedError:
    """The failure that an error of requests means; `timeout` in seconds."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        state = error.response.status_code
        if state == 416:  # the received bytes are not a part of the server's file
            sink.start_over()
            return FailedError("its file is not longer than the part received so far", again=True)
        reason = f"HTTP {state} {error.response.reason or ''}".strip()
        return FailedError(reason, again=state in _TRANSIENT)
    if isinstance(error, requests.TooManyRedirects):
        return FailedError("it redirects in a circle")
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        reached = not isinstance(error, requests.ConnectTimeout)
        return FailedError(f"no answer within {timeout:.0f} s", again=True, reached=reached)
    if isinstance(error, requests.exceptions.SSLError):
        return FailedError(f"no secure connection ({_root(error)})")
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return FailedError(sink.stopped(), again=True)
    if isinstance(error, requests.ConnectionError):
        return FailedError(f"no connection ({_root(error)})", again=True, reached=False)
    return FailedError(_root(error))


def _root(error: BaseException) -> str:
    """The message of the first error in a chain of errors."""
    below = error.__cause__ or error.__context__
    if below is None:
        below = next((part for part in error.args if isinstance(part, BaseException)), None)
        below = below or getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(below, BaseException) and below is not error:
        return _root(below)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or errno.errorcode.get(getattr(error, "errno", 0) or 0, type(error).__name__)
