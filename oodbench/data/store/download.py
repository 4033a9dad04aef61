"""Downloading one file from the first mirror that has it, with retries and resumption.

Received bytes are kept in `<name>.part`; the next attempt or the next run requests the rest, from
another mirror too. The file gets its name when its size and its checksum are right. If no checksum
is known, only the address that sent the first bytes is asked for the rest, and only if its file is
still the same by length and date: `<name>.part.from` has both.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from oodbench.data.store import google_drive
from oodbench.data.store.checksums import (
    checksum_problem,
    is_web_page,
    record_first_fetch,
    record_path,
    with_line_feeds,
)
from oodbench.data.store.disk import disk_errors
from oodbench.data.store.locations import PLACE
from oodbench.errors import UserError
from oodbench.progress import Reporter
from oodbench.specs import FileSpec

if TYPE_CHECKING:
    from requests import Response

OFFLINE_VARIABLE = "OODBENCH_OFFLINE"

ATTEMPTS = 3
"""Attempts without progress at one address, after which the next address is tried."""

MOST_ATTEMPTS = 100
"""Maximum number of attempts at one address, with or without progress: if the size is unknown, a
server may send other content without end."""

WAITS = (1.0, 3.0)
"""Seconds before the second and the third attempt."""

TIMEOUTS = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""

_PIECE = 1 << 16
"""Bytes read at a time; if the connection breaks, the incomplete piece is lost."""

_PROGRESS = 1 << 20
"""Bytes that an attempt must get beyond the farthest point so far to count as progress."""

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP status codes of temporary failures."""


class _FailedError(Exception):
    """A failed attempt.

    Args:
        reason: the message.
        again: whether another attempt at the same address may succeed.
        reached: whether the server was reached.
    """

    def __init__(self, reason: str, *, again: bool = False, reached: bool = True) -> None:
        super().__init__(reason)
        self.again, self.reached = again, reached


class OfflineError(UserError):
    """A file is missing and no server can be reached, or downloads are forbidden."""


def offline() -> bool:
    """Whether the user forbids downloads: `OODBENCH_OFFLINE` is set and not 0, false or no."""
    return os.environ.get(OFFLINE_VARIABLE, "").lower() not in ("", "0", "false", "no")


def download(
    spec: FileSpec, folder: Path, owner: str, say: Reporter, noun: str = "data set"
) -> Path:
    """Download a file into a folder.

    Args:
        spec: name, addresses, size and checksum of the file, as far as they are known.
        folder: the folder for the file; must exist.
        owner: name of the data set or checkpoint, for messages.
        say: progress reporter; warns when another mirror is tried.
        noun: what the owner is.

    Returns:
        The path of the file, which has the right size and checksum. If the checksum was not known,
        it is recorded beside the file.

    Raises:
        OfflineError: downloads are forbidden, or no address can be reached.
        UserError: no address has the file (the message gives the reason for each, and where the
            user can put the file), or the disk is full. Received bytes are kept.
    """
    if offline():
        raise OfflineError(
            f"{noun} '{owner}' needs {spec.name}, and {OFFLINE_VARIABLE} forbids downloads.",
            f"Unset {OFFLINE_VARIABLE}, or {by_hand(spec, folder)}",
        )
    failures: list[str] = []
    reached = False
    for url in spec.urls:
        if failures:
            say.warn(f"{noun} '{owner}': {spec.name}: {failures[-1]}; trying {url}")
        try:
            return _Download(spec, url, folder, owner, say.detail).fetch()
        except _FailedError as error:
            failures.append(f"{url}: {error}")
            reached = reached or error.reached
    what = "; ".join(failures) or "the manifest knows no address of it"
    message = f"{noun} '{owner}': cannot download {spec.name} ({_expected(spec)}): {what}."
    if not failures:
        raise UserError(message, f"To continue, {by_hand(spec, folder)}")
    hint = f"Repeat the command to resume the download, or {by_hand(spec, folder)}"
    if not reached:
        raise OfflineError(message, hint)
    if spec.unverified is not None and spec.checksum:
        hint += (
            " If the file was replaced by its publisher, delete "
            f"{record_path(folder / spec.name)} to accept the new one; results with both differ."
        )
    raise UserError(message, hint)


