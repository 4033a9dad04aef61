"""Hooks on a classifier that catch what detectors read of a forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from oodbench.engine.passes.capture import FEATURES, NOTHING, Capture, Captured, LayerReader, pooled
from oodbench.engine.passes.folding import Folding
from oodbench.models.activations import activation_of, in_usual_order
from oodbench.models.classifier import Classifier
from oodbench.models.layers import Layer


class Reached(Exception):  # noqa: N818 - a signal, not an error
    """A forward pass has reached the tap where it stops."""


class CaptureHooks:
    """Hooks that catch activations, in passes that are watched.

    Args:
        classifier: names its taps and its head.

    Attributes:
        reading: methods that layers are reduced for.
        copies_maps: whether maps of taps are copied, because the network changes one in place.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._capture, self._folding = NOTHING, Folding()
        self._captured: Captured | None = None  # None: the pass is not watched
        self._stop_at: str | None = None
        self.reading: Set[str] = frozenset()
        self.copies_maps = False

    @contextmanager
    def watching(self, images: int, stop_at: str | None = None) -> Iterator[Captured]:
        """What the hooks catch of a forward pass.

        Args:
            images: number of images in the batch.
            stop_at: tap at which the pass stops with `Reached`; layers are not reduced then.
        """
        captured = Captured(images)
        self._captured, self._stop_at = captured, stop_at
        try:
            yield captured
        finally:
            self._captured, self._stop_at = None, None

    def placed(self, capture: Capture, folding: Folding) -> Iterator[RemovableHandle]:
        """Place the hooks.

        Args:
            capture: what to catch.
            folding: BatchNorms that are folded into convolutions, whose own output is caught.

        Returns:
            Handles, to be removed.
        """
        self._capture, self._folding = capture, folding
        network = self._classifier.network
        whole = self._keep_features if FEATURES in capture.differentiated else None
        if capture.features:
            yield from network.watch_features(
                self._capture_features, whole, lambda: self._captured is not None
            )
        if capture.local_features:
            yield from network.watch_local_features(self._capture_local_features)
        if capture.taps or capture.keeps_outputs:
            for name, module in self._classifier.taps.items():
                yield module.register_forward_hook(self._capture_tap(name))
        if capture.feature_map and capture.map_name is not None:
            module = network.get_submodule(capture.map_name)
            yield module.register_forward_hook(self._capture_map)
        modules = {layer.module for reader in capture.readers for layer in reader.layers}
        for name in modules:
            module = network.get_submodule(name)
            yield module.register_forward_hook(self._reduce_layer(name))

    def _reduce_layer(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        readers: dict[int, list[tuple[Layer, LayerReader]]] = defaultdict(list)
        for reader in self._capture.readers:
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
                if dropped or reader.method not in self.reading:
                    continue
                with torch.no_grad():
                    own = self._folding.own_output(module, inputs, given)
                    output = activation_of(own, captured.images)
                    if output is None:
                        raise RuntimeError(f"'{name}' gave no activation of the images of a batch")
                    made = reader.detector.reduce_layer(in_usual_order(output.detach(), layer.axis))
                captured.reduced.setdefault(reader.method, {})[layer.name] = made

        return hook

    def _capture_features(self, features: Tensor) -> None:
        if self._captured is not None:
            self._captured.features = features.clone()  # later modules may change it in place

    def _capture_local_features(self, features: Tensor) -> None:
        if self._captured is not None:
            self._captured.local_features = features

    def _keep_features(self, whole: Tensor, axis: int) -> None:
        if self._captured is not None and whole.requires_grad:
            self._captured.differentiate(FEATURES, whole, axis, copied=True)

    def _capture_map(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._captured is not None:
            output = self._folding.own_output(module, inputs, output)
            self._captured.feature_map = activation_of(output, self._captured.images)

    def _capture_tap(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        axis = self._classifier.network.channel_axes.get(name)

        def hook(module: nn.Module, inputs: Any, given: Any) -> None:
            if self._captured is None:
                return
            output = activation_of(given, self._captured.images)
            if output is None:
                raise RuntimeError(f"'{name}' gave no activation of the images of a batch")
            if name in self._capture.kept:
                self._captured.keep(name, given)
            if name in self._capture.differentiated and output.requires_grad:
                self._captured.differentiate(name, output, axis, copied=self.copies_maps)
            output = in_usual_order(output, axis)
            # The next module may work in place: vectors are copied, of maps see `outputs`.
            if self._capture.taps:
                self._captured.taps[name] = pooled(output) if output.ndim > 2 else output.clone()
            if self._capture.tap_maps:
                if self.copies_maps or output.is_inference():
                    self._captured.tap_maps[name] = output.clone()
                else:
                    self._captured.tap_maps[name] = output
                    self._captured.versions[name] = output._version
            if self._stop_at == name:
                raise Reached

        return hook
