"""What a data set, a model, a benchmark *is*: frozen values, validated when they are read.

Nothing here touches a file or a tensor. Unknown keys and wrong types are errors
(`oodbench.yamlfile` turns them into messages that name the file and the key).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

SplitName = Literal["train", "validation", "test"]


class Spec(BaseModel):
    """Base of every spec: immutable, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


# --- data sets ---------------------------------------------------------------------------------


class DatasetSpec(Spec):
    """A data set's manifest (`data_manifests/<name>.yaml`)."""

    schema_version: Literal[1]
    name: str
    title: str
    summary: str
    kind: Literal["builtin"]
    builder: str
    """Name of the function that makes the images (`oodbench.data.builtin.BUILDERS`)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the builder."""
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Channels, height, width."""
    num_classes: PositiveInt | None = None
    """Number of classes; null for data that is only ever out-of-distribution."""
    splits: dict[SplitName, PositiveInt]
    """Number of images of each split."""
    sha256: dict[SplitName, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default_factory=dict
    )
    """Fingerprints of the decoded splits, where they are the same on every machine."""
    licence: str
    citation: str
    url: str | None = None

    @model_validator(mode="after")
    def _training_needs_classes(self) -> DatasetSpec:
        if "train" in self.splits and self.num_classes is None:
            raise ValueError("a data set with a train split needs num_classes")
        return self


# --- models ------------------------------------------------------------------------------------


class AugmentSpec(Spec):
    """Random augmentation of training images."""

    crop_padding: NonNegativeInt = 0
    """Zero padding in pixels before a random crop back to the original size."""
    horizontal_flip: bool = False


class TrainingSpec(Spec):
    """How a network is trained. The checkpoint is always that of the last epoch."""

    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "one_cycle"
    milestones: tuple[float, ...] = (0.5, 0.75)
    """For the step schedule: fractions of the epochs after which the rate is divided by ten."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeFloat = 1e-4
    augment: AugmentSpec = AugmentSpec()


class ModelSpec(Spec):
    """A classifier: its network, its head (and so its loss), its training."""

    network: str
    """Name of a network (`oodbench list models`)."""
    head: str
    """Name of a head with its loss: "softmax" or "dismax"."""
    loss_options: dict[str, float] = Field(default_factory=dict)
    """Options of the loss, such as DisMax's `alpha`."""
    training: TrainingSpec


# --- benchmarks --------------------------------------------------------------------------------

TuningProtocol = Literal["none", "fgsm", "ood_oracle"]


class TuningSpec(Spec):
    """How detectors that declare a search space or a model of their own are tuned.

    `fgsm`: on adversarial images made from the ID tuning split, one setting per (model, ID set)
    used for every OOD set. `ood_oracle`: on held-out images of each OOD set, one setting per OOD
    set: an upper bound that nobody has in the field.
    """

    protocol: TuningProtocol = "fgsm"
    split: Literal["validation"] = "validation"
    """The split, never trained on and never tested on, that tuning draws from."""
    fgsm_step: PositiveFloat = 0.05
    """Step of the fast gradient sign method, in units of a [0, 1] pixel (Lee et al. 2018: 0.05)."""
    noise_std: NonNegativeFloat = 0.0625
    """Noise of the noisy images in units of the normalised image (Lee et al. 2018, ResNet)."""
    min_adversarial: PositiveInt = 20
    """Fewest images that must be fooled for tuning to mean anything."""


class MethodSpec(Spec):
    """A method with a name of its own: a model, a detector, its parameters."""

    model: str
    detector: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the detector; a parameter given here is not tuned."""
    tuning: TuningProtocol | None = None
    """Overrides the benchmark's protocol for this method."""


class SweepSpec(Spec):
    """Every model with every detector; what `methods` names already is left as named there."""

    models: Literal["all"] | tuple[str, ...] = "all"
    detectors: Literal["all"] | tuple[str, ...] = "all"


class ExcludeSpec(Spec):
    """A combination of the sweep that is left out, and why."""

    model: str
    detector: str
    reason: str


class EvaluationSpec(Spec):
    """How scores become numbers."""

    batch_size: PositiveInt = 200
    resamples: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap resamples of each confidence interval."""


class BenchmarkSpec(Spec):
    """A benchmark (`benchmarks/<name>.yaml`): what is ID, what is OOD, which models and methods."""

    schema_version: Literal[1]
    name: str
    version: PositiveInt
    """Raised whenever results before and after are not comparable."""
    title: str
    summary: str
    id: str
    """The in-distribution data set; trained on its `train` split, tested on its `test` split."""
    ood: dict[str, tuple[str, ...]]
    """Group ("near", "far") -> data sets, tested on their `test` splits."""
    models: dict[str, ModelSpec]
    methods: dict[str, MethodSpec] = Field(default_factory=dict)
    sweep: SweepSpec | None = None
    exclude: tuple[ExcludeSpec, ...] = ()
    reference: str | None = None
    """The method whose time the others' are divided by; its detector needs only the logits."""
    tuning: TuningSpec = TuningSpec()
    evaluation: EvaluationSpec = EvaluationSpec()

    @model_validator(mode="after")
    def _consistent(self) -> BenchmarkSpec:
        sets = [dataset for group in self.ood.values() for dataset in group]
        if not sets:
            raise ValueError("ood: names no data set")
        for dataset in sets:
            if sets.count(dataset) > 1:
                raise ValueError(f"ood: '{dataset}' is listed twice")
        if "id" in sets:
            raise ValueError("ood: 'id' is what the ID test images are called in stored scores")
        if self.id in sets:
            raise ValueError(f"ood: '{self.id}' is the in-distribution data set")
        if not self.models:
            raise ValueError("models: names no model")
        if not self.methods and self.sweep is None:
            raise ValueError("give methods, a sweep, or both")
        for name, method in self.methods.items():
            self._known_model(method.model, f"methods.{name}.model")
        for model in self.sweep.models if self.sweep and self.sweep.models != "all" else ():
            self._known_model(model, "sweep.models")
        for index, excluded in enumerate(self.exclude):
            self._known_model(excluded.model, f"exclude.{index}.model")
        return self

    def _known_model(self, model: str, where: str) -> None:
        if model not in self.models:
            raise ValueError(f"{where}: no model '{model}' here (models: {', '.join(self.models)})")

    @property
    def ood_groups(self) -> dict[str, str]:
        """OOD data set -> its group, in the order of the file."""
        return {dataset: group for group, sets in self.ood.items() for dataset in sets}
