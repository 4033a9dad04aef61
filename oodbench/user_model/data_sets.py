"""The images that a user gives to `oodbench.evaluate` and `oodbench.fit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from oodbench.engine.passes.image_sources import ID, EvaluationData
from oodbench.planning.plan import FITTED_ON
from oodbench.user_data.dataloader import LoadedImages

OOD_DATA = "ood_validation_data"
"""The argument that OOD images to tune on are given as."""

FEW = 3
"""Images that a model is tried on; a size that other batches are unlikely to have."""


@dataclass(frozen=True, slots=True)
class DataSets:
    """The images that a user gives.

    Attributes:
        test: "id" and the names of the OOD sets -> images to score.
        fit: images that the classifier was trained on; None if there are none.
        validation: images of its classes that it was not trained on; None if there are none.
        ood_validation: OOD images that detectors are tuned on; None if there are none.
        sets_thresholds: whether thresholds are set on `validation`, if it is given.
    """

    test: Mapping[str, LoadedImages]
    fit: LoadedImages | None
    validation: LoadedImages | None
    ood_validation: LoadedImages | None = None
    sets_thresholds: bool = False

    @property
    def all(self) -> list[LoadedImages]:
        """All data sets that the user gave."""
        given = (*self.test.values(), self.fit, self.validation, self.ood_validation)
        return list(dict.fromkeys(source for source in given if source is not None))

    @property
    def ood(self) -> tuple[str, ...]:
        """Names of the OOD sets."""
        return tuple(name for name in self.test if name != ID)

    def for_need(self, need: str) -> tuple[str, LoadedImages | None]:
        """The data for detectors with the need "fit" or "validation", with a description."""
        if need == "fit":
            return "fit_data, images that the model was trained on", self.fit
        return "validation_data, images that the model was not trained on", self.validation

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the ID set that detectors can be fitted on."""
        return tuple(split for need, split in FITTED_ON.items() if self.for_need(need)[1])

    def for_engine(self) -> EvaluationData:
        """The data for the engine; the validation data are those to tune on."""
        fitted_on = {split: self.for_need(need)[1] for need, split in FITTED_ON.items()}
        return EvaluationData(
            test=self.test,
            fitted_on={split: each for split, each in fitted_on.items() if each is not None},
            tuning=self.validation,
            ood_tuning={} if self.ood_validation is None else {OOD_DATA: self.ood_validation},
            validation=self.validation if self.sets_thresholds else None,
        )

    def close(self) -> None:
        """Release workers."""
        for source in self.all:
            source.close()