def by_hand(spec: FileSpec, folder: Path) -> str:
    """End of a sentence that tells the user how to provide a file."""
    source = f"download {spec.urls[0]}" if spec.urls else f"get {spec.name}"
    return f"{source} by hand and put it into {folder} as {spec.name}."


def _expected(spec: FileSpec) -> str:
    size = "" if spec.size is None else f"{spec.size:,} bytes, "
    if not spec.checksum:
        return f"{size}no published checksum"
    return f"{size}{'md5' if spec.sha256 is None else 'sha256'} {spec.checksum}"


class _Download:
    """A file from one address."""

    def __init__(
        self, spec: FileSpec, url: str, folder: Path, owner: str, say: Callable[[str], None]
    ) -> None:
        self._spec, self._url, self._say = spec, url, say
        self._target = folder / spec.name
        self._part = folder / f"{spec.name}.part"
        self._origin = folder / f"{spec.name}.part.from"
        self._label = f"downloading {owner}: {spec.name} from {urlsplit(url).hostname}"

    def fetch(self) -> Path:
        """Download the file; repeat attempts as long as they make progress."""
        if not self._spec.checksum and self._begun_at() != self._url:
            self._forget()
        if self._part.exists() and self._spec.checksum and not self._problem():
            return self._checked(resumed=False)  # killed between the last byte and renaming
        attempts = fruitless = 0
        # Without ranges, every attempt starts over: it makes progress only if it gets farther than
        # all attempts before.
        farthest = self._have()
        while True:
            before = self._have()
            attempts += 1
            try:
                self._attempt()
                return self._checked(resumed=before > 0)
            except _FailedError as error:
                have = self._have()
                if have == 0:
                    self._forget()
                fruitless += 1
                if have >= farthest + _PROGRESS:
                    farthest, fruitless = have, 0
                if not error.again or fruitless >= ATTEMPTS or attempts >= MOST_ATTEMPTS:
                    raise
                time.sleep(WAITS[min(fruitless, len(WAITS)) - 1] if fruitless else 0)

    def _problem(self) -> str | None:
        return checksum_problem(self._part, self._spec)

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _forget(self) -> None:
        """Remove the received bytes."""
        self._part.unlink(missing_ok=True)
        self._origin.unlink(missing_ok=True)

    def _begun_at(self) -> str:
        """The address that the received bytes are from; empty if unknown."""
        if not self._part.exists() or not self._origin.is_file():
            return ""
        return self._origin.read_text("utf-8").partition("\n")[0]

    def _attempt(self) -> None:
        """Request the missing bytes and append them."""
        import requests

        if self._spec.text:  # mirrors may have other line ends
            self._part.unlink(missing_ok=True)
        have = self._have()
        if have and have == self._spec.size:
            return
        with disk_errors(self._part, PLACE), self._part.open("ab") as file:
            sink = _Sink(file, self._spec, self._progress, self._is_same)
            # Without compression: lengths and ranges are those of the stored file.
            headers = {"Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            try:
                with requests.Session() as session:
                    address = google_drive.confirmed(session, self._url, TIMEOUTS)
                    with session.get(
                        address, headers=headers, timeout=TIMEOUTS, stream=True
                    ) as response:
                        google_drive.check(self._url, response)
                        response.raise_for_status()
                        sink.begin(response)
                        for chunk in response.iter_content(_PIECE):
                            sink.write(chunk)
            except google_drive.RefusedError as error:
                raise _FailedError(str(error)) from error
            except requests.RequestException as error:
                raise _failure(error, sink) from error
            finally:
                file.flush()
                os.fsync(file.fileno())
            sink.end()

    def _is_same(self, version: str, *, begins: bool) -> bool:
        """Whether the server's file is the one that was begun; the file that begins is noted."""
        if self._spec.checksum:
            return True
        note = f"{self._url}\n{version}\n"
        if begins:
            self._origin.write_text(note, "utf-8")
        return self._origin.read_text("utf-8") == note

    def _checked(self, *, resumed: bool) -> Path:
        """Rename the file if its size and checksum are right."""
        problem = self._problem()
        if problem is None:
            with disk_errors(self._target, PLACE):
                if self._spec.text:
                    self._part.write_bytes(with_line_feeds(self._part.read_bytes()))
                if self._spec.unverified is not None:
                    record_first_fetch(self._target, self._url, content=self._part)
                self._origin.unlink(missing_ok=True)
                self._part.replace(self._target)
            return self._target
        size = self._have()
        if self._spec.size is not None and size < self._spec.size and not self._spec.text:
            raise _FailedError(f"it sent {problem}", again=True)
        # More bytes would not help. The parts may be from two different files: start over.
        self._forget()
        raise _FailedError(f"it sent {problem}", again=resumed)

    def _progress(self, done: int, total: int | None) -> None:
        share = f", {100 * done / total:.0f} % of {_megabytes(total)}" if total else ""
        self._say(f"{self._label}{share or f', {_megabytes(done)}'}")


class _Sink:
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
        self._needs_length = not spec.checksum
        self._done = file.tell()
        self._total = self._size
        self._said = 0.0

    def begin(self, response: Response) -> None:
        """Check the headers of a successful response."""
        about = response.headers
        if about.get("Content-Type", "").startswith("text/html"):
            raise _FailedError("it sent a web page instead of the file")
        if response.status_code != 206:
            self.start_over()
        elif not about.get("Content-Range", "").startswith(f"bytes {self._done}-"):
            self.start_over()
            raise _FailedError("it sent another part of the file than requested", again=True)
        length = about.get("Content-Length", "")
        if length.isdigit():
            announced = self._done + int(length)
            if self._size not in (None, announced):
                raise _FailedError(f"it has {announced:,} bytes there instead of {self._size:,}")
            self._total = announced
        elif self._needs_length and about.get("Transfer-Encoding") != "chunked":
            raise _FailedError(
                "it does not say the length of the file, and no checksum would reveal a missing end"
            )
        version = f"{self._total} bytes, {about.get('Last-Modified', 'no date')}"
        if not self._is_same(version, begins=self._done == 0):
            self.start_over()
            raise _FailedError("its file has changed since the first part was received", again=True)

    def start_over(self) -> None:
        """Discard the received bytes: the server sends the file from its start."""
        self._file.truncate(0)
        self._done = 0

    def write(self, chunk: bytes) -> None:
        """Write a piece of the body."""
        if self._done == 0 and is_web_page(chunk):
            raise _FailedError("it sent a web page instead of the file")
        self._done += len(chunk)
        if self._most is not None and self._done > self._most:
            self.start_over()
            raise _FailedError(f"it sent more than {self._most:,} bytes")
        self._file.write(chunk)
        now = time.monotonic()
        if now - self._said > 0.3:
            self._said = now
            self._progress(self._done, self._total)

    def end(self) -> None:
        """Check that the body is complete: it may end early without an error."""
        if self._total is not None and self._done < self._total:
            raise _FailedError(self.stopped(), again=True)

    def stopped(self) -> str:
        """Message about a body that ended early."""
        total = "" if self._total is None else f" of {self._total:,}"
        return f"it stopped after {self._done:,}{total} bytes"


def _failure(error: Exception, sink: _Sink) -> _FailedError:
    """The failure that an error of requests means."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        state = error.response.status_code
        if state == 416:  # the received bytes are not a part of the server's file
            sink.start_over()
            return _FailedError("its file is not longer than the part received so far", again=True)
        reason = f"HTTP {state} {error.response.reason or ''}".strip()
        return _FailedError(reason, again=state in _TRANSIENT)
    if isinstance(error, requests.TooManyRedirects):
        return _FailedError("it redirects in a circle")
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        reached = not isinstance(error, requests.ConnectTimeout)
        return _FailedError(f"no answer within {max(TIMEOUTS):.0f} s", again=True, reached=reached)
    if isinstance(error, requests.exceptions.SSLError):
        return _FailedError(f"no secure connection ({_root(error)})")
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return _FailedError(sink.stopped(), again=True)
    if isinstance(error, requests.ConnectionError):
        return _FailedError(f"no connection ({_root(error)})", again=True, reached=False)
    return _FailedError(_root(error))


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


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
