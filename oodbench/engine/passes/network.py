"""Running a classifier for detectors: scoped hooks, early stops, batches that fit in memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from oodbench.data import ImageArray
from oodbench.detector import Detector, Outputs
from oodbench.models.activations import activation_of, in_own_order, in_usual_order, with_activation
from oodbench.models.classifier import Classifier
from oodbench.models.feature_map import as_map
from oodbench.models.layers import Layer
from oodbench.progress import Meter

T = TypeVar("T")

LOGITS = "logits"
"""The place a pass is read at when it goes all the way through the network."""


FEATURES = "features"
"""What the input of the last layer is captured as; no tap may be called so."""


class ImageSource(Protocol):
    """Images that are read batch by batch, and need not lie in memory."""

    def batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Images [B, C, H, W], floating-point, and labels [B], int64, or None; on any device."""
        ...


class _Reached(Exception):  # noqa: N818 - a signal, not an error
    """A pass has come to where it was to stop."""


@dataclass(frozen=True, slots=True)
class LayerReader:
    """What a method makes of layers while the network runs.

    Attributes:
        method: its name.
        layers: the layers that it chose.
        detector: reduces an activation [B, ...] to what is kept of it, [B, ...].
    """

    method: str
    layers: tuple[Layer, ...]
    detector: Detector

    @property
    def read(self) -> tuple[Layer, ...]:
        """The layers that the detector has not dropped since it chose them."""
        return tuple(each for each in self.layers if each.name not in self.detector.dropped_layers)


@dataclass(frozen=True, slots=True)
class Capture:
    """What a runner captures beside logits and features.

    Attributes:
        taps: every tap, pooled.
        tap_maps: every tap as it is.
        feature_map: the map before pooling.
        map_name: name of the module that gives it (`oodbench.models.find_map`); None if none does.
        readers: methods that reduce layers while the network runs.
        kept: taps whose output is kept, as the module gave it, until the next pass: what was
            computed up to there need not be computed again (`NetworkRunner.resumed`).
    """

    taps: bool = False
    tap_maps: bool = False
    feature_map: bool = False
    map_name: str | None = None
    readers: tuple[LayerReader, ...] = ()
    kept: tuple[str, ...] = ()

    @staticmethod
    def of(
        needs: Set[str],
        map_name: str | None = None,
        readers: Iterable[LayerReader] = (),
        kept: Iterable[str] = (),
    ) -> Capture:
        """What detectors need that declare `needs`."""
        feature_map = "feature_map" in needs
        return Capture(
            "taps" in needs,
            "tap_maps" in needs,
            feature_map,
            map_name if feature_map else None,
            tuple(readers) if "layers" in needs else (),
            tuple(kept),
        )


NOTHING = Capture()


@dataclass(slots=True)
class _Captured:
    """What the hooks caught of one pass.

    Attributes:
        images: number of images in the batch.
        versions: of the maps of taps that are the network's own, not copies, when they were caught.
        calls: module -> how often it has run.
        reduced: method -> layer -> what the method made of it.
        kept: tap -> what its module gave, and its version then, in the order of the calls; None for
            one that ran twice, or gave something else than a tensor.
    """

    images: int
    features: Tensor | None = None
    feature_map: Tensor | None = None
    taps: dict[str, Tensor] = field(default_factory=dict)
    tap_maps: dict[str, Tensor] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    reduced: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    kept: dict[str, tuple[Tensor, int] | None] = field(default_factory=dict)

    def keep(self, tap: str, given: Any) -> None:
        """Keep what a tap's module gave."""
        again = tap in self.kept
        self.kept.pop(tap, None)  # the order is that of the last call
        plain = isinstance(given, Tensor) and not given.is_inference() and not again
        self.kept[tap] = (given.detach(), given._version) if plain else None

    def unchanged(self) -> dict[str, Tensor | None]:
        """What was kept, None for what the network has worked on in place since."""
        return {
            tap: each[0] if each is not None and each[0]._version == each[1] else None
            for tap, each in self.kept.items()
        }

    @property
    def overwritten(self) -> bool:
        """Whether the network has worked in place on a map that it gave before."""
        return any(self.tap_maps[name]._version != old for name, old in self.versions.items())


