"""What an evaluation of a user's models takes where the user says nothing."""

from __future__ import annotations

from typing import Any

from oodbench.plugins.detector_modules import built_in_folder
from oodbench.specs.yaml_file import read_mapping


def default_benchmark() -> dict[str, Any]:
    """The keys of a benchmark that do not depend on models and data; all may be changed."""
    return read_mapping(built_in_folder() / "benchmarks" / "_evaluation.yaml")


def reference_detector() -> str:
    """Name of the detector that times are divided by: the first of the default detectors."""
    name: str = default_benchmark()["default_detectors"][0]
    return name
