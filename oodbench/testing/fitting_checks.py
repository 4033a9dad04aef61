"""Checks of fitting: repeatable, independent of batches, bounded in memory."""

from __future__ import annotations

import gc
import re
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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
    except ValueError as error:
        # One of torch, NumPy or scikit-learn about an empty list does not say what to do.
        named = re.search(rf"\bclass(es)?\b|\b{missing}\b", str(error))
        expect(named is not None, f"{what}: {said(error)}; expected a ValueError that names it")
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
    detector = subject.new()
    try:
        subject.scores(detector, subject.outputs("id"))
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


class _Measured(BaseException):  # no `fit` catches it
    """The end of a long pass: what `fit` would do then may take minutes."""


class _LongPass(Batches):
    """Batches of the same images, many of them in one pass, which ends the fit.

    Args:
        outputs: of the images.
        num_classes: C.
        number: which pass is the long one, counted from 1; those before have one batch.

    Attributes:
        growth: bytes by which memory grew from the 60,000th image of the long pass to the 90,000th.
    """

    def __init__(self, outputs: Outputs, num_classes: int, number: int) -> None:
        self._outputs, self.num_classes, self._number = outputs, num_classes, number
        self._passes, self.growth = 0, 0

    def __iter__(self) -> Iterator[Outputs]:
        self._passes += 1
        if self._passes < self._number:
            yield self._outputs.map(torch.clone)
            return
        before = 0
        for batch in range(_REPEATS + _MORE):
            if batch == _REPEATS:
                before = live_bytes()
            yield self._outputs.map(torch.clone)
        self.growth = live_bytes() - before
        raise _Measured


@check(
    "Keep sums, not batches; keep features in a sample of bounded size, such as "
    "oodbench.numerics.row_sample.RowSample.",
    needing("fit"),
)
def memory(subject: Subject) -> None:
    """Memory does not grow with the number of training images, beyond a bounded sample.

    Tensors and arrays that are alive are counted, from the 60,000th to the 90,000th image of the
    first pass, and of the second one if there is one.
    """
    outputs = subject.complete(subject.new(), subject.outputs("fit"), fitting=True)
    passes = [_LongPass(outputs, subject.network.classes, number) for number in (1, 2)]
    with _memory_counted():
        for batches in passes:
            with torch.no_grad(), suppress(_Measured):
                subject.new().fit(batches)
    growth, images = max(batches.growth for batches in passes), _MORE * len(outputs)
    expect(
        growth <= _BYTES_PER_IMAGE * images,
        f"memory grew by {growth / 1e6:.1f} MB over {images:,} training images, "
        f"{growth / images:,.0f} bytes an image, after {_REPEATS * len(outputs):,} others",
    )


@contextmanager
def _memory_counted() -> Iterator[None]:
    """Python's allocations are traced; objects that are alive before are set aside.

    A process with torch has hundreds of thousands of objects; to look at each of them takes
    longer than the fit.
    """
    tracing, freezing = tracemalloc.is_tracing(), gc.get_freeze_count() == 0
    if not tracing:
        tracemalloc.start()
    if freezing:
        gc.freeze()
    try:
        yield
    finally:
        if freezing:
            gc.unfreeze()
        if not tracing:
            tracemalloc.stop()


def live_bytes() -> int:
    """Bytes of all live tensors, each storage once, and of all that Python allocated.

    Objects that the garbage collector sets aside (`gc.freeze`) are not counted.
    """
    gc.collect()
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if issubclass(type(found), Tensor):
            with suppress(RuntimeError):  # fake tensors of torch.export have no data
                storage = found.untyped_storage()
                if (address := storage.data_ptr()) != 0:  # of meta tensors it is 0
                    storages[address] = storage.nbytes()
    return sum(storages.values()) + tracemalloc.get_traced_memory()[0]
