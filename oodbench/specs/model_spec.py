"""Specs of models: network, head with its loss, training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from oodbench.specs.checkpoint_spec import CheckpointSpec
from oodbench.specs.recipes import RECIPES, values_for
from oodbench.specs.spec_base import (
    BatchSize,
    NonNegativeScale,
    Options,
    Scale,
    Several,
    Spec,
    SplitName,
    Text,
)


class AugmentSpec(Spec):
    """Random augmentation of training images."""

    crop_padding: Annotated[int, Field(ge=0, le=1024)] = 0
    """Zero padding in pixels before a random crop back to the original size."""
    horizontal_flip: bool = False


class TrainingSpec(Spec):
    """How a network is trained. The checkpoint is always that of the last epoch.

    `recipe: NAME` in a benchmark fills in the values of `oodbench.specs.recipes`; values that are
    given explicitly replace those of the recipe.
    """

    recipe: Text | None = None
    """Name of the recipe, if one is used."""
    epochs: Annotated[int, Field(gt=0, le=10**6)]
    batch_size: BatchSize
    """Images per step, summed over all devices."""
    learning_rate: Annotated[float, Field(gt=0, le=1e30)]
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "one_cycle"
    milestones: Several[Annotated[float, Field(gt=0, lt=1)]] = (0.5, 0.75)
    """Step schedule: the rate is divided by ten after these fractions of the epochs."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeScale = 1e-4
    augment: AugmentSpec = AugmentSpec()
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """bfloat16: autocast; weights, sums and the distances of a DisMax head stay float32. auto:
    bfloat16 if the device has instructions for it (without them it is many times slower)."""
    compile: bool = False
    """Compile the network with torch.compile: slower start, faster training on a GPU."""
    test_accuracy: Literal["no", "last", "each"] = "no"
    """Epochs after which the history records loss and accuracy on the test split. They are never
    used to select anything."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> TrainingSpec:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs a momentum above 0; write nesterov: false")
        return self


class NormalizationSpec(Spec):
    """Mean and standard deviation per channel that normalize images in [0, 1]."""

    mean: Several[Annotated[float, Field(ge=-1e9, le=1e9)]]
    std: Several[Scale]

    @model_validator(mode="after")
    def _same_length(self) -> NormalizationSpec:
        if len(self.mean) != len(self.std):
            raise ValueError("mean and std need one value for each channel")
        return self


class AuxiliarySpec(Spec):
    """Auxiliary images that a network is trained on beside those of the ID set, without labels.

    They must be different from the test images of every set, ID, csID or OOD.
    """

    dataset: Text
    """Name of a data set; the names under `datasets` of the benchmark apply."""
    split: SplitName = "train"
    per_image: Annotated[int, Field(gt=0, le=100)] = 2
    """Auxiliary images in a batch for each ID image there; Hendrycks et al. 2019 take 2."""


VISION_LANGUAGE = ("open_clip", "hf_clip")
"""Libraries of vision-language models."""

LIBRARIES = ("torchvision", "timm", "hf", *VISION_LANGUAGE)
"""What is before the colon in the names of networks that come with weights."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict | CheckpointSpec) else value


_SOURCES = ("training", "checkpoint", "weights")

_PRETRAINED = "pretrained"

OWN = "own"
"""The value of `weights` of a callable that returns a trained network."""

_LANGUAGE = ("prompts", "class_names", "scaled_logits")


