"""Specs of benchmarks: the contents of `benchmarks/<name>.yaml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from oodbench import metrics
from oodbench.errors import did_you_mean
from oodbench.specs.dataset_spec import DatasetSpec, ResizeSpec
from oodbench.specs.limit_spec import LimitSpec
from oodbench.specs.model_spec import ModelSpec
from oodbench.specs.published_spec import PublishedReference
from oodbench.specs.spec_base import (
    WORDS,
    BatchSize,
    MethodName,
    Options,
    PositiveInt,
    RunName,
    SchemaVersion,
    Several,
    Side,
    Spec,
    SplitName,
    Text,
)
from oodbench.specs.tuning_spec import FitSplit, TuningProtocol, TuningSpec


def _requested(names: Any) -> Any:
    """Names of metrics on request; other values are left to the type to refuse."""
    if isinstance(names, str) or (
        isinstance(names, list | tuple) and all(isinstance(each, str) for each in names)
    ):
        return metrics.requested(names)
    return names


OptionalMetrics = Annotated[Several[Text], BeforeValidator(_requested)]


class MethodSpec(Spec):
    """A named method: a model, a detector and the detector's parameters."""

    model: Text
    detector: Text
    parameters: Options = Field(default_factory=dict)
    """Arguments of the detector; parameters given here are not tuned."""
    tuning: TuningProtocol | None = None
    """Overrides the benchmark's protocol for this method."""


class MatrixSpec(Spec):
    """Combinations of models with detectors; combinations listed in `methods` keep their names."""

    models: Literal["all"] | Several[Text] = "all"
    detectors: Literal["all"] | Several[Text] = "all"


class ImagesSpec(Spec):
    """How the images of every data set of a benchmark are prepared, as its models' weights expect.

    It takes the place of what the manifests say.
    """

    shape: Annotated[tuple[Side, Side, Side], Field(strict=False)]
    """Channels, height, width."""
    resize: ResizeSpec = ResizeSpec()

    @model_validator(mode="after")
    def _short_side_covers(self) -> ImagesSpec:
        short = self.resize.short_side
        if short is not None and short < max(self.shape[1:]):
            raise ValueError(
                f"resize: short_side {short} is less than a side of the shape {list(self.shape)}"
            )
        return self


class ExcludeSpec(Spec):
    """A combination that the matrix leaves out, and the reason."""

    model: Text
    detector: Text
    reason: Text


class EvaluationSpec(Spec):
    """How scores are computed and evaluated."""

    batch_size: BatchSize = 200
    resamples: Annotated[int, Field(ge=100, le=20_000)] = 1000
    """Bootstrap resamples of each confidence interval. They take one byte per resample and image:
    20,000 resamples of 50,000 images take a gigabyte."""
    decoder: Literal["exact", "draft"] = "exact"
    """How images are decoded that are resized: with the pixels of the reference pipeline, or faster
    (`ResizeSpec.draft`)."""


_FEWEST_TO_TUNE = 4
"""`min_adversarial` of a limited run: two images to fit on and two to select with."""


