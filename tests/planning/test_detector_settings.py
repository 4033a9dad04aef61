"""What a benchmark sets for its detectors: defaults, the split of `fit`, grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.plans import benchmark

from oodbench.errors import UserError
from oodbench.planning.methods.aliases import with_detector_names
from oodbench.planning.plan import Plan
from oodbench.planning.planner import make_plan
from oodbench.planning.workload import passes_of
from oodbench.plugins.catalog import Catalog
from oodbench.specs import BenchmarkSpec
from oodbench.specs.yaml_file import validate

NAMES = ("baseline", "energy", "gram", "kl_matching", "knn", "mahalanobis", "odin", "react", "vra")
VALIDATION = {"protocol": "ood_validation", "ood": "letters"}


def planned(changes: Mapping[str, Any], detectors: Mapping[str, str], **options: Any) -> Plan:
    """The plan of a benchmark with methods that are called as their detectors."""
    methods = {name: {"model": "SoftMax", "detector": each} for name, each in detectors.items()}
    catalog = Catalog()
    imported = catalog.imported_detectors()
    known = {name: imported[name] for name in NAMES}
    spec = benchmark(methods=methods, exclude=[], **changes)
    return make_plan(spec, catalog, known, seeds=1, refusal=refuses, **options)


def refuses(detector: str, arguments: Mapping[str, Any]) -> tuple[str, str] | None:
    try:
        Catalog().load_detector(detector, arguments)
    except UserError as error:
        return error.message, error.hint
    return None


def same(*names: str) -> dict[str, str]:
    return dict(zip(names, names, strict=True))


# --- fit_split ------------------------------------------------------------------------------------


def test_fit_split_moves_fit_alone() -> None:
    moved = {"fit_split": {"react": "validation", "gram": "validation", "vra": "train"}}
    plan = planned(moved, same("react", "gram", "vra", "knn", "kl_matching", "energy"))
    assert {method.name: method.fitted_on() for method in plan.methods} == {
        "react": {"fit": "validation"},
        "gram": {"fit": "validation", "validation": "validation"},
        "vra": {"fit": "train"},
        "knn": {"fit": "train"},
        "kl_matching": {"validation": "validation"},
        "energy": {},
    }
    labels = {method.name: method.other_fit_split for method in plan.methods}
    assert labels == dict.fromkeys(labels) | {"react": "validation", "gram": "validation"}
    fits = [each for each in passes_of(plan) if each.purpose == "fit"]
    assert [(each.dataset, each.split, each.methods) for each in fits] == [
        ("digits", "train", ("vra", "knn")),
        ("digits", "validation", ("react", "gram", "kl_matching")),
    ]


def test_a_split_that_moves_nothing_is_accepted() -> None:
    plan = planned({"fit_split": {"klm": "validation"}}, same("kl_matching"))
    assert plan.methods[0].fitted_on() == {"validation": "validation"}
    assert plan.methods[0].other_fit_split is None


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"fit_split": {"reakt": "train"}}, "fit_split.reakt: there is no detector", "'react'"),
        ({"parameters": {"nkn": {}}}, "parameters.nkn: there is no detector", "'knn'"),
        (
            {"tuning": {"grids": {"odn": {"epsilon": [0.1]}}}},
            "tuning.grids.odn: there is no detector",
            "'odin'",
        ),
        ({"fit_split": {"energy": "train"}}, "detector 'energy' is not fitted", "Leave it out"),
        (
            {"fit_split": {"kl_matching": "train"}},
            "fit_split.kl_matching: detector 'kl_matching' is fitted on images that the model was "
            "not trained on, not on the train split",
            "Leave it out",
        ),
        ({"parameters": {"knn": {"kk": 3}}}, "mine.yaml: parameters.knn: ", "k"),
        ({"parameters": {"knn": {"k": 0}}}, "mine.yaml: parameters.knn: ", ""),
        (
            {"tuning": {"grids": {"knn": {"kk": [3]}}}},
            "mine.yaml: tuning.grids.knn.kk: ",
            "",
        ),
        ({"tuning": {"grids": {"knn": {"k": [3, 0]}}}}, "tuning.grids.knn.k: ", ""),
        ({"tuning": VALIDATION | {"ood": "lettres"}}, "mine.yaml: tuning.ood: ", "'letters'"),
        (
            {
                "datasets": {"own": "letters"},
                "ood": {"near": ["own"]},
                "tuning": VALIDATION | {"ood": "onw"},
            },
            "mine.yaml: tuning.ood: ",
            "'own'",
        ),
    ],
)
def test_what_is_refused(changes: Mapping[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UserError) as raised:
        planned(changes, same("knn", "react", "energy"))
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_a_split_that_is_missing() -> None:
    """The ID set has no validation split for the detector that is to be fitted there."""

    class Small(Catalog):
        def dataset(self, name: str) -> Any:
            spec = super().dataset(name)
            splits = {split: n for split, n in spec.splits.items() if split != "validation"}
            return spec.model_copy(update={"splits": splits})

    spec = benchmark(
        methods={"ReAct": {"model": "SoftMax", "detector": "react"}},
        exclude=[],
        fit_split={"react": "validation"},
        tuning={"protocol": "none"},
    )
    known = {"react": Catalog().imported_detectors()["react"]}
    with pytest.raises(UserError, match="needs the validation split of 'digits' to fit react on"):
        make_plan(spec, Small(), known, seeds=1)
    unmoved = spec.model_copy(update={"fit_split": {}})
    assert make_plan(unmoved, Small(), known, seeds=1).methods


# --- parameters and grids -------------------------------------------------------------------------


def test_defaults_of_a_benchmark_are_tuned_and_overridden() -> None:
    changes = {"parameters": {"knn": {"k": 7}, "odin": {"temperature": 5.0, "epsilon": 0.5}}}
    plan = planned(changes, same("knn", "odin"))
    knn, odin = plan.methods
    assert (knn.arguments, knn.tuned_on, set(knn.search_space)) == ({"k": 7}, "fgsm", {"k"})
    assert odin.arguments == {"temperature": 5.0, "epsilon": 0.5}
    own = {"A": {"model": "SoftMax", "detector": "odin", "parameters": {"epsilon": 0.25}}}
    (odin,) = make_plan(
        benchmark(methods=own, exclude=[], **changes),
        Catalog(),
        Catalog().imported_detectors(),
        seeds=1,
    ).methods
    assert odin.arguments == {"temperature": 5.0, "epsilon": 0.25}
    assert set(odin.search_space) == {"temperature"}, "what a method fixes is not tuned"


def test_a_grid_replaces_the_declared_search_space() -> None:
    grids = {"odin": {"epsilon": [0.0, 0.5]}, "gram": {"powers": [1, 2]}}
    plan = planned({"tuning": {"grids": grids}}, same("odin", "gram", "knn"))
    odin, gram, knn = plan.methods
    assert odin.search_space == {"epsilon": (0.0, 0.5)}
    assert (gram.search_space, gram.tuned_on) == ({"powers": (1, 2)}, "fgsm")
    assert knn.search_space == knn.detector.search_space


def test_a_value_that_no_setting_takes_is_refused_and_others_are_tried() -> None:
    """VRA's lower percentile must be below the upper one: 0.95 is below 0.97 alone."""
    grid = {"upper_percentile": [0.8, 0.97], "lower_percentile": [0.5, 0.95]}
    plan = planned({"tuning": {"grids": {"vra": grid}}}, same("vra"))
    assert plan.methods[0].search_space["lower_percentile"] == (0.5, 0.95)
    grid["lower_percentile"].append(0.98)
    with pytest.raises(UserError, match=r"tuning\.grids\.vra\.lower_percentile: .*0\.98"):
        planned({"tuning": {"grids": {"vra": grid}}}, same("vra"))


