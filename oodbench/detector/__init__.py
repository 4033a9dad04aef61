"""The public contract of a detector: base classes, its inputs, and `register`.

A detector's file is content: it imports from here and knows nothing of the engine that runs it.
"""

from oodbench.detector.base import Detector, PerturbingDetector
from oodbench.detector.batches import Batches
from oodbench.detector.info import FAMILIES, NEEDS, DetectorInfo, Need
from oodbench.detector.language import Language
from oodbench.detector.outputs import Head, HeadKind, Outputs, head_obstacle
from oodbench.detector.registration import declared, parameters_problem, register, required_methods

__all__ = [
    "FAMILIES",
    "NEEDS",
    "Batches",
    "Detector",
    "DetectorInfo",
    "Head",
    "HeadKind",
    "Language",
    "Need",
    "Outputs",
    "PerturbingDetector",
    "declared",
    "head_obstacle",
    "parameters_problem",
    "register",
    "required_methods",
]
