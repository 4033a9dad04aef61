"""Downloading one file from the first mirror that has it, with retries and resumption.

Received bytes are kept in `<name>.part`; the next attempt or the next run requests the rest, from
another mirror too. The file gets its name when its size and its checksum are right. If no checksum
is known, only the address that sent the first bytes is asked for the rest, and only if its file is
still the same by length and date: `<name>.part.from` has both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from oodbench.data.store import google_drive
from oodbench.data.store.checksums import (
    checksum_problem,
    record_first_fetch,
    record_path,
    with_line_feeds,
)
from oodbench.data.store.disk import disk_errors
from oodbench.data.store.http_response import FailedError, ResponseSink, failure_of, pieces
from oodbench.data.store.locations import PLACE
from oodbench.errors import UserError
from oodbench.progress import Reporter
from oodbench.specs import FileSpec

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
"""Bytes read at a time at most."""

_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz")
"""Ends of names of files that some servers call compressed on the way, which they are on disk."""

_PROGRESS = 1 << 20
"""Bytes that an attempt must get beyond the farthest point so far to count as progress."""

_UNREACHED_FOR = 180.0
"""Seconds in which a server that could not be reached is not asked again: other files have the same
server."""

_unreached: dict[str, tuple[float, str]] = {}
"""Host and port -> when it could not be reached, and why."""


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
        server = urlsplit(url).netloc
        since, reason = _unreached.get(server, (-_UNREACHED_FOR, ""))
        if time.monotonic() - since < _UNREACHED_FOR:
            failures.append(f"{url}: {reason}")
            continue
        try:
            return _Download(spec, url, folder, owner, say.detail).fetch()
        except FailedError as error:
            failures.append(f"{url}: {error}")
            reached = reached or error.reached
            if not error.reached:
                _unreached[server] = time.monotonic(), str(error)
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
            f"{record_path(folder / spec.name)} to accept the new one; results may differ then."
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
            except FailedError as error:
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
            sink = ResponseSink(file, self._spec, self._progress, self._is_same)
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
                        decode = not self._spec.name.endswith(_COMPRESSED)
                        for piece in pieces(response, _PIECE, decode=decode):
                            sink.write(piece)
            except google_drive.RefusedError as error:
                raise FailedError(str(error)) from error
            except (requests.RequestException, ValueError) as error:  # a redirect to no address
                raise failure_of(error, sink, max(TIMEOUTS)) from error
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
            raise FailedError(f"it sent {problem}", again=True)
        # More bytes would not help. The parts may be from two different files: start over.
        self._forget()
        raise FailedError(f"it sent {problem}", again=resumed)

    def _progress(self, done: int, total: int | None) -> None:
        share = f", {100 * done / total:.0f} % of {_megabytes(total)}" if total else ""
        self._say(f"{self._label}{share or f', {_megabytes(done)}'}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
