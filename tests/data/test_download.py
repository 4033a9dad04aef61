"""Downloads, from a server on the loopback that misbehaves in every way a server can."""

from __future__ import annotations

import errno
import gzip
import time
from collections.abc import Iterator
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.notes import Notes
from helpers.servers import Server, redirect, refuse, send, serving

from oodbench.data.store import download as module
from oodbench.data.store import http_response
from oodbench.data.store.download import download
from oodbench.data.store.http_response import ResponseSink
from oodbench.errors import UserError
from oodbench.specs import FileSpec

CONTENT = np.random.default_rng(0).bytes(300_000)
HALF = 2 << 16
"""Where the server stops: whole pieces, as what was begun of one is lost."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(module, "TIMEOUTS", (0.3, 0.3))
    monkeypatch.delenv("OODBENCH_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        running.files["/a/data.bin"] = CONTENT
        yield running


def spec(*urls: str, size: int | None = len(CONTENT), **update: Any) -> FileSpec:
    values = {"name": "data.bin", "urls": urls, "size": size}
    return FileSpec(**{**values, "sha256": sha256(CONTENT).hexdigest(), **update})


def get(file: FileSpec, folder: Path) -> Path:
    path = download(file, folder, "toy", Notes())
    assert path == folder / "data.bin"
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in folder.iterdir()] == ["data.bin"], "left something behind"
    return path


def refused(file: FileSpec, folder: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        download(file, folder, "toy", Notes())
    assert not (folder / "data.bin").exists()
    assert "\n" not in caught.value.message
    assert caught.value.hint.endswith(f"by hand and put it into {folder} as data.bin.")
    return caught.value


def test_a_whole_file(server: Server, tmp_path: Path) -> None:
    notes = Notes()
    download(spec(f"{server.url}/a/data.bin"), tmp_path, "toy", notes)
    get(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert notes.details[0].startswith("downloading toy: data.bin from 127.0.0.1, ")
    assert notes.details[0].endswith(" % of 0.3 MB")


def test_md5_and_unknown_size(server: Server, tmp_path: Path) -> None:
    checksum = {"sha256": None, "md5": md5(CONTENT).hexdigest()}
    get(spec(f"{server.url}/a/data.bin", size=None, **checksum), tmp_path)


def test_a_redirection_is_followed(server: Server, tmp_path: Path) -> None:
    server.behaviors["/old"] = redirect("/a/data.bin")
    get(spec(f"{server.url}/old"), tmp_path)


@pytest.mark.parametrize(
    ("state", "attempts", "reason"),
    [(403, 1, "HTTP 403 Forbidden"), (404, 1, "HTTP 404 Not Found"), (500, 3, "HTTP 500")],
)
def test_a_server_that_refuses(
    server: Server, tmp_path: Path, state: int, attempts: int, reason: str
) -> None:
    server.behaviors["/a/data.bin"] = refuse(state)
    error = refused(spec(f"{server.url}/a/data.bin"), tmp_path)
    expected = f"300,000 bytes, sha256 {sha256(CONTENT).hexdigest()}"
    assert error.message.startswith(
        f"data set 'toy': cannot download data.bin ({expected}): {server.url}/a/data.bin: {reason}"
    )
    assert error.hint.startswith("Repeat the command to resume the download, or download http://")
    assert len(server.requests) == attempts


def test_another_address_is_tried(server: Server, tmp_path: Path) -> None:
    server.behaviors["/b/data.bin"] = refuse(404)
    server.files["/c/data.bin"] = b"something else"
    b, c, a = (f"{server.url}/{place}/data.bin" for place in "bca")
    notes = Notes()
    download(spec(b, c, a), tmp_path, "toy", notes)
    assert notes.warnings == [
        f"data set 'toy': data.bin: {b}: HTTP 404 Not Found; trying {c}",
        f"data set 'toy': data.bin: {c}: it has 14 bytes there instead of 300,000; trying {a}",
    ]
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/b/data.bin", "/c/data.bin", "/a/data.bin"]


def test_every_address_is_in_the_message(server: Server, tmp_path: Path) -> None:
    server.behaviors["/b/data.bin"] = refuse(404)
    error = refused(spec(f"{server.url}/b/data.bin", "http://127.0.0.1:9/data.bin"), tmp_path)
    assert f"{server.url}/b/data.bin: HTTP 404 Not Found; " in error.message
    assert "http://127.0.0.1:9/data.bin: no connection (" in error.message
    assert "Connection refused" in error.message


def test_no_network(server: Server, tmp_path: Path) -> None:
    error = refused(spec("http://no-such-host.invalid/data.bin"), tmp_path)
    assert "http://no-such-host.invalid/data.bin: no connection (" in error.message


def test_an_error_that_passes(server: Server, tmp_path: Path) -> None:
    def at_first(handler: Any) -> None:
        del server.behaviors["/a/data.bin"]
        handler.send_error(503)

    server.behaviors["/a/data.bin"] = at_first
    get(spec(f"{server.url}/a/data.bin"), tmp_path)


def test_a_wrong_checksum(server: Server, tmp_path: Path) -> None:
    server.files["/a/data.bin"] = bytes(len(CONTENT))
    error = refused(spec(f"{server.url}/a/data.bin"), tmp_path)
    found = sha256(bytes(len(CONTENT))).hexdigest()
    wanted = sha256(CONTENT).hexdigest()
    assert f"it sent sha256 {found} instead of {wanted}." in error.message
    assert list(tmp_path.iterdir()) == [], "what is wrong must not be continued"


def test_a_wrong_length_is_seen_before_anything_is_downloaded(
    server: Server, tmp_path: Path
) -> None:
    server.files["/a/data.bin"] = CONTENT + b"more"
    error = refused(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert "it has 300,004 bytes there instead of 300,000" in error.message


def test_more_than_was_said(server: Server, tmp_path: Path) -> None:
    server.behaviors["/a/data.bin"] = lambda handler: send(handler, CONTENT * 9, length=False)
    error = refused(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert "it sent more than 300,000 bytes" in error.message
    assert list(tmp_path.iterdir()) == []


def test_a_web_page_instead_of_the_file(server: Server, tmp_path: Path) -> None:
    page = b"<html>Please log in</html>"
    server.behaviors["/a/data.bin"] = lambda handler: send(handler, page, kind="text/html; x=y")
    error = refused(spec(f"{server.url}/a/data.bin", size=None), tmp_path)
    assert "it sent a web page instead of the file" in error.message


def test_a_redirection_in_a_circle(server: Server, tmp_path: Path) -> None:
    server.behaviors |= {"/x": redirect("/y"), "/y": redirect("/x")}
    error = refused(spec(f"{server.url}/x"), tmp_path)
    assert f"{server.url}/x: it redirects in a circle" in error.message


@pytest.mark.parametrize("length", [True, False])
def test_a_server_that_always_stops_halfway(server: Server, tmp_path: Path, length: bool) -> None:
    server.behaviors["/a/data.bin"] = lambda handler: send(
        handler, CONTENT, upto=HALF, length=length
    )
    error = refused(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert "it stopped after 131,072 of 300,000 bytes" in error.message
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:HALF]
    # The next run goes on where this one stopped.
    del server.behaviors["/a/data.bin"]
    get(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert server.ranges()[-1] == "bytes=131072-"


def test_a_server_without_ranges_that_stops_at_varying_places(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other attempt gets further than the one before it, and none further than the first."""
    monkeypatch.setattr(module, "_PROGRESS", 1 << 16)

    def vary(handler: Any) -> None:
        attempt = len(server.requests)
        if attempt > 40:
            handler.send_error(404)  # or the test would not end either
        else:
            send(handler, CONTENT, upto=(1 + attempt % 2) << 16, ranges=False)

    server.behaviors["/a/data.bin"] = vary
    error = refused(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert "it stopped after " in error.message
    assert len(server.requests) == 1 + module.ATTEMPTS


@pytest.mark.parametrize("most", [3, 100])
def test_a_server_that_stops_again_and_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(module, "_PROGRESS", 1 << 16)
    monkeypatch.setattr(module, "MOST_ATTEMPTS", most)
    server.behaviors["/a/data.bin"] = lambda handler: send(
        handler, CONTENT, upto=len(server.requests) << 16
    )
    file = spec(f"{server.url}/a/data.bin")
    if most == 3:
        assert "it stopped after 196,608 of 300,000 bytes" in refused(file, tmp_path).message
        assert len(server.requests) == 3
    else:
        get(file, tmp_path)  # 5 attempts, each of which gets further
        assert len(server.requests) == 5


def test_a_server_that_sends_a_byte_at_a_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comes before the timeout; the whole file would take hours."""
    monkeypatch.setattr(http_response, "SLOW", 0.2)

    def drip(handler: Any) -> None:
        send(handler, CONTENT, upto=0)
        for byte in CONTENT:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)

    server.behaviors["/a/data.bin"] = drip
    error = refused(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert "it sends less than 65,536 bytes in 0 s" in error.message
    assert len(server.requests) == module.ATTEMPTS


@pytest.mark.parametrize("name", ["data.tar.gz", "data.bin"])
def test_a_file_that_the_server_calls_compressed(server: Server, tmp_path: Path, name: str) -> None:
    """Apache may say so of stored .gz files; of others, it means the way."""
    packed = gzip.compress(CONTENT)

    def behave(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "x-gzip")
        handler.end_headers()
        handler.wfile.write(packed)
        handler.close_connection = True

    server.behaviors["/data"] = behave
    expected = packed if name.endswith(".gz") else CONTENT
    file = spec(f"{server.url}/data", name=name, size=None, sha256=sha256(expected).hexdigest())
    assert download(file, tmp_path, "toy", Notes()).read_bytes() == expected


def test_a_server_that_sends_an_archive_without_an_end(server: Server, tmp_path: Path) -> None:
    server.behaviors["/a/data.bin"] = lambda handler: send(handler, CONTENT, length=False)
    limited = {"size": None, "unpacked_limit": 100_000}
    error = refused(spec(f"{server.url}/a/data.bin", **limited), tmp_path)
    assert "it sent more than 265,536 bytes" in error.message
    del server.behaviors["/a/data.bin"]
    error = refused(spec(f"{server.url}/a/data.bin", **limited), tmp_path)
    assert "it has 300,000 bytes there, at most 265,536 fit" in error.message


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("file:///etc/hostname", "No connection adapters were found for 'file:///etc/hostname'"),
        ("http://[::bad/", "Invalid IPv6 URL"),
        ("http://" + "a" * 60_000, "label too long"),
    ],
    ids=["file", "bracket", "long"],
)
def test_a_redirection_to_no_web_address(
    server: Server, tmp_path: Path, to: str, said: str
) -> None:
    server.behaviors["/x"] = redirect(to)
    error = refused(spec(f"{server.url}/x", size=None), tmp_path)
    assert said in error.message
    assert len(error.message) < 2500


def test_truncated_for_good(server: Server, tmp_path: Path) -> None:
    server.files["/a/data.bin"] = CONTENT[:-1]
    error = refused(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert "it has 299,999 bytes there instead of 300,000" in error.message
    without_size = refused(spec(f"{server.url}/a/data.bin", size=None), tmp_path)
    assert "it sent sha256 " in without_size.message


def test_a_server_that_stops_once_is_asked_for_the_rest(server: Server, tmp_path: Path) -> None:
    def at_first(handler: Any) -> None:
        del server.behaviors["/a/data.bin"]
        send(handler, CONTENT, upto=HALF)

    server.behaviors["/a/data.bin"] = at_first
    get(spec(f"{server.url}/a/data.bin", size=None), tmp_path)
    assert server.ranges() == [None, "bytes=131072-"]


def test_a_server_that_ignores_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:HALF])
    server.behaviors["/a/data.bin"] = lambda handler: send(handler, CONTENT, ranges=False)
    get(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert server.ranges() == ["bytes=131072-"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_of_another_file_is_not_continued(
    server: Server, tmp_path: Path, size: int | None
) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"not a beginning of it")
    get(spec(f"{server.url}/a/data.bin", size=size), tmp_path)
    assert server.ranges() == ["bytes=21-", None]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_that_is_too_long_is_not_continued(
    server: Server, tmp_path: Path, size: int | None
) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT * 2)
    get(spec(f"{server.url}/a/data.bin", size=size), tmp_path)


def test_a_part_that_is_whole_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    get(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert server.requests == []


def test_another_part_than_was_asked_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:HALF])

    def wrong_part(handler: Any) -> None:
        del server.behaviors["/a/data.bin"]
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 7-99/300000")
        handler.send_header("Content-Length", "93")
        handler.end_headers()
        handler.wfile.write(CONTENT[7:100])

    server.behaviors["/a/data.bin"] = wrong_part
    get(spec(f"{server.url}/a/data.bin"), tmp_path)


def test_a_server_that_does_not_answer(server: Server, tmp_path: Path) -> None:
    server.behaviors["/a/data.bin"] = lambda handler: time.sleep(0.8)
    error = refused(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert f"{server.url}/a/data.bin: no answer within 0 s" in error.message


def test_offline(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_OFFLINE", "1")
    error = refused(spec(f"{server.url}/a/data.bin"), tmp_path)
    assert error.message == (
        "data set 'toy' needs data.bin, and OODBENCH_OFFLINE forbids downloads."
    )
    assert error.hint.startswith("Unset OODBENCH_OFFLINE, or download http://127.0.0.1")
    assert server.requests == []
    monkeypatch.setenv("OODBENCH_OFFLINE", "0")
    get(spec(f"{server.url}/a/data.bin"), tmp_path)


def test_no_address(tmp_path: Path, server: Server) -> None:
    error = refused(spec(), tmp_path)
    assert "the manifest knows no address of it" in error.message
    assert error.hint.startswith("To continue, get data.bin by hand")


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ResponseSink.write

    def write(self: Any, chunk: bytes) -> None:
        original(self, chunk)
        self._file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ResponseSink, "write", write)
        with pytest.raises(UserError) as caught:
            download(spec(f"{server.url}/a/data.bin"), tmp_path, "toy", Notes())
    assert caught.value.message == (
        f"No space left on the disk while writing {tmp_path / 'data.bin.part'}."
    )
    assert "partial downloads are kept" in caught.value.hint
    get(spec(f"{server.url}/a/data.bin"), tmp_path)


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").mkdir()
    with pytest.raises(UserError, match=r"Cannot write .*part: Is a directory"):
        download(spec(f"{server.url}/a/data.bin"), tmp_path, "toy", Notes())
