"""What a data set, a model, a benchmark *is*: frozen values, validated when they are read.

Nothing here touches a file or a tensor. Unknown keys and wrong types are errors: `yes`, `"1"` and
1.0 are no whole numbers (`oodbench.specs.yaml_file` turns errors into messages that name file,
line and
key).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from oodbench.errors import counted
from oodbench.specs.names import method_obstacle, obstacle, shortened
from oodbench.specs.recipes import RECIPES, values_for

SplitName = Literal["train", "validation", "test"]
WORDS = {"title", "summary"}
"""Keys of a benchmark and of a suite that no result depends on."""


class Spec(BaseModel):
    """Base of every spec: immutable, strict about keys and types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        str_strip_whitespace=True,
        allow_inf_nan=False,
    )
    _file: Path | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, whichever files they were read from."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    @property
    def file(self) -> Path | None:
        """The file that it was read from; None if it was made in a program."""
        return self._file

    def read_from(self, path: Path) -> Self:
        """The same, which knows its file."""
        self._file = path
        return self


def _file_name(name: str) -> str:
    problem = obstacle(name)
    if problem is not None:
        raise ValueError(f"'{shortened(name)}' cannot name a file: {problem}")
    return name


_LIMITED = "not the benchmark: limited to "


def _run_name(name: str) -> str:
    """A file's name, perhaps with the label of what is limited (`LimitSpec.labeled`)."""
    _file_name(name.partition(f" ({_LIMITED}")[0])
    return name


def _method_name(name: str) -> str:
    problem = method_obstacle(name)
    if problem is not None:
        raise ValueError(f"'{shortened(name)}' cannot name a folder: {problem}")
    return name


def _path(path: str) -> str:
    if any(ord(char) < ord(" ") for char in path):
        raise ValueError(f"{path!r} is no path: it has a control character")
    return path


def _no_truth(value: Any) -> Any:
    """True equals 1, and is no number."""
    if isinstance(value, bool):
        raise PydanticCustomError("truth", "input should be 1")
    return value


def number_obstacle(value: Any) -> str | None:
    """Why a value is a number that nothing can be computed with, or None."""
    if isinstance(value, float) and not math.isfinite(value):
        return "input should be a finite number"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "input should be a number of at most 64 bits"
    return None


def recordable(values: dict[str, Any]) -> dict[str, Any]:
    """Values of any kind that the description of a run can hold: what JSON has.

    Raises:
        ValueError: if one is not finite, or neither text, number, true, false, null, a list of
            such nor a mapping from texts to such.
    """
    for key, value in values.items():
        _check_recordable(value, key)
    return values


def _check_recordable(value: Any, key: str) -> None:
    problem = number_obstacle(value)
    if problem is not None:
        raise ValueError(f"{key}: {problem}, not {value}")
    if isinstance(value, dict):
        for inner, each in value.items():
            if not isinstance(inner, str):
                raise ValueError(f"{key}: the key {inner!r} is no text; write it in quotes")
            _check_recordable(each, f"{key}.{inner}")
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            _check_recordable(each, f"{key}.{index}")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(
            f"{key}: a {type(value).__name__} cannot be recorded; write text in quotes, as in "
            f"'{value}'"
        )


LARGEST = 2**63 - 1
PositiveInt = Annotated[int, Field(gt=0, le=LARGEST)]
ImageCount = Annotated[int, Field(gt=0, le=10**9)]
BatchSize = Annotated[int, Field(gt=0, le=10**6)]
Side = Annotated[int, Field(gt=0, le=2**16)]
"""Channels, or pixels of an image's height or width."""
Scale = Annotated[float, Field(ge=1e-9, le=1e9)]
"""A positive number that float32 holds, and its inverse, and their squares."""
NonNegativeScale = Annotated[float, Field(ge=0, le=1e9)]
SchemaVersion = Annotated[Literal[1], BeforeValidator(_no_truth)]
Text = Annotated[str, Field(min_length=1)]
FileName = Annotated[str, AfterValidator(_file_name)]
"""What files and folders are called by."""
RunName = Annotated[str, AfterValidator(_run_name)]
"""What run directories are called by."""
MethodName = Annotated[str, AfterValidator(_method_name)]
"""What folders of scores are called by."""
PathText = Annotated[str, Field(min_length=1), AfterValidator(_path)]
Options = Annotated[dict[str, Any], AfterValidator(recordable)]
"""Arguments of something that checks them itself."""

