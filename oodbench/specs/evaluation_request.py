"""What `oodbench evaluate` is asked for: models, folders of images, methods."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from oodbench.specs.benchmark_spec import OptionalMetrics
from oodbench.specs.dataset_spec import ResizeSpec
from oodbench.specs.model_spec import NormalizationSpec
from oodbench.specs.names import method_obstacle, obstacle
from oodbench.specs.spec_base import (
    BatchSize,
    FileName,
    MethodName,
    Options,
    PathText,
    SchemaVersion,
    Several,
    Side,
    Spec,
    Text,
)

_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
NORMALIZATIONS: dict[str, dict[str, list[float]]] = {
    "imagenet": _IMAGENET,
    "none": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
}
"""Names of normalizations; `none` is for models that normalize images themselves."""

TRANSFORMS: dict[str, dict[str, Any]] = {
    "imagenet": {
        "shape": [3, 224, 224],
        "resize": {"short_side": 256},
        "normalization": _IMAGENET,
    }
}
"""Names of transforms: that of most classifiers for ImageNet."""

OTHER = "other"
"""Group of OOD sets that are given without one."""

_OF_A_MODEL = ("checkpoint", "weights", "head", "taps", "normalization")
"""Keys that may stand beside `model`, for all models or for one by its name."""


def _normalization(value: Any) -> Any:
    """A name, or "MEAN/STD" with commas between channels, as a mapping."""
    if not isinstance(value, str):
        return value
    if value in NORMALIZATIONS:
        return NORMALIZATIONS[value]
    mean, slash, std = value.partition("/")
    try:
        if not slash:
            raise ValueError
        return {
            key: list(map(float, text.split(","))) for key, text in (("mean", mean), ("std", std))
        }
    except ValueError:
        raise ValueError(
            f"expected {', '.join(NORMALIZATIONS)}, or MEAN/STD with a number for each channel, "
            f"such as 0.5,0.5,0.5/0.2,0.2,0.2, not '{value}'"
        ) from None


Normalization = Annotated[NormalizationSpec, BeforeValidator(_normalization)]


class TransformSpec(Spec):
    """How images are prepared before they are normalized, in place of what the model says."""

    shape: Annotated[tuple[Side, Side, Side], Field(strict=False)]
    """Channels, height, width."""
    resize: ResizeSpec = ResizeSpec()
    normalization: Normalization | None = None
    """Of models that are given none and have none."""


def _transform(value: Any) -> Any:
    """A name, or a size such as 224, 32x32 or 1x28x28, as a mapping; "model" as None."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        return value
    if value == "model":
        return None
    if value in TRANSFORMS:
        return TRANSFORMS[str(value)]
    sides = str(value).split("x")
    if not all(side.isdecimal() for side in sides) or len(sides) > 3:
        raise ValueError(
            f"expected model, {', '.join(TRANSFORMS)}, a size such as 224 or 32x32, or a YAML file "
            f"with shape and resize, not '{value}'"
        )
    numbers = [int(side) for side in sides]
    if len(numbers) < 3:
        numbers = [3, numbers[0], numbers[-1]]
    return {"shape": numbers}


class RequestedModel(Spec):
    """A trained model."""

    network: Text
    """As in a benchmark: "torchvision:NAME", "timm:NAME", "hf:PATH", "open_clip:NAME/TAG", a name
    of `oodbench list models`, "module:callable" or "FILE.py:callable"."""
    checkpoint: PathText | None = None
    """File with its weights."""
    weights: Text | None = None
    """Weights of torchvision by name; default: those that torchvision prefers."""
    head: Text = "softmax"
    taps: Several[Text] = ()
    normalization: Normalization | None = None
    network_options: Options = Field(default_factory=dict)
    loss_options: dict[str, float] = Field(default_factory=dict)
    prompts: Several[Text] = ()


def _set_name(name: str) -> str:
    group, _, own = name.rpartition("/")
    for part in filter(None, (group, own)):
        if (problem := obstacle(part)) is not None:
            raise ValueError(f"'{name}' cannot name a data set: {problem}")
    if own == "id":
        raise ValueError("'id' is reserved: it names the ID test images in stored scores")
    return name


SetName = Annotated[Text, AfterValidator(_set_name)]


