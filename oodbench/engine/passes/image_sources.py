"""Where images come from: the splits of a benchmark, or what a user gives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from oodbench.data import ImageArray
from oodbench.planning.plan import FITTED_ON, Plan
from oodbench.planning.shards import VALIDATION
from oodbench.specs import SplitName

if TYPE_CHECKING:
    from oodbench.data.streamed_split import StreamedSplit

ID = "id"
"""What the scores of the in-distribution test images are called."""

Batch = tuple[Tensor | NDArray[Any], Tensor | NDArray[np.int64] | None]
"""Images [B, C, H, W], uint8 or floating-point, and labels [B], int64, or None."""


class ImageSource(Protocol):
    """Images of one data set that are read batch by batch, and need not lie in memory."""

    @property
    def name(self) -> str:
        """The name in messages."""
        ...

    @property
    def size(self) -> int | None:
        """Number of images; None if it is not known."""
        ...

    def first(self) -> Batch:
        """The first batch."""
        ...

    def batches(self) -> Iterator[Batch]:
        """All batches in order, of any size: the runner divides them."""
        ...


@dataclass(frozen=True)
class SplitImages:
    """Images of one split of a data set, loaded when they are first read.

    Attributes:
        name: the name in messages.
        load: gives the images.
    """

    name: str
    load: Callable[[], ImageArray | StreamedSplit]

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.load())

    def first(self) -> Batch:
        """All images as one batch, or the first batch of those that are decoded now."""
        data = self.load()
        return (data.images, data.labels) if isinstance(data, ImageArray) else data.first()

    def batches(self) -> Iterator[Batch]:
        """All images as one batch, or batches as they are decoded."""
        data = self.load()
        if isinstance(data, ImageArray):
            yield data.images, data.labels
        else:
            yield from data.batches()


@dataclass(frozen=True)
class ImageRange:
    """A part of a split that lies in memory, or in the cache of decoded images.

    Attributes:
        split: the split.
        start: index of the first image.
        stop: index after the last one; the split may have fewer images.
    """

    split: SplitImages
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The name in messages."""
        return self.split.name

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self._rows()[0])

    def first(self) -> Batch:
        """All images as one batch."""
        return self._rows()

    def batches(self) -> Iterator[Batch]:
        """All images as one batch."""
        yield self._rows()

    def _rows(self) -> Batch:
        data = self.split.load()
        if not isinstance(data, ImageArray):
            raise TypeError(f"{self.name} are decoded while they are read, and have no parts")
        rows = slice(self.start, self.stop)
        return data.images[rows], None if data.labels is None else data.labels[rows]


@dataclass(frozen=True)
class EvaluationData:
    """The images that the detectors of a model are fitted, tuned and scored on.

    Attributes:
        test: "id" and the names of the csID and OOD sets -> images to score.
        fitted_on: split, "train" or "validation" -> ID images that detectors are fitted on.
        tuning: ID images to tune detectors with, with labels if they are attacked; None if there
            are none.
        ood_tuning: OOD set -> images of it, for the protocols `ood_oracle` and `ood_validation`.
        csid: names of the sets whose images count as ID (covariate shift); they have labels.
        id_name: name of the ID set in messages.
        perhaps: a sentence with another reason for signs of a mistake, added to each sign.
        validation: ID images to set thresholds on, which are then scored, too; None not to.
    """

    test: Mapping[str, ImageSource]
    fitted_on: Mapping[str, ImageSource]
    tuning: ImageSource | None
    ood_tuning: Mapping[str, ImageSource] = field(default_factory=dict)
    csid: tuple[str, ...] = ()
    id_name: str = ID
    perhaps: str = ""
    validation: ImageSource | None = None

    @property
    def ood(self) -> tuple[str, ...]:
        """Names of the OOD sets."""
        return tuple(name for name in self.test if name not in (ID, *self.csid))

    @property
    def scored(self) -> tuple[str, ...]:
        """What is scored, in this order: "id", `VALIDATION`, csID sets, OOD sets."""
        validation = () if self.validation is None else (VALIDATION,)
        return (ID, *validation, *self.csid, *self.ood)

    def source(self, scored: str) -> ImageSource:
        """The images of one of `scored`."""
        if scored != VALIDATION:
            return self.test[scored]
        assert self.validation is not None
        return self.validation

    @classmethod
    def of_benchmark(
        cls, plan: Plan, load: Callable[[str, SplitName], ImageArray | StreamedSplit]
    ) -> EvaluationData:
        """The images of a benchmark.

        Args:
            plan: names the data sets, and says whether thresholds are set.
            load: gives the images of a data set's split.
        """
        benchmark = plan.benchmark

        def images(dataset: str, split: SplitName) -> SplitImages:
            name = f"the {split} images of '{dataset}'"
            return SplitImages(name, functools.partial(load, dataset, split))

        ood, tuning = tuple(benchmark.ood_groups), benchmark.tuning.split
        return cls(
            test={
                ID: images(benchmark.id, "test"),
                **{name: images(name, "test") for name in (*benchmark.csid, *ood)},
            },
            fitted_on={split: images(benchmark.id, split) for split in FITTED_ON.values()},
            tuning=images(benchmark.id, tuning),
            ood_tuning={
                name: images(name, tuning)
                for name in (*ood, benchmark.tuning_ood)
                if name is not None
            },
            csid=benchmark.csid,
            id_name=benchmark.id,
            perhaps="" if benchmark.limited is None else benchmark.limited.weakens,
            validation=images(benchmark.id, "validation") if plan.sets_thresholds else None,
        )