def test_aliases_are_names_of_detectors() -> None:
    spec = benchmark(
        fit_split={"klm": "validation"},
        parameters={"msp": {}},
        tuning={"grids": {"rmds": {"x": [1]}}},
    )
    aliases = {"klm": "kl_matching", "msp": "baseline", "rmds": "relative_mahalanobis"}
    named = with_detector_names(spec, aliases)
    assert (list(named.fit_split), list(named.parameters), list(named.tuning.grids)) == (
        ["kl_matching"],
        ["baseline"],
        ["relative_mahalanobis"],
    )


# --- ood_validation -------------------------------------------------------------------------------


@pytest.mark.parametrize("ood", ["letters", "gaussian-noise"])
def test_one_ood_set_is_tuned_on(ood: str) -> None:
    """The set may be tested, or not."""
    plan = planned({"tuning": VALIDATION | {"ood": ood}}, same("knn", "baseline"))
    assert list(plan.datasets) == list(
        dict.fromkeys(("digits", "letters", "photo-patches", "uniform-noise", ood))
    )
    knn, baseline = plan.methods
    assert (knn.tuned_on, knn.tuning_ood) == ("ood_validation", ood)
    assert (baseline.tuned_on, baseline.tuning_ood) == ("none", None)
    assert knn.requirements()["ood_or_adversarial_samples"] is True
    assert plan.same_source == (("letters",) if ood == "letters" else ())
    tuned = [each for each in passes_of(plan) if each.purpose == "tune"]
    assert [(each.dataset, each.split, each.methods) for each in tuned] == [
        ("digits", "validation", ("knn",)),
        (ood, "validation", ("knn",)),
    ]
    tested = [each.dataset for each in passes_of(plan) if each.purpose == "score"]
    assert tested == ["digits", "letters", "photo-patches", "uniform-noise"]