T = TypeVar("T")
Several = Annotated[tuple[T, ...], Field(strict=False)]
"""A list in YAML and JSON; what is in it is held to its type as strictly as elsewhere."""


# --- data sets ---------------------------------------------------------------------------------


class FileSpec(Spec):
    """A file that a data set is made from: downloaded, or put in its place by hand."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the file in the data set's folder."""
    urls: Several[Annotated[str, Field(pattern=r"^https?://")]] = ()
    """Where to get it, the preferred mirror first; none if it must be put there by hand."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    """What many publishers give; sha256 is preferred where it is known."""
    size: PositiveInt | None = None
    """Size in bytes, where it is known."""
    unpacked_limit: PositiveInt | None = None
    """An archive: the most bytes that its content may have. None: the file is used as it is."""

    @model_validator(mode="after")
    def _has_a_checksum(self) -> FileSpec:
        if self.sha256 is None and self.md5 is None:
            raise ValueError(f"file '{self.name}' needs a checksum: sha256 or md5")
        return self


class ResizeSpec(Spec):
    """How images of other sizes are brought to the manifest's `shape` when they are decoded."""

    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """Pillow's filter; all but "nearest" average over what a pixel covers (antialiased)."""
    crop: Literal["none", "center"] = "center"
    """Keep the aspect ratio and cut the center, or squeeze."""


class DatasetSpec(Spec):
    """A data set's manifest (`data_manifests/<name>.yaml`)."""

    schema_version: SchemaVersion
    name: FileName
    title: Text
    summary: Text
    kind: Literal["builtin", "torchvision", "folder", "list", "npz"]
    """Where images come from: a function of oodbench, a data set class of torchvision, a folder of
    images, a text file that lists images, or numpy archives."""
    builder: Text | None = None
    """Kinds builtin and torchvision: the name of what reads the images."""
    options: Options = Field(default_factory=dict)
    """Keyword arguments of what reads the images."""
    paths: dict[SplitName, PathText] = Field(default_factory=dict)
    """Kinds folder, list and npz: where the images of a split are, in the data set's folder."""
    folder: PathText | None = None
    """The data set's folder in the data root; default: the data set's name."""
    files: Several[FileSpec] = ()
    """What the folder is filled from; empty for folders that the user brings."""
    resize: ResizeSpec | None = None
    """None: every image must have the `shape` already."""
    corrupt_images: Literal["stop", "skip"] = "stop"
    """What an image that cannot be decoded does: stop with its name, or be left out and counted."""
    shape: Annotated[tuple[Side, Side, Side], Field(strict=False)]
    """Channels, height, width."""
    num_classes: Annotated[int, Field(gt=0, le=10**6)] | None = None
    """Number of classes; null for data that is only ever out-of-distribution."""
    splits: dict[SplitName, ImageCount]
    """Number of images of each split."""
    split_from: dict[SplitName, SplitName] = Field(default_factory=dict)
    """A split that is set apart from the images of another: {validation: train}."""
    sha256: dict[SplitName, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default_factory=dict
    )
    """Fingerprints of the decoded splits, where they are the same on every machine."""
    license: Text
    citation: Text
    url: Text | None = None

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        if "train" in self.splits and self.num_classes is None:
            raise ValueError("a data set with a train split needs num_classes")
        built = self.kind in ("builtin", "torchvision")
        if built and self.builder is None:
            raise ValueError(f"kind {self.kind} needs a builder")
        if not built and self.builder is not None:
            raise ValueError(f"kind {self.kind} takes no builder; it takes paths")
        if self.kind == "builtin" and (self.split_from or self.files):
            raise ValueError(
                "kind builtin takes neither split_from nor files; it computes its splits"
            )
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            raise ValueError("files: two of them have one name")
        for split, source in self.split_from.items():
            if split not in self.splits or source not in self.splits:
                raise ValueError(f"split_from: {split}: {source}: both must be among the splits")
            if source in self.split_from:
                raise ValueError(f"split_from: {split}: '{source}' is itself set apart")
        read = set(self.splits) - set(self.split_from)
        if not built and set(self.paths) != read:
            raise ValueError(f"paths: expected one for each of: {', '.join(sorted(read))}")
        if built and self.paths:
            raise ValueError(f"kind {self.kind} takes no paths")
        return self


