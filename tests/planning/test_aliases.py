"""Aliases of detectors work wherever a name does, and the plan holds the names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oodbench.errors import UserError
from oodbench.planning.overrides import Overrides
from oodbench.planning.plan import Plan
from oodbench.planning.planner import make_plan
from oodbench.plugins.catalog import Catalog
from oodbench.specs.benchmark_spec import BenchmarkSpec
from oodbench.specs.yaml_file import validate
from oodbench.user_model.requested_detectors import requested_detectors

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


@pytest.mark.parametrize("name", ["klm", "SoftMax+klm", "softmax + klm", "SoftMax+KLM"])
def test_in_the_methods_that_are_asked_for(name: str) -> None:
    assert detectors(plan([name])) == {"SoftMax+KLMatching": "kl_matching"}


def test_a_method_with_the_name_of_an_alias_is_that_method() -> None:
    methods = {"msp": {"model": "SoftMax", "detector": "entropy"}}
    assert detectors(plan(["msp"], methods=methods)) == {"msp": "entropy"}


@pytest.mark.parametrize("tune", ["ebo", "ebo,energy", ["ebo"]])
def test_in_the_option_tune(tune: str | list[str]) -> None:
    benchmark = plan(matrix={"detectors": ["energy", "odin"]}).benchmark
    catalog = Catalog()
    spec = Overrides.read(tune, None, None).of(benchmark)
    planned = make_plan(spec, catalog, catalog.detectors, seeds=1)
    assert planned.benchmark.tuning.tune == ("energy",), "run.json holds the name"
    tuned = {method.detector.name: method.tuned_on for method in planned.methods}
    assert (tuned["energy"], tuned["odin"]) == ("fgsm", "none")


def test_in_the_option_tune_of_a_suite() -> None:
    given = Overrides.read("ebo,energy,odin", None, None)
    assert given.with_detector_names(Catalog().aliases).tune == ("energy", "odin")
    for words in ("all", "none", None):
        given = Overrides.read(words, None, None)
        assert given.with_detector_names(Catalog().aliases) == given


def test_in_evaluate() -> None:
    (asked, tuned), broken = requested_detectors(
        ["msp", "mds_ensemble"], Catalog(), ["mds_ensemble"]
    )
    assert not broken
    assert (asked.label, asked.tuned_on) == ("baseline", "none")
    assert (tuned.label, tuned.tuned_on) == ("mahalanobis", "fgsm")
    (tuned,), _ = requested_detectors("mahalanobis", Catalog(), "mds_ensemble")
    assert tuned.tuned_on == "fgsm"
    with pytest.raises(UserError, match="detectors: 'baseline' is given twice"):
        requested_detectors(["msp", "baseline"], Catalog(), "none")
    with pytest.raises(UserError, match="there is no detector 'mds_ensemble'"):
        requested_detectors("msp", Catalog(), ["mds_ensemble"])


def test_a_label_with_the_name_of_an_alias_is_that_detector() -> None:
    detectors = {"mds_ensemble": "energy", "mahalanobis": "mahalanobis"}
    asked, _ = requested_detectors(detectors, Catalog(), ["mds_ensemble"])
    assert {each.label: each.tuned_on for each in asked}["mds_ensemble"] == "fgsm"
