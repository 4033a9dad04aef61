"""Google Drive's pages in place of files, from a server on the loopback that behaves as Drive."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.notes import Notes
from helpers.servers import Behavior, Server, redirect, send, serving

from oodbench.data.store import download as module
from oodbench.data.store import google_drive
from oodbench.data.store.download import download
from oodbench.errors import UserError
from oodbench.specs import FileSpec

CONTENT = np.random.default_rng(0).bytes(300_000)
HALF = 2 << 16
FIRST = "/uc?id=1abc-_&export=download"
LAST = "/download?id=1abc-_&export=download&authuser=0&confirm=t&uuid=7e-9&at=x%3D1"

ASKS = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<div class="uc-main"><div id="uc-text"><p class="uc-warning-caption">Google Drive can't scan
this file for viruses.</p><p class="uc-warning-subcaption"><span class="uc-name-size"><a
href="/open?id=1abc-_">a.zip</a> (2.1G)</span> is too large for Google to scan for viruses. Would
you still like to download this file?</p>{form}</div></div></body></html>"""

FORM = """<form id="download-form" action="{url}/download" method="get"><input type="submit"
id="uc-download-link" value="Download anyway"/><input type="hidden" name="id" value="1abc-_"><input
type="hidden" name="export" value="download"><input type="hidden" name="authuser" value="0"><input
type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="7e-9"><input
type="hidden" name="at" value="x=1"></form><form action="/x"><input name="q" value="no"></form>"""

QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can't view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently. Please
try accessing the file again later.</p></body></html>"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(google_drive, "HOSTS", {"127.0.0.1"})
    monkeypatch.delenv("OODBENCH_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with serving() as running:
        running.behaviors[FIRST] = page(ASKS.format(form=FORM.format(url=running.url)))
        running.files[LAST] = CONTENT
        yield running


def page(text: str, state: int = 200, **headers: str) -> Behavior:
    """A web page."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(state)
        handler.send_header("Content-Type", "text/html; charset=utf-8")
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(text.encode())

    return behave


def spec(server: Server, **update: Any) -> FileSpec:
    values = {"urls": (f"{server.url}/uc?id=1abc-_",), "sha256": sha256(CONTENT).hexdigest()}
    return FileSpec(**{"name": "a.bin", **values, **update})


def get(server: Server, folder: Path, **update: Any) -> None:
    path = download(spec(server, **update), folder, "toy", Notes())
    assert path.read_bytes() == CONTENT


def reason(server: Server, folder: Path, **update: Any) -> str:
    """The reason of a failed download."""
    with pytest.raises(UserError) as caught:
        download(spec(server, **update), folder, "toy", Notes())
    url = f"{server.url}/uc?id=1abc-_"
    assert caught.value.hint == (
        f"Repeat the command to resume the download, or download {url} by hand and put it into "
        f"{folder} as a.bin."
    )
    assert list(folder.iterdir()) == []
    return caught.value.message.partition(f"{url}: ")[2]


def test_a_small_file_is_sent_at_once(server: Server, tmp_path: Path) -> None:
    server.behaviors[FIRST] = redirect("/download?id=1abc-_&export=download")
    server.files["/download?id=1abc-_&export=download"] = CONTENT
    get(server, tmp_path)
    assert server.requests[-1][0] == "/download?id=1abc-_&export=download"


def test_a_large_file_is_confirmed(server: Server, tmp_path: Path) -> None:
    """All hidden fields of the form are sent, and those of other forms are not."""
    get(server, tmp_path)
    assert [path for path, _ in server.requests] == [FIRST, LAST]


def test_a_part_is_resumed_where_the_form_leads(server: Server, tmp_path: Path) -> None:
    """The page is asked for as a whole, the file from where it stopped."""

    def at_first(handler: Any) -> None:
        del server.behaviors[LAST]
        send(handler, CONTENT, upto=HALF)

    server.behaviors[LAST] = at_first
    get(server, tmp_path)
    assert server.requests[2:] == [(FIRST, None), (LAST, f"bytes={HALF}-")]


def test_the_link_of_older_pages(server: Server, tmp_path: Path) -> None:
    link = '<a href="/uc?export=download&amp;confirm=Xy-1&amp;id=1abc-_">Download anyway</a>'
    server.behaviors[FIRST] = page(ASKS.format(form=link))
    server.files["/uc?export=download&confirm=Xy-1&id=1abc-_"] = CONTENT
    get(server, tmp_path)


def test_the_cookie_of_older_answers(server: Server, tmp_path: Path) -> None:
    cookie = "download_warning_13058_1abc-_=Qw3r; Path=/"
    server.behaviors[FIRST] = page(ASKS.format(form=""), Set_Cookie=cookie)

    def with_the_cookie(handler: BaseHTTPRequestHandler) -> None:
        assert handler.headers["Cookie"] == "download_warning_13058_1abc-_=Qw3r"
        send(handler, CONTENT)

    server.behaviors[f"{FIRST}&confirm=Qw3r"] = with_the_cookie
    get(server, tmp_path)


@pytest.mark.parametrize("state", [200, 403])
@pytest.mark.parametrize("where", [FIRST, LAST])
def test_a_used_up_quota(server: Server, tmp_path: Path, where: str, state: int) -> None:
    server.behaviors[where] = page(QUOTA, state)
    assert reason(server, tmp_path) == (
        "Google Drive's download quota of this file is used up; it is renewed within 24 hours, and "
        "a copy in a Drive of your own has a quota of its own."
    )


@pytest.mark.parametrize(
    ("text", "state", "expected"),
    [
        (
            "<title>Google Drive: Sign-in</title>",
            200,
            "Google Drive asks for a login: the file is not public any more.",
        ),
        (
            "<title>Error 404 (Not Found)!!1</title>",
            404,
            "Google Drive has no file with this id any more.",
        ),
        (
            "<p>We're sorry...</p><title>Sorry... automated queries</title>",
            429,
            "Google Drive takes this machine for a robot: download the file in a browser.",
        ),
        (
            '<title>Drive</title><p class="uc-error-caption">It is <b>closed</b>\n today.</p> bye',
            200,
            "Google Drive sent a web page instead of the file ('It is closed today.').",
        ),
        ("<form id='download-form' action='https://evil.example/'></form>", 200, "HTTP 200"),
        ("", 200, "Google Drive sent a web page instead of the file ('HTTP 200')."),
    ],
)
def test_pages_that_refuse(
    server: Server, tmp_path: Path, text: str, state: int, expected: str
) -> None:
    server.behaviors[FIRST] = page(text, state)
    assert expected in reason(server, tmp_path)
    assert len(server.requests) == 1, "another attempt would not help"


def test_the_login_of_google(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirection to the login is seen by its host, whatever language the page has."""
    monkeypatch.setattr(google_drive, "_LOGIN_HOST", "127.0.0.1")
    server.behaviors[FIRST] = redirect("/v3/signin")
    server.behaviors["/v3/signin"] = page("<title>Anmelden</title>")
    assert "Google Drive asks for a login" in reason(server, tmp_path)


def test_another_mirror_is_tried(server: Server, tmp_path: Path) -> None:
    server.behaviors[FIRST] = page(QUOTA)
    server.files["/a.bin"] = CONTENT
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    notes, urls = Notes(), (f"{server.url}/uc?id=1abc-_", f"{elsewhere}/a.bin")
    download(spec(server, urls=urls), tmp_path, "toy", notes)
    assert len(notes.warnings) == 1
    assert "quota of this file is used up" in notes.warnings[0]
    assert notes.warnings[0].endswith(f"; trying {urls[1]}")


def test_an_error_of_the_server_is_tried_again(server: Server, tmp_path: Path) -> None:
    page_of_drive = server.behaviors[FIRST]

    def at_first(handler: BaseHTTPRequestHandler) -> None:
        server.behaviors[FIRST] = page_of_drive
        page("<title>Server error</title>", 500)(handler)

    server.behaviors[FIRST] = at_first
    get(server, tmp_path)


def test_a_page_that_says_to_be_a_file(server: Server, tmp_path: Path) -> None:
    """Without a checksum, too, a web page is not taken for the file."""
    server.files[LAST] = b"\n<!DOCTYPE HTML><title>x</title>"
    unknown = {"sha256": None, "unverified": "none is published"}
    assert reason(server, tmp_path, **unknown) == "it sent a web page instead of the file."
