"""The contents of `artifact.json`: what a saved detector is, and the model that it is for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from oodbench.specs import ModelSpec, ResizeSpec
from oodbench.storage.description import Description, DescriptionPart

NAME = "artifact.json"
DETECTOR = "detector.safetensors"
MODEL = "model.safetensors"

SCHEMA_VERSION = 1
"""Raise it when older versions of oodbench would read an artifact wrongly."""

STATE_VERSION = 1
"""Raise it when objects of `oodbench.numerics` have other attributes than before: the states of
other versions are refused."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DetectorPart(DescriptionPart):
    """The detector.

    Attributes:
        name: of its declaration.
        parameters: its arguments as fitted and tuned, for readers.
        source: SHA-256 of its file and of what it imports.
        state_version: `STATE_VERSION` of the oodbench that wrote it.
        uses_validation: whether it was fitted, calibrated or tuned on validation images.
    """

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    source: str = ""
    state_version: int
    uses_validation: bool = False


class ThresholdPart(DescriptionPart):
    """A threshold; None in the place of the value is -infinity.

    Attributes:
        value, accept, images, guaranteed: as of `oodbench.metrics.Threshold`.
        set_on: what it was set on, in words.
    """

    value: float | None
    accept: float
    images: int
    guaranteed: float
    set_on: str = ""


class InputPart(DescriptionPart):
    """The inputs of the model (`InputKind`)."""

    shape: list[Annotated[int, Field(ge=1, le=2**24)]]
    dtype: str
    largest: int | None = None
    in_unit_range: bool


class PreparationPart(DescriptionPart):
    """How image files are decoded (`Preparation`)."""

    shape: list[Annotated[int, Field(ge=1, le=2**16)]]
    resize: dict[str, Any] | None = None

    @property
    def spec(self) -> ResizeSpec | None:
        """How images are resized."""
        return None if self.resize is None else ResizeSpec.model_validate(self.resize)


class StructurePart(DescriptionPart):
    """What the analysis found in a user's model (`UserNetwork`).

    Attributes:
        functions: arguments that are functions of the user's, which are given again.
    """

    taps: list[str]
    head: str | None
    features: str | None = None
    opaque_head: bool
    channel_axes: dict[str, int] = Field(default_factory=dict)
    tap_reason: str = ""
    head_note: str = ""
    output: str | int | None = None
    inputs: str | None = None
    functions: list[str] = Field(default_factory=list)


class NormalizationPart(DescriptionPart):
    """Mean and standard deviation per channel of images in [0, 1]."""

    mean: list[float]
    std: list[float]


class DescribedPart(DescriptionPart):
    """How a classifier is made again (`Description`).

    Attributes:
        spec: a ModelSpec.
        in_channels: of its images.
        strides: those of weights that are not in the order of their axes, such as in channels_last
            order: gradients depend on them in their last bits.
        config: of a network of transformers.
    """

    spec: dict[str, Any]
    in_channels: int
    strides: dict[str, list[Annotated[int, Field(ge=0, le=2**48)]]] = Field(default_factory=dict)
    config: dict[str, Any] | None = None

    @property
    def model_spec(self) -> ModelSpec:
        """The spec, validated."""
        return ModelSpec.model_validate(self.spec)


class ModelPart(DescriptionPart):
    """The model.

    Attributes:
        name: of its class or function.
        num_classes: C.
        classes: their names; empty if they are not known.
        normalization: that is part of scoring; None: images come normalized.
        channels_last: whether it runs in torch's channels_last order.
        device: type of the device that the detector was fitted on.
        inputs: what it takes.
        preparation: of image files; None if it is not known.
        structure: last layer and feature layers; None for a network that names them itself.
        described: how it is made again; None for a user's model.
        probe: logits of fixed inputs; None if they differ from call to call.
        tolerance: how far these may differ, relative to the largest of them.
        modules: name of a module in it -> its class and options.
        weights: name of a parameter or buffer -> digest.
    """

    name: str
    num_classes: Annotated[int, Field(ge=1, le=10**7)]
    classes: list[str] = Field(default_factory=list)
    normalization: NormalizationPart | None
    channels_last: bool = False
    device: Literal["cpu", "cuda"]
    inputs: InputPart
    preparation: PreparationPart | None = None
    structure: StructurePart | None = None
    described: DescribedPart | None = None
    probe: list[list[float]] | None = None
    tolerance: float
    modules: dict[str, str]
    weights: dict[str, str]


class ArtifactDescription(Description):
    """A saved detector.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the oodbench that wrote it.
        oodbench, torch: versions that wrote it.
        method: name of the method.
        detector, threshold, model: see there; no threshold if none was set.
        files: name of each other file -> its SHA-256.
    """

    schema_version: int
    oodbench: str
    torch: str
    method: str
    detector: DetectorPart
    threshold: ThresholdPart | None
    files: dict[str, Sha256]
    model: ModelPart
