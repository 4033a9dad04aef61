"""Plans as pure data: who shares what, what is skipped and why, what is refused."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.plans import DETECTORS, DISMAX, METHODS, SOFTMAX, TRAINING, benchmark, plan, statuses
from rich.console import Console

from oodbench.cli.plan_display import renderables
from oodbench.cli.suite_display import suite_renderables
from oodbench.errors import UserError
from oodbench.planning.overrides import Overrides
from oodbench.planning.plan import FITTED_ON, Plan
from oodbench.planning.planner import make_plan
from oodbench.planning.suite_plan import load_suite, plan_suite
from oodbench.planning.workload import all_trainings, passes_of, training_work
from oodbench.plugins.catalog import Catalog, DetectorStatus
from oodbench.specs import BenchmarkSpec, DatasetSpec
from oodbench.specs.yaml_file import validate


def refusal(*args: Any, **options: Any) -> UserError:
    with pytest.raises(UserError) as raised:
        plan(*args, **options)
    assert len(str(raised.value).splitlines()) <= 2, f"more than two lines: {raised.value}"
    return raised.value


def names(planned: Plan) -> list[str]:
    return [method.name for method in planned.methods]


def test_seeds_are_counted_from_zero() -> None:
    assert plan(seeds=3).seeds == (0, 1, 2)
    assert refusal(seeds=0).message.startswith("seeds: ")


# --- which methods --------------------------------------------------------------------------------


def test_named_methods_come_before_the_passes() -> None:
    planned = plan(benchmark(matrix={"models": ["SoftMax"]}))
    assert names(planned) == [*METHODS, "SoftMax+Entropy"]
    assert [m.asked_for for m in planned.methods] == [True] * len(METHODS) + [False]


def test_excluded_combinations_are_left_out() -> None:
    # In the matrix, DisMax with entropy would be called as DisMax with dismax_entropy is.
    found = [m for m in plan(benchmark(matrix={})).methods if m.model == "DisMax"]
    assert [m.detector.name for m in found] == ["dismax_entropy", "baseline", "mahalanobis", "odin"]
    assert (
        "two methods are called 'DisMax+Entropy'"
        in refusal(benchmark(matrix={}, exclude=[])).message
    )


def test_a_pass_of_one_detector() -> None:
    spec = benchmark(methods={}, matrix={"detectors": ["baseline"]})
    assert names(plan(spec)) == ["SoftMax+MSP", "DisMax+MSP"]


def test_a_method_is_selected_by_its_name_in_any_case() -> None:
    planned = plan(methods=["softmax+msp"])
    assert names(planned) == ["SoftMax+MSP"]
    assert planned.methods[0].asked_for


def test_a_detector_selects_its_methods() -> None:
    odin = {"model": "SoftMax", "detector": "odin", "parameters": {"epsilon": 0.0}}
    planned = plan(benchmark(methods={**METHODS, "Fixed": odin}), methods=["odin"])
    assert names(planned) == ["SoftMax+ODIN", "Fixed"]


def test_a_detector_outside_the_benchmark_is_tried_on_every_model() -> None:
    assert names(plan(methods=["entropy"])) == ["SoftMax+Entropy", "DisMax+Entropy"]


def test_a_detectors_name_also_selects_the_methods_that_are_called_so() -> None:
    """DisMax+Entropy has the detector `dismax_entropy`."""
    spec = Catalog().benchmark("digits")
    known = Catalog().detectors
    found = make_plan(spec, Catalog(), known, seeds=1, methods=["entropy"]).methods
    assert {method.name: method.detector.name for method in found} == {
        "SoftMax+Entropy": "entropy",
        "DisMax+Entropy": "dismax_entropy",
    }


def test_a_detector_is_tried_on_every_model_that_has_no_method_of_that_name() -> None:
    spec = benchmark(methods={"SoftMax+KNN": {"model": "SoftMax", "detector": "odin"}})
    found = plan(spec, methods=["knn"], known=statuses(knn=Catalog().detectors["knn"])).methods
    assert {method.name: method.detector.name for method in found} == {
        "DisMax+KNN": "knn",
        "SoftMax+KNN": "odin",
    }


def test_selecting_twice_is_selecting_once() -> None:
    assert names(plan(methods=["odin", "SoftMax+ODIN", "odin"])) == ["SoftMax+ODIN"]


def test_an_unknown_method_gets_the_nearest_names() -> None:
    error = refusal(methods=["SoftMax+ODINN"])
    assert "'SoftMax+ODINN'" in error.message
    assert "'SoftMax+ODIN'" in error.hint
    assert "'mahalanobis'" in refusal(methods=["mahalanobs"]).hint


@pytest.mark.parametrize(
    ("name", "method", "detector"),
    [
        ("SoftMax+odin", "SoftMax+ODIN", "odin"),
        ("softmax + baseline", "SoftMax+MSP", "baseline"),
        ("DisMax+odin", "DisMax+ODIN", "odin"),
        ("DisMax+ODIN", "DisMax+ODIN", "odin"),
        ("dismax+msp", "DisMax+MSP", "baseline"),
        ("SoftMax+knn", "SoftMax+KNN", "knn"),
        ("SoftMax+KNN", "SoftMax+KNN", "knn"),
    ],
)
@pytest.mark.parametrize("matrix", [None, {"detectors": ["entropy"]}])
def test_a_model_with_a_detector_can_always_be_named(
    name: str, method: str, detector: str, matrix: Any
) -> None:
    """Whatever the benchmark lists."""
    known = statuses(knn=Catalog().detectors["knn"])
    (found,) = plan(benchmark(matrix=matrix), methods=[name], known=known).methods
    assert (found.name, found.detector.name, found.asked_for) == (method, detector, True)


def test_a_pair_that_has_a_name_of_its_own_is_that_method() -> None:
    odin = {"model": "SoftMax", "detector": "odin", "parameters": {"temperature": 2.0}}
    mine = benchmark(methods={"SoftMax+MSP": METHODS["SoftMax+MSP"], "Fixed": odin})
    (found,) = plan(mine, methods=["SoftMax+odin"]).methods
    assert (found.name, found.parameters) == ("Fixed", {"temperature": 2.0})


def test_a_pair_that_stands_for_several_methods_is_refused() -> None:
    odin = {"model": "SoftMax", "detector": "odin"}
    two = benchmark(methods={"A": odin, "B": odin, "C": METHODS["SoftMax+MSP"]})
    error = refusal(two, methods=["SoftMax+ODIN"])
    assert "is the name of several methods" in error.message
    assert "'A' or 'B'" in error.hint
    info = Catalog().detectors["knn"].info
    assert info is not None
    known = statuses(one=DetectorStatus(replace(info, name="one", label="Same"), None))
    known |= {"two": DetectorStatus(replace(info, name="two", label="Same"), None)}
    spec = benchmark(matrix={"detectors": ["entropy"]})
    error = refusal(spec, methods=["SoftMax+same"], known=known)
    assert "'SoftMax+one' or 'SoftMax+two'" in error.hint
    (found,) = plan(spec, methods=["SoftMax+two"], known=known).methods
    assert found.detector.name == "two"


def test_a_method_that_resembles_none_is_told_where_to_look() -> None:
    error = refusal(Catalog().benchmark("digits"), methods=["xyzzy"], known=Catalog().detectors)
    assert "`oodbench list detectors`" in error.hint
    assert "SoftMax, DisMax" in error.hint
    assert len(error.hint) < 160


@pytest.mark.parametrize(
    ("name", "near"),
    [("SoftMx+knn", "SoftMax+KNN"), ("SoftMax+knnn", "SoftMax+KNN"), ("SoftMax+kn", "SoftMax+KNN")],
)
def test_a_misspelt_pair_gets_the_nearest(name: str, near: str) -> None:
    known = statuses(knn=Catalog().detectors["knn"])
    assert f"'{near}'" in refusal(methods=[name], known=known).hint


def test_a_pair_of_a_broken_detector_says_why() -> None:
    known = statuses(torn=DetectorStatus(None, "line 3: no luck"))
    assert "line 3: no luck" in refusal(methods=["SoftMax+torn"], known=known).message


def test_two_methods_of_one_name() -> None:
    # The pass would call it as the method that is named is called.
    spec = benchmark(
        methods={"SoftMax+Entropy": METHODS["SoftMax+MSP"]}, matrix={"models": ["SoftMax"]}
    )
    error = refusal(spec)
    assert "two methods are called 'SoftMax+Entropy'" in error.message
    assert "SoftMax with baseline, and SoftMax with entropy" in error.message


def test_names_that_some_file_systems_do_not_tell_apart() -> None:
    spec = benchmark(methods={**METHODS, "softmax+odin": METHODS["SoftMax+ODIN"]})
    assert "two methods are called 'softmax+odin'" in refusal(spec).message


@pytest.mark.parametrize(
    "name",
    [
        *("a/b", "..", "a\\b", "a:b", ".hidden", "ends.", " ", "", "a\nb", "a\0b"),
        *("M" * 201, "\u20ac" * 100, "\u6f22" * 67, "CON", "nul", "Com1.x", "aux ", "LPT9"),
    ],
)
def test_names_that_are_no_folders(name: str) -> None:
    with pytest.raises(UserError) as caught:
        benchmark(methods={name: METHODS["SoftMax+MSP"]})
    assert "cannot name a folder" in caught.value.message
    assert len(caught.value.message) < 300


# --- skips ----------------------------------------------------------------------------------------


def test_detectors_that_do_not_fit_a_head_are_skipped() -> None:
    planned = plan(benchmark(matrix={}))
    skips = {skip.method: skip for skip in planned.skips}
    assert skips["SoftMax+DisMaxEntropy"].reason == "needs a DisMax head; SoftMax has a linear head"
    assert not skips["SoftMax+DisMaxEntropy"].asked_for
    assert "SoftMax+DisMaxEntropy" not in names(planned)


def test_a_linear_head_is_needed(tmp_path: Path) -> None:
    info = statuses()["entropy"].info
    assert info is not None
    needy = DetectorStatus(replace(info, name="needy", label="N", needs=frozenset({"head"})), None)
    planned = plan(methods=["needy"], known=statuses(needy=needy))
    assert names(planned) == ["SoftMax+N"]
    assert [s.reason for s in planned.skips] == ["needs a linear head; DisMax has a DisMax head"]


def test_a_skip_that_was_asked_for_is_marked() -> None:
    spec = benchmark(
        methods={**METHODS, "Mine": {"model": "SoftMax", "detector": "dismax_entropy"}}
    )
    assert [(s.method, s.asked_for) for s in plan(spec).skips] == [("Mine", True)]
    # A detector's name asks for it where it can run.
    planned = plan(benchmark(matrix={}), methods=["dismax_entropy"])
    assert names(planned) == ["DisMax+Entropy"]
    assert [s.asked_for for s in planned.skips] == [False]
    planned = plan(benchmark(matrix={}), methods=["SoftMax+DisMaxEntropy"])
    assert [s.asked_for for s in planned.skips] == [True]


def test_calibration_needs_tuning_data() -> None:
    planned = plan(benchmark(tuning={"protocol": "none"}))
    assert [s.reason for s in planned.skips] == [
        "needs tuning data; the benchmark does not tune it without --tune"
    ]
    odin = next(m for m in planned.methods if m.name == "SoftMax+ODIN")
    assert odin.tuned_on == "none", "ODIN runs with its defaults"


def test_tuning_can_be_kept_to_some_detectors() -> None:
    planned = plan(benchmark(matrix={}, tuning={"detectors": ["mahalanobis"]}))
    tuned = {method.detector.name: method.tuned_on for method in planned.methods}
    assert (tuned["mahalanobis"], tuned["odin"]) == ("fgsm", "none")
    methods = {"Mine": {"model": "SoftMax", "detector": "odin", "tuning": "fgsm"}}
    planned = plan(benchmark(methods=methods, tuning={"detectors": []}))
    assert planned.methods[0].tuned_on == "fgsm", "a method's own protocol goes before"
    error = refusal(benchmark(tuning={"detectors": ["mahalonobis"]}))
    assert "tuning.detectors: unknown name 'mahalonobis'" in error.message
    assert "mahalanobis" in error.hint


PLUG_IN = """\
from oodbench import Detector, register


