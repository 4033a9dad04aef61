"""Names that files and folders are called by, on every system."""

from __future__ import annotations

LONGEST = 200
"""Bytes of a name. A file's name may have 255; what is left is for what is put around it: times,
checksums, suffixes, and the name of a file while it is written."""

_SEPARATORS = frozenset('/\\<>:"|?*')
"""Characters that separate folders, or that a name may not have on Windows."""

_RESERVED = frozenset(
    ["con", "prn", "aux", "nul"]
    + [f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"]
)
"""Names of devices on Windows, with any suffix."""


def obstacle(name: str) -> str | None:
    """Why a name cannot be that of a file or a folder, or None."""
    if not name:
        return "it is empty"
    if not name.isprintable():
        return "it has a character that cannot be seen"
    found = sorted(_SEPARATORS & set(name))
    if found:
        return f"it has the character {found[0]}"
    if name.strip(" ") != name or name.endswith("."):
        return "it begins or ends with a blank, or ends with a dot"
    if name.partition(".")[0].rstrip(" ").casefold() in _RESERVED:
        return "that is a device on Windows"
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > LONGEST:
        return f"it has {size} bytes, and {LONGEST} are the most"
    return None


def method_obstacle(name: str) -> str | None:
    """Why a method cannot have a name, which is also that of the folder with its scores; or None.

    Letters and digits of any script, and + - _ . ( ) = and blanks.
    """
    for char in name:
        if not (char.isalnum() or char in "+-_. ()="):
            return f"it has the character {char!r}; use letters, digits, and + - _ . = ( )"
    if name.startswith("."):
        return "it begins with a dot"
    return obstacle(name)


def shortened(name: str, most: int = 40) -> str:
    """A name for a message, cut where it would fill the screen."""
    return name if len(name) <= most else f"{name[: most - 3]}..."
