"""Downloading one file: from the first mirror that has it, in as many parts as it takes.

What has arrived is kept in `<name>.part`; the next attempt, or the next run, asks the server for
the rest. The file gets its name once its size and its checksum are right.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from oodbench.data.store.dataset_folders import PLACE
from oodbench.data.store.disk import disk_errors, file_digest
from oodbench.errors import UserError
from oodbench.specs import FileSpec

OFFLINE_VARIABLE = "OODBENCH_OFFLINE"

ATTEMPTS = 3
"""Attempts at one address that bring nothing, after which the next one is tried."""

MOST_ATTEMPTS = 100
"""Attempts at one address, whatever they bring: of a file of unknown size, a server may have no end
of something else."""

WAITS = (1.0, 3.0)
"""Seconds before the second and the third attempt."""

TIMEOUTS = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""

_PIECE = 1 << 16
"""Bytes that are taken from a connection at a time; when it breaks, what was begun is lost."""

_PROGRESS = 1 << 20
"""Bytes beyond the farthest point so far that make an attempt one that brought something."""

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP states that may be over in a moment."""


class _FailedError(Exception):
    """An attempt that failed; the message says why.

    Args:
        reason: why.
        again: whether the same address may do better in a moment.
    """

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def offline() -> bool:
    """Whether the user forbids to use the network: `OODBENCH_OFFLINE` is set and not 0."""
    return os.environ.get(OFFLINE_VARIABLE, "").lower() not in ("", "0", "false", "no")


def checksum_problem(path: Path, spec: FileSpec) -> str | None:
    """What is wrong with a file's size or checksum; None if nothing is."""
    size = path.stat().st_size
    if spec.size is not None and size != spec.size:
        return f"{size:,} bytes instead of {spec.size:,}"
    algorithm = "md5" if spec.sha256 is None else "sha256"
    wanted, found = spec.sha256 or spec.md5, file_digest(path, algorithm)
    return None if found == wanted else f"{algorithm} {found} instead of {wanted}"


def download(spec: FileSpec, folder: Path, dataset: str, say: Callable[[str], None]) -> Path:
    """Download a file into a folder.

    Args:
        spec: its name, addresses, checksum and, where it is known, size.
        folder: where to put it; must exist.
        dataset: name of the data set, for messages.
        say: takes how far it is.

    Returns:
        The path of the file, which is what the manifest describes.

    Raises:
        UserError: no address has it; the message says what happened at each, and where to put the
            file by hand. Or the disk is full. What has arrived is kept.
    """
    if offline():
        raise UserError(
            f"data set '{dataset}' needs {spec.name}, and {OFFLINE_VARIABLE} forbids to download "
            "it.",
            f"Unset {OFFLINE_VARIABLE}, or {by_hand(spec, folder)}",
        )
    failures: list[str] = []
    for url in spec.urls:
        try:
            return _Download(spec, url, folder, dataset, say).fetch()
        except _FailedError as error:
            failures.append(f"{url}: {error}")
    what = "; ".join(failures) or "the manifest knows no address of it"
    raise UserError(
        f"data set '{dataset}': cannot download {spec.name} ({_expected(spec)}): {what}.",
        f"Repeat the command to go on where it stopped, or {by_hand(spec, folder)}"
        if spec.urls
        else f"To go on, {by_hand(spec, folder)}",
    )


def by_hand(spec: FileSpec, folder: Path) -> str:
    """The end of a sentence that says how a file is put into its place by hand."""
    source = f"download {spec.urls[0]}" if spec.urls else f"get {spec.name}"
    return f"{source} by hand and put it into {folder} as {spec.name}."


def _expected(spec: FileSpec) -> str:
    checksum = f"md5 {spec.md5}" if spec.sha256 is None else f"sha256 {spec.sha256}"
    return checksum if spec.size is None else f"{spec.size:,} bytes, {checksum}"