# --- models ------------------------------------------------------------------------------------


class AugmentSpec(Spec):
    """Random augmentation of training images."""

    crop_padding: Annotated[int, Field(ge=0, le=1024)] = 0
    """Zero padding in pixels before a random crop back to the original size."""
    horizontal_flip: bool = False


class TrainingSpec(Spec):
    """How a network is trained. The checkpoint is always that of the last epoch.

    `recipe: NAME` in a benchmark stands for the values of `oodbench.specs.recipes`; what is given
    beside
    it replaces single values.
    """

    recipe: Text | None = None
    """The recipe that the values were taken from."""
    epochs: Annotated[int, Field(gt=0, le=10**6)]
    batch_size: BatchSize
    """Images per step, over all devices together."""
    learning_rate: Annotated[float, Field(gt=0, le=1e30)]
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "one_cycle"
    milestones: Several[Annotated[float, Field(gt=0, lt=1)]] = (0.5, 0.75)
    """For the step schedule: fractions of the epochs after which the rate is divided by ten."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeScale = 1e-4
    augment: AugmentSpec = AugmentSpec()
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """bfloat16: by autocast; weights, sums and the distances of a DisMax head stay float32. auto:
    bfloat16 where the device has instructions for it (elsewhere it is many times slower)."""
    compile: bool = False
    """Compile the network with torch.compile: slow to start, faster on a GPU."""
    test_accuracy: Literal["no", "last", "each"] = "no"
    """After which epochs loss and accuracy on the test split are noted in the history. They are
    never used to choose anything."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> TrainingSpec:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs a momentum above 0; write nesterov: false")
        return self


class NormalizationSpec(Spec):
    """What images in [0, 1] are normalized with, per channel."""

    mean: Several[Annotated[float, Field(ge=-1e9, le=1e9)]]
    std: Several[Scale]

    @model_validator(mode="after")
    def _same_length(self) -> NormalizationSpec:
        if len(self.mean) != len(self.std):
            raise ValueError("mean and std need one value for each channel")
        return self


class ModelSpec(Spec):
    """A classifier: its network, its head (and so its loss), its training."""

    network: Text
    """Name of a network (`oodbench list models`), or "module:callable" of one of your own."""
    network_options: Options = Field(default_factory=dict)
    """For "module:callable": keyword arguments of the callable."""
    taps: Several[Text] = ()
    """For "module:callable": names of the modules whose output is a tap, in order."""
    head: Text
    """Name of a head with its loss (`oodbench list models`)."""
    loss_options: dict[str, float] = Field(default_factory=dict)
    """Options of the loss, such as DisMax's `alpha`."""
    normalization: NormalizationSpec | None = None
    """None: mean and standard deviation of the training images."""
    training: TrainingSpec

    def with_at_most(self, epochs: int) -> ModelSpec:
        """The same, trained for fewer epochs if it has more."""
        fewer = min(epochs, self.training.epochs)
        return self.model_copy(
            update={"training": self.training.model_copy(update={"epochs": fewer})}
        )

    @model_validator(mode="before")
    @classmethod
    def _expand_recipe(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("training"), dict):
            named = values["training"].get("recipe")
            recipe = values_for(str(named), str(values.get("network", "")))
            if named is not None and not recipe:
                raise ValueError(f"there is no recipe '{named}' (recipes: {', '.join(RECIPES)})")
            return {**values, "training": {**recipe, **values["training"]}}
        return values

    @model_validator(mode="after")
    def _options_belong_to_own_networks(self) -> ModelSpec:
        if ":" not in self.network and (self.network_options or self.taps):
            raise ValueError(
                f"network_options and taps are for networks given as module:callable, "
                f"not for '{self.network}'"
            )
        return self


# --- benchmarks --------------------------------------------------------------------------------

TuningProtocol = Literal["none", "fgsm", "ood_oracle"]


