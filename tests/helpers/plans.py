"""Plans of a small benchmark with few detectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oodbench.planning.plan import Plan
from oodbench.planning.planner import make_plan
from oodbench.plugins.catalog import Catalog, DetectorStatus
from oodbench.specs import BenchmarkSpec
from oodbench.specs.yaml_file import validate

TRAINING = {"epochs": 1, "batch_size": 64, "learning_rate": 0.1}
SOFTMAX = {"network": "resnet8", "head": "softmax", "training": TRAINING}
DISMAX = {"network": "resnet8", "head": "dismax", "training": TRAINING}
METHODS = {
    "SoftMax+MSP": {"model": "SoftMax", "detector": "baseline"},
    "SoftMax+ODIN": {"model": "SoftMax", "detector": "odin"},
    "SoftMax+Mahalanobis": {"model": "SoftMax", "detector": "mahalanobis"},
    "DisMax+Entropy": {"model": "DisMax", "detector": "dismax_entropy"},
}
DETECTORS = ("baseline", "dismax_entropy", "entropy", "mahalanobis", "odin")
"""The detectors of these tests: a detector more in the catalog changes no plan here."""


def benchmark(**changes: Any) -> BenchmarkSpec:
    content: dict[str, Any] = {
        "schema_version": 1,
        "name": "mine",
        "version": 1,
        "title": "Mine",
        "summary": "A test",
        "id": "digits",
        "ood": {"near": ["letters"], "far": ["photo-patches", "uniform-noise"]},
        "models": {"SoftMax": SOFTMAX, "DisMax": DISMAX},
        "methods": METHODS,
        "exclude": [{"model": "DisMax", "detector": "entropy", "reason": "called the same"}],
    }
    return validate(BenchmarkSpec, content | changes, Path("mine.yaml"))


def statuses(**changes: DetectorStatus) -> dict[str, DetectorStatus]:
    known = Catalog().detectors
    return {name: known[name] for name in DETECTORS} | changes


def plan(
    spec: BenchmarkSpec | None = None,
    *,
    methods: list[str] | None = None,
    known: Mapping[str, DetectorStatus] | None = None,
    catalog: Catalog | None = None,
    seeds: int = 1,
) -> Plan:
    return make_plan(
        spec or benchmark(), catalog or Catalog(), known or statuses(), seeds=seeds, methods=methods
    )
