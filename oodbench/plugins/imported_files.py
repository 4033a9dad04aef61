"""What a detector is made of: its file, and the files of Python that it imports."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from oodbench.files import digest
from oodbench.plugins.detector_modules import DETECTORS, helper, is_plain


def source_files(path: Path) -> list[Path]:
    """A detector's file, first, and every file of Python that it imports, directly or not.

    Files of the standard library, of installed packages and of oodbench itself do not count: their
    versions stand for them. Those of the detector's own plug-in package do.

    Args:
        path: the file, resolved.
    """
    if is_plain(path.parent):
        return [path]
    content = path.parent.parent if path.parent.name == DETECTORS else path.parent
    found = {path: None}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        for other in _imported_files(file, path.parent):
            if other not in found and _counts(other, content):
                found[other] = None
                waiting.append(other)
    return [path, *sorted(found.keys() - {path})]


def source_digest(path: Path) -> str:
    """SHA-256 of a detector's file and of all that `source_files` finds, 64 hexadecimal digits."""
    path = path.resolve()
    first, *helpers = source_files(path)
    parts: list[bytes | str] = [first.read_bytes()]
    for file in helpers:
        parts += [os.path.relpath(file, path.parent).replace(os.sep, "/"), file.read_bytes()]
    return digest(*parts)


def _counts(file: Path, content: Path) -> bool:
    """Whether a file's text is part of a detector, and not stood for by a version."""
    if file.is_relative_to(Path(__file__).parents[1]):
        return False
    installed = [folder for folder in _installed() if file.is_relative_to(folder)]
    if not installed:
        return not str(file).startswith("<frozen ")
    # Of the detector's own package; not of packages in a virtual environment within its folder.
    return file.is_relative_to(content) and not any(
        folder.is_relative_to(content) for folder in installed
    )


def is_installed(file: Path) -> bool:
    """Whether a file is of the standard library, of an installed package or of Python itself."""
    return str(file).startswith("<frozen ") or any(map(file.is_relative_to, _installed()))


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Folders of the standard library and of installed packages, of PYTHONPATH too."""
    named = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    named |= {*site.getsitepackages(), site.getusersitepackages()}
    named |= {entry for entry in sys.path if any(Path(entry or ".").glob("*.dist-info"))}
    return tuple(Path(folder).resolve() for folder in named if folder)


def _imported_files(file: Path, folder: Path) -> Iterator[Path]:
    """Files of Python that the imports of a file name, wherever in it they stand.

    Args:
        file: the file.
        folder: that the detector lies in.
    """
    try:
        imports = _imports(file.read_bytes())
    except OSError:
        return
    for level, module, names in imports:
        start = file.parents[level - 1] if level else _start(module, folder)
        for name in names:
            yield from _files_of([part for part in (*module.split("."), name) if part], start)


@functools.lru_cache(maxsize=4096)
def _imports(text: bytes) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """Level, module and names of every import in a text, wherever it stands; () if it is no Python.

    Every run looks at every detector's file: a text that has not changed is parsed once.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return ()
    found: list[tuple[int, str, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ("",)) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found.append((node.level, node.module or "", names))
    return tuple(found)


def _start(module: str, folder: Path) -> Path | None:
    """The folder that a module's name is looked for in."""
    if helper(folder, module) is not None:
        return folder
    name = module.split(".")[0]
    if not name or name in sys.stdlib_module_names or name == __name__.split(".")[0]:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    for location in spec.submodule_search_locations or ():
        return Path(location).parent
    return Path(spec.origin).parent if spec.origin and spec.has_location else None


def _files_of(parts: Sequence[str], start: Path | None) -> Iterator[Path]:
    """Files that importing `a.b.c` runs: those of a, of a.b and of a.b.c, as far as they are."""
    if start is None:
        return
    for part in parts:
        module, package = start / f"{part}.py", start / part
        for file in (module, package / "__init__.py"):
            if file.is_file():
                yield file.resolve()
        start = package