class EvaluationRequest(Spec):
    """The contents of FILE in `oodbench evaluate FILE`, and the options of the command.

    Images are folders or lists: of ID and csID images with a sub-folder, or a label, for each
    class.
    """

    schema_version: SchemaVersion = 1
    name: FileName = "evaluation"
    """Name of the benchmark that the evaluation is."""
    title: Text | None = None
    model: dict[MethodName, RequestedModel]
    """Models by the names that they have on the leaderboard. Written as text, or a list of texts,
    models have the names of their networks."""
    id: PathText
    """ID test images; NAME=PATH gives the data set a name."""
    ood: dict[SetName, PathText]
    """"GROUP/NAME", such as near/textures -> OOD images."""
    csid: dict[SetName, PathText] = Field(default_factory=dict)
    """Data sets of the ID classes with covariate shift."""
    fit: PathText | None = None
    """ID images that detectors are fitted on: as a rule those that the model was trained on."""
    validation: PathText | None = None
    """ID images for tuning and for thresholds; None: a part of `fit`, which is then not fitted
    on."""
    methods: Literal["all"] | Several[Text] = ()
    """Detectors, or methods MODEL+DETECTOR; none: the default detectors."""
    parameters: dict[Text, Options] = Field(default_factory=dict)
    """Detector -> arguments in place of its defaults."""
    tune: Literal["all", "none"] | Several[Text] = "none"
    """Detectors that are tuned on attacked validation images."""
    metrics: OptionalMetrics = ()
    transform: Annotated[TransformSpec | None, BeforeValidator(_transform)] = None
    """How images are prepared; None: as the models' weights say."""
    classes: PathText | None = None
    """File with a class name a line, in the order of the model's outputs; `folders`: the
    sub-folders in the order of their names, without a check. None: this order, checked on a few
    images."""
    corrupt_images: Literal["stop", "skip"] = "stop"
    batch_size: BatchSize = 64

    other_keys: ClassVar[tuple[str, ...]] = _OF_A_MODEL

    @model_validator(mode="before")
    @classmethod
    def _models_by_name(cls, values: Any) -> Any:
        """Models as a mapping, with the keys that stand beside `model`."""
        if not isinstance(values, dict) or "model" not in values:
            return values
        models = _named(values["model"])
        if models is None:
            return values
        rest = {key: value for key, value in values.items() if key not in _OF_A_MODEL}
        for key in _OF_A_MODEL:
            if values.get(key) is not None:
                for name, value in _shared_out(key, values[key], list(models)).items():
                    models[name] = {key: value, **models[name]}
        return {**rest, "model": models}

    @model_validator(mode="after")
    def _consistent(self) -> EvaluationRequest:
        if not self.model:
            raise ValueError("model: names no model")
        if not self.ood:
            raise ValueError("ood: names no data set")
        names = [split_group(name)[1] for name in self.ood] + list(self.csid)
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"ood, csid: '{name}' names two data sets; names must be unique")
        return self


def split_group(name: str) -> tuple[str, str]:
    """Group and name of an OOD set that is given as "GROUP/NAME"."""
    group, _, own = name.rpartition("/")
    return group or OTHER, own


def _named(given: Any) -> dict[str, Any] | None:
    """Name -> values of a model, of text, a list of texts, or a mapping; None for anything else."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list | tuple):
        if not all(isinstance(each, str) for each in given):
            return None
        pairs = [_name_and_network(text) for text in given]
        named = {name: {"network": network} for name, network in pairs}
        if len(named) < len(pairs):
            twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
            raise ValueError(f"model: two models are called '{twice}'; write NAME={pairs[-1][1]}")
        return named
    if not isinstance(given, dict):
        return None
    return {
        name: dict(value) if isinstance(value, dict) else {"network": value}
        for name, value in given.items()
    }


def _name_and_network(text: str) -> tuple[str, str]:
    """Name and network of "NAME=NETWORK", or of "NETWORK" with a name made of it."""
    name, equals, network = text.partition("=")
    if equals and not set(name) & set(":/\\"):
        return name.strip(), network.strip()
    library, colon, own = text.rpartition(":")
    if library.endswith(".py"):
        own = library.replace("\\", "/").rpartition("/")[2].removesuffix(".py")
    elif colon:
        _, _, own = text.partition(":")
        parts = [part for part in own.replace("\\", "/").split("/") if part]
        own = "-".join(parts) if library.endswith("open_clip") else parts[-1] if parts else own
    name = "".join(char if method_obstacle(char) is None or char in "- ." else "-" for char in own)
    return name.strip(". ") or "model", text


def _shared_out(key: str, given: Any, names: list[str]) -> dict[str, Any]:
    """Model -> its value of a key: one for all, one for each in order, or by the model's name."""
    if isinstance(given, dict) and not set(given) <= {"mean", "std"}:
        unknown = next((name for name in given if name not in names), None)
        if unknown is not None:
            raise ValueError(f"{key}: there is no model '{unknown}' (models: {', '.join(names)})")
        return given
    values = given if isinstance(given, list | tuple) and key != "taps" else [given]
    by_name: dict[str, Any] = {}
    rest = []
    for value in values:
        name, equals, own = value.partition("=") if isinstance(value, str) else ("", "", value)
        if equals and name in names:
            by_name[name] = own
        else:
            rest.append(value)
    others = [name for name in names if name not in by_name]
    if len(rest) > 1 and len(rest) != len(others):
        raise ValueError(
            f"{key}: {len(rest)} for {len(others)} models; give one for each model, in order or as "
            f"{names[0]}=..."
        )
    if len(rest) == 1 and key in ("checkpoint", "weights") and len(others) > 1:
        raise ValueError(f"{key}: say which of the models it is for: {names[0]}={rest[0]}")
    pairs = zip(others, rest * len(others) if len(rest) == 1 else rest, strict=False)
    return {**by_name, **dict(pairs)}
