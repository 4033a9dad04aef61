"""Files from web servers that misbehave; run as a program, this is such a server.

    python scripts/robustness/hostile_inputs/servers.py

prints its port. It answers by the path, as `BEHAVIORS` says.
"""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from robustness.hostile_inputs.trial import Place, Trial, manifest, sha256

Behavior = Callable[[BaseHTTPRequestHandler], None]
CONTENT = bytes(range(256)) * 1000
PIECE = bytes(1 << 16)


def answer(
    handler: BaseHTTPRequestHandler, state: int = 200, content: bytes = CONTENT, **headers: Any
) -> None:
    """Send headers and a body; a length only if it is given."""
    handler.send_response(state)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(content)
    handler.close_connection = True


def endless(handler: BaseHTTPRequestHandler, **headers: Any) -> None:
    """A body without an end; `Transfer_Encoding="chunked"` says so."""
    chunked = "Transfer_Encoding" in headers
    answer(handler, content=b"", **headers)
    while True:
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(PIECE), PIECE) if chunked else PIECE)


def drip(handler: BaseHTTPRequestHandler, **headers: Any) -> None:
    """A byte every tenth of a second."""
    answer(handler, content=b"", **headers)
    for byte in CONTENT:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.1)


def silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(60)


def stalls(handler: BaseHTTPRequestHandler) -> None:
    answer(handler, content=CONTENT[:1000], Content_Length=len(CONTENT))
    time.sleep(60)


def redirects(to: str, handler: BaseHTTPRequestHandler) -> None:
    answer(handler, 302, b"", Location=to, Content_Length=0)


def longer_and_longer(handler: BaseHTTPRequestHandler) -> None:
    redirects(handler.path + "x", handler)


def range_lies(
    handler: BaseHTTPRequestHandler, *, start: int = 0, total: int = len(CONTENT), state: int = 206
) -> None:
    """Half of the file at first; then a part that was not asked for."""
    if handler.headers.get("Range") is None:
        answer(handler, content=CONTENT[: 1 << 17], Content_Length=len(CONTENT))
        return
    part = CONTENT[: len(CONTENT) - (1 << 17)]
    about = f"bytes {start}-{start + len(part) - 1}/{total}"
    answer(handler, state, part, Content_Length=len(part), Content_Range=about)


def raw(content: bytes, handler: BaseHTTPRequestHandler) -> None:
    """Bytes that need be no HTTP."""
    handler.wfile.write(content)
    handler.close_connection = True


def headers_without_end(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X: " + PIECE[:1000].replace(b"\0", b"x") + b"\r\n")


BOMB = gzip.compress(bytes(300 << 20), 9)
WHOLE = {"Content_Length": len(CONTENT)}

BEHAVIORS: dict[str, Behavior] = {
    "endless": endless,
    "endless, chunked": partial(endless, Transfer_Encoding="chunked"),
    "endless, says its length": partial(endless, Content_Length=1 << 60),
    "slow": partial(drip, **WHOLE),
    "slow, no length": drip,
    "silent": silent,
    "stalls": stalls,
    "redirects to itself": lambda handler: redirects(handler.path, handler),
    "redirects to longer addresses": longer_and_longer,
    "redirects to a file": partial(redirects, "file:///etc/passwd"),
    "redirects to ftp": partial(redirects, "ftp://127.0.0.1:1/x"),
    "redirects to data": partial(redirects, "data:text/plain,hello"),
    "redirects to a port where nobody is": partial(redirects, "http://127.0.0.1:1/x"),
    "redirects to no address": partial(redirects, "http://[::bad/"),
    "redirects to a name of a megabyte": partial(redirects, "http://" + "a" * 60_000),
    "other content": partial(answer, content=CONTENT[::-1], **WHOLE),
    "shorter": partial(answer, content=CONTENT[:100], Content_Length=100),
    "ends early": partial(answer, content=CONTENT[:1000], **WHOLE),
    "longer than it says": partial(answer, content=CONTENT * 2, **WHOLE),
    "length of -1": partial(answer, Content_Length=-1),
    "length that is none": partial(answer, Content_Length="many"),
    "two lengths": partial(answer, Content_Length=f"{len(CONTENT)}, 5"),
    "web page": partial(answer, content=b"<!doctype html>hello", Content_Type="text/html"),
    "web page as bytes": partial(answer, content=b"\n <HTML>" + bytes(1000)),
    "gzip bomb": partial(answer, content=BOMB, Content_Encoding="gzip"),
    "gzip in gzip": partial(
        answer, content=gzip.compress(BOMB), Content_Encoding="gzip, gzip, gzip, gzip"
    ),
    "encoding that is none": partial(answer, Content_Encoding="gzip", **WHOLE),
    "chunk of -1 bytes": partial(
        raw, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n"
    ),
    "chunk of 2**60 bytes": partial(
        raw, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000000000000000\r\nx"
    ),
    "no HTTP": partial(raw, b"hello\r\n" * 1000),
    "header of a megabyte": partial(raw, b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20)),
    "headers without an end": headers_without_end,
    "status 999": partial(answer, state=999),
    "status 204": partial(answer, state=204, content=b""),
    "status 500 for ever": partial(answer, state=500, content=b"", Content_Length=0),
    "too many requests": partial(answer, state=429, content=b"", Retry_After=10**9),
    "closes at once": partial(raw, b""),
    "range: the start again": range_lies,
    "range: says the part, sends the start": partial(range_lies, start=1 << 17),
    "range: another total": partial(range_lies, start=1 << 17, total=10**12),
    "range: no such part": partial(range_lies, state=416),
}


def _fetched(name: str, about: dict[str, Any], place: Place) -> list[str | Path]:
    url = f"{place.server}/{list(BEHAVIORS).index(name)}"
    file = {"name": "a.zip", "urls": [url], "unpacked_limit": 1 << 20, **about}
    return manifest(place, files=[file])


KNOWN = {"sha256": sha256(CONTENT), "size": len(CONTENT)}
UNSIZED = {"sha256": sha256(CONTENT)}
UNKNOWN = {"unverified": "nobody knows"}
SETTINGS = (
    ("oodbench.data.store.download:TIMEOUTS", (1.0, 1.0)),
    ("oodbench.data.store.download:WAITS", (0.0, 0.0)),
    ("oodbench.data.store.http_response:SLOW", 2.0),
)


def trials() -> list[Trial]:
    """Each behavior, for a file of known size and checksum, of a known checksum, and of neither."""
    return [
        Trial("HTTP", f"{name} ({known})", partial(_fetched, name, about), settings=SETTINGS)
        for name in BEHAVIORS
        for known, about in (("known", KNOWN), ("no size", UNSIZED), ("no checksum", UNKNOWN))
    ]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        number = self.path.strip("/x")
        with suppress(OSError):  # who asked has left
            list(BEHAVIORS.values())[int(number)](self)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
