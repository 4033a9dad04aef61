"""Tuning of one method alone."""

from __future__ import annotations

from oodbench import Detector
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.tuning import Tuned, tune
from oodbench.engine.tuning_data import TuningImages
from oodbench.planning.plan import Method


def tuned_alone(
    runner: NetworkRunner, method: Method, detector: Detector, images: TuningImages
) -> Tuned:
    """The result of one method; its error is raised."""
    found = tune(runner, [method], {method.name: detector}, images)[method.name]
    if isinstance(found, Exception):
        raise found
    return found
