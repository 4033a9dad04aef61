"""Checks of fitting: repeatable, independent of batches, bounded in memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator

import torch
from torch import Tensor

from oodbench.detector import Batches, Outputs
from oodbench.testing.assertions import ROUNDING, CheckFailed, expect, expect_same, said
from oodbench.testing.check import check, needing
from oodbench.testing.planted import Split
from oodbench.testing.subject import Subject

_FITS = needing("fit", "validation", "calibration")


@check(
    "Draw random numbers from a generator with a seed of its own: "
    "torch.Generator().manual_seed(0), numpy.random.default_rng(0)."
)
def determinism(subject: Subject) -> None:
    """Two detectors that are fitted on the same images give the same scores, bit for bit."""
    first, second = (subject.scores(subject.learned(), subject.outputs("id")) for _ in range(2))
    expect_same(second, first, 0.0, "fitted and scored a second time")


@check("Add up over all batches, weighted by their images; the last batch is smaller.", _FITS)
def fit_batch_size(subject: Subject) -> None:
    """What is fitted does not depend on how the images are divided into batches."""
    found = subject.scores(subject.learned(size=37), subject.outputs("id"))
    expected = subject.scores(subject.fitted, subject.outputs("id"))
    expect_same(found, expected, ROUNDING, "fitted in batches of 37")


@check("Set every fitted attribute anew at the beginning of fit.", _FITS)
def refit(subject: Subject) -> None:
    """Fitting again gives what a first fit gives: nothing is left of the images before."""
    detector = subject.learned(fit_on="other")
    # What is derived while scoring is to be forgotten, too.
    subject.scores(detector, subject.outputs("id"))
    subject.learn(detector)
    expected = subject.scores(subject.fitted, subject.outputs("id"))
    found = subject.scores(detector, subject.outputs("id"))
    expect_same(found, expected, 0.0, "fitted on other images before")


@check(
    "Leave such a class out, as in means[counts > 0], or raise a ValueError that names it.",
    needing("fit", "labels", every=True),
)
def class_without_images(subject: Subject) -> None:
    """Fitted without an image of one class, scores are finite, or a ValueError says why not."""
    missing = subject.network.classes // 2

    def view(split: Split) -> Outputs:
        outputs = subject.outputs(split)
        if split != "fit":
            return outputs
        assert outputs.labels is not None
        kept = outputs.labels != missing
        return outputs.map(lambda tensor: tensor[kept])

    what = f"fitted without an image of class {missing}"
    try:
        detector = subject.learned(view)
    except ValueError:
        return
    try:
        subject.scores(detector, subject.outputs("id"))
    except CheckFailed as failure:
        raise CheckFailed(f"{what}: {failure.seen}") from failure


@check(
    "Set fitted attributes in fit only: the base class then raises an error that says so.",
    needing("fit", "validation"),
)
def unfitted(subject: Subject) -> None:
    """Scoring before fitting raises a ValueError that says to fit."""
    try:
        subject.scores(subject.new(), subject.outputs("id"))
    except ValueError as error:
        expect("fit" in str(error), f"the error '{error}' does not say to fit first")
    except Exception as error:
        raise CheckFailed(
            f"scoring before fitting raised {said(error)}; expected a ValueError that says to fit "
            "first"
        ) from error
    else:
        raise CheckFailed("it declares a fit and scores without one")


# --- memory --------------------------------------------------------------------------------------

_REPEATS = 100  # of the 600 images for fitting: more than the 50,000 that a bank keeps by default
_MORE = 50
_BYTES_PER_IMAGE = 16  # two numbers for each image


class _LongPass(Batches):
    """Many batches of the same images; measures what stays in memory after the first pass.

    Attributes:
        growth: bytes by which memory grew from the 60,000th image to the 90,000th; the largest of
            all passes.
    """

    def __init__(self, outputs: Outputs, num_classes: int) -> None:
        self._outputs, self.num_classes, self.growth = outputs, num_classes, 0

    def __iter__(self) -> Iterator[Outputs]:
        before = 0
        for number in range(_REPEATS + _MORE):
            if number == _REPEATS:
                before = live_bytes()
            yield self._outputs.map(torch.clone)
        self.growth = max(self.growth, live_bytes() - before)


@check(
    "Keep sums, not batches; keep features in a bank of bounded size, such as "
    "oodbench.numerics.bank.FeatureBank.",
    needing("fit"),
)
def memory(subject: Subject) -> None:
    """Memory does not grow with the number of training images, beyond a bounded sample.

    Tensors and arrays that are alive are counted, from the 60,000th to the 90,000th image.
    """
    outputs = subject.outputs("fit")
    batches = _LongPass(outputs, subject.network.classes)
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        with torch.no_grad():
            subject.new().fit(batches)
    finally:
        if not tracing:
            tracemalloc.stop()
    images = _MORE * len(outputs)
    expect(
        batches.growth <= _BYTES_PER_IMAGE * images,
        f"memory grew by {batches.growth / 1e6:.1f} MB over {images:,} training images, "
        f"{batches.growth / images:,.0f} bytes an image, after {_REPEATS * len(outputs):,} others",
    )


def live_bytes() -> int:
    """Bytes of all live tensors, each storage once, and of all that Python allocated."""
    gc.collect()
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if issubclass(type(found), Tensor):
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values()) + tracemalloc.get_traced_memory()[0]