class ModelSpec(Spec):
    """A classifier: network, head (which determines the loss), and where its weights come from.

    The weights are trained (`training`), read from published checkpoints (`checkpoint`), or those
    of the library that the network comes from (`weights`).
    """

    network: Text
    """Name of a network (`oodbench list models`), or for your own network "module:callable" or
    "FILE.py:callable", relative to the working directory."""
    network_options: Options = Field(default_factory=dict)
    """For your own network: keyword arguments of the callable."""
    taps: Several[Text] = ()
    """For your own network: names of the modules that are the feature layers, in order. Those of a
    published network are found where none are named."""
    head: Text
    """Name of a head (`oodbench list models`); it determines the loss."""
    loss_options: dict[str, float] = Field(default_factory=dict)
    """Options of the loss, such as DisMax's `alpha`."""
    normalization: NormalizationSpec | None = None
    """None: use the mean and standard deviation of the training images; of a published network,
    those that its weights were published with."""
    training: TrainingSpec | None = None
    auxiliary: AuxiliarySpec | None = None
    """Auxiliary images for a loss that needs them (head `oe`)."""
    checkpoint: Annotated[Several[CheckpointSpec], BeforeValidator(_as_list)] = ()
    """Published checkpoints instead of a training: one, or a list with one for each seed."""
    ensemble: bool = False
    """The checkpoints are the members of one deep ensemble (`oodbench.models.Ensemble`), and not
    one for each seed: the model has a single seed."""
    weights: Text | None = None
    """Weights of the library instead of a training: for "torchvision:NAME" such as IMAGENET1K_V1,
    for the other libraries `pretrained`; for your own network `own`, if the callable returns it
    with its weights."""
    prompts: Several[Text] = ()
    """For vision-language models: texts with {c} in the place of the class name. None: "a photo of
    a {c}". The features of several are averaged."""
    class_names: Text | None = None
    """For vision-language models: a text file with the name of a class a line, beside the benchmark
    or in the data root; or "imagenet1k", OpenAI's names in open_clip; None: the `classes` of the
    ID set's manifest."""
    scaled_logits: bool = False
    """For vision-language models: logits are the cosines times the scale of the model's training,
    not the cosines themselves."""

    @property
    def has_language(self) -> bool:
        """Whether it is a vision-language model."""
        return self.network.partition(":")[0] in VISION_LANGUAGE

    @property
    def recipe(self) -> TrainingSpec:
        """How the network is trained; only for models that are."""
        assert self.training is not None, "published weights are not trained"
        return self.training

    @property
    def most_seeds(self) -> int | None:
        """Number of seeds with published weights; None for a network that is trained."""
        if self.weights is not None or self.ensemble:
            return 1
        return len(self.checkpoint) or None

    def with_at_most(self, epochs: int) -> ModelSpec:
        """A copy that is trained for at most `epochs` epochs."""
        if self.training is None:
            return self
        fewer = min(epochs, self.training.epochs)
        return self.model_copy(
            update={"training": self.training.model_copy(update={"epochs": fewer})}
        )

    @model_serializer(mode="wrap")
    def _without_what_is_not_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not used: other models have the identity they had."""
        optional = (*_SOURCES, *_LANGUAGE, "auxiliary", "ensemble")
        return {key: value for key, value in dump(self).items() if value or key not in optional}

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, values: Any) -> Any:
        if isinstance(values, dict):
            library = str(values.get("network", "")).partition(":")[0]
            if library in VISION_LANGUAGE:
                return {"head": "softmax", "weights": _PRETRAINED, **values}
        if isinstance(values, dict) and isinstance(values.get("training"), dict):
            named = values["training"].get("recipe")
            recipe = values_for(str(named), str(values.get("network", "")))
            if named is not None and not recipe:
                raise ValueError(f"there is no recipe '{named}' (recipes: {', '.join(RECIPES)})")
            return {**values, "training": {**recipe, **values["training"]}}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        for key in _LANGUAGE if not self.has_language else ():
            if getattr(self, key):
                raise ValueError(
                    f"{key} is for vision-language models (open_clip:NAME/TAG, hf_clip:PATH), not "
                    f"for '{self.network}'"
                )
        if self.has_language and (self.training or self.checkpoint or self.weights != _PRETRAINED):
            raise ValueError(
                f"'{self.network}' comes with its weights: leave out training, checkpoint and "
                "weights"
            )
        given = [key for key in _SOURCES if getattr(self, key)]
        if not given:
            raise ValueError(
                "training is missing; published weights take checkpoint or weights in its place"
            )
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}: each says where weights are from")
        if self.ensemble and len(self.checkpoint) < 2:
            raise ValueError("ensemble: needs a list of at least two checkpoints, its members")
        if ":" not in self.network and (self.network_options or self.taps):
            raise ValueError(
                f"network_options and taps are for networks given as module:callable, "
                f"not for '{self.network}'"
            )
        library, colon, _ = self.network.partition(":")
        own = self.weights == OWN and colon
        if self.weights is not None and library not in LIBRARIES and not own:
            raise ValueError(
                f"weights are those of a library ({', '.join(LIBRARIES)}), which "
                f"'{self.network}' is not from; files take checkpoint"
            )
        return self
