"""Conformance of detectors: the checks that every detector passes, for anyone's detector.

`check_detector` makes all checks of one detector, `parametrize_with_checks` makes a test of each.
Importing this package is cheap: torch is loaded when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from oodbench.testing.check_results import CheckResult, ConformanceError, ConformanceReport

if TYPE_CHECKING:
    from oodbench.testing.check import Check
    from oodbench.testing.suite import CHECKS, check_detector, parametrize_with_checks

__all__ = [
    "CHECKS",
    "Check",
    "CheckResult",
    "ConformanceError",
    "ConformanceReport",
    "check_detector",
    "parametrize_with_checks",
]

_LAZY_NAMES = {
    "Check": "check",
    **dict.fromkeys(("CHECKS", "check_detector", "parametrize_with_checks"), "suite"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(f"oodbench.testing.{_LAZY_NAMES[name]}"), name)
    raise AttributeError(f"module 'oodbench.testing' has no attribute '{name}'")
