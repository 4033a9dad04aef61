"""The file of a detector that is to be checked, by name or by path. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from oodbench.errors import UserError, listed, sentence
from oodbench.files import expanded
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import Plugin
from oodbench.plugins.declarations import BrokenDetectorError, read_detector


def detector_file(given: str | Path, plugins: Plugin | Iterable[Plugin] = ()) -> Path:
    """The file of a detector, read but not run.

    Args:
        given: a name or an alias of the catalog, or the path of a file. A text with a folder or
            with the suffix ".py" is a path.
        plugins: folders of content that the name may be in.

    Raises:
        UserError: if there is no such detector or file, the file declares no detector, or another
            detector has its name.
    """
    catalog = Catalog(plugins)
    path = expanded(given)
    by_name = isinstance(given, str) and path.suffix != ".py" and len(path.parts) == 1
    if by_name:
        path = catalog.entry("detector", str(given)).path
    elif path.is_dir():
        files = sorted(path.rglob("detectors/[!_]*.py") or path.glob("[!_]*.py"))
        raise UserError(
            f"{path} is a folder; check one detector at a time.",
            f"Give a file: {listed(files)}." if files else "Give the file of a detector.",
        )
    elif not path.is_file():
        raise UserError(
            f"There is no file {path}.",
            "Give the file of a detector, or a name of `oodbench list detectors`.",
        )
    path = path.resolve()
    try:
        info = read_detector(path)
    except BrokenDetectorError as error:
        raise broken(path, error) from error
    for name in (info.name, *info.aliases):
        other = catalog.entries["detector"].get(catalog.aliases.get(name, name))
        if other is not None and other.cls is None and not other.path.samefile(path):
            raise UserError(
                f"{path}: the name '{name}' is that of another detector: {other.path}.",
                "Rename the file and the name in @register; a name stands for one thing.",
            )
    return path


def broken(path: Path, error: Exception | str) -> UserError:
    """What is said of a file that does not import or declares no detector."""
    return UserError(sentence(f"{path}: {error}"))
