"""The cache of a machine of a cluster: the one of the run if the machine sees it, else its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from oodbench.data.store.locations import DATA_VARIABLE
from oodbench.files import cache_folder, explained, make_folder, unfinished_folder, write_atomic

_CACHE_VARIABLE = "OODBENCH_CACHE"
_IDENTITY = "identity"
"""File in a cache with a text that no other cache has."""
_FORWARDED = ("OODBENCH_PLUGINS", "OODBENCH_OFFLINE", DATA_VARIABLE)


@dataclass(frozen=True, slots=True)
class CacheOfRun:
    """The cache of the process of a run, and its settings of places.

    Attributes:
        folder: its path there.
        identity: a text that no other cache has.
        variables: environment variables that name other places.
    """

    folder: str
    identity: str
    variables: Mapping[str, str]

    @classmethod
    def here(cls) -> CacheOfRun:
        """That of this process.

        Raises:
            UserError: if the cache cannot be written.
        """
        folder = make_folder(cache_folder()).absolute()
        if not (folder / _IDENTITY).exists():
            _identify(folder)
        set_here = {name: os.environ[name] for name in _FORWARDED if os.environ.get(name)}
        return cls(str(folder), _identity(folder), set_here)

    def enter(self) -> bool:
        """Choose the cache of this process; whether it is that of the run.

        Variables that are set on this machine are kept: whoever started the node chose the place.
        Without any, the folder of the run is used where this machine sees it.
        """
        for name, value in self.variables.items():
            if name != DATA_VARIABLE or Path(value).is_dir():
                os.environ.setdefault(name, value)
        if _identity(Path(self.folder)) == self.identity:
            os.environ.setdefault(_CACHE_VARIABLE, self.folder)
        return _identity(cache_folder()) == self.identity


def _identify(folder: Path) -> None:
    """Give a cache an identity; of processes that do so at once, that of the first stays.

    Raises:
        UserError: if the cache cannot be written.
    """
    path, text = folder / _IDENTITY, uuid.uuid4().hex
    with explained(path), unfinished_folder(path) as new:
        (new / _IDENTITY).write_text(text, encoding="utf-8")
        try:
            os.link(new / _IDENTITY, path)
        except FileExistsError:
            pass
        except OSError:  # the file system has no links
            write_atomic(path, text)


def _identity(folder: Path) -> str:
    try:
        return (folder / _IDENTITY).read_text(encoding="utf-8")
    except OSError:
        return ""


def content_of(folder: Path, name: str) -> bytes | None:
    """Content of a file in a cache; None if there is none.

    Args:
        folder: the cache.
        name: path in it, with "/".
    """
    try:
        return folder.joinpath(*name.split("/")).read_bytes()
    except OSError:
        return None


def lacking(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of some files that a cache lacks; arguments as of `content_of`."""
    return [name for name in names if not folder.joinpath(*name.split("/")).exists()]


def keep_missing(folder: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    """Write files that a cache lacks.

    Raises:
        UserError: if a file cannot be written.
    """
    for name, content in contents:
        path = folder.joinpath(*name.split("/"))
        if not path.exists():
            write_atomic(path, content)