class TuningSpec(Spec):
    """How detectors that declare a search space or a model of their own are tuned.

    `fgsm`: on adversarial images made from the ID tuning split, one setting per (model, ID set)
    used for every OOD set. `ood_oracle`: on validation images of each OOD set, one setting per OOD
    set: an upper bound that nobody has in the field.
    """

    protocol: TuningProtocol = "fgsm"
    split: Literal["validation"] = "validation"
    """The split, never trained on and never tested on, that tuning draws from."""
    fgsm_step: Scale = 0.05
    """Step of the fast gradient sign method, in units of a [0, 1] pixel (Lee et al. 2018: 0.05)."""
    noise_std: NonNegativeScale = 0.0625
    """Noise of the noisy images in units of the normalized image (Lee et al. 2018, ResNet)."""
    min_adversarial: ImageCount = 20
    """Fewest images that must be fooled for tuning to mean anything."""
    detectors: Literal["all"] | Several[Text] = "all"
    """The built-in detectors that are tuned; the others run with the parameters their papers
    propose."""
    tune: Literal["all", "none"] | Several[Text] | None = None
    """What `--tune` asks for: every detector with a search space, none, or exactly these,
    whatever the benchmark says of single detectors and methods."""

    def protocol_for(
        self, detector: str, *, plugin: bool, own: TuningProtocol | None
    ) -> TuningProtocol:
        """How the detector of a method is tuned.

        Args:
            detector: its name.
            plugin: whether it does not come with oodbench. A benchmark that limits tuning to some
                detectors cannot know of it: it is tuned.
            own: the method's own protocol, if the benchmark gives one.
        """
        if self.tune is not None:
            asked_for = self.tune == "all" or (self.tune != "none" and detector in self.tune)
            chosen = self.protocol if own is None or own == "none" else own
            return chosen if asked_for else "none"
        if own is not None:
            return own
        tuned = plugin or self.detectors == "all" or detector in self.detectors
        return self.protocol if tuned else "none"


class MethodSpec(Spec):
    """A method with a name of its own: a model, a detector, its parameters."""

    model: Text
    detector: Text
    parameters: Options = Field(default_factory=dict)
    """Arguments of the detector; a parameter given here is not tuned."""
    tuning: TuningProtocol | None = None
    """Overrides the benchmark's protocol for this method."""


class MatrixSpec(Spec):
    """Every model with every detector; what `methods` names already is left as named there."""

    models: Literal["all"] | Several[Text] = "all"
    detectors: Literal["all"] | Several[Text] = "all"


class ExcludeSpec(Spec):
    """A combination of the matrix that is left out, and why."""

    model: Text
    detector: Text
    reason: Text


class EvaluationSpec(Spec):
    """How scores become numbers."""

    batch_size: BatchSize = 200
    resamples: Annotated[int, Field(ge=100, le=20_000)] = 1000
    """Bootstrap resamples of each confidence interval. Memory is one byte for each resample of
    each image: 20,000 of 50,000 images are a gigabyte."""


class LimitSpec(Spec):
    """Less than a benchmark asks for, for a first try; its results are not the benchmark's.

    Set by `--limit` and `--epochs`, not in a benchmark's file.
    """

    images: PositiveInt | None = None
    """Most images of a split that is fitted, tuned or tested on."""
    epochs: PositiveInt | None = None
    """Most epochs of a training."""

    @model_validator(mode="after")
    def _limits_something(self) -> LimitSpec:
        if self.images is None and self.epochs is None:
            raise ValueError("give images, epochs, or both")
        return self

    @property
    def label(self) -> str:
        """What every report says of such results."""
        parts = [] if self.images is None else [f"{counted(self.images, 'image')} a set"]
        parts += [] if self.epochs is None else [counted(self.epochs, "epoch")]
        return f"{_LIMITED}{' and '.join(parts)}"

    @property
    def weakens(self) -> str:
        """What is said where a network is bad at its task, which less training may explain."""
        if self.epochs is None:
            return ""
        return (
            f"The network was trained for {counted(self.epochs, 'epoch')} only (--epochs), which "
            "may be the reason."
        )

    def labeled(self, name: str) -> str:
        """The name of what is limited, by which its results never mix with those of the whole."""
        return f"{name} ({self.label})"

    def check(self, name: str) -> None:
        """Refuse a name that does not say what is limited."""
        if not name.endswith(f" ({self.label})"):
            raise ValueError("limited: is not for files; run with --limit N or --epochs N")


