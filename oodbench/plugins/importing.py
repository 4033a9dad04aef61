"""Running a detector's file and making instances of its class."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from oodbench.detector import Detector, parameters_problem
from oodbench.errors import UserError, did_you_mean, shown
from oodbench.plugins.declarations import BrokenDetectorError
from oodbench.plugins.detector_modules import is_content, module_name
from oodbench.plugins.imported_files import source_files
from oodbench.specs import number_obstacle

TIME_LIMIT = 60
"""Seconds that running a detector's file may take, imports included."""


def instantiate(cls: type[Detector], parameters: Mapping[str, Any]) -> Detector:
    """An instance of a detector's class with parameters that it takes.

    Raises:
        UserError: if it does not take one, or refuses a value.
    """
    known = cls.parameter_names()
    for parameter in parameters:
        if parameter not in known:
            raise UserError(
                f"Detector '{cls.info.name}' has no parameter '{parameter}'.",
                did_you_mean(parameter, known),
            )
    try:
        detector = cls(**_checked(cls, parameters))
    except Exception as error:  # a user's code: whatever it raises is about this detector
        problem = (str(error).splitlines() or [""])[0].replace(f"{cls.__name__}.__init__() ", "")
        if not isinstance(error, TypeError | ValueError):
            problem = f"{type(error).__name__}: {problem}"
        raise UserError(
            f"Detector '{cls.info.name}' cannot be made with {_arguments(parameters)}: {problem}."
        ) from error
    unkept = parameters_problem(detector, parameters)
    if unkept is not None:
        raise UserError(f"Detector '{cls.info.name}': {unkept}.")
    step = getattr(detector, "epsilon", None)
    if "input_gradient" in cls.info.needs and not isinstance(step, int | float):
        raise UserError(
            f"Detector '{cls.info.name}' declares the need 'input_gradient' and has no step size.",
            "Give it an attribute 'epsilon', a number in units of a [0, 1] pixel.",
        )
    return detector


