"""The folder of a site: what is written into it, and what may be replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from oodbench.errors import UserError
from oodbench.files import TEMPORARY_PREFIX, explained, make_folder, parsed_json, write_atomic
from oodbench.storage.locks import is_run

MARKER = "oodbench-site.json"
"""The file that makes a folder one that `oodbench site` may replace; it lists the other files."""


def write_site(folder: Path, contents: Mapping[str, str]) -> None:
    """Write a site, and remove the files of the site that was there before.

    Files that no site wrote are left alone, such as a `.git` folder or a `CNAME`.

    Args:
        folder: where to; new, empty, or with a site.
        contents: address relative to the folder -> content.

    Raises:
        UserError: if the folder has something else in it, or cannot be written.
    """
    make_folder(folder)
    before = _files(folder)
    marker = json.dumps({"made_by": "oodbench site", "files": sorted(contents)}, indent=1) + "\n"
    # If this is interrupted, the marker still lists every file that may be there.
    both = sorted({*before, *contents})
    write_atomic(folder / MARKER, json.dumps({"made_by": "oodbench site", "files": both}) + "\n")
    for address, content in contents.items():
        path = folder / address
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode())
    for address in before - contents.keys():
        path = folder / address
        with explained(path):
            path.unlink(missing_ok=True)
        for parent in path.relative_to(folder).parents:
            with suppress(OSError):  # not empty
                if parent != Path():
                    (folder / parent).rmdir()
    write_atomic(folder / MARKER, marker)


def _files(folder: Path) -> set[str]:
    """The files that the site in a folder consists of; empty for an empty folder.

    Raises:
        UserError: if the folder has something else in it.
    """
    with explained(folder):
        names = os.listdir(folder)  # noqa: PTH208 - names alone
    # Unfinished files of a killed process do not count.
    names = [name for name in names if not name.startswith(TEMPORARY_PREFIX)]
    if not names:
        return set()
    if MARKER not in names or is_run(folder):
        what = "holds a run" if is_run(folder) else "is not empty and holds no site of oodbench"
        raise UserError(
            f"{folder} {what}.",
            f"Choose an empty or a new folder with --out. A site has a file {MARKER}.",
        )
    path = folder / MARKER
    try:
        listed = parsed_json(path.read_text(encoding="utf-8"))["files"]
        inside = [each for each in listed if _is_inside(folder, each)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Cannot read {path}: it is not the list of a site's files.",
            "Choose a new folder with --out, or remove this one.",
        ) from error
    return set(inside)


def _is_inside(folder: Path, address: str) -> bool:
    """Whether a file that is to be removed is one of the folder's, also behind links."""
    path = folder / address
    inside = folder.resolve() in path.parent.resolve().joinpath(path.name).parents
    return inside and path.name != ".."