class _Download:
    """A file from one address."""

    def __init__(
        self, spec: FileSpec, url: str, folder: Path, dataset: str, say: Callable[[str], None]
    ) -> None:
        self._spec, self._url, self._say = spec, url, say
        self._target = folder / spec.name
        self._part = folder / f"{spec.name}.part"
        self._label = f"downloading {dataset}: {spec.name} from {urlsplit(url).hostname}"

    def fetch(self) -> Path:
        """Get the file, with as many attempts as bring something."""
        if self._part.exists() and checksum_problem(self._part, self._spec) is None:
            return self._checked(resumed=False)  # killed between the last byte and the name
        attempts = fruitless = 0
        # Without ranges every attempt starts over, so that one which gets less far than another did
        # brings nothing, however much it sends.
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
        """Ask for what is missing, and append it."""
        import pooch
        from requests import RequestException

        have = self._have()
        if have == self._spec.size:
            return
        with disk_errors(self._part, PLACE), self._part.open("ab") as file:
            sink = _Sink(file, self._spec, lambda done, total: self._progress(done, total))
            # As it is stored: a length or a range of something compressed on the way means nothing.
            headers = {"Accept-Encoding": "identity"} | (
                {"Range": f"bytes={have}-"} if have else {}
            )
            get = pooch.HTTPDownloader(
                chunk_size=_PIECE, headers=headers, timeout=TIMEOUTS, hooks={"response": sink.begin}
            )
            try:
                get(self._url, sink, None)
            except RequestException as error:
                raise _failure(error, sink) from error
            finally:
                file.flush()
                os.fsync(file.fileno())
            sink.end()

    def _checked(self, *, resumed: bool) -> Path:
        """Give the file its name if it is what the manifest describes."""
        problem = checksum_problem(self._part, self._spec)
        if problem is None:
            with disk_errors(self._target, PLACE):
                self._part.replace(self._target)
            return self._target
        size = self._have()
        if self._spec.size is not None and size < self._spec.size:
            raise _FailedError(f"it sent {problem}", again=True)
        # More of it would not help. Parts of two different files may have been joined: begin anew.
        self._part.unlink()
        raise _FailedError(f"it sent {problem}", again=resumed)

    def _progress(self, done: int, total: int | None) -> None:
        share = f", {100 * done / total:.0f} % of {_megabytes(total)}" if total else ""
        self._say(f"{self._label}{share or f', {_megabytes(done)}'}")


class _Sink:
    """Takes the answer of a server: looks at its head, then counts and writes its body.

    Args:
        file: what has arrived before; open for appending.
        spec: what the file should be.
        progress: called with the bytes that have arrived and those of the whole file, if known.
    """

    def __init__(
        self, file: IO[bytes], spec: FileSpec, progress: Callable[[int, int | None], None]
    ) -> None:
        self._file, self._spec, self._progress = file, spec, progress
        self._done = file.tell()
        self._total = spec.size
        self._said = 0.0

    def begin(self, response: Any, *_: Any, **__: Any) -> None:
        """Called with the head of every answer, redirections too."""
        if not response.ok or response.is_redirect:
            return  # an error is raised for what is not ok; a redirection is followed
        about = response.headers
        if about.get("Content-Type", "").startswith("text/html"):
            raise _FailedError("it sent a web page instead of the file")
        if response.status_code != 206:
            self.start_over()
        elif not about.get("Content-Range", "").startswith(f"bytes {self._done}-"):
            self.start_over()
            raise _FailedError("it sent another part of the file than was asked for", again=True)
        length = about.get("Content-Length", "")
        if length.isdigit():
            announced = self._done + int(length)
            if self._spec.size not in (None, announced):
                raise _FailedError(
                    f"it has {announced:,} bytes there instead of {self._spec.size:,}"
                )
            self._total = announced

    def start_over(self) -> None:
        """The server sends the file from its start, whatever it was asked for."""
        self._file.truncate(0)
        self._done = 0

    def write(self, chunk: bytes) -> None:
        """Take a piece of the body."""
        self._done += len(chunk)
        if self._spec.size is not None and self._done > self._spec.size:
            self.start_over()
            raise _FailedError(f"it sent more than {self._spec.size:,} bytes")
        self._file.write(chunk)
        now = time.monotonic()
        if now - self._said > 0.3:
            self._said = now
            self._progress(self._done, self._total)

    def flush(self) -> None:
        """Nothing: pieces are large, and what has arrived is flushed at the end."""

    def end(self) -> None:
        """Called after the body: it may have ended early without an error."""
        if self._total is not None and self._done < self._total:
            raise _FailedError(self.stopped(), again=True)

    def stopped(self) -> str:
        """What to say of a body that ended early."""
        total = "" if self._total is None else f" of {self._total:,}"
        return f"it stopped after {self._done:,}{total} bytes"


def _failure(error: Exception, sink: _Sink) -> _FailedError:
    """What went wrong, in words."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        state = error.response.status_code
        if state == 416:  # what is there is not a beginning of the file there
            sink.start_over()
            return _FailedError("it has no more of the file than has arrived", again=True)
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
    """The words of the error at the bottom of a chain of them."""
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
