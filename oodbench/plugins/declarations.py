"""Reading a detector's file without running it.

`oodbench list` must be quick and honest, and running a detector's file imports torch. The
declaration (`@register(...)`) is made of literals, so it can be read from the syntax tree; and for
a file whose top level only imports, defines and declares, reading also tells that it will import.
Anything else has to be run to know (`oodbench.plugins.probe`).
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from oodbench.detector import NEEDS, DetectorInfo, required_methods, undeclared_methods
from oodbench.errors import did_you_mean
from oodbench.plugins.content import helper


class BrokenDetectorError(Exception):
    """A detector's file that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading a file tells.

    Attributes:
        info: the declaration.
        certain: whether the file is sure to import; if not, it must be run to know.
    """

    info: DetectorInfo
    certain: bool


def read_detector(path: Path) -> Reading:
    """Read the declaration of a detector's file.

    Raises:
        BrokenDetectorError: if the file is not Python, imports a package that is not installed,
            or declares no detector, several, or one of another name.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        compile(tree, str(path), "exec", dont_inherit=True)  # finds what the grammar lets pass
    except SyntaxError as error:
        raise BrokenDetectorError(f"line {error.lineno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise BrokenDetectorError("cannot be read: it is not UTF-8 text") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BrokenDetectorError(f"cannot be read: {reason}") from error
    for line, package in _imported_packages(tree):
        if helper(path.resolve().parent, package) is None and not _is_installed(package):
            raise BrokenDetectorError(f"line {line}: {_not_found(package, path)}")
    info = _declaration(tree, path)
    return Reading(info, certain=_TopLevel(tree).is_certain())


def _declaration(tree: ast.Module, path: Path) -> DetectorInfo:
    declared = [
        (node, decorator)
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and _last_name(decorator.func) == "register"
    ]
    if not declared:
        raise BrokenDetectorError('declares no detector: no class is decorated with @register("…")')
    if len(declared) > 1:
        raise BrokenDetectorError("declares more than one detector: write one file for each")
    node, call = declared[0]
    try:
        arguments = {word.arg or "": ast.literal_eval(word.value) for word in call.keywords}
        names = [ast.literal_eval(argument) for argument in call.args]
    except ValueError as error:
        raise BrokenDetectorError(
            f"line {call.lineno}: write the arguments of @register as literals"
        ) from error
    name = names[0] if names else arguments.pop("name", None)
    if name != path.stem:
        raise BrokenDetectorError(
            f"line {call.lineno}: registers '{name}', but the file is called {path.name}"
        )
    needs = arguments.get("needs", ())
    if not isinstance(needs, list | tuple | set):
        raise BrokenDetectorError(
            f'line {call.lineno}: @register: needs: expected a tuple such as ("fit",), '
            f"not {needs!r}"
        )
    for need in needs:
        if need not in NEEDS:
            raise BrokenDetectorError(
                f"line {call.lineno}: unknown need '{need}'. {did_you_mean(str(need), NEEDS)}"
            )
    docstring = ast.get_docstring(node) or node.name
    try:
        return DetectorInfo(
            name=name,
            label=arguments.pop("label", "") or node.name,
            title=arguments.pop("title", "") or docstring.splitlines()[0].rstrip("."),
            needs=frozenset(arguments.pop("needs", ())),
            search_space={
                key: tuple(values) for key, values in arguments.pop("search_space", {}).items()
            },
            **arguments,
        )
    except (TypeError, AttributeError) as error:
        raise BrokenDetectorError(
            f"line {call.lineno}: @register: {str(error).replace('DetectorInfo.__init__() ', '')}"
        ) from error


def _imported_packages(tree: ast.Module) -> Iterable[tuple[int, str]]:
    """Line and top-level package of every import that running the file certainly reaches."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.split(".")[0]


def _not_found(package: str, path: Path) -> str:
    text = f"No module named '{package}'"
    beside = path.with_name(f"{package}.py")
    if not beside.exists():
        return text
    return f"{text}: call the file beside it _{beside.name}, and import '_{package}'"


@cache
def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


@cache
def _text_of_module(name: str) -> str:
    """Source of a module, found without importing it; empty if there is none to read."""
    package, *rest = name.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    file = Path(spec.origin)
    for part in rest:
        package_file, module_file = file.parent / part / "__init__.py", file.parent / f"{part}.py"
        file = package_file if package_file.is_file() else module_file
    if file.suffix != ".py" or not file.is_file():
        return ""
    beside = file.parent if file.name == "__init__.py" else None
    modules = " ".join(entry.stem for entry in beside.iterdir()) if beside else ""
    return file.read_text(encoding="utf-8", errors="replace") + "\n" + modules


def _provides(module: str, name: str) -> bool:
    """Whether `from module import name` is sure to work, without importing what is not ours."""
    if module.split(".")[0] in sys.stdlib_module_names:
        return _is_installed(module) and hasattr(importlib.import_module(module), name)
    return re.search(rf"\b{re.escape(name)}\b", _text_of_module(module)) is not None


def _methods(node: ast.ClassDef) -> set[str]:
    """Names of the functions that a class defines itself."""
    return {statement.name for statement in node.body if isinstance(statement, ast.FunctionDef)}


def _keys(node: ast.expr | None) -> list[ast.expr]:
    return [key for key in node.keys if key is not None] if isinstance(node, ast.Dict) else []


def _constructor_arguments(node: ast.ClassDef) -> set[str]:
    """Names that a class's own `__init__` takes."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            arguments = statement.args
            return {argument.arg for argument in (*arguments.args[1:], *arguments.kwonlyargs)}
    return set()


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


class _TopLevel:
    """Whether running a file's top level can fail, judged by its statements.

    Judged certain: imports of modules that are there and mention the name, definitions and
    assignments whose evaluated parts are literals, sums, products and powers of two integers and
    names already bound, a class that is registered if it derives from Detector, has the methods
    that its needs are for and takes what its search space names. All else is uncertain.
    """

    HARMLESS_DECORATORS = frozenset({"staticmethod", "classmethod", "property", "override"})

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.bound: set[str] = set(dir(builtins)) | {"__name__", "__file__"}
        self.bases: set[str] = set()  # of what is bound, what was imported or is a class
        self.lazy_annotations = any(
            isinstance(node, ast.ImportFrom)
            and node.module == "__future__"
            and any(alias.name == "annotations" for alias in node.names)
            for node in tree.body
        )

    def is_certain(self) -> bool:
        return all(self._statement(node) for node in self.tree.body)

    def _statement(self, node: ast.stmt) -> bool:
        match node:
            case ast.Import(names=names):
                self.bound |= {(alias.asname or alias.name).split(".")[0] for alias in names}
                return all("." not in alias.name or _text_of_module(alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=0) if module:
                imported = {alias.asname or alias.name for alias in names}
                self.bound |= imported
                self.bases |= imported
                return all(_provides(module, alias.name) for alias in names)
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                return True
            case ast.Assign(targets=targets, value=value):
                certain = self._value(value) and all(isinstance(t, ast.Name) for t in targets)
                self.bound |= {t.id for t in targets if isinstance(t, ast.Name)}
                return certain
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=assigned):
                self.bound.add(name)
                return self._annotation(annotation) and (assigned is None or self._value(assigned))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                certain = self._function(node)
                self.bound.add(node.name)
                return certain
            case ast.ClassDef():
                outside = set(self.bound)  # what a class binds inside itself is not seen outside
                certain = self._class(node)
                self.bound = outside | {node.name}
                self.bases.add(node.name)
                return certain
            case ast.If(test=ast.Name(id="TYPE_CHECKING" as name), orelse=[]):
                return name in self.bound
        return False

    def _class(self, node: ast.ClassDef) -> bool:
        return (
            all(self._registration(decorator, node) for decorator in node.decorator_list)
            and all(isinstance(base, ast.Name) and base.id in self.bases for base in node.bases)
            and not node.keywords
            and all(self._statement(statement) for statement in node.body)
        )

    def _registration(self, decorator: ast.expr, node: ast.ClassDef) -> bool:
        """Whether a class's decorator is `register(...)` and will accept the class."""
        match decorator:
            case ast.Call(func=ast.Name(id="register" as name), args=args, keywords=keywords):
                values = [*args, *(keyword.value for keyword in keywords)]
                given = {keyword.arg: keyword.value for keyword in keywords}
                searched = {ast.literal_eval(key) for key in _keys(given.get("search_space"))}
                needs = ast.literal_eval(given["needs"]) if "needs" in given else ()
                return (
                    name in self.bound
                    and all(self._value(value) for value in values)
                    and any(_last_name(base) == "Detector" for base in node.bases)
                    and required_methods(needs).keys() <= _methods(node)
                    and not undeclared_methods(_methods(node), needs)
                    and searched <= _constructor_arguments(node)
                )
        return False

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
        defaults = [d for d in (*arguments.defaults, *arguments.kw_defaults) if d is not None]
        annotations = [argument.annotation for argument in every] + [node.returns]
        return (
            all(_last_name(d) in self.HARMLESS_DECORATORS & self.bound for d in node.decorator_list)
            and all(self._value(default) for default in defaults)
            and all(self._annotation(annotation) for annotation in annotations if annotation)
        )

    def _annotation(self, node: ast.expr) -> bool:
        return self.lazy_annotations or self._value(node)

    def _value(self, node: Any) -> bool:
        match node:
            case ast.Constant():
                return True
            case ast.Name(id=name):
                return name in self.bound
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return all(self._value(item) for item in items)
            case ast.Set(elts=items):
                return all(isinstance(item, ast.Constant) for item in items)
            case ast.Dict(keys=keys, values=values):
                return all(isinstance(key, ast.Constant) for key in keys) and all(
                    self._value(value) for value in values
                )
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
                return True
            case ast.BinOp(
                left=ast.Constant(value=int()),
                op=ast.Add() | ast.Sub() | ast.Mult(),
                right=ast.Constant(value=int()),
            ):
                return True
            case ast.BinOp(
                left=ast.Constant(value=int()), op=ast.Pow(), right=ast.Constant(value=int(power))
            ):
                return power <= 64  # sizes such as 2**20; nothing that takes for ever
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                # `Tensor | None` is a type; `"Tensor" | None` is an error.
                ends = [side for side in (left, right) if isinstance(side, ast.Constant)]
                types = len(ends) < 2 and all(end.value is None for end in ends)
                return types and self._value(left) and self._value(right)
            case ast.Subscript(value=ast.Name() as value, slice=index):
                return self._value(value) and self._value(index)
        return False
