"""Folders of content: built-in, given by the user, of installed distributions."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from oodbench import argument_checks
from oodbench.detector import Detector
from oodbench.errors import UserError, shown
from oodbench.files import expanded
from oodbench.plugins.detector_modules import built_in_folder, plugin_packages

PLUGINS_VARIABLE = "OODBENCH_PLUGINS"
BUILT_IN = "built-in"

Plugin = str | Path | type[Detector]
"""A folder of content, or a detector's class."""

log = logging.getLogger(__name__)

Kind = Literal["detector", "benchmark", "dataset", "publication"]
FOLDERS: Mapping[Kind, tuple[str, str]] = {
    "detector": ("detectors", ".py"),
    "benchmark": ("benchmarks", ".yaml"),
    "dataset": ("data_manifests", ".yaml"),
    "publication": ("benchmarks/published", ".yaml"),  # numbers that suites are compared with
}


def checked_plugins(name: str, value: Any) -> list[Plugin]:
    """Check that a value is one or several folders of content or detector classes; returns a list.

    Args:
        name: name of the argument, for the message.
        value: value of the argument.

    Raises:
        UserError: if it is something else.
    """
    if isinstance(value, str | os.PathLike | type):
        value = [value]
    if not isinstance(value, Iterable):
        raise UserError(f"{name}: expected a list of folders, not {shown(value)}.")
    return [
        each
        if isinstance(each, type) and issubclass(each, Detector)
        else argument_checks.path(name, each)
        for each in value
    ]


def content_folders(plugins: Sequence[Path]) -> Iterable[tuple[str, Path]]:
    """Source and path of each folder, in the order of reading.

    Args:
        plugins: folders that the user names.

    Raises:
        UserError: if a folder does not exist, or has none of the three sub-folders.
    """
    built_in = built_in_folder()
    yield BUILT_IN, built_in
    variable = os.environ.get(PLUGINS_VARIABLE, "")
    named = [expanded(part).resolve() for part in variable.split(os.pathsep) if part]
    folders = dict.fromkeys([*plugins, *named])
    folders.pop(built_in.resolve(), None)  # in a checkout, `--plugins .` is the built-in one
    for folder in folders:
        if not any((folder / subfolder).is_dir() for subfolder, _ in FOLDERS.values()):
            found = "has none of the sub-folders" if folder.is_dir() else "is not a folder"
            raise UserError(
                f"Plug-in folder {folder} {found}.",
                "Plug-ins lie in sub-folders called detectors/, benchmarks/ and data_manifests/.",
            )
        yield str(folder), folder
    for distribution, package, location in plugin_packages():
        if not any((location / subfolder).is_dir() for subfolder, _ in FOLDERS.values()):
            log.warning("package %s of %s has no folder detectors/", package, distribution)
        yield f"distribution {distribution}", location
