"""The text that a detector's scores come from, as a digest."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from oodbench.detector import Detector
from oodbench.files import digest
from oodbench.plugins.detector_modules import is_content
from oodbench.plugins.imported_files import source_digest


def detector_source(cls: type[Detector]) -> str:
    """SHA-256 of a detector's file and of what it imports, or of the text of a class in no folder.

    "" if the text is not known, as of a class that was typed into an interpreter.
    """
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if is_content(cls.__module__) and file is not None:
        return source_digest(Path(file))
    try:
        return digest(inspect.getsource(cls))
    except (OSError, TypeError):
        return ""
