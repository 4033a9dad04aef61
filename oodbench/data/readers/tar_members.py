"""Members of tar files that may be hostile or damaged: headers are limited before they are read.

`tarfile` keeps headers and members in memory, and believes what they say: a name may fill the
memory, and a negative size makes it read the same headers again and again (CVE-2025-8194).
"""

from __future__ import annotations

import math
import tarfile
from collections.abc import Iterator
from typing import IO, Any, cast

MOST_MEMBERS = 2_000_000
"""Maximum number of members of a tar; each takes about a kilobyte of memory."""

_HEADERS = 1 << 20
"""Maximum size of the headers of a tar in bytes; tarfile reads names of any length into memory."""

_HEADERS_PER_MEMBER = 1 << 12
"""Bytes that each member adds to `_HEADERS`."""

_NAMES = 1 << 28
"""Maximum length of all names and links together."""

_TOO_LONG = "the headers of its members are longer than names and links need"

TAR_ERRORS = (tarfile.TarError, EOFError, OverflowError, RecursionError, ValueError)
"""What `tarfile` raises for damaged files, beside OSError."""


class UnsafeTarError(Exception):
    """A tar is refused; the message gives the reason."""


class TarMembers:
    """The members of a tar, in its order; iterate once, then read their contents.

    Args:
        content: the tar, decompressed.

    Attributes:
        tar: reads the contents.

    Raises:
        UnsafeTarError: a header is longer than names and links need, a size is negative, or there
            are too many members. Also while the members are iterated.
        OSError, and those of `TAR_ERRORS`: the tar is damaged.
    """

    def __init__(self, content: IO[bytes]) -> None:
        self._stream = _Metered(content)
        self.tar = tarfile.open(fileobj=cast(IO[bytes], self._stream), mode="r:")  # noqa: SIM115

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        members = names = 0
        for member in self.tar:
            # The parts of a sparse member count as members.
            members += 1 + len(cast(list[Any], getattr(member, "sparse", None)) or ())
            if members > MOST_MEMBERS:
                raise UnsafeTarError(f"it has more than {MOST_MEMBERS:,} members")
            if member.size < 0:
                raise UnsafeTarError(f"the size of its member '{member.name}' is negative")
            names += len(member.name) + len(member.linkname)
            if names > _NAMES:
                raise UnsafeTarError(_TOO_LONG)
            self._stream.left += _HEADERS_PER_MEMBER
            member.pax_headers = {}  # already applied; may be large
            yield member
        self._stream.left = math.inf  # contents are read in pieces


class _Metered:
    """A stream for tarfile with a limit on the bytes that may be read.

    Attributes:
        left: number of bytes that may still be read.
    """

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.left: float = _HEADERS
        self.seek, self.tell = content.seek, content.tell

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; the limit is checked before memory is allocated."""
        self.left -= size
        if size < 0 or self.left < 0:
            raise UnsafeTarError(_TOO_LONG)
        return self._content.read(size)
