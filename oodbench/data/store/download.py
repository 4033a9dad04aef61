"""Downloading one file from the first mirror that has it, with retries and resumption.

Received bytes are kept in `<name>.part`; the next attempt or the next run requests the rest. The
file gets its name when its size and its checksum are right.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from oodbench.data.store.disk import disk_errors, file_digest
from oodbench.data.store.locations import PLACE
from oodbench.errors import UserError
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
    """

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def offline() -> bool:
    """Whether the user forbids downloads: `OODBENCH_OFFLINE` is set and not 0, false or no."""
    return os.environ.get(OFFLINE_VARIABLE, "").lower() not in ("", "0", "false", "no")


def checksum_problem(path: Path, spec: FileSpec) -> str | None:
    """What is wrong with a file's size or checksum; None if both are right."""
    size = path.stat().st_size
    if spec.size is not None and size != spec.size:
        return f"{size:,} bytes instead of {spec.size:,}"
    algorithm = "md5" if spec.sha256 is None else "sha256"
    wanted, found = spec.sha256 or spec.md5, file_digest(path, algorithm)
    return None if found == wanted else f"{algorithm} {found} instead of {wanted}"


def download(
    spec: FileSpec,
    folder: Path,
    owner: str,
    say: Callable[[str], None],
    noun: str = "data set",
) -> Path:
    """Download a file into a folder.

    Args:
        spec: name, addresses, checksum and, if known, size of the file.
        folder: the folder for the file; must exist.
        owner: name of the data set or checkpoint, for messages.
        say: called with progress messages.
        noun: what the owner is.

    Returns:
        The path of the file, which has the manifest's size and checksum.

    Raises:
        UserError: no address has the file (the message gives the reason for each, and where the
            user can put the file), or the disk is full. Received bytes are kept.
    """
    if offline():
        raise UserError(
            f"{noun} '{owner}' needs {spec.name}, and {OFFLINE_VARIABLE} forbids downloads.",
            f"Unset {OFFLINE_VARIABLE}, or {by_hand(spec, folder)}",
        )
    failures: list[str] = []
    for url in spec.urls:
        try:
            return _Download(spec, url, folder, owner, say).fetch()
        except _FailedError as error:
            failures.append(f"{url}: {error}")
    what = "; ".join(failures) or "the manifest knows no address of it"
    raise UserError(
        f"{noun} '{owner}': cannot download {spec.name} ({_expected(spec)}): {what}.",
        f"Repeat the command to resume the download, or {by_hand(spec, folder)}"
        if spec.urls
        else f"To continue, {by_hand(spec, folder)}",
    )


def by_hand(spec: FileSpec, folder: Path) -> str:
    """End of a sentence that tells the user how to provide a file."""
    source = f"download {spec.urls[0]}" if spec.urls else f"get {spec.name}"
    return f"{source} by hand and put it into {folder} as {spec.name}."


def _expected(spec: FileSpec) -> str:
    checksum = f"md5 {spec.md5}" if spec.sha256 is None else f"sha256 {spec.sha256}"
    return checksum if spec.size is None else f"{spec.size:,} bytes, {checksum}"


class _Download:
    """A file from one address."""

    def __init__(
        self, spec: FileSpec, url: str, folder: Path, owner: str, say: Callable[[str], None]
    ) -> None:
        self._spec, self._url, self._say = spec, url, say
        self._target = folder / spec.name
        self._part = folder / f"{spec.name}.part"
        self._label = f"downloading {owner}: {spec.name} from {urlsplit(url).hostname}"

    def fetch(self) -> Path:
        """Download the file; repeat attempts as long as they make progress."""
        if self._part.exists() and checksum_problem(self._part, self._spec) is None:
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
                    self._part.unlink(missing_ok=True)
                fruitless += 1
                if have >= farthest + _PROGRESS:
                    farthest, fruitless = have, 0
                if not error.again or fruitless >= ATTEMPTS or attempts >= MOST_ATTEMPTS:
                    raise
                time.sleep(WAITS[min(fruitless, len(WAITS)) - 1] if fruitless else 0)

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _attempt(self) -> None:
        """Request the missing bytes and append them."""
        import requests

        have = self._have()
        if have == self._spec.size:
            return
        with disk_errors(self._part, PLACE), self._part.open("ab") as file:
            sink = _Sink(file, self._spec, self._progress)
            # Without compression: lengths and ranges are those of the stored file.
            headers = {"Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            try:
                with requests.get(
                    self._url, headers=headers, timeout=TIMEOUTS, stream=True
                ) as response:
                    response.raise_for_status()
                    sink.begin(response)
                    for chunk in response.iter_content(_PIECE):
                        sink.write(chunk)
            except requests.RequestException as error:
                raise _failure(error, sink) from error
            finally:
                file.flush()
                os.fsync(file.fileno())
            sink.end()

    def _checked(self, *, resumed: bool) -> Path:
        """Rename the file if its size and checksum are right."""
        problem = checksum_problem(self._part, self._spec)
        if problem is None:
            with disk_errors(self._target, PLACE):
                self._part.replace(self._target)
            return self._target
        size = self._have()
        if self._spec.size is not None and size < self._spec.size:
            raise _FailedError(f"it sent {problem}", again=True)
        # More bytes would not help. The parts may be from two different files: start over.
        self._part.unlink()
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
    """

    def __init__(
        self, file: IO[bytes], spec: FileSpec, progress: Callable[[int, int | None], None]
    ) -> None:
        self._file, self._spec, self._progress = file, spec, progress
        self._done = file.tell()
        self._total = spec.size
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
            if self._spec.size not in (None, announced):
                raise _FailedError(
                    f"it has {announced:,} bytes there instead of {self._spec.size:,}"
                )
            self._total = announced

    def start_over(self) -> None:
        """Discard the received bytes: the server sends the file from its start."""
        self._file.truncate(0)
        self._done = 0

    def write(self, chunk: bytes) -> None:
        """Write a piece of the body."""
        self._done += len(chunk)
        if self._spec.size is not None and self._done > self._spec.size:
            self.start_over()
            raise _FailedError(f"it sent more than {self._spec.size:,} bytes")
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
        return _FailedError(f"no answer within {max(TIMEOUTS):.0f} s", again=True)
    if isinstance(error, requests.exceptions.SSLError):
        return _FailedError(f"no secure connection ({_root(error)})")
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return _FailedError(sink.stopped(), again=True)
    if isinstance(error, requests.ConnectionError):
        return _FailedError(f"no connection ({_root(error)})", again=True)
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