class NetworkRunner:
    """Turns images into `Outputs`. Use it inside `attached()`.

    The classifier is not changed: hooks are removed, the training mode of every module and
    `requires_grad` of every parameter are restored when `attached()` ends.

    Args:
        classifier: normalizes its input, names its taps and its head.
        batch_size: images per pass; halved, for good, when memory runs out.
        capture: what to capture beside logits and features.

    Attributes:
        report: takes how far a pass is; set it to see it.
        doing: what a pass is made for, in words.
    """

    def __init__(
        self, classifier: Classifier, *, batch_size: int, capture: Capture = NOTHING
    ) -> None:
        self.classifier = classifier
        self.batch_size = batch_size
        self.capture = capture
        self.device = classifier.mean.device
        for reserved in {LOGITS, FEATURES} & set(classifier.network.tap_names):
            raise ValueError(f"a tap cannot be called '{reserved}'")
        self._head = classifier.describe_head()
        self._captured: _Captured | None = None  # None: the pass is not this runner's
        self._stop_at: str | None = None
        self._copies_maps = False
        self.report: Callable[[str], None] = lambda text: None
        self.doing = "reading"
        self._reading: Set[str] = frozenset()
        self._kept: tuple[Tensor, dict[str, Tensor | None]] | None = None  # of the last pass

    @contextmanager
    def reading(self, methods: Iterable[str]) -> Iterator[None]:
        """Reduce layers for some methods; for no others, and for none outside of it.

        Args:
            methods: their names; those that reduce no layers do not matter.
        """
        before, self._reading = self._reading, frozenset(methods)
        try:
            yield
        finally:
            self._reading = before

    @contextmanager
    def attached(self) -> Iterator[NetworkRunner]:
        """Evaluation mode, frozen parameters and hooks, all undone at the end."""
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.classifier))
            for handle in self._hooks():
                stack.callback(handle.remove)
            stack.callback(setattr, self, "_kept", None)
            yield self

    def _hooks(self) -> Iterator[RemovableHandle]:
        yield from self.classifier.network.watch_features(self._capture_features)
        if self.capture.taps or self.capture.tap_maps or self.capture.kept:
            for name, module in self.classifier.taps.items():
                yield module.register_forward_hook(self._capture_tap(name))
        if self.capture.feature_map and self.capture.map_name is not None:
            module = self.classifier.network.get_submodule(self.capture.map_name)
            yield module.register_forward_hook(self._capture_map)
        modules = {layer.module for reader in self.capture.readers for layer in reader.layers}
        for name in modules:
            module = self.classifier.network.get_submodule(name)
            yield module.register_forward_hook(self._reduce_layer(name))

    def _reduce_layer(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        readers: dict[int, list[tuple[Layer, LayerReader]]] = defaultdict(list)
        for reader in self.capture.readers:
            for layer in reader.layers:
                if layer.module == name:
                    readers[layer.call].append((layer, reader))

        def hook(module: nn.Module, inputs: Any, given: Any) -> None:
            captured = self._captured
            if captured is None or self._stop_at is not None:
                return
            call = captured.calls[name]
            captured.calls[name] += 1
            for layer, reader in readers.get(call, ()):
                dropped = layer.name in reader.detector.dropped_layers
                if dropped or reader.method not in self._reading:
                    continue
                output = activation_of(given, captured.images)
                if output is None:
                    raise RuntimeError(f"'{name}' gave no activation of the images of a batch")
                with torch.no_grad():
                    made = reader.detector.reduce_layer(in_usual_order(output.detach(), layer.axis))
                captured.reduced.setdefault(reader.method, {})[layer.name] = made

        return hook

    def _capture_features(self, features: Tensor) -> None:
        if self._captured is not None:
            self._captured.features = features.clone()  # what comes later may work in place

    def _capture_map(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._captured is not None:
            self._captured.feature_map = activation_of(output, self._captured.images)

    def _capture_tap(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        axis = self.classifier.network.channel_axes.get(name)

        def hook(module: nn.Module, inputs: Any, given: Any) -> None:
            if self._captured is None:
                return
            output = activation_of(given, self._captured.images)
            if output is None:
                raise RuntimeError(f"'{name}' gave no activation of the images of a batch")
            if name in self.capture.kept:
                self._captured.keep(name, given)
            output = in_usual_order(output, axis)
            # The next module may work in place: vectors are copied, of maps see `outputs`.
            if self.capture.taps:
                self._captured.taps[name] = pooled(output) if output.ndim > 2 else output.clone()
            if self.capture.tap_maps:
                if self._copies_maps or output.is_inference():
                    self._captured.tap_maps[name] = output.clone()
                else:
                    self._captured.tap_maps[name] = output
                    self._captured.versions[name] = output._version
            if self._stop_at == name:
                raise _Reached

        return hook

    def outputs(self, images: Tensor, labels: Tensor | None = None) -> Outputs:
        """One full pass, under the caller's grad mode.

        Maps of taps are large, and not copied, until a network is seen to work in place on one: its
        batch is then swept once more, and maps are copied from there on.

        Args:
            images: shape [B, C, H, W] in [0, 1], on the device.
            labels: shape [B], or None.
        """
        self._kept = None
        counted = self.capture.tap_maps or self.capture.kept
        with _versions_counted() if counted else nullcontext():
            captured, logits = self._pass(images)
            if captured.overwritten:
                self._copies_maps = True
                captured, logits = self._pass(images)
        if captured.kept:
            self._kept = images, captured.unchanged()
        features, feature_map = captured.features, captured.feature_map
        if not self.classifier.network.has_features:
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
            absent=self._absent(captured),
        )

    def _absent(self, captured: _Captured) -> dict[str, list[str]]:
        """Method -> layers that it chose and that did not run; "" -> taps that did not."""
        taps = self.classifier.taps if self.capture.taps or self.capture.tap_maps else ()
        seen = captured.taps if self.capture.taps else captured.tap_maps
        absent = {"": [tap for tap in taps if tap not in seen]}
        for reader in self.capture.readers:
            if reader.method in self._reading:
                reduced = captured.reduced.get(reader.method, {})
                absent[reader.method] = [e.name for e in reader.read if e.name not in reduced]
        return {method: layers for method, layers in absent.items() if layers}

    def _pass(self, images: Tensor) -> tuple[_Captured, Tensor]:
        captured = _Captured(len(images))
        self._captured = captured
        try:
            logits: Tensor = self.classifier(images)
        finally:
            self._captured = None
        return captured, logits

    def activation(self, images: Tensor, tap: str) -> Tensor:
        """A tap, shape [B, D]; the pass stops there."""
        captured = _Captured(len(images))
        self._captured, self._stop_at = captured, tap
        try:
            self.classifier(images)
        except _Reached:
            return captured.taps[tap]
        finally:
            self._captured, self._stop_at = None, None
        raise AssertionError(f"the network has no tap '{tap}'")

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
        axis = self.classifier.network.channel_axes.get(tap)
        calls = 0

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
                stack.enter_context(_giving(modules[name], value))
            stack.callback(modules[tap].register_forward_hook(hook).remove)
            logits: Tensor = self.classifier(images)
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
        if isinstance(data, ImageArray):
            meter = self.meter(len(data))
            for rows in self._rows(len(data)):
                images = torch.tensor(data.images[rows])  # a copy: maps are read-only
                labels = None if data.labels is None else torch.tensor(data.labels[rows])
                yield self.placed(images, labels)
                meter.add(len(images))
            return
        meter = self.meter(getattr(data, "size", None))
        for images, labels in data.batches():
            for rows in self._rows(len(images)):
                yield self.placed(images[rows], None if labels is None else labels[rows])
                meter.add(len(images[rows]))

    def meter(self, total: int | None) -> Meter:
        """Tells `report` how far a pass is that does what `doing` says."""
        return Meter(self.report, self.doing, total)

    def _rows(self, count: int) -> Iterator[slice]:
        start = 0
        while start < count:
            rows = slice(start, start + self.batch_size)
            yield rows
            start = rows.stop

    def placed(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Images, bytes or floats, and labels on the device, in the classifier's type."""
        images = images.to(self.device)
        scaled = images.div(255) if images.dtype == torch.uint8 else images
        return (
            arranged(scaled, self.classifier.dtype),
            None if labels is None else labels.to(self.device),
        )

    def within_memory(
        self,
        compute: Callable[[Tensor, Tensor | None], T],
        images: Tensor,
        labels: Tensor | None,
    ) -> list[tuple[int, T]]:
        """Compute on a batch; when memory runs out, on its halves, and so on down to one image.

        Args:
            compute: takes images and labels; must be pure, since it may run again on parts.
            images: shape [B, C, H, W].
            labels: shape [B], or None.

        Returns:
            Number of images and result of each part, in order.

        Raises:
            torch.OutOfMemoryError, RuntimeError: if one image alone does not fit.
        """
        try:
            return [(len(images), compute(images, labels))]
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
            parts += self.within_memory(compute, images[rows], part_labels)
        return parts


def arranged(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images in a floating type and in torch's channels_last order; whole numbers as they are.

    Args:
        images: shape [B, C, H, W]; inputs of another rank have no other order.
        dtype: the type.
    """
    if not images.is_floating_point():
        return images
    if images.ndim != 4:
        return images.to(dtype)
    return images.to(dtype, memory_format=torch.channels_last)


@contextmanager
def _giving(module: nn.Module, value: Tensor) -> Iterator[None]:
    """A module that gives a value, without running where it is made of others."""
    # A single layer is run: whoever counts it, by a hook, is right. So is what is compiled.
    own = vars(module)
    skipped = any(True for _ in module.children()) and not (
        isinstance(module, torch.jit.ScriptModule)
        or "forward" in own
        or own.get("_compiled_call_impl") is not None
    )
    if skipped:
        own["forward"] = lambda *inputs, **named: value
    handle = module.register_forward_hook(lambda module, inputs, given: value)  # the last word
    try:
        yield
    finally:
        handle.remove()
        if skipped:
            del own["forward"]


@contextmanager
def _versions_counted() -> Iterator[None]:
    """Without inference mode, whose tensors do not count what is done in place, if it is on."""
    grad = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        yield


def pooled(activation: Tensor) -> Tensor:
    """An activation averaged over places, shape [B, D].

    Args:
        activation: shape [B, D], [B, tokens, D] (a transformer's) or [B, D, ...] (a map).
    """
    if activation.ndim == 3:
        return activation.mean(dim=1)
    return activation.flatten(2).mean(dim=2) if activation.ndim > 3 else activation


_OUT_OF_MEMORY = (
    "can't allocate memory",  # the CPU allocator on Linux and macOS
    "not enough memory",  # and on Windows
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the device's or the machine's memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients; both are restored, module by module."""
    # A frozen module of TorchScript has no mode, until it is put into one.
    modes = {part: getattr(part, "training", None) for part in module.modules()}
    frozen = {parameter: parameter.requires_grad for parameter in module.parameters()}
    _set_to_evaluation(module)
    for parameter in frozen:  # TorchScript has no requires_grad_ for a module
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in modes.items():
            if mode is not None:
                part.training = mode
            elif hasattr(part, "training"):
                del part.training
        for parameter, required in frozen.items():
            parameter.requires_grad_(required)


def _set_to_evaluation(module: nn.Module) -> None:
    try:
        module.eval()
    except NotImplementedError:  # a module of torch.export, or one that holds it
        module.training = False
        for part in module.children():
            _set_to_evaluation(part)


def input_gradients(losses: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor | None]:
    """Gradient of each per-image loss with respect to the images, one backward pass each.

    Losses are summed, not averaged: the gradient of an image does not depend on its batch.

    Args:
        losses: place -> loss, shape [B], with a graph that leads to `images`.
        images: shape [B, C, H, W], requiring a gradient. The graph is kept.

    Returns:
        place -> gradient, shape [B, C, H, W]; None if the loss does not depend on the images.
    """
    gradients = {}
    for place, loss in losses.items():
        # Not torch.autograd.grad, which cannot be called under torch's FLOP counter.
        loss.sum().backward(inputs=[images], retain_graph=True)
        gradients[place], images.grad = images.grad, None
    return gradients
