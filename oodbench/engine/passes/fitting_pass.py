"""A pass over images that detectors are fitted on: shared outputs, and those of a detector alone.

Most detectors read the same outputs, which are computed without a graph. A detector that takes
gradients while it is fitted, or that is fitted on a sample of the images, is given its own.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from traceback import clear_frames

import numpy as np
import torch
from torch import Tensor

from oodbench.data import ImageArray
from oodbench.detector import Detector, Outputs
from oodbench.engine.passes.image_sources import ImageSource
from oodbench.engine.passes.input_gradients import differentiates_to_fit
from oodbench.engine.passes.memory import is_out_of_memory
from oodbench.engine.passes.own_passes import OwnPasses
from oodbench.engine.passes.runner import NetworkRunner


@dataclass(slots=True)
class OwnSeconds:
    """Time of the passes that detectors take for themselves.

    Attributes:
        alone: method -> what it would have taken alone.
        spent: what all of them took together.
    """

    alone: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    spent: float = 0.0


def pass_outputs(
    runner: NetworkRunner,
    data: ImageArray | ImageSource,
    detectors: Mapping[str, Detector] | None = None,
    seconds: OwnSeconds | None = None,
) -> Iterator[Outputs]:
    """Outputs of a split, batch by batch, without a graph: a pass that detectors are fitted on.

    Images that no detector reads are left out.

    Args:
        runner: attached.
        data: the split.
        detectors: method -> detector, of those that are fitted, and may reduce layers; default: all
            that reduce layers.
        seconds: the time of the detectors' own passes is added to it.
    """
    if detectors is None:
        detectors = {reader.method: reader.detector for reader in runner.capture.readers}
    size = len(data) if isinstance(data, ImageArray) else data.size
    batch = _Batch(runner, detectors, size, OwnSeconds() if seconds is None else seconds)
    done = 0
    for images, labels in runner.batches(data):
        parts = runner.within_memory(batch.outputs, images, labels, done)
        done += len(images)
        yield from (outputs for _, outputs in parts if outputs is not None)


class _Batch:
    """Computes what the detectors of a pass read of a batch.

    A detector whose own passes fail is not tried again.

    Args:
        runner: attached.
        detectors: method -> detector.
        size: number of images of the split; None if it is not known.
        seconds: is added to.
    """

    def __init__(
        self,
        runner: NetworkRunner,
        detectors: Mapping[str, Detector],
        size: int | None,
        seconds: OwnSeconds,
    ) -> None:
        self._runner, self._detectors, self._seconds = runner, detectors, seconds
        self._failed: dict[str, Exception] = {}
        self._samples = {
            method: _Sample(size, limit)
            for method, detector in detectors.items()
            if (limit := detector.fitting_images) is not None and (size is None or size > limit)
        }

    def outputs(self, images: Tensor, labels: Tensor | None, first: int | None) -> Outputs | None:
        """Outputs of the images of a batch that are read; None if none is.

        Args:
            images: shape [B, C, H, W].
            labels: shape [B], or None.
            first: index of the first image in the split.
        """
        rows = {m: sample.rows(first or 0, len(images)) for m, sample in self._samples.items()}
        if rows and len(rows) == len(self._detectors):
            read = torch.stack([*rows.values()]).any(dim=0)
            if not read.any():
                return None
            if not read.all():
                images, labels, first = _taken(read, images), _labels(labels, read), None
                rows = {method: mine[read] for method, mine in rows.items()}
        gradients = [m for m, each in self._detectors.items() if differentiates_to_fit(each)]
        whole = [m for m in gradients if m not in rows or bool(rows[m].all())]
        outputs, passes = self._passed(images, labels, first, graph=bool(whole))
        own: dict[str, Outputs | Exception] = {}
        for method in whole:
            own[method] = self._view(method, passes)
        own |= self._sampled(images, labels, outputs, rows, gradients)
        return outputs.replaced(own=own)

    def _passed(
        self, images: Tensor, labels: Tensor | None, first: int | None, *, graph: bool
    ) -> tuple[Outputs, OwnPasses]:
        """A forward pass; and what starts from it, with its graph if there is one."""
        # What is fitted takes part in gradients later; detectors are given copies, made outside.
        with torch.enable_grad() if graph else torch.inference_mode():
            images = images.detach().requires_grad_() if graph else images
            with self._runner.reading(self._detectors):
                outputs = self._runner.outputs(images, labels, first)
            return outputs.detach(), OwnPasses(self._runner, images, outputs)

    def _sampled(
        self,
        images: Tensor,
        labels: Tensor | None,
        outputs: Outputs,
        rows: Mapping[str, Tensor],
        gradients: list[str],
    ) -> dict[str, Outputs | Exception]:
        """What detectors are given that read some of the images: a part, or a pass of their own."""
        given: dict[str, Outputs | Exception] = {}
        passes: dict[bytes, OwnPasses] = {}
        for method, mine in rows.items():
            if mine.all():
                continue
            if method not in gradients or not mine.any():
                given[method] = outputs.map(functools.partial(_taken, mine))
                continue
            key = mine.numpy().tobytes()
            if key not in passes:
                started = time.perf_counter()
                some = _taken(mine, images), _labels(labels, mine)
                passes[key] = self._passed(*some, None, graph=True)[1]
                self._add(method, time.perf_counter() - started)
            given[method] = self._view(method, passes[key])
        return given

    def _view(self, method: str, passes: OwnPasses) -> Outputs | Exception:
        if method in self._failed:
            return self._failed[method]
        started = time.perf_counter()
        try:
            with torch.enable_grad():
                view = passes.view(method, self._detectors[method], method, fitting=True)
        except Exception as error:
            if is_out_of_memory(error):
                raise  # the caller tries a smaller batch
            clear_frames(error.__traceback__)  # they hold the graph of the batch
            self._failed[method] = error
            return error
        self._add(method, time.perf_counter() - started, passes.saved)
        return view

    def _add(self, method: str, spent: float, saved: float = 0.0) -> None:
        self._seconds.spent += spent
        self._seconds.alone[method] += spent + saved


class _Sample:
    """The images of a split that one detector is given.

    Args:
        size: number of images of the split; None if it is not known.
        limit: number of images that are given.
    """

    def __init__(self, size: int | None, limit: int) -> None:
        self._limit, self._chosen = limit, None
        if size is not None:
            chosen = np.random.default_rng(0).choice(size, limit, replace=False)
            self._chosen = torch.zeros(size, dtype=torch.bool)
            self._chosen[torch.from_numpy(chosen)] = True

    def rows(self, first: int, count: int) -> Tensor:
        """Which of the images from `first` on are given, shape [count]."""
        if self._chosen is None:
            return torch.arange(first, first + count) < self._limit
        return self._chosen[first : first + count]


def _taken(rows: Tensor, tensor: Tensor) -> Tensor:
    return tensor[rows.to(tensor.device)]


def _labels(labels: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if labels is None else _taken(rows, labels)