@register("{name}", label="{label}", search_space={space})
class Mine(Detector):
    \"\"\"A detector.\"\"\"

    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def score(self, outputs):
        return outputs.logits.max(dim=1).values * self.power
"""


@pytest.fixture
def plug_ins(tmp_path: Path) -> Catalog:
    (tmp_path / "detectors").mkdir()
    for name, space in (("mine", {"power": (1.0, 2.0)}), ("plain", {})):
        text = PLUG_IN.format(name=name, label=name.title(), space=space)
        (tmp_path / "detectors" / f"{name}.py").write_text(text)
    return Catalog([tmp_path])


def tuned(spec: BenchmarkSpec, catalog: Catalog, **options: Any) -> dict[str, str]:
    known = {name: catalog.detectors[name] for name in (*DETECTORS, "mine", "plain")}
    planned = plan(spec, known=known, catalog=catalog, **options)
    return {method.name: method.tuned_on for method in planned.methods}


def test_a_plug_in_with_a_search_space_is_tuned(plug_ins: Catalog) -> None:
    """Also where a benchmark, which cannot know of it, keeps tuning to some detectors."""
    matrix = {"models": ["SoftMax"]}
    for detectors in (["mahalanobis"], []):
        spec = benchmark(matrix=matrix, tuning={"detectors": detectors})
        found = tuned(spec, plug_ins)
        assert found["SoftMax+Mine"] == "fgsm"
        assert found["SoftMax+Plain"] == "none", "nothing to tune"
        assert found["SoftMax+ODIN"] == "none", "the benchmark limits tuning of built-in ones"
    named = {**METHODS, "My own": {"model": "SoftMax", "detector": "mine", "tuning": "none"}}
    found = tuned(benchmark(methods=named, tuning={"detectors": []}), plug_ins)
    assert found["My own"] == "none", "unless the benchmark says otherwise by name"
    assert (
        tuned(benchmark(matrix=matrix, tuning={"protocol": "none"}), plug_ins)["SoftMax+Mine"]
        == "none"
    )


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ("all", {"SoftMax+ODIN", "SoftMax+Mahalanobis", "SoftMax+Mine"}),
        ("none", set()),
        (["odin"], {"SoftMax+ODIN"}),
        ("mine,mahalanobis", {"SoftMax+Mahalanobis", "SoftMax+Mine"}),
        (" mine , mine ", {"SoftMax+Mine"}),
    ],
)
def test_tune_goes_before_the_benchmark(
    plug_ins: Catalog, tune: str | list[str], expected: set[str]
) -> None:
    overrides = Overrides.read(tune, None, None)
    for tuning in ({}, {"detectors": ["odin"]}, {"detectors": []}):
        spec = overrides.of(benchmark(matrix={"models": ["SoftMax"]}, tuning=tuning))
        found = tuned(spec, plug_ins)
        assert {name for name, protocol in found.items() if protocol != "none"} == expected
    fixed = {**METHODS, "F": {"model": "SoftMax", "detector": "odin", "tuning": "ood_oracle"}}
    spec = overrides.of(benchmark(methods=fixed, matrix={"models": ["SoftMax"]}))
    assert tuned(spec, plug_ins)["F"] == ("ood_oracle" if "SoftMax+ODIN" in expected else "none")


def test_what_tune_leaves_out_and_needs_tuning_is_skipped() -> None:
    planned = plan(Overrides.read("odin", None, None).of(benchmark()))
    assert [(s.method, s.reason) for s in planned.skips] == [
        ("SoftMax+Mahalanobis", "needs tuning data; --tune leaves it out")
    ]


@pytest.mark.parametrize(
    ("tune", "options", "said"),
    [
        ("odni", {}, "there is no detector 'odni'"),
        ("baseline", {}, "detector 'baseline' has no search space"),
        ("odin", {"methods": ["SoftMax+MSP"]}, "no method of this run has it"),
        ("all", {"tuning": {"protocol": "none"}}, "has no protocol to tune by"),
    ],
)
def test_tune_names_what_can_be_tuned(tune: str, options: dict[str, Any], said: str) -> None:
    methods = options.pop("methods", None)
    spec = Overrides.read(tune, None, None).of(benchmark(**options))
    error = refusal(spec, methods=methods)
    assert said in error.message


@pytest.mark.parametrize("tune", ["", " , ", "all,odin", ["none", "odin"], 5, [1, 2]])
def test_tune_takes_names_or_all_or_none(tune: Any) -> None:
    with pytest.raises(UserError, match=r"^tune: "):
        Overrides.read(tune, None, None)


def test_a_search_space_that_is_not_tuned_is_said() -> None:
    spec = benchmark(tuning={"detectors": ["mahalanobis"]})
    method = next(m for m in plan(spec).methods if m.detector.name == "odin")
    assert set(method.untuned) == {"temperature", "epsilon"}
    assert "Search space not tuned: odin (" in drawn(spec)
    assert "Search space not tuned" not in drawn(benchmark())
    parameters = {"temperature": 1000.0, "epsilon": 0.0014}
    fixed = {"F": {"model": "SoftMax", "detector": "odin", "parameters": parameters}}
    assert plan(benchmark(methods=fixed, tuning={"detectors": []})).methods[0].untuned == ()


# --- less than the benchmark, for a first try ---------------------------------------------------


def limited(images: int | None = None, epochs: int | None = None) -> BenchmarkSpec:
    slow = {**SOFTMAX, "training": {**TRAINING, "epochs": 20}}
    spec = benchmark(models={"SoftMax": slow, "DisMax": DISMAX})
    return Overrides.read(None, images, epochs).of(spec)


@pytest.mark.parametrize(
    ("images", "epochs", "name"),
    [
        (100, None, "mine (not the benchmark: limited to 100 images a set)"),
        (2000, 1, "mine (not the benchmark: limited to 2,000 images a set and 1 epoch)"),
        (None, 30, "mine (not the benchmark: limited to 30 epochs)"),
    ],
)
def test_the_name_says_what_is_limited(images: int | None, epochs: int | None, name: str) -> None:
    spec = limited(images, epochs)
    assert spec.name == name
    assert spec.limited is not None
    assert validate(BenchmarkSpec, spec.model_dump(mode="json"), Path("run.json")) == spec
    found = {model: each.training.epochs for model, each in spec.models.items()}
    assert found == {"SoftMax": min(20, epochs or 20), "DisMax": 1}
    for width in (40, 80, 120):
        text = " ".join(drawn(spec, width=width).split())
        assert f"Plan of benchmark '{name}' (version 1)" in text


def test_images_that_are_limited_are_counted_so() -> None:
    whole, part = plan(limited(epochs=20)), plan(limited(images=100))
    assert max(each.images for each in passes_of(whole)) > 100
    assert {each.images for each in passes_of(part)} == {100}
    assert training_work(part, "SoftMax").images == 20 * 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((0, None), "limit: expected a whole number from 1, not 0"),
        ((True, None), "limit: expected a whole number"),
        ((1.5, None), "limit: expected a whole number"),
        ((None, -1), "epochs: expected a whole number"),
        ((None, "2"), "epochs: expected a whole number"),
    ],
)
def test_limits_are_whole_numbers(options: tuple[Any, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Overrides.read(None, *options)


def test_every_class_needs_an_image() -> None:
    error = refusal(limited(images=9))
    assert "limit: 9 images cannot have one of each of the 10 classes of 'digits'" in str(error)
    assert "10" in error.hint
    plan(limited(images=10))


def test_a_file_cannot_call_itself_limited() -> None:
    with pytest.raises(UserError, match="--limit N or --epochs N"):
        benchmark(limited={"images": 100})


def test_a_limited_suite_keeps_its_folders() -> None:
    suite = load_suite(Catalog(), "dismax-paper-quick")
    part = suite.changed(Overrides.read("odin", 500, 1))
    label = "(not the benchmark: limited to 500 images a set and 1 epoch)"
    assert part.spec.name == f"dismax-paper-quick {label}"
    assert [part.spec.member_name(m) for m in part.members] == [
        suite.spec.member_name(m) for m in suite.members
    ]
    for member, spec in part.members.items():
        assert (
            spec.name == part.spec.benchmark_name(member) == f"{suite.members[member].name} {label}"
        )
        assert spec.tuning.tune == ("odin",)
    assert part.spec.identity() != suite.spec.identity()


def validation(**fields: Any) -> dict[str, DetectorStatus]:
    info = statuses()["entropy"].info
    assert info is not None
    info = replace(info, name="needy", label="N", needs=frozenset({"validation", "fit"}))
    return statuses(needy=DetectorStatus(replace(info, **fields), None))


def test_the_pass_over_validation_images_comes_second() -> None:
    planned = plan(methods=["needy"], known=validation())
    fits = [(p.model, p.dataset, p.split) for p in passes_of(planned) if p.purpose == "fit"]
    assert fits == [
        (model, "digits", split) for model in ("SoftMax", "DisMax") for split in FITTED_ON.values()
    ]
    assert planned.methods[0].requirements()["post_processing_phase"]


def test_a_broken_detector_in_a_pass_is_a_skip() -> None:
    broken = statuses(mine=DetectorStatus(None, "line 1: SyntaxError: invalid syntax"))
    planned = plan(benchmark(matrix={}), known=broken)
    skips = {s.method: s for s in planned.skips if s.detector == "mine"}
    assert list(skips) == ["SoftMax+mine", "DisMax+mine"]
    assert skips["SoftMax+mine"].reason == (
        "the detector is broken: line 1: SyntaxError: invalid syntax"
    )
    assert not skips["SoftMax+mine"].asked_for


@pytest.mark.parametrize("asked", ["mine", "SoftMax+mine", "under methods", "in the pass"])
def test_a_broken_detector_that_was_asked_for_is_an_error(asked: str) -> None:
    broken = statuses(mine=DetectorStatus(None, "no luck"))
    spec, methods = benchmark(matrix={}), None
    if asked == "under methods":
        spec = benchmark(methods={"Mine": {"model": "SoftMax", "detector": "mine"}})
    elif asked == "in the pass":
        spec = benchmark(matrix={"detectors": ["baseline", "mine"]})
    else:
        methods = [asked]
    error = refusal(spec, known=broken, methods=methods)
    assert "mine'" in error.message
    assert "no luck" in error.message


def test_a_detector_that_cannot_be_made_is_a_skip() -> None:
    def refuses(detector: str, arguments: Mapping[str, Any]) -> tuple[str, str] | None:
        return ("it will not.", "") if detector == "entropy" else None

    planned = make_plan(
        benchmark(matrix={"models": ["SoftMax"]}),
        Catalog(),
        statuses(),
        seeds=1,
        refusal=refuses,
    )
    assert ("SoftMax+Entropy", "it will not") in [(s.method, s.reason) for s in planned.skips]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (
            {"methods": {"A": {"model": "SoftMax", "detector": "odn"}}},
            "methods.A.detector: there is no detector 'odn'",
            "'odin'",
        ),
        (
            {"matrix": {"detectors": ["odn"]}},
            "matrix.detectors: there is no detector 'odn'",
            "'odin'",
        ),
        (
            {"models": {"SoftMax": SOFTMAX | {"network": "resnet9"}, "DisMax": DISMAX}},
            "models.SoftMax.network: unknown name 'resnet9'",
            "'resnet8'",
        ),
        (
            {"models": {"SoftMax": SOFTMAX | {"head": "sofmax"}, "DisMax": DISMAX}},
            "models.SoftMax.head: unknown name 'sofmax'",
            "'softmax'",
        ),
        (
            {"models": {"SoftMax": SOFTMAX, "DisMax": DISMAX | {"loss_options": {"alfa": 1}}}},
            "models.DisMax.loss_options: unknown name 'alfa'",
            "'alpha'",
        ),
        ({"reference": "SoftMax"}, "reference: unknown name 'SoftMax'", "'SoftMax+MSP'"),
        (
            {"reference": "SoftMax+ODIN"},
            "reference: 'odin' needs more than the logits",
            "one forward",
        ),
    ],
)
def test_names_are_checked_before_anything_is_trained(
    changes: dict[str, Any], message: str, hint: str
) -> None:
    error = refusal(benchmark(**changes))
    assert message in error.message
    assert "'mine'" in error.message
    assert hint in error.hint


def manifest(folder: Path, name: str, **changes: Any) -> Catalog:
    """A catalog with a data set of ours in it."""
    import yaml

    spec = Catalog().dataset("uniform-noise").model_dump(mode="json", exclude_none=True)
    (folder / "data_manifests").mkdir()
    path = folder / "data_manifests" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec | {"name": name, "sha256": {}} | changes))
    return Catalog([folder])


def test_images_of_another_shape(tmp_path: Path) -> None:
    catalog = manifest(tmp_path, "wide", shape=[1, 8, 9])
    error = refusal(benchmark(ood={"far": ["wide"]}), catalog=catalog)
    assert "images of 'wide' have shape 1x8x9, those of 'digits' 1x8x8" in error.message


def test_an_unknown_data_set() -> None:
    error = refusal(benchmark(ood={"near": ["leters"]}))
    assert "'leters'" in error.message
    assert "'letters'" in error.hint


def test_a_data_set_may_have_another_name_here() -> None:
    planned = plan(benchmark(datasets={"signs": "letters"}, ood={"near": ["signs"]}))
    assert {name: spec.name for name, spec in planned.datasets.items()} == {
        "digits": "digits",
        "signs": "letters",
    }
    assert {each.dataset for each in passes_of(planned)} == {"digits", "signs"}


def test_an_unknown_manifest_of_a_data_set() -> None:
    error = refusal(benchmark(datasets={"signs": "leters"}, ood={"near": ["signs"]}))
    assert error.message == "Benchmark 'mine': datasets.signs: unknown name 'leters'."
    assert "'letters'" in error.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "letters", "ood": {"far": ["digits"]}}, "the train split of 'letters' to train on"),
        (
            {"ood": {"far": ["bare"]}},
            "the test split of 'bare' to test on; its manifest has: valid",
        ),
    ],
)
def test_a_split_that_is_not_there(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    catalog = manifest(tmp_path, "bare", splits={"validation": 10})
    assert said in refusal(benchmark(**changes), catalog=catalog).message


def test_oracle_tuning_needs_validation_images(tmp_path: Path) -> None:
    catalog = manifest(tmp_path, "bare", splits={"test": 10})
    spec = benchmark(ood={"far": ["bare"]})
    assert plan(spec, catalog=catalog).methods, "fgsm needs no images of the OOD set"
    oracle = {"model": "SoftMax", "detector": "odin", "tuning": "ood_oracle"}
    spec = benchmark(ood={"far": ["bare"]}, methods={"Oracle": oracle})
    error = refusal(spec, catalog=catalog)
    assert "the validation split of 'bare' for ood_oracle tuning" in error.message


def test_a_manifest_that_is_not_valid(tmp_path: Path) -> None:
    catalog = manifest(tmp_path, "bare", splits={"test": 0})
    error = refusal(benchmark(ood={"far": ["bare"]}), catalog=catalog)
    assert re.search(r"bare.yaml:[0-9]+: splits.test: ", error.message)
    assert isinstance(Catalog().dataset("letters"), DatasetSpec)


# --- what methods require -------------------------------------------------------------------------

TABLE_1 = {
    # Input preprocessing, feature ensemble, OOD or adversarial samples, post-processing phase,
    # ad-hoc models: Table 1 of the DisMax paper (arXiv:1908.05569v1).
    "SoftMax+MSP": (False, False, False, False, False),
    "SoftMax+ODIN": (True, False, True, True, False),
    "SoftMax+Mahalanobis": (True, True, True, True, True),
    "DisMax+Entropy": (False, False, False, False, False),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_requirements_are_those_of_the_papers_table_1(name: str) -> None:
    method = next(method for method in plan().methods if method.name == name)
    assert tuple(method.requirements().values()) == TABLE_1[name]


def test_fitting_is_a_post_processing_phase() -> None:
    info = statuses()["entropy"].info
    assert info is not None
    fitted = replace(info, name="fitted", label="F", needs=frozenset({"fit"}))
    method = plan(methods=["fitted"], known=statuses(fitted=DetectorStatus(fitted, None))).methods[
        0
    ]
    assert [name for name, needed in method.requirements().items() if needed] == [
        "post_processing_phase"
    ]


def test_what_is_fixed_is_not_tuned() -> None:
    fixed = {"temperature": 1000.0, "epsilon": 0.0014}
    spec = benchmark(
        methods={"ODIN": {"model": "SoftMax", "detector": "odin", "parameters": fixed}}
    )
    method = plan(spec).methods[0]
    assert method.tuned_on == "none"
    assert method.search_space == {}
    assert not method.requirements()["ood_or_adversarial_samples"]
    assert not [p for p in passes_of(plan(spec)) if p.purpose == "tune"]


# --- the plan as text -----------------------------------------------------------------------------


def test_a_drawn_plan_says_what_is_shared_trained_and_skipped() -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    for part in renderables(plan(benchmark(matrix={}), seeds=2), 160):
        console.print(part)
    text = console.export_text()
    for said in (
        "Plan of benchmark 'mine'",
        "needs a DisMax head; SoftMax has a linear head",
        "letters, photo-patches, uniform-noise",
        "seeds 0, 1",
        "all feature layers",
        "Estimate",
    ):
        assert said in text, f"'{said}' is not in:\n{text}"


def drawn(spec: BenchmarkSpec | None = None, *, width: int = 120, **options: Any) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    for part in renderables(plan(spec, **options), width):
        console.print(part)
    return console.export_text()


def test_a_drawn_plan_fits_120_columns() -> None:
    for line in drawn(benchmark(matrix={}), seeds=3).splitlines():
        assert len(line.rstrip()) <= 120, line


def test_a_drawn_plan_says_how_much_it_is() -> None:
    text = drawn(methods=["SoftMax+MSP"], seeds=2)
    # 897 training images for one epoch; 4 test sets of 600.
    assert "2 trainings over 1,794 images" in text
    assert "passes over 4,800 images" in text
    assert "?" not in text.replace("; ? where", "")


# --- suites ---------------------------------------------------------------------------------------


def test_a_drawn_suite_says_what_is_shared_once_and_the_sum() -> None:
    catalog = Catalog()
    suite = load_suite(catalog, "dismax-paper-quick")
    plans = plan_suite(catalog, suite, statuses(), seeds=3)
    console = Console(width=120, file=io.StringIO(), record=True)
    for part in suite_renderables(suite, plans, 120):
        console.print(part)
    text = console.export_text()
    for name, each in plans.items():
        assert name in text
        assert f"{all_trainings(each).images:,}" in text
    assert len(text.splitlines()) < 100
    for method in ("MaxProb", "Entropy", "ODIN", "Mahalanobis"):
        assert f" {method}" in text.partition("Estimate")[0]
    (cifar,) = [line for line in text.splitlines() if line.startswith("cifar10 ")]
    assert "train " in cifar
    assert "test 10,000" in cifar
    total = sum(all_trainings(each).images for each in plans.values())
    (last,) = [line for line in text.splitlines() if line.startswith("sum ")]
    assert f"{total:,}" in last
    assert "recipe: quick" in text
    assert "36" in last, "6 benchmarks, 2 models, 3 seeds"
    for line in text.splitlines():
        assert len(line.rstrip()) <= 120, line


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from oodbench.plugins.catalog import Catalog; "
        "from oodbench.planning.planner import make_plan; "
        "from oodbench.planning.workload import passes_of; "
        "c = Catalog(); p = make_plan(c.benchmark('digits'), c, c.detectors, seeds=3); "
        "print(len(passes_of(p)), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False", done.stdout


# --- what a model needs ---------------------------------------------------------------------------


def test_a_network_of_ones_own_without_taps_skips_what_needs_them() -> None:
    own = {"network": "torchvision:resnet18", "head": "softmax", "training": TRAINING}
    planned = plan(benchmark(models={"SoftMax": own, "DisMax": DISMAX}))
    (skipped,) = [skip for skip in planned.skips if skip.method == "SoftMax+Mahalanobis"]
    assert skipped.reason == "needs taps; models.SoftMax.taps names none"
    tapped = {**own, "taps": ["layer1", "layer4"]}
    planned = plan(benchmark(models={"SoftMax": tapped, "DisMax": DISMAX}))
    assert "SoftMax+Mahalanobis" in names(planned)


def test_feature_layers_that_a_network_lacks_are_found_before_it_is_trained() -> None:
    def planned(layers: list[str], **model: Any) -> Plan:
        own = {"network": "torchvision:resnet18", "head": "softmax", "training": TRAINING}
        methods = {
            name: {"model": name, "detector": "knn", "parameters": {"layers": layers}}
            for name in ("Built", "Own")
        }
        models = {"Built": SOFTMAX, "Own": own | model}
        spec = benchmark(models=models, methods=methods, exclude=[])
        return plan(spec, known=Catalog().detectors)

    found = planned(["stage3", "features"], taps=["layer1"])
    assert names(found) == ["Built"]
    (skipped,) = found.skips
    assert skipped.method == "Own"
    assert skipped.reason == (
        "layers: the network has no feature layer 'stage3'. It has: layer1, features"
    )
    found = planned(["layer1"], taps=["layer1"])
    assert names(found) == ["Own"]
    assert "It has: " in found.skips[0].reason
    assert names(planned(["all"], taps=["layer1"])) == ["Built", "Own"]


def test_a_head_that_is_calibrated_needs_validation_images(tmp_path: Path) -> None:
    content = Catalog().dataset("digits").model_dump(mode="json")
    content |= {"name": "few", "splits": {"train": 897, "test": 600}, "sha256": {}}
    (tmp_path / "data_manifests").mkdir()
    (tmp_path / "data_manifests" / "few.yaml").write_text(yaml.safe_dump(content))
    calibrated = {"network": "resnet8", "head": "dismax2022", "training": TRAINING}
    changes: dict[str, Any] = {"id": "few", "models": {"SoftMax": SOFTMAX, "DisMax": calibrated}}
    error = refusal(benchmark(**changes), methods=["DisMax+Entropy"], catalog=Catalog([tmp_path]))
    assert "needs the validation split of 'few' to calibrate a temperature on" in error.message
    plan(benchmark(**changes), methods=["SoftMax+MSP"], catalog=Catalog([tmp_path]))


# --- examples -------------------------------------------------------------------------------------


def test_the_example_folder_is_a_benchmark_like_any_other() -> None:
    folder = Path(__file__).parents[2] / "examples" / "cifar10-folders"
    catalog = Catalog([folder])
    planned = plan(catalog.benchmark("cifar10-folders"), catalog=catalog, known=catalog.detectors)
    assert {"SoftMax+MSP", "DisMax+Entropy", "SoftMax+ODIN", "SoftMax+Mahalanobis"} <= set(
        names(planned)
    )
    assert {model.training.recipe for model in planned.benchmark.models.values()} == {"quick"}
    assert {model.training.epochs for model in planned.benchmark.models.values()} == {10}
