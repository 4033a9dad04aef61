"""Detectors' files as modules with stable names, so that their classes can be pickled.

The file `knn.py` of the built-in detectors is the module
`oodbench.plugins.detector_modules.builtin.knn`; a file of an installed plug-in package PACKAGE is
`oodbench.plugins.detector_modules.package:PACKAGE.NAME`. A file anywhere else is named after its
folder (a dot in a folder's name is written %2E):
`oodbench.plugins.detector_modules./home/me/mine/detectors.NAME`. So two folders never share a
module, and a process without a catalog finds the file by the module's name alone.

A file imports the helpers that lie beside it as `from ._shared import f` or `from _shared import
f`; the second form is for names that begin with an underscore. `sys.path` is not changed.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

ENTRY_POINT_GROUP = "oodbench.plugins"
DETECTORS = "detectors"
"""The sub-folder of a folder of content that detectors lie in."""

_BUILT_IN = "builtin"
_PACKAGE = "package:"

__path__: list[str] = []  # this module is a package; `_Finder` finds what is in it

log = logging.getLogger(__name__)


# --- folders and the names of modules ----------------------------------------------------------


@functools.cache
def built_in_folder() -> Path:
    """The copy in the wheel, or the checkout that this file is in."""
    package = Path(__file__).parents[1]
    shipped = package / "_shipped"
    return shipped if shipped.is_dir() else package.parent


@functools.cache
def _built_in_detectors() -> Path:
    return (built_in_folder() / DETECTORS).resolve()


def plugin_packages() -> Iterator[tuple[str, str, Path]]:
    """Distribution, package and folder of every installed package with plug-ins.

    They declare the entry point group `oodbench.plugins`. A broken one is left out with a warning.
    """
    for point in _plugin_distributions(tuple(sys.path)):
        distribution = point.dist.name if point.dist else point.name
        for location in _package_folders(point.module, distribution):
            yield distribution, point.module, location


@functools.cache
def _plugin_distributions(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entry points of a module search path: reading those of all packages takes a while."""
    found = entry_points(group=ENTRY_POINT_GROUP)
    return tuple(sorted(found, key=lambda point: point.name))


def _package_folders(package: str, distribution: str) -> list[Path]:
    """Where a package lies; nowhere, with a warning, if its distribution is broken."""
    try:
        spec = importlib.util.find_spec(package)
    except Exception as error:  # finding a.b imports a, which may do anything
        log.warning("plug-ins of %s left out: %s: %s", distribution, package, error)
        return []
    if spec is None or not spec.submodule_search_locations:
        log.warning("plug-ins of %s left out: there is no package %s", distribution, package)
        return []
    return [Path(location) for location in spec.submodule_search_locations]


def module_name(path: Path) -> str:
    """The name of the module that a detector's file is, whether or not it has been imported.

    Args:
        path: the file, resolved.
    """
    return f"{__name__}.{_key(path.parent)}.{path.stem}"


def is_content(module: str, *, built_in: bool = True) -> bool:
    """Whether a module is a detector's file or a helper of one.

    Args:
        module: its name.
        built_in: whether the built-in detectors count.
    """
    own = f"{__name__}.{_BUILT_IN}."
    return module.startswith(f"{__name__}.") and (built_in or not module.startswith(own))


def _key(folder: Path) -> str:
    """What a folder of detectors is called in the names of its modules."""
    if folder == _built_in_detectors():
        return _BUILT_IN
    for _, package, location in plugin_packages():
        if folder == (location / DETECTORS).resolve():
            return _PACKAGE + _without_dots(package)
    return _without_dots(str(folder))


def _folders(key: str) -> list[Path]:
    """The folder of detectors behind such a name; several for a namespace package."""
    if key == _BUILT_IN:
        return [_built_in_detectors()]
    name = key.removeprefix(_PACKAGE).replace("%2E", ".").replace("%25", "%")
    if key.startswith(_PACKAGE):
        return [(location / DETECTORS).resolve() for location in _package_folders(name, name)]
    return [Path(name)]


def _without_dots(text: str) -> str:
    return text.replace("%", "%25").replace(".", "%2E")