def test_without_tuning_its_images_are_not_needed() -> None:
    spec = benchmark(tuning=VALIDATION | {"ood": "gaussian-noise"}).tuning_only("none")
    assert spec.tuning_ood is None
    assert "gaussian-noise" not in spec.names


def test_same_source_of_manifests() -> None:
    plan = planned({"tuning": VALIDATION | {"ood": "gaussian-noise"}}, same("knn"))
    datasets = {
        name: spec.model_copy(update={"source": "the camera"})
        if name in ("gaussian-noise", "photo-patches")
        else spec
        for name, spec in plan.datasets.items()
    }
    assert replace(plan, datasets=datasets).same_source == ("photo-patches",)
    other = plan.benchmark.model_copy(update={"datasets": {"uniform-noise": "gaussian-noise"}})
    assert replace(plan, benchmark=other).same_source == ("uniform-noise",), "of one manifest"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": {"protocol": "ood_validation"}}, "protocol ood_validation needs ood"),
        (
            {"methods": {"A": {"model": "SoftMax", "detector": "knn", "tuning": "ood_validation"}}},
            "methods.A.tuning: ood_validation needs tuning.ood",
        ),
        ({"tuning": VALIDATION | {"ood": "digits"}}, "'digits' is the in-distribution data set"),
        (
            {"tuning": {"grids": {"knn": {"k": []}}}},
            "knn: k: the list of values is empty",
        ),
        ({"tuning": {"grids": {"knn": {}}}}, "tuning.grids.knn: names no parameter"),
        ({"tuning": {"grids": {"knn": {"k": [5, 5]}}}}, "k: 5 is listed twice"),
        ({"tuning": {"grids": {"knn": {"k": [{1: 2}]}}}}, "tuning.grids.knn"),
        ({"fit_split": {"react": "test"}}, "fit_split.react"),
        ({"parameters": {"react": {"percentile": float("inf")}}}, "parameters.react"),
    ],
)
def test_specs_that_are_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        benchmark(**changes)
    assert message in f"{raised.value.message} {raised.value.hint}"
    assert "mine.yaml" in raised.value.message


def test_a_spec_reads_back_as_it_was() -> None:
    spec = benchmark(
        tuning=VALIDATION | {"grids": {"knn": {"k": [1, 2]}}},
        fit_split={"react": "validation"},
        parameters={"knn": {"k": 3}},
    )
    assert validate(BenchmarkSpec, spec.model_dump(mode="json"), Path("mine.yaml")) == spec