_FEWEST_TO_TUNE = 4
"""Images that must be fooled in a first try: two to fit on and two to select by."""


class BenchmarkSpec(Spec):
    """A benchmark (`benchmarks/<name>.yaml`): what is ID, what is OOD, which models and methods."""

    schema_version: SchemaVersion
    name: RunName
    version: PositiveInt
    """Raised whenever results before and after are not comparable."""
    title: Text
    summary: Text
    id: Text
    """The in-distribution data set; trained on its `train` split, tested on its `test` split."""
    ood: dict[Text, Several[Text]]
    """Group ("near", "far") -> data sets, tested on their `test` splits."""
    models: dict[MethodName, ModelSpec]
    methods: dict[MethodName, MethodSpec] = Field(default_factory=dict)
    matrix: MatrixSpec | None = None
    exclude: Several[ExcludeSpec] = ()
    reference: Text | None = None
    """The method whose time the others' are divided by; its detector needs only the logits."""
    tuning: TuningSpec = TuningSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    limited: LimitSpec | None = None
    """Less than the benchmark, for a first try; the name says so."""

    @model_validator(mode="after")
    def _consistent(self) -> BenchmarkSpec:
        if self.limited is not None:
            self.limited.check(self.name)
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
        if not self.methods and self.matrix is None:
            raise ValueError("give methods, a matrix, or both")
        for name, method in self.methods.items():
            self._known_model(method.model, f"methods.{name}.model")
        for model in self.matrix.models if self.matrix and self.matrix.models != "all" else ():
            self._known_model(model, "matrix.models")
        for index, excluded in enumerate(self.exclude):
            self._known_model(excluded.model, f"exclude.{index}.model")
        return self

    def _known_model(self, model: str, where: str) -> None:
        if model not in self.models:
            raise ValueError(f"{where}: no model '{model}' here (models: {', '.join(self.models)})")

    def limited_to(self, limit: LimitSpec) -> BenchmarkSpec:
        """The same with less: epochs here, images where they are read (`engine.stores`)."""
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
        """The same with other detectors tuned."""
        return self.model_copy(update={"tuning": self.tuning.model_copy(update={"tune": tune})})

    @property
    def most_images(self) -> int | None:
        """Most images that are taken of a split; None for all."""
        return None if self.limited is None else self.limited.images

    def images_of(self, dataset: DatasetSpec, split: SplitName) -> int:
        """How many images of a split are taken."""
        count = dataset.splits[split]
        return count if self.most_images is None else min(count, self.most_images)

    def identity(self) -> dict[str, Any]:
        """What results depend on: everything but the words for people."""
        return self.model_dump(mode="json", exclude=WORDS)

    @property
    def ood_groups(self) -> dict[str, str]:
        """OOD data set -> its group, in the order of the file."""
        return {dataset: group for group, sets in self.ood.items() for dataset in sets}


# --- suites ------------------------------------------------------------------------------------


class SourceSpec(Spec):
    """A publication."""

    citation: str
    url: str


class MeasureSpec(Spec):
    """How a published table prints a quantity."""

    unit: Literal["percent", "nats"]
    decimals: Annotated[int, Field(ge=0, le=20)]


class PublishedRow(Spec):
    """One row of a published table: a network, what it was trained on, what it was tested against.

    They are called as they are in the publication.
    """

    network: str
    id: str
    ood: str | None = None
    values: dict[str, Several[float]]
    """Measure -> its value in each column, as printed."""


class PublishedTable(Spec):
    """A table as it was published."""

    source: str
    """Key of the publication."""
    place: str
    """Where it stands there."""
    title: str
    columns: Several[Text]
    measures: dict[str, MeasureSpec]
    """By the names that records use where the definitions agree."""
    notes: Several[Text] = ()
    """What a reader of the numbers should know."""
    rows: Several[PublishedRow]

    @model_validator(mode="after")
    def _whole(self) -> PublishedTable:
        seen = set()
        for index, row in enumerate(self.rows):
            if set(row.values) != set(self.measures):
                raise ValueError(
                    f"rows.{index}: expected values for {', '.join(self.measures)}, "
                    f"found {', '.join(row.values)}"
                )
            for measure, values in row.values.items():
                if len(values) != len(self.columns):
                    raise ValueError(
                        f"rows.{index}.values.{measure}: expected a value for each of the "
                        f"{len(self.columns)} columns, found {len(values)}"
                    )
            place = (row.network, row.id, row.ood)
            if place in seen:
                raise ValueError(f"rows.{index}: {', '.join(map(str, place))} has a row already")
            seen.add(place)
        return self


