"""The declaration in a detector's file, read without running the file.

`oodbench list` must be quick, and running a detector's file imports torch. The arguments of
`@register(...)` are literals, so they can be read from the syntax tree. Whether the file imports is
asked of another process (`oodbench.plugins.import_trials`).
"""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

from oodbench.detector import DetectorInfo, declared
from oodbench.errors import UserError


class BrokenDetectorError(Exception):
    """A detector's file that cannot be used; the message says why."""


def read_detector(path: Path) -> DetectorInfo:
    """Read the arguments of `@register(...)` in a detector's file.

    Raises:
        BrokenDetectorError: if the file is not Python, or declares no detector, several, or one of
            another name.
    """
    return _read(path, _text(path))


@lru_cache(maxsize=1024)
def _read(path: Path, text: str) -> DetectorInfo:
    """Every catalog reads every file: a text that has not changed is parsed once."""
    return _info(*_declaration(path, text), path)


def read_docstring(path: Path) -> str:
    """Read the docstring of the detector's class in its file; empty if there is none.

    Raises:
        BrokenDetectorError: as `read_detector`.
    """
    return ast.get_docstring(_declaration(path, _text(path))[0]) or ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BrokenDetectorError("cannot be read: it is not UTF-8 text") from error
    except OSError as error:
        raise BrokenDetectorError(f"cannot be read: {error.strerror}") from error


def _declaration(path: Path, text: str) -> tuple[ast.ClassDef, ast.Call]:
    """The class and its call of `register`."""
    try:
        tree = ast.parse(text, filename=str(path))
        compile(tree, str(path), "exec", dont_inherit=True)  # finds what the grammar lets pass
    except SyntaxError as error:
        raise BrokenDetectorError(f"line {error.lineno}: {error.msg}") from error
    except ValueError as error:  # null bytes
        raise BrokenDetectorError(f"cannot be read: {error}") from error
    declarations = [
        (node, decorator)
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and _last_name(decorator.func) == "register"
    ]
    if not declarations:
        raise BrokenDetectorError('declares no detector: no class is decorated with @register("…")')
    if len(declarations) > 1:
        raise BrokenDetectorError("declares more than one detector: write one file for each")
    return declarations[0]


def _info(node: ast.ClassDef, call: ast.Call, path: Path) -> DetectorInfo:
    line = f"line {call.lineno}"
    try:
        arguments = {word.arg or "": ast.literal_eval(word.value) for word in call.keywords}
        names = [ast.literal_eval(argument) for argument in call.args]
    except ValueError as error:
        raise BrokenDetectorError(
            f"{line}: write the arguments of @register as literals"
        ) from error
    name = names[0] if names else arguments.pop("name", None)
    if name != path.stem:
        raise BrokenDetectorError(f"{line}: registers '{name}', but the file is called {path.name}")
    label = arguments.pop("label", "") or node.name
    docstring = ast.get_docstring(node) or node.name
    title = arguments.pop("title", "") or docstring.splitlines()[0].rstrip(".")
    try:
        return declared(name, label=label, title=title, **arguments)
    except UserError as error:
        raise BrokenDetectorError(f"{line}: @register: {error.message} {error.hint}") from error
    except TypeError as error:
        problem = str(error).replace("DetectorInfo.__init__() ", "")
        raise BrokenDetectorError(f"{line}: @register: {problem}") from error


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
