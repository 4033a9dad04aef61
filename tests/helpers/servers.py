"""A web server on the loopback that misbehaves on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behavior = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """Answers by path: with a behavior, else with the bytes of a file, else with 404.

    Attributes:
        files: content by path.
        behaviors: what to do instead, by path.
        requests: path and Range header of each request.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    behaviors: dict[str, Behavior] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [asked for _, asked in self.requests]


@contextmanager
def serving() -> Iterator[Server]:
    """A running server."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers.get("Range")))
            if self.path in state.behaviors:
                state.behaviors[self.path](self)
            elif self.path in state.files:
                send(self, state.files[self.path])
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(
    handler: BaseHTTPRequestHandler,
    content: bytes,
    *,
    upto: int | None = None,
    ranges: bool = True,
    length: bool = True,
    kind: str = "application/octet-stream",
) -> None:
    """Send a file, or the part of it that was asked for.

    Args:
        handler: of the request.
        content: the file.
        upto: bytes after which the connection is closed.
        ranges: whether parts can be asked for.
        length: whether the length is said.
        kind: the content type.
    """
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(asked[1]) if asked and ranges else 0
    if start >= len(content) and start:
        handler.send_error(416)
        return
    handler.send_response(206 if asked and ranges else 200)
    handler.send_header("Content-Type", kind)
    if length:
        handler.send_header("Content-Length", str(len(content) - start))
    if asked and ranges:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.end_headers()
    handler.wfile.write(content[start : len(content) if upto is None else upto])
    handler.close_connection = True


def refuse(state: int) -> Behavior:
    """Answer with an error."""
    return lambda handler: handler.send_error(state)


def redirect(to: str) -> Behavior:
    """Send elsewhere."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave
