"""Names of files and folders for texts that may hold any characters."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from oodbench.files import digest

_LONGEST = 60
_TAKEN = {
    "index", "history", "methods", "runs", "assets",  # names that the site uses itself
    "con", "prn", "aux", "nul",  # devices on Windows
    *(f"{device}{number}" for device in ("com", "lpt") for number in range(10)),
}  # fmt: skip


def file_names(texts: Iterable[str]) -> dict[str, str]:
    """A file name without suffix for each text: unique, of a-z, 0-9 and "-", at most 69 characters.

    Texts that would share a name, in any case of letters, get a digest of themselves after it, so
    that a name does not depend on the order of the texts.
    """
    plain = {text: _plain(text) for text in texts}
    counts = Counter(plain.values())
    return {
        text: f"{name}-{digest(text)[:8]}".lstrip("-")
        if counts[name] > 1 or name in _TAKEN or not name
        else name
        for text, name in plain.items()
    }


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:_LONGEST].rstrip("-")
