"""The classes that objects in a fitted detector may be of.

An artifact names classes, and is not trusted: a name is looked up in the modules below, and no
other module is imported for it.
"""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType
from typing import Any

from oodbench.detector import Detector
from oodbench.plugins.detector_modules import is_content

_KNOWN = re.compile(r"oodbench\.(numerics|detector|layerwise)(\.\w+)*|torch\.nn\.modules\.\w+")
"""Names of the modules that any detector may use."""

_OWN = "detector:"
"""What the names of the detector's own modules begin with in an artifact."""


class StateClasses:
    """The classes of one detector's state: of oodbench, and of the detector's own files.

    Args:
        cls: the detector's class.
    """

    def __init__(self, cls: type[Detector]) -> None:
        self._own: dict[str, ModuleType] = {}
        for base in cls.__mro__:
            name = base.__module__
            if is_content(name):
                package = name.removesuffix(name.rpartition(".")[2])
                for other, module in list(sys.modules.items()):
                    if other.startswith(package) and module is not None:
                        self._own[other.removeprefix(package)] = module
            elif name.partition(".")[0] not in ("builtins", "oodbench", "torch", "abc", "typing"):
                # A class of a notebook, or of a test: known by its place among the bases.
                self._own[f".{len(self._own)}"] = sys.modules[name]

    def name(self, cls: type) -> str:
        """The name of a class in an artifact, "module:qualified name".

        Raises:
            ValueError: objects of this class cannot be stored; the message says why.
        """
        module = cls.__module__
        for own, known in self._own.items():
            if known.__name__ == module:
                module = f"{_OWN}{own}"
        found = f"{module}:{cls.__qualname__}"
        try:
            same = self.find(found) is cls
        except ValueError:
            same = False
        if not same:
            raise ValueError(f"an object of the class {cls.__module__}.{cls.__qualname__}")
        return found

    def find(self, name: Any) -> type:
        """The class of a name.

        Raises:
            ValueError: there is no such class among those that are allowed.
        """
        module_name, colon, path = str(name).rpartition(":")
        if module_name.startswith(_OWN):
            module = self._own.get(module_name.removeprefix(_OWN))
        else:
            module = _known(module_name)
        found: Any = module
        for part in path.split("."):
            found = None if found is None else vars(found).get(part)
            if found is not None and not isinstance(found, type):
                found = None
        if not colon or module is None or found is None or found.__module__ != module.__name__:
            raise ValueError(f"the class '{name}'")
        return found  # type: ignore[no-any-return]


def _known(name: str) -> ModuleType | None:
    if _KNOWN.fullmatch(name) is None:
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
