"""Running a classifier for detectors: passes with what they capture, batches that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oodbench.data import ImageArray
from oodbench.detector import Outputs
from oodbench.engine.passes.capture import FEATURES, LOGITS, NOTHING, Activation, Capture, Captured
from oodbench.engine.passes.capture_hooks import CaptureHooks, Reached
from oodbench.engine.passes.folding import Folding
from oodbench.engine.passes.image_sources import ImageSource, SplitImages
from oodbench.engine.passes.memory import FreedMemory, arranged, is_out_of_memory
from oodbench.engine.passes.modes import evaluating, giving, versions_counted
from oodbench.models.activations import activation_of, in_own_order, in_usual_order, with_activation
from oodbench.models.classifier import Classifier
from oodbench.models.feature_map import as_map
from oodbench.progress import Meter

T = TypeVar("T")


class NetworkRunner:
    """Turns images into `Outputs`. Use it inside `attached()`.

    The classifier is not changed: hooks are removed, the training mode of every module and
    `requires_grad` of every parameter are restored when `attached()` ends.

    Args:
        classifier: normalizes its input, names its taps and its head.
        batch_size: images per pass; halved, for good, when memory runs out.
        capture: what to capture beside logits and features.
        folding: BatchNorms that are folded into convolutions; default: none.

    Attributes:
        report: progress messages go here; default: none.
        doing: purpose of the current pass, for messages.
        activations: those that gradients are taken for, in the graph of the last `outputs`.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        batch_size: int,
        capture: Capture = NOTHING,
        folding: Folding | None = None,
    ) -> None:
        self.classifier = classifier
        self.batch_size = batch_size
        self.capture = capture
        self.folding = Folding() if folding is None else folding
        self.device = classifier.mean.device
        for reserved in {LOGITS, FEATURES} & set(classifier.network.tap_names):
            raise ValueError(f"a tap cannot be called '{reserved}'")
        self._head, self._language = classifier.describe_head(), classifier.network.language
        self._hooks = CaptureHooks(classifier)
        self.report: Callable[[str], None] = lambda text: None
        self.doing = "reading"
        self.activations: dict[str, Activation] = {}
        self._kept: tuple[Tensor, dict[str, Tensor | None]] | None = None  # of the last pass

    @contextmanager
    def reading(self, methods: Iterable[str]) -> Iterator[None]:
        """Reduce layers for these methods only; outside of the block, for none.

        Args:
            methods: their names; methods that reduce no layers have no effect.
        """
        before, self._hooks.reading = self._hooks.reading, frozenset(methods)
        try:
            yield
        finally:
            self._hooks.reading = before

    @contextmanager
    def attached(self) -> Iterator[NetworkRunner]:
        """Evaluation mode, frozen parameters and hooks, all undone at the end."""
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.classifier))
            stack.enter_context(self.folding.applied())
            for handle in self._hooks.placed(self.capture, self.folding):
                stack.callback(handle.remove)
            stack.callback(setattr, self, "_kept", None)
            for _, source in self.capture.sampled:
                stack.enter_context(source.kept_from(self.classifier))
            stack.callback(setattr, self, "activations", {})
            yield self

    def outputs(
        self, images: Tensor, labels: Tensor | None = None, first: int | None = None
    ) -> Outputs:
        """One full forward pass, under the caller's grad mode.

        Maps of taps are large. They are not copied until the network changes one in place: the
        pass over its batch is then repeated, and all later maps are copied.

        Args:
            images: shape [B, C, H, W] in [0, 1], on the device.
            labels: shape [B], or None.
            first: index of the first image in its data set, for messages; None for images made
                from others, such as perturbed ones.
        """
        self._kept, self.activations = None, {}
        with versions_counted() if self.capture.keeps_outputs else nullcontext():
            captured, logits = self._pass(images)
            if captured.overwritten:
                self._hooks.copies_maps = True
                captured, logits = self._pass(images)
        if captured.kept:
            self._kept = images, captured.unchanged()
        self.activations = captured.activations
        features, feature_map = captured.features, captured.feature_map
        if not (self.capture.features and self.classifier.network.has_features):
            features = logits.new_empty(len(logits), 0)
        if features is None or features.ndim != 2 or len(features) != len(images):
            shown = "none" if features is None else f"{list(features.shape)}"
            raise RuntimeError(f"penultimate features are {shown} for {len(images)} images")
        if feature_map is not None:
            feature_map = as_map(feature_map, features)
        elif self.capture.feature_map:
            feature_map = features[:, :, None, None]
        return Outputs(
            logits.double(),
            features,
            captured.taps,
            labels,
            self._head,
            feature_map,
            captured.tap_maps,
            reduced=captured.reduced,
            absent=self.capture.absent(captured, self.classifier.taps, self._hooks.reading),
            language=self._language,
            local_features=captured.local_features,
        )

    def _pass(self, images: Tensor) -> tuple[Captured, Tensor]:
        def compute() -> tuple[Captured, Tensor]:
            with self._hooks.watching(len(images)) as captured:
                return captured, self.classifier(images)

        return self.folding.during(compute)

    def activation(self, images: Tensor, tap: str) -> Tensor:
        """A tap, shape [B, D]; the pass stops there."""

        def compute() -> Tensor:
            with self._hooks.watching(len(images), stop_at=tap) as captured, suppress(Reached):
                self.classifier(images)
                raise AssertionError(f"the network has no tap '{tap}'")
            return captured.taps[tap]

        return self.folding.during(compute, whole=False)

    def resumed(self, images: Tensor, tap: str, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits of the network with another output of a tap, shape [B, C], float64; no graph.

        Right after `outputs` of the same images, taps that were kept and ran before, and this one,
        give what they gave and are not run again.

        Args:
            images: shape [B, C, H, W] in [0, 1], on the device.
            tap: its name.
            change: takes a copy of the tap, in the usual order of its axes, and gives what is to be
                there instead, of the same shape.

        Raises:
            ValueError: if the tap's module does not run exactly once in a forward pass.
        """
        axis, calls = self.classifier.network.channel_axes.get(tap), 0

        def hook(module: nn.Module, inputs: Any, given: Any) -> Any:
            nonlocal calls
            calls += 1
            output = activation_of(given, len(images))
            if output is None:
                raise RuntimeError(f"'{tap}' gave no activation of the images of a batch")
            shown = in_usual_order(output, axis).clone(memory_format=torch.contiguous_format)
            # Of the type and layout that the next module expects.
            new = torch.empty_like(output).copy_(in_own_order(change(shown), axis))
            return with_activation(given, output, new)

        modules = self.classifier.taps
        with torch.no_grad(), ExitStack() as stack:
            for name, value in self._until(images, tap).items():
                stack.enter_context(giving(modules[name], value))
            stack.callback(modules[tap].register_forward_hook(hook).remove)
            logits: Tensor = self.folding.during(lambda: self.classifier(images), whole=False)
        if calls != 1:
            raise ValueError(f"'{tap}' runs {calls} times in a forward pass, and is not replaced")
        return logits.double()

    def _until(self, images: Tensor, tap: str) -> dict[str, Tensor]:
        """What was kept of these images from taps that ran before a tap, and from the tap."""
        if self._kept is None or self._kept[0] is not images or tap not in self._kept[1]:
            return {}
        names = list(self._kept[1])
        kept = {name: self._kept[1][name] for name in names[: names.index(tap) + 1]}
        return {name: value for name, value in kept.items() if value is not None}

    def batches(self, data: ImageArray | ImageSource) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Images (in [0, 1]) and labels of a split, batch by batch, in order, on the device.

        The batch size is read anew for each batch: see `within_memory`.
        """
        source = SplitImages("", lambda: data) if isinstance(data, ImageArray) else data
        meter, freed = self.meter(source.size), FreedMemory()
        for images, labels in source.batches():
            for rows in self._rows(len(images)):
                yield self.placed(images[rows], None if labels is None else labels[rows])
                freed.return_if_grown()
                meter.add(len(images[rows]))

    def meter(self, total: int | None) -> Meter:
        """A meter that reports progress of the current pass, described by `doing`."""
        return Meter(self.report, self.doing, total)

    def _rows(self, count: int) -> Iterator[slice]:
        start = 0
        while start < count:
            rows = slice(start, start + self.batch_size)
            yield rows
            start = rows.stop

    def placed(
        self, images: Tensor | NDArray[Any], labels: Tensor | NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Images, bytes or floats, and labels on the device, in the classifier's type."""
        placed = _copied(images).to(self.device)
        scaled = placed.div(255) if placed.dtype == torch.uint8 else placed
        classes = None if labels is None else _copied(labels).to(self.device)
        return arranged(scaled, self.classifier.dtype), classes

    def within_memory(
        self,
        compute: Callable[[Tensor, Tensor | None, int | None], T],
        images: Tensor,
        labels: Tensor | None,
        first: int | None = None,
    ) -> list[tuple[int, T]]:
        """Compute on a batch; when memory runs out, on its halves, and so on down to one image.

        Args:
            compute: takes images, labels, and the index of the first image; must be pure, since
                it may run again on parts.
            images: shape [B, C, H, W].
            labels: shape [B], or None.
            first: index of the first image in its data set; None for images made from others.

        Returns:
            Number of images and result of each part, in order.

        Raises:
            torch.OutOfMemoryError, RuntimeError: if one image alone does not fit.
        """
        try:
            return [(len(images), compute(images, labels, first))]
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(images) == 1:
                raise
        # Outside the handler: the traceback keeps the tensors of the failed attempt alive.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = (len(images) + 1) // 2
        self.batch_size = min(self.batch_size, half)
        parts = []
        for rows in (slice(0, half), slice(half, None)):
            part_labels = None if labels is None else labels[rows]
            place = None if first is None else first + (rows.start or 0)
            parts += self.within_memory(compute, images[rows], part_labels, place)
        return parts


def _copied(values: Tensor | NDArray[Any]) -> Tensor:
    """A tensor; arrays are copied, because those of memory maps are read-only."""
    return values if isinstance(values, Tensor) else torch.tensor(values)
