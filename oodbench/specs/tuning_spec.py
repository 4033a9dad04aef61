"""Specs of tuning: how a benchmark chooses the parameters of detectors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from oodbench.specs.spec_base import (
    ImageCount,
    NonNegativeScale,
    Scale,
    Several,
    Spec,
    Text,
    recordable,
)

TuningProtocol = Literal["none", "fgsm", "ood_oracle", "ood_validation"]
FitSplit = Literal["train", "validation"]


def _grid(values: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    recordable({name: list(each) for name, each in values.items()})
    if not values:
        raise ValueError("names no parameter")
    for name, each in values.items():
        if not each:
            raise ValueError(f"{name}: the list of values is empty")
        for index, value in enumerate(each):
            if value in each[:index]:
                raise ValueError(f"{name}: {value} is listed twice")
    return values


Grid = Annotated[dict[Text, Several[Any]], AfterValidator(_grid)]
"""Parameter of a detector -> the values that tuning tries."""


class TuningSpec(Spec):
    """How detectors that declare a search space or calibrate a model of their own are tuned.

    `fgsm`: on adversarial images made from the ID validation split; one setting per (model, ID
    set) is used for every OOD set. `ood_oracle`: on validation images of each OOD set, one setting
    per OOD set. This is an upper bound: a deployed detector has no such images. Both select the
    largest TNR at 95 % TPR. `ood_validation`: on the ID validation split and the validation images
    of one OOD set, `ood`; the largest AUROC selects one setting for every OOD set. This is
    OpenOOD's automatic parameter search (APS).
    """

    protocol: TuningProtocol = "fgsm"
    split: Literal["validation"] = "validation"
    """The split for tuning. It is used neither for training nor for testing."""
    ood: Text | None = None
    """`ood_validation`: the OOD set whose `validation` split is used; its test images need not be
    among the benchmark's OOD sets."""
    grids: dict[Text, Grid] = Field(default_factory=dict)
    """Detector -> grid that replaces the search space that the detector declares."""
    fgsm_step: Scale = 0.05
    """Step of the fast gradient sign method, for pixels in [0, 1] (Lee et al. 2018: 0.05)."""
    noise_std: NonNegativeScale = 0.0625
    """Standard deviation of the noisy images' noise, in units of the normalized image (Lee et al.
    2018, ResNet)."""
    min_adversarial: ImageCount = 20
    """Minimum number of adversarial images that fool the network, or of validation images; with
    fewer, tuning fails."""
    detectors: Literal["all"] | Several[Text] = "all"
    """The built-in detectors that are tuned; the others use the parameters of their papers."""
    tune: Literal["all", "none"] | Several[Text] | None = None
    """Value of `--tune`: every detector with a search space, none, or exactly these. It overrides
    `detectors` and the protocols of methods."""

    @model_validator(mode="after")
    def _names_its_ood_set(self) -> TuningSpec:
        if self.protocol == "ood_validation" and self.ood is None:
            raise ValueError(
                "protocol ood_validation needs ood: the OOD set whose validation images are used"
            )
        return self

    def protocol_for(
        self, detector: str, *, plugin: bool, own: TuningProtocol | None
    ) -> TuningProtocol:
        """How the detector of a method is tuned.

        Args:
            detector: name of the detector.
            plugin: whether the detector is a plug-in. Plug-ins are tuned even if the benchmark
                lists the detectors to tune, because the benchmark cannot know them.
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
