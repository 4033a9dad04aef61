"""Rules for names of files and folders that are valid on every system."""

from __future__ import annotations

LONGEST = 200
"""Maximum length of a name in bytes. File names may have 255; the rest is for times, checksums,
suffixes and the prefix of temporary files."""

_SEPARATORS = frozenset('/\\<>:"|?*')
"""Characters that separate folders, or that Windows forbids in names."""

_RESERVED = frozenset(
    ["con", "prn", "aux", "nul"]
    + [f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"]
)
"""Names of devices on Windows, also with a suffix."""


def obstacle(name: str) -> str | None:
    """Why a name is not a valid name of a file or folder; None if it is valid."""
    if not name:
        return "it is empty"
    if not name.isprintable():
        return "it has a character that is not printable"
    found = sorted(_SEPARATORS & set(name))
    if found:
        return f"it has the character {found[0]}"
    if name.strip(" ") != name or name.endswith("."):
        return "it begins or ends with a blank, or ends with a dot"
    if name.partition(".")[0].rstrip(" ").casefold() in _RESERVED:
        return "it is a device on Windows"
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > LONGEST:
        return f"it has {size} bytes, more than {LONGEST}"
    return None


def method_obstacle(name: str) -> str | None:
    """Why a name is not valid for a method and its folder of scores; None if it is valid.

    Allowed are letters and digits of any script, + - _ . ( ) = and blanks.
    """
    for char in name:
        if not (char.isalnum() or char in "+-_. ()="):
            return f"it has the character {char!r}; use letters, digits, and + - _ . = ( )"
    if name.startswith("."):
        return "it begins with a dot"
    return obstacle(name)


def shortened(name: str, most: int = 40) -> str:
    """A name for a message, cut to at most `most` characters."""
    return name if len(name) <= most else f"{name[: most - 3]}..."
