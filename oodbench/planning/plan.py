"""A plan: which methods a run trains, fits, tunes and scores, and which it skips. Pure data.

`planning.planner` makes it; `planning.estimate` says how much work it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from oodbench.detector import DetectorInfo
from oodbench.metrics import accepting
from oodbench.specs import (
    BenchmarkSpec,
    DatasetSpec,
    FitSplit,
    PublishedSpec,
    SplitName,
    TuningProtocol,
)

FITTED_ON: Mapping[str, SplitName] = {"fit": "train", "validation": "validation"}
"""Need of a detector -> the split of the ID set that it is fitted on, in this order. A benchmark
may give another split for `fit`."""


@dataclass(frozen=True, slots=True)
class Method:
    """A trained model with a detector.

    Attributes:
        name: the name on the leaderboard, also of the folder with its scores.
        model: name of the model in the benchmark.
        detector: the detector's declaration.
        parameters: arguments of the detector, fixed.
        tuned_on: "none", "fgsm", "ood_oracle" or "ood_validation".
        asked_for: whether the benchmark or the user named it, and not only a `matrix:`.
        defaults: arguments of the detector that the benchmark gives in place of its defaults.
        grid: the benchmark's grid in place of the declared search space, if it gives one.
        fit_split: the split of the ID set that the detector's `fit` is given.
        tuning_ood: the OOD set whose validation images it is tuned on; None under other protocols.
        keeps_out: whether `fit_validation` is given a part of the images of `fit`, which `fit` is
            then not given, because there are no other ID images (`LayerwiseDetector`).
    """

    name: str
    model: str
    detector: DetectorInfo
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tuned_on: TuningProtocol = "none"
    asked_for: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] | None = None
    fit_split: FitSplit = "train"
    tuning_ood: str | None = None
    keeps_out: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments that the detector is made with."""
        return {**self.defaults, **self.parameters}

    @property
    def search_space(self) -> dict[str, tuple[Any, ...]]:
        """The grid, or else the declared search space, without the parameters that are fixed."""
        space = self.detector.search_space if self.grid is None else self.grid
        return {name: values for name, values in space.items() if name not in self.parameters}

    @property
    def untuned(self) -> tuple[str, ...]:
        """Parameters that have a search space and keep their defaults."""
        return tuple(self.search_space) if self.tuned_on == "none" else ()

    def with_layers(self, splits: Collection[str]) -> Method:
        """The method with the needs that a layerwise detector has with its arguments.

        Args:
            splits: those that the ID set has.
        """
        detector = self.detector.given(self.arguments)
        wanted = self.detector.layerwise and "validation" in detector.needs
        others = "validation" in splits and self.fit_split != "validation"
        return replace(self, detector=detector, keeps_out=wanted and not others)

    def fitted_on(self) -> dict[str, SplitName]:
        """Need "fit" or "validation" that the detector has -> the split that it is fitted on."""
        splits = {**FITTED_ON, "fit": self.fit_split}
        if self.keeps_out:
            splits["validation"] = self.fit_split
        return {need: split for need, split in splits.items() if need in self.detector.needs}

    @property
    def other_fit_split(self) -> FitSplit | None:
        """The split of `fit`, if it is not the training images; None if the detector has none."""
        moved = "fit" in self.detector.needs and self.fit_split != FITTED_ON["fit"]
        return self.fit_split if moved else None

    def requirements(self) -> dict[str, bool]:
        """The columns of the DisMax paper's Table 1, from the declared needs of the detector."""
        needs = self.detector.needs
        return {
            "input_preprocessing": "input_gradient" in needs,
            "feature_ensemble": bool(needs & {"taps", "tap_maps", "layers", "tap_gradients"}),
            "ood_or_adversarial_samples": self.tuned_on != "none",
            "post_processing_phase": self.tuned_on != "none" or bool(needs & set(FITTED_ON)),
            "ad_hoc_models": "calibration" in needs,
        }


@dataclass(frozen=True, slots=True)
class Skip:
    """A method that is not run, and why."""

    method: str
    model: str
    detector: str
    reason: str
    asked_for: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does: every method, on its model, for every seed.

    Attributes:
        benchmark: its specification.
        datasets: name in the benchmark -> manifest, of the ID set, each csID set and each OOD set.
        seeds: seeds of trainings and tuning data.
        methods: the methods that run.
        skips: the methods that cannot run.
        reference: the method that times are divided by; None if there is none.
        published: the published averages that the results are compared with; None without any.
        left_out: detectors that can run and that the benchmark's default leaves out.
        absent: splits of the ID set that are not on this machine, and that no method uses -> number
            of their images, and whether it is an upper bound.
        whole_id: the manifest of the ID set with these splits; None if none is absent.
        shard_images: images of a shard, up to whole batches (`planning.shards`); None: no shards.
    """

    benchmark: BenchmarkSpec
    datasets: Mapping[str, DatasetSpec]
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    skips: tuple[Skip, ...]
    reference: Method | None
    published: PublishedSpec | None = None
    left_out: tuple[str, ...] = ()
    absent: Mapping[SplitName, tuple[int, bool]] = field(default_factory=dict)
    whole_id: DatasetSpec | None = None
    shard_images: int | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """Models that a method uses, in the benchmark's order."""
        used = {method.model for method in self.methods}
        return tuple(model for model in self.benchmark.models if model in used)

    @property
    def sets_thresholds(self) -> bool:
        """Whether ID validation images are scored to set thresholds, which some metrics need."""
        wanted = bool(accepting(self.benchmark.metrics))
        return wanted and "validation" in self.datasets[self.benchmark.id].splits

    @property
    def same_source(self) -> tuple[str, ...]:
        """OOD sets with images of the same source as those that methods are tuned on.

        They are of the same manifest, or their manifests name the same `source`.
        """
        tuning, known = self.benchmark.tuning_ood, self.benchmark.manifest
        if tuning is None:
            return ()
        source = self.datasets[tuning].source
        return tuple(
            name
            for name in self.benchmark.ood_groups
            if known(name) == known(tuning)
            or (source is not None and self.datasets[name].source == source)
        )

    def methods_of(self, model: str) -> tuple[Method, ...]:
        """Methods on one model, in order."""
        return tuple(method for method in self.methods if method.model == model)
