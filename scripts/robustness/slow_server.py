"""A web server on the loopback that sends slowly, in a process of its own.

A file below `/parts/` can be asked for from some byte on; one below `/whole/` is always sent from
its start.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 1 << 14
"""Bytes that are sent at a time."""

_DATE = "Mon, 02 Mar 2026 10:00:00 GMT"


@contextmanager
def serving(files: Mapping[str, bytes], seconds: float) -> Iterator[str]:
    """The address of a running server.

    Args:
        files: name -> content.
        seconds: that it takes to send the longest of them.
    """
    pause = seconds * PIECE / max(map(len, files.values()))
    parent = os.getpid()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, name = self.path.lstrip("/").split("/")
            content = files[name]
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked and kind == "parts" else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Last-Modified", _DATE)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.end_headers()
            try:
                for place in range(start, len(content), PIECE):
                    self.wfile.write(content[place : place + PIECE])
                    time.sleep(pause)
            except OSError:  # the client was killed
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def service_actions(self) -> None:
            if os.getppid() != parent:
                os._exit(0)

    server = Server(("127.0.0.1", 0), Handler)
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        try:
            server.serve_forever(poll_interval=0.1)
        finally:
            os._exit(1)
    server.server_close()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
