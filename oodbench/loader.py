"""Running a detector's file and making instances of what it declares."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from oodbench.detector import Detector
from oodbench.errors import UserError, did_you_mean
from oodbench.inspection import BrokenDetectorError


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
    step = getattr(detector, "epsilon", None)
    if "input_gradient" in cls.info.needs and not isinstance(step, int | float):
        raise UserError(
            f"Detector '{cls.info.name}' declares the need 'input_gradient' and has no step size.",
            "Give it an attribute 'epsilon', a number in units of a [0, 1] pixel.",
        )
    return detector


def _checked(cls: type[Detector], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, held to the types that the constructor declares."""
    try:
        types = get_type_hints(cls.__init__)
    except NameError:  # a type that is imported for checkers only
        types = {}
    checked = {}
    for name, value in parameters.items():
        try:
            checked[name] = TypeAdapter(types.get(name, Any)).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ValueError(f"{name}: {problem[0].lower()}{problem[1:]}") from error
    return checked


def _arguments(parameters: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
    return shown or "its defaults"


def load_class(path: Path) -> type[Detector]:
    """Run a detector's file under a private module name and return the class it registers.

    Raises:
        BrokenDetectorError: if it does not import or declares no detector of its name.
    """
    path = path.resolve()
    folder = hashlib.sha256(str(path.parent).encode()).hexdigest()[:12]
    module_name = f"oodbench_plugins.{folder}.{path.stem}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # before it runs: dataclasses look themselves up there
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            sys.modules.pop(module_name, None)
            if isinstance(error, KeyboardInterrupt):
                raise
            raise BrokenDetectorError(_explain_import(error, path)) from error
    for value in vars(module).values():
        own = isinstance(value, type) and issubclass(value, Detector) and "info" in vars(value)
        if own and value.info.name == path.stem:
            found: type[Detector] = value
            return found
    sys.modules.pop(module_name, None)
    raise BrokenDetectorError(
        f'declares no detector: no class is decorated with @register("{path.stem}")'
    )


def _explain_import(error: BaseException, path: Path) -> str:
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None and line is None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    message = getattr(error, "msg", None) or str(error).splitlines()[0] if str(error) else ""
    described = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, UserError):  # of `register`
        described = error.message.rstrip(".")
    return f"line {line}: {described}" if line else described
