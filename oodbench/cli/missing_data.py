"""What to download from where and where to put it, as text: the one list for a machine offline."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from oodbench.cli.display import say
from oodbench.errors import ExitCode, UserError, counted, listed

if TYPE_CHECKING:
    from oodbench.data.missing_files import MissingFile, NeededFiles


def incomplete(
    failures: Sequence[UserError], needed: NeededFiles, names: Sequence[str], root: Path
) -> typer.Exit:
    """Say why files could not be fetched, and list all that are missing.

    Args:
        failures: the errors.
        needed: everything that was to be fetched.
        names: what was to be fetched, as the user named it.
        root: the data root.

    Returns:
        What ends the command: as bad input if no server can be reached, else as incomplete.
    """
    from oodbench.data.store.download import OfflineError

    missing = needed.missing(root, by_hand=True)
    for error in failures:
        say(f"error: {error.message}")
        if not missing:
            say(error.hint)
    if missing:
        print(instructions(missing, names, root))
    unreached = any(isinstance(error, OfflineError) for error in failures)
    return typer.Exit(ExitCode.USAGE if unreached else ExitCode.INCOMPLETE)


def total(missing: Sequence[MissingFile], root: Path) -> str:
    """One sentence: number and size of the files to download, and the free space."""
    files = [file for file in missing if file.urls]
    known = [file.size for file in files if file.size is not None]
    sizes = [f"{sum(known) / 1e6:,.1f} MB"] if known else []
    unknown = len(files) - len(known)
    if unknown:
        sizes.append(f"{unknown} of unknown size" if known else "of unknown size")
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free / 1e9
    return (
        f"{counted(len(files), 'file')} to download, {' and '.join(sizes)}, to {root} "
        f"({free:,.1f} GB free)."
    )


def instructions(missing: Sequence[MissingFile], names: Sequence[str], root: Path) -> str:
    """All missing files and folders: name, size, checksum, addresses, place, owners.

    Args:
        missing: files and folders.
        names: what needs them, as the user named it.
        root: the data root.
    """
    parts = [
        f"Missing: {counted(len(missing), 'file')}. Download them on another machine, and put each "
        f"where the list says; a file may also lie in {root} itself. Then repeat the command: it "
        "checks files before it uses them. With oodbench on the other machine, "
        f"`{shlex.join(['oodbench', 'data', 'fetch', *names])} --data-root DIR` fetches them all: "
        "copy DIR."
    ]
    for file in missing:
        size = "size unknown" if file.size is None else f"{file.size:,} bytes"
        about = file.what or f"{size}, {file.checksum or 'no published checksum'}"
        lines = [f"{file.target.name}  ({about})"]
        lines += [f"  {'or' if index else 'from':5} {url}" for index, url in enumerate(file.urls)]
        lines += [f"  to    {file.target}"]
        others = [each for each in file.instead if root / each != file.target]
        lines += [f"  else  {' or '.join(others)}  in {root}"] if others else []
        lines += [f"  for   {listed(file.owners, most=8)}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
