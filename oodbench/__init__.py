"""oodbench: benchmarks of out-of-distribution detectors, quality and cost side by side.

Importing this package is cheap: torch is loaded when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from oodbench.detector import Batches, Detector, Head, Outputs, PerturbingDetector, register
from oodbench.errors import UserError
from oodbench.version import __version__

if TYPE_CHECKING:
    from oodbench import losses, metrics, models, testing
    from oodbench.api import compare, load_detector, open_run, run, run_suite
    from oodbench.deploy.artifact.artifact_reading import load_fitted
    from oodbench.deploy.fitted_detector import Decisions, FittedDetector
    from oodbench.layerwise import LayerwiseDetector
    from oodbench.results import Run, SuiteRun, leaderboard, verify
    from oodbench.user_model.evaluate_function import evaluate
    from oodbench.user_model.evaluation_result import EvaluationResult
    from oodbench.user_model.fit_function import fit

__all__ = [
    "Batches",
    "Decisions",
    "Detector",
    "EvaluationResult",
    "FittedDetector",
    "Head",
    "LayerwiseDetector",
    "Outputs",
    "PerturbingDetector",
    "Run",
    "SuiteRun",
    "UserError",
    "__version__",
    "compare",
    "evaluate",
    "fit",
    "leaderboard",
    "load_detector",
    "load_fitted",
    "losses",
    "metrics",
    "models",
    "open_run",
    "register",
    "run",
    "run_suite",
    "testing",
    "verify",
]

_LAZY_MODULES = ("losses", "metrics", "models", "testing")
_LAZY_NAMES = {
    **dict.fromkeys(("compare", "load_detector", "open_run", "run", "run_suite"), "api"),
    **dict.fromkeys(("Run", "SuiteRun", "leaderboard", "verify"), "results"),
    "LayerwiseDetector": "layerwise",
    **dict.fromkeys(("Decisions", "FittedDetector"), "deploy.fitted_detector"),
    "load_fitted": "deploy.artifact.artifact_reading",
    "EvaluationResult": "user_model.evaluation_result",
    "evaluate": "user_model.evaluate_function",
    "fit": "user_model.fit_function",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"oodbench.{name}")
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(f"oodbench.{_LAZY_NAMES[name]}"), name)
    raise AttributeError(f"module 'oodbench' has no attribute '{name}'")
