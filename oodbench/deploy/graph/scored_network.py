"""A classifier and a fitted detector as one module, and its graph (`torch.export`)."""

from __future__ import annotations

import builtins
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from oodbench.detector import Detector, Outputs
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.layer_readers import layer_readers
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.own_passes import kept_taps
from oodbench.engine.passes.replacement import own_logits
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.passes.sampled_logits import find_sampled
from oodbench.engine.scoring import raw_scores
from oodbench.models.classifier import Classifier
from oodbench.models.feature_map import find_map

INPUT, LOGITS, SCORE, ACCEPTED = "images", "logits", "score", "accepted"
"""Names of the input and the outputs of a graph."""


def scoring_runner(
    classifier: Classifier, detectors: Mapping[str, Detector], images: Tensor
) -> NetworkRunner:
    """A runner that captures what fitted detectors read; not attached.

    Args:
        classifier: the network that the detectors were fitted on.
        detectors: name -> fitted detector.
        images: a few, as the classifier takes them.

    Raises:
        Exception: why a detector cannot read this network.
    """
    needs = frozenset[str]().union(*(each.info.needs for each in detectors.values()))
    with evaluating(classifier):
        name = find_map(classifier, images) if "feature_map" in needs else None
        sampled, unsuitable = find_sampled(classifier, images, needs)
    readers, failures = layer_readers(classifier, detectors, images)
    kept = kept_taps(classifier.network, detectors)
    for error in (*unsuitable.values(), *failures.values(), *kept.errors.values()):
        raise error
    capture = Capture.of(needs, name, readers, kept, sampled.items())
    return NetworkRunner(classifier, batch_size=len(images), capture=capture)


class ScoredNetwork(nn.Module):
    """Images [B, channels, H, W] -> logits [B, C] and, for each detector, scores [B], float64.

    Args:
        runner: attached.
        detectors: name -> fitted detector that takes no gradients.
        threshold: of the first detector's score; None: no decision.
    """

    threshold: Tensor | None

    def __init__(
        self,
        runner: NetworkRunner,
        detectors: Mapping[str, Detector],
        threshold: float | None = None,
    ) -> None:
        super().__init__()
        self.classifier = runner.classifier
        self._runner, self._detectors = runner, dict(detectors)
        value = None if threshold is None else torch.tensor(threshold, dtype=torch.float64)
        self.register_buffer("threshold", value)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits in the network's own type, the scores, and with a threshold score >= threshold."""
        runner = self._runner
        with runner.reading(self._detectors):
            outputs = runner.outputs(images)
        scores = []
        for method, detector in self._detectors.items():
            own = own_logits(runner, detector, images, outputs)
            scores.append(raw_scores(method, detector, outputs.replaced(**own)).double())
        decisions = [] if self.threshold is None else [scores[0] >= self.threshold]
        return (outputs.logits.to(self.classifier.dtype), *scores, *decisions)


def traced(network: nn.Module, images: Tensor) -> ExportedProgram:
    """The graph of a network, for batches of any size.

    Args:
        network: takes `images`; the runner of a `ScoredNetwork` is attached.
        images: at least two, as the classifier takes them.

    Raises:
        Exception: whatever torch, the network or a detector raises where it cannot be traced.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        # Attention of one fused operation, which graphs do not have.
        fused = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(silent())
        stack.enter_context(_symbolic_lengths())
        stack.enter_context(_KnownValues())
        program = torch.export.export(
            network, (images,), dynamic_shapes={INPUT: {0: Dim("batch", min=1)}}, strict=False
        )
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    return program


@contextmanager
def silent() -> Iterator[None]:
    """No messages of torch's exporters, which are for their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class _KnownValues(TorchFunctionMode):
    """Computes what does not depend on the images while a graph is traced.

    A detector may look at values that were fitted, such as a number of axes that follows from
    variances. In a graph, no value is known; here, operations on fitted tensors alone are carried
    out, and the graph has their results. So are draws of a generator, such as the units that a
    detector drops: they are the same for all images.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        leaves = pytree.tree_leaves((args, named))
        seen = [each for each in leaves if isinstance(each, _VALUES)]
        # Traced tensors are of a subclass. A transposed tensor would be in the graph twice.
        known = all(type(each) in _KNOWN for each in seen)
        if seen and known and func not in _TRANSPOSING:
            with _disable_current_modes():
                return func(*args, **named)
        return func(*args, **named)


_VALUES = (Tensor, torch.SymInt, torch.Generator)
_KNOWN = (Tensor, nn.Parameter, torch.Generator)
_TRANSPOSING = frozenset({Tensor.T.__get__, Tensor.mT.__get__})  # type: ignore[attr-defined]


@contextmanager
def _symbolic_lengths() -> Iterator[None]:
    """`len(tensor)` gives the symbol of a batch's size: Python's own turns it into a number."""
    plain = builtins.len

    def length(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim:
            return value.shape[0]
        if isinstance(value, Outputs):
            return value.logits.shape[0]
        return plain(value)

    builtins.len = length
    try:
        yield
    finally:
        builtins.len = plain