class _Finder(MetaPathFinder):
    """Finds `oodbench.plugins.detector_modules.KEY`, a folder, and the files and folders in it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The file or the folder that is a module, as `importlib` asks for it."""
        prefix = f"{__name__}."
        if not fullname.startswith(prefix):
            return None
        key, _, inside = fullname.removeprefix(prefix).partition(".")
        folders = [folder for folder in _folders(key) if folder.is_dir()]
        if not inside:
            return _folder_spec(fullname, folders)
        for folder in folders:
            place = folder.joinpath(*inside.split("."))
            for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
                if file.is_file():
                    return _file_spec(fullname, file, folder, f"{prefix}{key}")
            if place.is_dir():
                return _folder_spec(fullname, [place])
        return None


def _folder_spec(name: str, folders: Sequence[Path]) -> ModuleSpec | None:
    """A package without code of its own; None if there is no folder."""
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder) for folder in folders]
    return spec if folders else None


def _file_spec(name: str, file: Path, folder: Path, package: str) -> ModuleSpec | None:
    return importlib.util.spec_from_file_location(
        name,
        file,
        loader=_Loader(name, str(file), folder, package),
        submodule_search_locations=[str(file.parent)] if file.name == "__init__.py" else None,
    )


class _Loader(SourceFileLoader):
    """Runs a file's text as it is now: no bytecode is kept, which could be that of an older text.

    Built-in detectors without helpers are loaded as every installed module is.

    Args:
        name: name of the module.
        file: its file.
        folder: where helpers lie.
        package: the module that this folder is.
    """

    def __init__(self, name: str, file: str, folder: Path, package: str) -> None:
        super().__init__(name, file)
        self._folder, self._package = folder, package

    def get_code(self, fullname: str) -> Any:
        """The compiled text, in which helpers are imported under their full names."""
        if is_plain(self._folder):
            return super().get_code(fullname)
        tree = ast.parse(self.get_data(self.path), filename=self.path)
        tree = ast.fix_missing_locations(_Helpers(self._folder, self._package).visit(tree))
        return compile(tree, self.path, "exec", dont_inherit=True)


class _Helpers(ast.NodeTransformer):
    """`from _shared import f` becomes the import of `f` from the module of the helper's file."""

    def __init__(self, folder: Path, package: str) -> None:
        self._folder, self._package = folder, package

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        """Of a helper."""
        if not node.level and node.module and helper(self._folder, node.module):
            node.module = f"{self._package}.{node.module}"
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        """Of helpers, each in a statement of its own, and of other modules."""
        statements: list[ast.stmt] = []
        for alias in node.names:
            if helper(self._folder, alias.name) is None:
                statements.append(ast.Import([alias]))
                continue
            *parents, last = alias.name.split(".")
            if parents:  # `import _lib.maths` loads _lib.maths, and binds _lib
                within = ".".join([self._package, *parents])
                bound = ast.alias(last, alias.asname or f"_{last}")
                statements.append(ast.ImportFrom(within, [bound], 0))
            if not parents or not alias.asname:
                first = ast.alias(alias.name.split(".")[0], alias.asname)
                statements.append(ast.ImportFrom(self._package, [first], 0))
        return [ast.copy_location(statement, node) for statement in statements]


def helper(folder: Path, module: str) -> Path | None:
    """The file or folder beside a detector that a module's name means in its imports, or None.

    Args:
        folder: that the detector lies in.
        module: as in `import module`.
    """
    name = module.split(".")[0]
    if not name.startswith("_") or name.startswith("__"):
        return None
    places = (folder / f"{name}.py", folder / name)
    return next((place for place in places if place.exists()), None)


def is_plain(folder: Path) -> bool:
    """Whether a folder is that of the built-in detectors, and no helper lies beside them."""
    if folder != _built_in_detectors():
        return False
    return not any(e.name.startswith("_") and e.name != "__pycache__" for e in folder.iterdir())


# Last in line would be too late: for a folder's `__path__` the usual finder finds files, too.
sys.meta_path.insert(0, _Finder())
