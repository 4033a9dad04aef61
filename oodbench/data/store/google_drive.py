"""Files on Google Drive: the page that asks for confirmation, and the pages that refuse.

Drive scans small files for viruses and sends them at once. For others it sends a page with a form
(`id`, `confirm`, `uuid`), with a link, or with a cookie; the address that they give sends the file.
Each address is valid for a short time.
"""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

if TYPE_CHECKING:
    from requests import Response, Session

HOSTS = frozenset({"drive.google.com", "docs.google.com", "drive.usercontent.google.com"})

_COOKIE = "download_warning"
"""Beginning of the name of the cookie with the confirmation, in older answers."""

_CAPTIONS = ("uc-error-caption", "uc-error-subcaption")
"""Classes of the elements with the reason of a refusal."""

_LOGIN_HOST = "accounts.google.com"

_LOGIN = ("sign in", "sign-in", "access denied", "need access", "need permission")
"""Words of pages that ask for a login."""

_LONGEST_PAGE = 1 << 20
"""Bytes of a page that are read."""


class RefusedError(Exception):
    """Drive sent a page instead of the file; the message gives the reason and what to do."""


def is_drive(url: str) -> bool:
    """Whether an address is one of Google Drive."""
    return urlsplit(url).hostname in HOSTS


def confirmed(session: Session, url: str, timeouts: tuple[float, float]) -> str:
    """The address that sends a file's bytes; other addresses than those of Drive are as they were.

    Args:
        session: keeps the cookies.
        url: `https://drive.google.com/uc?id=ID`.
        timeouts: seconds to wait for a connection, and for the next bytes.

    Raises:
        RefusedError: Drive refuses.
        requests.RequestException: there is no answer.
    """
    if not is_drive(url):
        return url
    first = _with(url, {"export": "download"})
    # Without a range: only a part of the page would come.
    with session.get(first, timeout=timeouts, stream=True) as response:
        if not _is_page(response) or response.status_code >= 500:
            response.raise_for_status()
            return response.url
        page = _page(response)
        address = page.confirmed_address(response.url)
        if address is None:
            token = next((c.value for c in session.cookies if c.name.startswith(_COOKIE)), None)
            address = _with(first, {"confirm": token}) if token else None
        if address is None or not is_drive(address):
            raise RefusedError(_reason(response, page))
        return address


def check(url: str, response: Response) -> None:
    """Check an answer to a request for a file's bytes.

    Args:
        url: the address in the manifest; all are right but those of Drive.
        response: the answer.

    Raises:
        RefusedError: Drive sent a page.
    """
    if is_drive(url) and _is_page(response) and response.status_code < 500:
        raise RefusedError(_reason(response, _page(response)))


def _is_page(response: Response) -> bool:
    return response.headers.get("Content-Type", "").startswith("text/html")


def _with(url: str, values: dict[str, str]) -> str:
    """An address with other values in its query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode(dict(parse_qsl(parts.query)) | values)))


class _Page(HTMLParser):
    """A page of Drive.

    Attributes:
        title: its title.
        caption: the reason of a refusal, as the page says it.
        form: address and hidden fields of the form that confirms the download.
        link: the link that confirms it.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title = self.caption = self.link = self.form = ""
        self._fields: dict[str, str] = {}
        self._inside_form = False
        self._text_of = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the form, its fields, the link; begin a text."""
        values = {name: value or "" for name, value in attrs}
        if tag == "form" and "download" in values.get("id", ""):
            self.form, self._inside_form = values.get("action", ""), True
        elif tag == "input" and self._inside_form and values.get("name"):
            self._fields[values["name"]] = values.get("value", "")
        elif tag == "a" and {"export", "confirm"} <= dict(_query(values.get("href", ""))).keys():
            self.link = values["href"]
        elif tag == "title":
            self._text_of = "title"
        elif set(values.get("class", "").split()) & set(_CAPTIONS):
            self._text_of = "caption"

    def handle_endtag(self, tag: str) -> None:
        """End a text or the form."""
        if tag == "form":
            self._inside_form = False
        if tag in ("title", "p", "div"):
            self._text_of = ""

    def handle_data(self, data: str) -> None:
        """Add to a text."""
        if self._text_of:
            text = f"{getattr(self, self._text_of)} {data}"
            setattr(self, self._text_of, " ".join(text.split()))

    def confirmed_address(self, page: str) -> str | None:
        """The address that the page asks to confirm; `page` is its own address."""
        if self.form:
            return _with(urljoin(page, self.form), self._fields)
        return urljoin(page, self.link) if self.link else None


def _query(url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(url).query)


def _page(response: Response) -> _Page:
    content = next(response.iter_content(_LONGEST_PAGE), b"")
    return _Page(content.decode("utf-8", "replace"))


def _reason(response: Response, page: _Page) -> str:
    """Why Drive refuses, and what to do."""
    said = f"{page.title} {page.caption}".casefold()
    if "quota" in said or "too many users" in said:
        return (
            "Google Drive's download quota of this file is used up; it is renewed within 24 hours, "
            "and a copy in a Drive of your own has a quota of its own"
        )
    host, status = urlsplit(response.url).hostname or "", response.status_code
    if host == _LOGIN_HOST or any(words in said for words in _LOGIN):
        return "Google Drive asks for a login: the file is not public any more"
    if "automated" in said or "/sorry/" in response.url or status == 429:
        return "Google Drive takes this machine for a robot: download the file in a browser"
    if status == 404 or "not found" in said or "not exist" in said:
        return "Google Drive has no file with this id any more"
    words = page.caption or page.title or f"HTTP {status}"
    return f"Google Drive sent a web page instead of the file ('{words[:100]}')"
