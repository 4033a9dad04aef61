"""Aliases of detectors work wherever a name does, and the plan holds the names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oodbench.planning.plan import Plan
from oodbench.planning.planner import make_plan
from oodbench.plugins.catalog import Catalog
from oodbench.specs.benchmark_spec import BenchmarkSpec
from oodbench.specs.yaml_file import validate

MODEL = {"network": "resnet8", "head": "softmax", "training": {"recipe": "quick", "epochs": 1}}


def plan(asked: list[str] | None = None, **changes: Any) -> Plan:
    content: dict[str, Any] = {
        "schema_version": 1,
        "name": "mine",
        "version": 1,
        "title": "Mine",
        "summary": "A test",
        "id": "digits",
        "ood": {"near": ["letters"]},
        "models": {"SoftMax": MODEL},
        "methods": {"SoftMax+Entropy": {"model": "SoftMax", "detector": "entropy"}},
        "tuning": {"protocol": "fgsm", "fgsm_step": 0.1},
    }
    catalog = Catalog()
    spec = validate(BenchmarkSpec, content | changes, Path("mine.yaml"))
    return make_plan(spec, catalog, catalog.detectors, seeds=1, methods=asked)


def detectors(planned: Plan) -> dict[str, str]:
    return {method.name: method.detector.name for method in planned.methods}


def test_in_methods() -> None:
    planned = plan(methods={"A": {"model": "SoftMax", "detector": "msp"}})
    assert detectors(planned) == {"A": "baseline"}
    assert planned.benchmark.methods["A"].detector == "baseline", "run.json holds the name"


def test_in_the_matrix_and_excluded() -> None:
    matrix = {"detectors": ["msp", "baseline", "ebo", "mls"]}
    excluded = [{"model": "SoftMax", "detector": "ebo", "reason": "a test"}]
    planned = plan(matrix=matrix, exclude=excluded)
    names = {"SoftMax+MSP": "baseline", "SoftMax+MaxLogit": "max_logit"}
    assert detectors(planned) == {"SoftMax+Entropy": "entropy"} | names


def test_in_tuning() -> None:
    matrix = {"detectors": ["energy", "odin"]}
    for tuning in ({"detectors": ["ebo"]}, {"tune": ["ebo"]}):
        planned = plan(matrix=matrix, tuning={"protocol": "fgsm", "fgsm_step": 0.1, **tuning})
        tuned = {method.detector.name: method.tuned_on for method in planned.methods}
        assert tuned["energy"] == "fgsm"
        assert tuned["odin"] == "none"


@pytest.mark.parametrize("name", ["klm", "SoftMax+klm", "softmax + klm", "SoftMax+KLMatching"])
def test_in_the_methods_that_are_asked_for(name: str) -> None:
    assert detectors(plan([name])) == {"SoftMax+KLMatching": "kl_matching"}


def test_a_method_with_the_name_of_an_alias_is_that_method() -> None:
    methods = {"msp": {"model": "SoftMax", "detector": "entropy"}}
    assert detectors(plan(["msp"], methods=methods)) == {"msp": "entropy"}