class BenchmarkSpec(Spec):
    """A benchmark (`benchmarks/<name>.yaml`): the ID set, the OOD sets, the models, the methods."""

    schema_version: SchemaVersion
    name: RunName
    version: PositiveInt
    """Must be raised when a change makes results incomparable."""
    title: Text
    summary: Text
    id: Text
    """The in-distribution data set: models are trained on its `train` split, tested on `test`."""
    ood: dict[Text, Several[Text]]
    """Group ("near", "far") -> OOD data sets; their `test` splits are used."""
    csid: Several[Text] = ()
    """Full-spectrum: data sets of the ID classes with covariate shift (csID). The images of their
    `test` splits count as ID in every metric and in the accuracy."""
    datasets: dict[Text, Text] = Field(default_factory=dict)
    """Name of a data set in this benchmark, its records, scores and tables -> its manifest.
    Default: the manifest has the name itself."""
    images: ImagesSpec | None = None
    """How images are resized and cropped; None: as the manifest of each data set says."""
    models: dict[MethodName, ModelSpec]
    methods: dict[MethodName, MethodSpec] = Field(default_factory=dict)
    matrix: MatrixSpec | None = None
    default_detectors: Literal["all"] | Several[Text] = "all"
    """The detectors of `matrix: {detectors: all}` that a run has when it names no methods. Those of
    `methods` and of plug-ins are always in it."""
    exclude: Several[ExcludeSpec] = ()
    reference: Text | None = None
    """The method that costs are relative to; its detector needs only the logits."""
    parameters: dict[Text, Options] = Field(default_factory=dict)
    """Detector -> arguments that replace its defaults in every method without its own. A parameter
    with a search space is tuned all the same."""
    fit_split: dict[Text, FitSplit] = Field(default_factory=dict)
    """Detector -> split of the ID set that its `fit` is given; default: `train`."""
    tuning: TuningSpec = TuningSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    metrics: OptionalMetrics = ()
    """Metrics that are recorded and shown beside those of every run (`oodbench.metrics.OPTIONAL`);
    `all` for all of them."""
    published: PublishedReference | None = None
    """Published averages that the results are compared with; results do not depend on them."""
    limited: LimitSpec | None = None
    """Limits of a first try; the name contains their label."""

    @model_validator(mode="after")
    def _consistent(self) -> BenchmarkSpec:
        if self.limited is not None:
            self.limited.check(self.name)
        self._check_datasets()
        if not self.models:
            raise ValueError("models: names no model")
        if not self.methods and self.matrix is None:
            raise ValueError("give methods, a matrix, or both")
        for name, method in self.methods.items():
            self._known_model(method.model, f"methods.{name}.model")
        for model in self.matrix.models if self.matrix and self.matrix.models != "all" else ():
            self._known_model(model, "matrix.models")
        for index, excluded in enumerate(self.exclude):
            self._known_model(excluded.model, f"exclude.{index}.model")
        for model in self.published.models if self.published else ():
            self._known_model(model, "published.models")
        if self.tuning.ood is None:
            for name, method in self.methods.items():
                if method.tuning == "ood_validation":
                    raise ValueError(f"methods.{name}.tuning: ood_validation needs tuning.ood")
        if self.tuning.ood == self.id:
            raise ValueError(f"tuning.ood: '{self.id}' is the in-distribution data set")
        return self

    def _check_datasets(self) -> None:
        """Check that each data set has one role, and each manifest one name."""
        sets = [dataset for group in self.ood.values() for dataset in group]
        if not sets:
            raise ValueError("ood: names no data set")
        for key, names in (("ood", sets), ("csid", list(self.csid))):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{key}: '{name}' is listed twice")
            if "id" in names:
                raise ValueError(
                    f"{key}: 'id' is reserved: it names the ID test images in stored scores"
                )
            if self.id in names:
                raise ValueError(f"{key}: '{self.id}' is the in-distribution data set")
        if both := set(sets) & set(self.csid):
            raise ValueError(f"csid: '{min(both)}' is an OOD set")
        protocols = {self.tuning.protocol, *(method.tuning for method in self.methods.values())}
        if self.csid and "ood_oracle" in protocols:
            raise ValueError("csid: not together with tuning on each OOD set (ood_oracle)")
        auxiliary = [dataset for dataset, _ in self.auxiliary_splits]
        for name in self.datasets:
            if name not in (*self.names, self.tuning.ood, *auxiliary):
                near = did_you_mean(name, self.names)
                raise ValueError(f"datasets: '{name}' is no data set of this benchmark. {near}")
        named: dict[str, str] = {}
        for name in (self.id, *self.ood_groups):
            other = named.setdefault(self.manifest(name), name)
            if other != name:
                raise ValueError(
                    f"datasets: '{other}' and '{name}' are both the test images of manifest "
                    f"'{self.manifest(name)}'"
                )

        for model, spec in self.models.items():
            if spec.auxiliary is not None:
                self._check_auxiliary(model, spec.auxiliary.dataset, named)

    def _check_auxiliary(self, model: str, dataset: str, tested: dict[str, str]) -> None:
        """Check that auxiliary images are of no data set that is tested.

        Args:
            model: the model that is trained on them.
            dataset: their data set.
            tested: manifest -> name, of the data sets that are tested.
        """
        tested = {**tested, **{self.manifest(name): name for name in self.csid}}
        found = tested.get(self.manifest(dataset))
        if found == self.id:
            raise ValueError(
                f"models.{model}.auxiliary: '{dataset}' is the in-distribution data set"
            )
        if found is not None:
            raise ValueError(
                f"models.{model}.auxiliary: '{dataset}' is tested as '{found}', and a network must "
                "not be trained on images of a set that it is tested on"
            )

    def _known_model(self, model: str, where: str) -> None:
        if model not in self.models:
            raise ValueError(f"{where}: no model '{model}' here (models: {', '.join(self.models)})")

    def limited_to(self, limit: LimitSpec) -> BenchmarkSpec:
        """A copy with limits. Epochs are limited here, images when they are read."""
        models = self.models
        if limit.epochs is not None:
            models = {name: model.with_at_most(limit.epochs) for name, model in models.items()}
        tuning = self.tuning
        if limit.images is not None:
            fewest = min(tuning.min_adversarial, _FEWEST_TO_TUNE)
            tuning = tuning.model_copy(update={"min_adversarial": fewest})
        return self.model_copy(
            update={
                "name": limit.labeled(self.name),
                "models": models,
                "tuning": tuning,
                "limited": limit,
            }
        )

    def tuning_only(self, tune: Literal["all", "none"] | tuple[str, ...]) -> BenchmarkSpec:
        """A copy that tunes other detectors."""
        return self.model_copy(update={"tuning": self.tuning.model_copy(update={"tune": tune})})

    @property
    def most_images(self) -> int | None:
        """Maximum number of images of a split; None for all."""
        return None if self.limited is None else self.limited.images

    def images_of(self, dataset: DatasetSpec, split: SplitName) -> int:
        """Number of images of a split that the benchmark uses."""
        count = dataset.splits[split]
        return count if self.most_images is None else min(count, self.most_images)

    def identity(self) -> dict[str, Any]:
        """All values that results depend on: everything but `WORDS`."""
        return self.model_dump(mode="json", exclude=WORDS)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the data sets that are tested; the ID set is the first."""
        return (self.id, *self.csid, *self.ood_groups)

    def decoded(self, dataset: DatasetSpec) -> DatasetSpec:
        """A data set whose images are decoded as this benchmark says."""
        if self.images is not None:
            changes = {"shape": self.images.shape, "resize": self.images.resize, "sha256": {}}
            dataset = dataset.model_copy(update=changes)
        if self.evaluation.decoder == "exact" or dataset.resize is None:
            return dataset
        resize = dataset.resize.model_copy(update={"draft": True})
        return dataset.model_copy(update={"resize": resize})

    def manifest(self, name: str) -> str:
        """The manifest of a data set that has this name in this benchmark."""
        return self.datasets.get(name, name)

    @property
    def auxiliary_splits(self) -> tuple[tuple[str, SplitName], ...]:
        """Data set and split of the auxiliary images of all models, each once."""
        given = (model.auxiliary for model in self.models.values())
        return tuple(dict.fromkeys((each.dataset, each.split) for each in given if each))

    @property
    def tuning_ood(self) -> str | None:
        """The OOD set whose validation images methods may be tuned on; None if there is none."""
        protocols = {self.tuning.protocol, *(method.tuning for method in self.methods.values())}
        used = "ood_validation" in protocols and self.tuning.tune != "none"
        return self.tuning.ood if used else None

    @property
    def ood_groups(self) -> dict[str, str]:
        """OOD data set -> its group, in the file's order."""
        return {dataset: group for group, sets in self.ood.items() for dataset in sets}
