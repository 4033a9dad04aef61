"""Forward passes with dropout, the rest of the network being in evaluation mode.

Sample m drops the same units of every image: its units are drawn for one image, by a generator that
starts anew from the detector's seed and m. A sample is thus one function of an image, and scores
depend neither on the batch nor on the order of images.

What runs before the first dropout gives the same in every sample. Where it can be left out, a
sample continues from there: it takes only the part of a forward pass that comes after.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.detector import Detector
from oodbench.engine.passes.modes import returning
from oodbench.errors import UnsuitableError, kind_of
from oodbench.models.classifier import Classifier
from oodbench.models.hooks import watched

SAMPLES = 30
"""Passes with dropout of a detector that does not say how many."""

_WHOLE_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_DROPOUTS = (nn.Dropout, *_WHOLE_CHANNELS)


def samples_of(detector: Detector) -> tuple[int, int]:
    """The number of passes with dropout that a detector asks for, and the seed of what they drop.

    Its attributes `samples` and `seed`; without them 30 and 0.
    """
    return getattr(detector, "samples", SAMPLES), getattr(detector, "seed", 0)


def dropouts(network: nn.Module) -> list[nn.Module]:
    """The dropout modules of a network that drop anything."""
    return [
        module for module in network.modules() if isinstance(module, _DROPOUTS) and module.p > 0
    ]


@dataclass(eq=False)
class DropoutPasses:
    """The dropout modules of a network, and what need not run again before the first of them.

    Attributes:
        modules: the dropout modules that run.
        kept: modules before the first dropout whose output a sample reads.
        hidden: shapes of the outputs of modules before the first dropout that no sample reads, for
            one image.
    """

    modules: Sequence[nn.Module]
    kept: Sequence[nn.Module] = ()
    hidden: Mapping[nn.Module, tuple[int, ...]] = field(default_factory=dict)
    _images: Tensor | None = None
    _values: dict[nn.Module, Tensor] = field(default_factory=dict)
    _sampling: bool = False

    @contextmanager
    def kept_from(self, classifier: nn.Module) -> Iterator[None]:
        """Keep what samples of the last images continue from, while the context is open.

        Args:
            classifier: the network with its normalization.
        """

        def start(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not self._sampling:
                self._images, self._values = inputs[0], {}

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if not self._sampling:  # a copy: the network may change it in place
                self._values[module] = output.detach().clone()

        with ExitStack() as stack:
            stack.callback(classifier.register_forward_pre_hook(start).remove)
            for module in self.kept:
                stack.callback(module.register_forward_hook(keep).remove)
            try:
                yield
            finally:
                self._images, self._values = None, {}

    def samples(
        self,
        images: Tensor,
        classifier: Classifier,
        during: Callable[[Callable[[], Tensor]], Tensor],
        count: int,
        seed: int,
    ) -> Tensor:
        """Logits of forward passes with dropout, shape [B, M, C], float64; no graph.

        Right after a forward pass of the same images, a sample continues from the first dropout.

        Args:
            images: shape [B, ...].
            classifier: gives logits [B, C].
            during: carries out a forward pass; may repeat it.
            count: M.
            seed: of the units that are dropped.

        Raises:
            ValueError: if the input of a dropout does not have the images on its first axis.
        """
        before: dict[nn.Module, Tensor] = {}
        if self._images is images and len(self._values) == len(self.kept):
            before = dict(self._values)

        def sample(number: int) -> Tensor:
            state = np.random.SeedSequence((seed, number)).generate_state(2, np.uint32)
            generator = torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
            given = _given(before, self.hidden, len(images)) if before else {}

            def drop(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
                return _dropped(module, output, len(images), generator)

            with returning(given), ExitStack() as stack:
                for module in self.modules:
                    stack.callback(module.register_forward_hook(drop).remove)
                return classifier(images)  # type: ignore[no-any-return]

        self._sampling = True
        try:
            with torch.no_grad():
                logits = [during(functools.partial(sample, number)) for number in range(count)]
        finally:
            self._sampling = False
        return torch.stack(logits, dim=1).double()


def _dropped(module: Any, values: Tensor, images: int, generator: torch.Generator) -> Tensor:
    """Values with some units, or channels, set to zero; the others are divided by 1 - p."""
    if not len(values) or len(values) % images:
        raise ValueError(
            f"the input of {kind_of(module)} has the shape {list(values.shape)}, without "
            f"the {images} images on its first axis: dropout would depend on the batch"
        )
    own = values.unflatten(0, (images, -1))  # an image may have several windows
    places = own.ndim - 3 if isinstance(module, _WHOLE_CHANNELS) else 0
    shape = own.shape[1 : own.ndim - places]
    kept = torch.rand(shape, generator=generator) >= module.p
    scale = kept.to(values) / (1 - module.p if module.p < 1 else 1)
    dropped: Tensor = (own * scale.view(*shape, *(1,) * places)).flatten(0, 1)
    return dropped


def _given(
    kept: Mapping[nn.Module, Tensor], hidden: Mapping[nn.Module, tuple[int, ...]], images: int
) -> dict[nn.Module, Tensor]:
    """What modules before the first dropout return: copies, and NaN without memory."""
    nothing = next(iter(kept.values())).new_full((), torch.nan)
    given = {module: nothing.expand(images, *shape) for module, shape in hidden.items()}
    return given | {module: value.clone() for module, value in kept.items()}


# --- how to continue -----------------------------------------------------------------------------


def find_dropout(classifier: Classifier, images: Tensor) -> DropoutPasses:
    """The dropout modules of a network, and how to continue from the first of them.

    Modules that end before the first dropout starts, and run once, may be left out of a sample.
    Most of their outputs are read by each other alone. With the last one, two, four ... of them
    given, and NaN in the place of the others, the logits must stay the same, bit for bit. If they
    do not even with all of them given, samples are whole forward passes.

    Args:
        classifier: in evaluation mode.
        images: a few, shape [B, ...], as the classifier takes them.

    Raises:
        UnsuitableError: if the network has no dropout, or none that runs.
        Exception: what the network raises.
    """
    found = dropouts(classifier.network)
    if not found:
        raise UnsuitableError("needs dropout; the network has no dropout module with p above 0")
    with torch.no_grad():
        before, ran, logits = _before_dropout(classifier, images, found)
        if not ran:
            raise UnsuitableError("needs dropout; no dropout module of the network runs")
        count = 1
        while before:
            kept = dict(list(before.items())[-count:])
            hidden = {m: tuple(v.shape[1:]) for m, v in before.items() if m not in kept}
            passes = DropoutPasses(ran, tuple(kept), hidden)
            if _continues(classifier, images, kept, hidden, logits):
                return passes
            if count >= len(before):
                break
            count *= 2
    return DropoutPasses(ran)


def _before_dropout(
    classifier: Classifier, images: Tensor, found: Sequence[nn.Module]
) -> tuple[dict[nn.Module, Tensor], list[nn.Module], Tensor]:
    """Modules that end before the first dropout, with their outputs; dropouts that ran; logits.

    A module inside of another one of them is left out.
    """
    ended: dict[str, tuple[nn.Module, Tensor]] = {}
    calls: Counter[nn.Module] = Counter()
    started: list[nn.Module] = []

    def record(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        calls[module] += 1
        if not started and isinstance(output, Tensor) and _can_be_left_out(module):
            ended[name] = module, output.clone()

    def start(module: nn.Module, inputs: Any) -> None:
        started.append(module)

    with ExitStack() as stack:
        for module in found:
            stack.callback(module.register_forward_pre_hook(start).remove)
        stack.enter_context(watched(classifier.network, record, lambda name, module: True))
        logits = classifier(images)
    once = {
        name: (module, value)
        for name, (module, value) in ended.items()
        if calls[module] == 1 and value.ndim and len(value) == len(images)
    }
    outer = {
        module: value
        for name, (module, value) in once.items()
        if not any(name.startswith(f"{other}.") for other in once)
    }
    return outer, list(dict.fromkeys(started)), logits


def _can_be_left_out(module: nn.Module) -> bool:
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return not (compiled or isinstance(module, torch.jit.ScriptModule))


def _continues(
    classifier: Classifier,
    images: Tensor,
    kept: Mapping[nn.Module, Tensor],
    hidden: Mapping[nn.Module, tuple[int, ...]],
    logits: Tensor,
) -> bool:
    """Whether the logits are the same with these outputs alone."""
    try:
        with returning(_given(kept, hidden, len(images))):
            return torch.equal(classifier(images), logits)
    except Exception:  # it changes such an output in place, say
        return False
