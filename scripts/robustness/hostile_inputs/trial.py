"""A hostile input, the command that reads it, and how the command may end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a trial writes its input.

    Attributes:
        folder: an empty folder.
        shared: has a `content` folder, a `run` of its benchmark, and an `artifact` of the run.
        server: address of the hostile server.
        outside: a folder that no trial may write into.
    """

    folder: Path
    shared: Path
    server: str
    outside: Path

    def file(self, name: str, content: bytes | str) -> Path:
        """Write a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


@dataclass(frozen=True)
class Trial:
    """An input and how the command may end.

    Attributes:
        format: the format of the input.
        name: what is wrong with it.
        make: writes the input; returns the words of the command.
        ends: exit codes with which it is held.
        memory: bytes by which the process may grow.
        seconds: that it may take.
        settings: attributes of modules of oodbench, "module:NAME" -> value.
    """

    format: str
    name: str
    make: Callable[[Place], list[str | Path]]
    ends: tuple[int, ...] = (2,)
    memory: int = 400 << 20
    seconds: float = 30
    settings: tuple[tuple[str, Any], ...] = ()


def sha256(content: bytes) -> str:
    """Checksum of a file's content."""
    return hashlib.sha256(content).hexdigest()


def manifest(place: Place, **keys: Any) -> list[str | Path]:
    """Write the manifest of a data set `toy` of ten images of 8x8; the command that fetches it."""
    content: dict[str, Any] = {
        "schema_version": 1,
        "name": "toy",
        "title": "Toy",
        "summary": "Toy",
        "kind": "folder",
        "shape": [3, 8, 8],
        "num_classes": None,
        "splits": {"test": 10},
        "license": "none",
        "citation": "none",
        **keys,
    }
    if not content.keys() & {"paths", "lists", "builder"}:
        content["paths"] = {"test": "images"}
    place.file("plugins/data_manifests/toy.yaml", json.dumps(content))
    return fetching(place)


def fetching(place: Place) -> list[str | Path]:
    """The command that fetches and decodes the data set `toy`."""
    root = place.folder / "data"
    return ["data", "fetch", "toy", "--plugins", place.folder / "plugins", "--data-root", root]
