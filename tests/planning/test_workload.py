"""The estimate of a plan: passes over data, who shares them, and how much work they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import DISMAX, METHODS, SOFTMAX, TRAINING, benchmark, plan
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from oodbench.data.loaded_splits import LoadedSplits
from oodbench.engine import costs
from oodbench.execution import Execution
from oodbench.models.classifier import Classifier
from oodbench.planning.executor_options import ExecutorOptions
from oodbench.planning.plan import Plan
from oodbench.planning.workload import all_trainings, pass_work, passes_of, training_work
from oodbench.plugins.catalog import Catalog
from oodbench.training.loop import as_floats, resident

# --- passes ---------------------------------------------------------------------------------------


def test_every_split_is_passed_once_for_each_model() -> None:
    planned = plan(benchmark(matrix={}))
    count = Counter((p.model, p.dataset, p.split) for p in passes_of(planned))
    assert set(count.values()) == {1}, f"passed more than once: {count}"
    tested = {(p.model, p.dataset) for p in passes_of(planned) if p.purpose == "score"}
    sets = ("digits", "letters", "photo-patches", "uniform-noise")
    assert tested == {(model, name) for model in ("SoftMax", "DisMax") for name in sets}


def test_all_methods_of_a_model_share_a_test_pass() -> None:
    planned = plan(benchmark(matrix={}))
    for shared in passes_of(planned):
        if shared.purpose == "score":
            own = tuple(method.name for method in planned.methods_of(shared.model))
            assert shared.methods == own


def test_passes_are_only_those_that_are_needed() -> None:
    planned = plan(methods=["SoftMax+MSP"])
    assert [(p.dataset, p.split, p.purpose) for p in passes_of(planned)] == [
        ("digits", "test", "score"),
        ("letters", "test", "score"),
        ("photo-patches", "test", "score"),
        ("uniform-noise", "test", "score"),
    ]
    assert planned.models == ("SoftMax",)
    planned = plan(methods=["SoftMax+ODIN"])
    assert [(p.dataset, p.split) for p in passes_of(planned) if p.purpose == "tune"] == [
        ("digits", "validation")
    ]
    assert not [p for p in passes_of(planned) if p.purpose == "fit"], "ODIN has nothing to fit"
    planned = plan(methods=["SoftMax+Mahalanobis"])
    assert [(p.dataset, p.split) for p in passes_of(planned) if p.purpose == "fit"] == [
        ("digits", "train")
    ]


def test_images_are_counted_from_the_manifests() -> None:
    planned = plan(methods=["SoftMax+Mahalanobis"])
    for passed in passes_of(planned):
        assert passed.images == Catalog().dataset(passed.dataset).splits[passed.split], passed


def test_taps_are_captured_only_where_needed() -> None:
    planned = plan(benchmark(matrix={}))
    with_taps = {m.name for m in planned.methods if m.detector.name == "mahalanobis"}
    assert with_taps
    for passed in passes_of(planned):
        assert passed.taps == bool(with_taps & set(passed.methods)), passed
    assert not any(p.taps for p in passes_of(plan(methods=["SoftMax+MSP", "SoftMax+ODIN"])))


def test_oracle_tuning_passes_validation_images_of_each_set() -> None:
    oracle = {"model": "SoftMax", "detector": "odin", "tuning": "ood_oracle"}
    spec = benchmark(methods={**METHODS, "Oracle": oracle})
    tuned = [p for p in passes_of(plan(spec)) if p.purpose == "tune" and p.dataset != "digits"]
    assert [p.dataset for p in tuned] == ["letters", "photo-patches", "uniform-noise"]
    assert {p.split for p in tuned} == {"validation"}
    assert {p.methods for p in tuned} == {("Oracle",)}


class _Counted:
    """Counts the images of each split that go through networks that are not trained.

    Perturbed images, which are in no split, are counted under None.
    """

    def __init__(self, planned: Plan) -> None:
        self.images: Counter[tuple[str, str] | None] = Counter()
        self.active = True
        self._split: dict[bytes, tuple[str, str]] = {}
        store = LoadedSplits(planned.datasets)
        for name, spec in planned.datasets.items():
            for split in spec.splits:
                for image in as_floats(resident(store.get(name, split), torch.device("cpu"))):
                    place = self._split.setdefault(image.numpy().tobytes(), (name, split))
                    assert place == (name, split), f"an image of both {place} and {name} {split}"

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.active and isinstance(module, Classifier) and not module.training:
            for image in inputs[0].detach():
                self.images[self._split.get(image.numpy().tobytes())] += 1


def test_a_run_makes_the_forward_passes_of_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odin = {"temperature": 1000.0, "epsilon": 0.01}
    methods = {
        "SoftMax+MSP": METHODS["SoftMax+MSP"],
        "DisMax+Entropy": METHODS["DisMax+Entropy"],
        "SoftMax+ODIN": {**METHODS["SoftMax+ODIN"], "parameters": odin},
        "SoftMax+MDS": {"model": "SoftMax", "detector": "mahalanobis_single"},
        "DisMax+KNN": {"model": "DisMax", "detector": "knn"},
        "SoftMax+KLMatching": {"model": "SoftMax", "detector": "kl_matching"},
    }
    catalog = Catalog()
    spec = benchmark(
        methods=methods,
        ood={"near": ["letters"]},
        tuning={"protocol": "none"},
        evaluation={"resamples": 100},
    )
    planned = plan(spec, known=catalog.detectors, catalog=catalog)
    assert not [each for each in passes_of(planned) if each.purpose == "tune"]
    expected: Counter[tuple[str, str] | None] = Counter()
    for each in passes_of(planned):
        expected[each.dataset, each.split] += each.images
        expected[None] += each.images * len(each.gradients)
    counted, measure = _Counted(planned), costs.measure

    def uncounted(*args: Any, **options: Any) -> Any:
        counted.active = False
        try:
            return measure(*args, **options)
        finally:
            counted.active = True

    monkeypatch.setattr(costs, "measure", uncounted)
    hook = register_module_forward_pre_hook(counted)
    try:
        execution = Execution(
            catalog, "cpu", ExecutorOptions(), resume=False, data_root=None, progress=None
        )
        done = execution.run(planned, tmp_path / "run")
    finally:
        hook.remove()
    assert done.complete, done.failures
    assert counted.images == expected
    assert len(expected) == 5, "train, validation, two test splits, perturbed images"


# --- how much work it is --------------------------------------------------------------------------

F = 2 * 12_500_992 / 16
"""Operations of a forward of resnet8 on an image of 8x8, a sixteenth of what it is on 32x32."""


def test_training_takes_three_forwards_and_tests_one() -> None:
    tested = {**SOFTMAX, "training": {**TRAINING, "epochs": 5, "test_accuracy": "each"}}
    last = {**DISMAX, "training": {**TRAINING, "epochs": 5, "test_accuracy": "last"}}
    planned = plan(benchmark(models={"SoftMax": tested, "DisMax": last}), seeds=2)
    found = training_work(planned, "SoftMax")
    assert found.images == 5 * (897 + 600)
    assert found.flops == pytest.approx(F * 5 * (3 * 897 + 600))
    assert training_work(planned, "DisMax").images == 5 * 897 + 600
    both = all_trainings(planned)
    assert both.images == 2 * (5 * (897 + 600) + 5 * 897 + 600)


@pytest.mark.parametrize(
    ("method", "forwards"),
    [
        ("SoftMax+MSP", {"score": 1}),
        # Grid: 4 temperatures with a gradient each, 10 steps that are not zero; 3 kinds of images.
        ("SoftMax+ODIN", {"score": 3, "tune": 4 + 3 * (1 + 4 + 40)}),
        ("SoftMax+Mahalanobis", {"score": 6, "fit": 1, "tune": 4 + 3 * (1 + 2.5 * (1 + 6))}),
    ],
)
def test_passes_take_what_their_methods_declare(method: str, forwards: dict[str, float]) -> None:
    planned = plan(methods=[method])
    for each in passes_of(planned):
        found = pass_work(planned, each)
        assert found.images == each.images
        assert found.flops == pytest.approx(F * each.images * forwards[each.purpose])


def test_methods_share_the_first_forward() -> None:
    planned = plan(methods=["SoftMax+MSP", "entropy", "SoftMax+ODIN"])
    score = next(each for each in passes_of(planned) if each.purpose == "score")
    assert pass_work(planned, score).flops == pytest.approx(F * score.images * 3)


def test_networks_of_which_nothing_is_known() -> None:
    own = {**SOFTMAX, "network": "mine:network"}
    planned = plan(
        benchmark(models={"SoftMax": own, "DisMax": DISMAX}),
        methods=["SoftMax+MSP", "DisMax+Entropy"],
    )
    assert training_work(planned, "SoftMax").flops is None
    assert training_work(planned, "SoftMax").images == 897
    assert all_trainings(planned).flops is None, "a sum with an unknown part is not known"
    assert training_work(planned, "DisMax").flops is not None