def _checked(cls: type[Detector], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, held to the types that the constructor declares.

    Raises:
        ValueError: one has another type, or a number is not finite.
    """
    try:
        types = get_type_hints(cls.__init__)
    except NameError:  # a type that is imported for checkers only
        types = {}
    checked = {}
    for name, value in parameters.items():
        plain = value.item() if getattr(value, "shape", None) == () else value  # of numpy, torch
        problem = next((each for each in map(number_obstacle, _inside(plain)) if each), None)
        if problem is not None:
            raise ValueError(f"{name}: {problem}, not {shown(plain)}")
        try:
            checked[name] = _held_to(types.get(name, Any), plain)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ValueError(
                f"{name}: {problem[0].lower()}{problem[1:]}, not {shown(plain)}"
            ) from error
    return checked


def _held_to(annotation: Any, value: Any) -> Any:
    """A value of a declared type: True and "1" are no numbers, and 2.0 is no whole number.

    Lists, and texts for a path or an enumeration, are taken as JSON gives them: YAML has no tuples.

    Raises:
        ValidationError: it is of another type.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except PydanticUserError:  # a type that pydantic knows nothing of
        return value
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError:
        if not isinstance(value, str | list | tuple | dict):
            raise
        try:
            text = json.dumps(value)
        except (TypeError, ValueError):  # not of JSON's types
            text = ""
        if not text:
            raise
    return adapter.validate_json(text, strict=True)


def _inside(value: Any) -> Iterator[Any]:
    """The values inside lists and mappings, or the value itself."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        yield value
        return
    for each in value:
        yield from _inside(each)


def _arguments(parameters: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{name}={shown(value)}" for name, value in parameters.items())
    return listed or "its defaults"


def load_class(path: Path) -> type[Detector]:
    """Run a detector's file as a module (`detector_modules`) and return the class it registers.

    A file that was run before is run again if it, or a file that it imports, has changed since.
    One thread at a time: another one would find modules that are not run to their end.

    Raises:
        BrokenDetectorError: if it does not import or declares no detector of its name.
    """
    with _one_at_a_time:
        return _load(path.resolve())


_one_at_a_time = threading.RLock()
"""Reentrant: a detector's file may load another detector when it is run."""


def _load(path: Path) -> type[Detector]:
    name = module_name(path)
    if name in sys.modules:
        if name not in _states:
            _states[name] = _state(source_files(path))
        state = _states[name]
        if state == _state(state):
            return _registered(sys.modules[name], path)
    files = source_files(path)
    state = _state(files)
    for old in _modules_of(files):  # helpers too, or a changed one would not be run again
        sys.modules.pop(old, None)
    before = set(sys.modules)
    try:
        with _limited(TIME_LIMIT):
            module = importlib.import_module(name)
        found = _registered(module, path)
    except BaseException as error:
        for new in set(sys.modules) - before:
            if is_content(new):
                sys.modules.pop(new, None)
        if isinstance(error, KeyboardInterrupt | BrokenDetectorError):
            raise
        raise BrokenDetectorError(_explain_import(error, path)) from error
    _states[name] = state
    return found


class _TooSlowError(BaseException):
    """Running a file takes too long. Not an `Exception`: a loop may pass over those."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `_TooSlowError` in this thread after so many seconds, at its next line of Python."""
    thread = ctypes.c_ulong(threading.get_ident())
    arguments = (thread, ctypes.py_object(_TooSlowError))
    timer = threading.Timer(seconds, ctypes.pythonapi.PyThreadState_SetAsyncExc, arguments)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_State = dict[Path, tuple[int, int]]
_states: dict[str, _State] = {}
"""Module of a detector -> the state of its files when it was run."""


def _state(files: Iterable[Path]) -> _State:
    """Time of the last change and size of files; of one that is gone, nothing."""
    found = {file: file.stat() for file in files if file.is_file()}
    return {file: (stat.st_mtime_ns, stat.st_size) for file, stat in found.items()}


def _modules_of(files: Sequence[Path]) -> list[str]:
    """Names of the modules of content that have been imported from files."""
    named = {str(file) for file in files}
    return [
        name
        for name, module in sys.modules.copy().items()  # other threads import meanwhile
        if is_content(name) and getattr(module, "__file__", None) in named
    ]


def _registered(module: ModuleType, path: Path) -> type[Detector]:
    """The class that a detector's module registers.

    Raises:
        BrokenDetectorError: if there is none of the file's name.
    """
    for value in vars(module).values():
        own = isinstance(value, type) and issubclass(value, Detector) and "info" in vars(value)
        if own and value.info.name == path.stem:
            found: type[Detector] = value
            return found
    raise BrokenDetectorError(
        f'declares no detector: no class is decorated with @register("{path.stem}")'
    )


def _explain_import(error: BaseException, path: Path) -> str:
    """What is wrong, with the line of the detector's file, and that of a helper if it is there."""
    trace, line, inner = error.__traceback__, None, None
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file == str(path):
            line, inner = trace.tb_lineno, None
        elif is_content(trace.tb_frame.f_globals.get("__name__", "")):
            inner = f"{Path(file).name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename is not None:
        if error.filename == str(path):
            line, inner = error.lineno, None
        else:
            inner = f"{Path(error.filename).name}, line {error.lineno}"
    message = getattr(error, "msg", None) or str(error).splitlines()[0] if str(error) else ""
    described = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, UserError):  # of `register`
        described = f"{error.message} {error.hint}".rstrip(". ")
    if isinstance(error, SystemExit):
        described += ": the file ends Python when it is imported; remove that line"
    if isinstance(error, _TooSlowError):
        described = f"running the file takes longer than {TIME_LIMIT} s"
    if isinstance(error, ModuleNotFoundError) and path.with_name(f"{error.name}.py").exists():
        described += f": call the file beside it _{error.name}.py, and import '_{error.name}'"
    if inner is not None:
        described = f"{inner}: {described}"
    return f"line {line}: {described}" if line else described
