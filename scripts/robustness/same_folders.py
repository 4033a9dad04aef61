"""How the folders that two commands wrote differ, but for times and costs; "" if not at all."""

from __future__ import annotations

import fnmatch
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustness.small_content import difference

from oodbench.files import TEMPORARY_PREFIX


def folder_difference(got: Path, expected: Path, *, but: tuple[str, ...] = ()) -> str:
    """How the files of two folders differ, by name or by content.

    Args:
        got: a folder.
        expected: what it should have.
        but: names of files and folders in them that do not count.
    """
    names, wanted = (_files(folder, but) for folder in (got, expected))
    if unfinished := [name for name in names if TEMPORARY_PREFIX in name]:
        return f"LEFTOVERS {', '.join(unfinished)}"
    if names != wanted:
        more, fewer = sorted(names - wanted), sorted(wanted - names)
        return f"MORE FILES {more}" if more else f"FEWER FILES {fewer}"
    for name in sorted(wanted):
        if Path(name).name == "run.json":
            wrong = difference((got / name).parent, (expected / name).parent)
            if wrong:
                return f"{name}: {wrong}"
    for name in sorted(wanted):
        if _content(got / name) != _content(expected / name):
            return f"DIFFERENT {name}"
    return ""


def _files(folder: Path, but: tuple[str, ...]) -> set[str]:
    """Names of files, and of folders without any."""
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if name.parts[0] not in but and (not path.is_dir() or not any(path.iterdir())):
            found.add(name.as_posix())
    return found


def _content(path: Path) -> Any:
    """What a file holds beside times and costs; nothing for a folder without files."""
    if path.is_dir():
        return None
    for pattern, read in _READERS.items():
        if fnmatch.fnmatch(path.name, pattern):
            return read(path.read_bytes())
    return path.read_bytes()


def _nothing(content: bytes) -> None:
    """Costs, or what shows them."""


def _description(content: bytes) -> Any:
    """`run.json` or `suite.json` without times, and digests of what has costs."""
    read = json.loads(content)
    for key in ("seal", "written", "started", "files", "records", "command"):
        read.pop(key, None)
    return read


def _checkpoint(content: bytes) -> Any:
    """Weights and metadata of a safetensors file, without the seconds of epochs."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    about = header.get("__metadata__", {})
    if "history" in about:
        about.pop("seal")
        about["history"] = [
            {key: value for key, value in epoch.items() if key != "seconds"}
            for epoch in json.loads(about["history"])
        ]
    return header, content[8 + length :]


def _training(content: bytes) -> Any:
    lines = map(json.loads, content.splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def _first_fetch(content: bytes) -> Any:
    read = json.loads(content)
    return {key: value for key, value in read.items() if key not in ("fetched_at", "seal")}


_READERS: dict[str, Callable[[bytes], Any]] = {
    "run.json": _description,
    "suite.json": _description,
    "training.jsonl": _training,
    "*.safetensors": _checkpoint,
    "*.first-fetch.json": _first_fetch,
    "costs.jsonl": _nothing,
    "leaderboard.*": _nothing,
    "cost.*": _nothing,
    "*cost*.png": _nothing,
}
