"""Specs of models: network, head with its loss, training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from oodbench.specs.recipes import RECIPES, values_for
from oodbench.specs.spec_base import (
    BatchSize,
    NonNegativeScale,
    Options,
    Scale,
    Several,
    Spec,
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


class ModelSpec(Spec):
    """A classifier: network, head (which determines the loss) and training."""

    network: Text
    """Name of a network (`oodbench list models`), or "module:callable" for your own network."""
    network_options: Options = Field(default_factory=dict)
    """For "module:callable": keyword arguments of the callable."""
    taps: Several[Text] = ()
    """For "module:callable": names of the modules that are the feature layers, in order."""
    head: Text
    """Name of a head (`oodbench list models`); it determines the loss."""
    loss_options: dict[str, float] = Field(default_factory=dict)
    """Options of the loss, such as DisMax's `alpha`."""
    normalization: NormalizationSpec | None = None
    """None: use the mean and standard deviation of the training images."""
    training: TrainingSpec

    def with_at_most(self, epochs: int) -> ModelSpec:
        """A copy that is trained for at most `epochs` epochs."""
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