class PublishedSpec(Spec):
    """Published numbers (`benchmarks/published/<name>.yaml`)."""

    schema_version: SchemaVersion
    name: FileName
    title: Text
    sources: dict[str, SourceSpec]
    caveats: Several[Text] = ()
    tables: dict[str, PublishedTable]

    @model_validator(mode="after")
    def _sources_are_there(self) -> PublishedSpec:
        for name, table in self.tables.items():
            if table.source not in self.sources:
                raise ValueError(
                    f"tables.{name}.source: no source '{table.source}' here "
                    f"(sources: {', '.join(self.sources)})"
                )
        return self


TRAINING_MEASURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
"""Measures of a table about training: how the last epoch ended, by the names that records use."""


class MemberSpec(Spec):
    """What the published tables call a benchmark's network and ID set."""

    network: str
    id: str


class ComparisonSpec(Spec):
    """A published table that measurements are laid beside."""

    about: Literal["detection", "training"]
    """Detection: metrics of methods on OOD sets. Training: how the last epoch of models ended."""
    title: str
    published: str
    """Name of the published table."""
    measures: Several[Text]
    columns: dict[str, str]
    """Column of the published table -> method (detection) or model (training) of every member."""
    overview: bool = True
    """Whether a terminal shows it; the other formats always do."""


class SuiteSpec(Spec):
    """Benchmarks that are run together and compared with published tables.

    A file in `benchmarks/` with the key `members`.
    """

    schema_version: SchemaVersion
    name: RunName
    version: PositiveInt
    title: Text
    summary: Text
    members: dict[str, MemberSpec]
    """Name of a benchmark -> what it is in the tables; in the order in which they are run."""
    ood: dict[str, str] = Field(default_factory=dict)
    """OOD data set -> what the published tables call it."""
    published: str | None = None
    """Name of the file with the published numbers."""
    tables: dict[str, ComparisonSpec] = Field(default_factory=dict)
    training: Options = Field(default_factory=dict)
    """Put over the training of every model of every member."""
    deviations: Several[Text] = ()
    """Where the protocol differs from that of the published values."""
    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] | None = None
    """Ends the names of members whose training is changed, so that results never mix."""
    limited: LimitSpec | None = None
    """Less than the members ask for, for a first try; the name says so."""
    tune: Literal["all", "none"] | Several[Text] | None = None
    """What `--tune` asks for."""

    @model_validator(mode="after")
    def _consistent(self) -> SuiteSpec:
        if self.limited is not None:
            self.limited.check(self.name)
        if not self.members:
            raise ValueError("members: names no benchmark")
        if self.tables and self.published is None:
            raise ValueError("published: tables need the published numbers they show")
        rows = [(member.network, member.id) for member in self.members.values()]
        if self.tables and len(set(rows)) < len(rows):
            raise ValueError("members: two benchmarks are the same row of the published tables")
        if bool(self.training) != bool(self.suffix):
            raise ValueError(
                "training and suffix go together: changed members need names of their own"
            )
        for key in self.training:
            if key not in TrainingSpec.model_fields:
                raise ValueError(
                    f"training: unknown key '{key}' (keys: {', '.join(TrainingSpec.model_fields)})"
                )
        return self

    def member_name(self, benchmark: str) -> str:
        """What a member's benchmark is called in this suite, and its folder."""
        return benchmark if self.suffix is None else f"{benchmark}-{self.suffix}"

    def benchmark_name(self, benchmark: str) -> str:
        """What the records of a member say that they are of."""
        name = self.member_name(benchmark)
        return name if self.limited is None else self.limited.labeled(name)

    def limited_to(self, limit: LimitSpec) -> SuiteSpec:
        """The same with less; the members are limited where they are read."""
        return self.model_copy(update={"name": limit.labeled(self.name), "limited": limit})

    def identity(self) -> dict[str, Any]:
        """What results depend on: everything but the words for people."""
        return self.model_dump(mode="json", exclude=WORDS)
