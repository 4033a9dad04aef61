"""What detectors compute for themselves over a batch, from the shared forward pass.

Gradients with respect to images or feature layers, moved images, replaced feature layers. What
detectors and settings have in common is computed once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from oodbench.detector import Detector, Outputs, PerturbingDetector
from oodbench.engine.passes.capture import KeptTaps
from oodbench.engine.passes.input_gradients import (
    differentiated_taps,
    differentiates,
    gradients_of,
    perturbed_outputs,
    shown_gradients,
    step_size,
    tap_gradients,
)
from oodbench.engine.passes.replacement import own_logits, replaced_taps
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.passes.sampled_logits import NEEDS
from oodbench.models.classifier import Network

T = TypeVar("T")


def kept_taps(network: Network, detectors: Mapping[str, Detector]) -> KeptTaps:
    """The taps whose activations are to be kept.

    Args:
        network: the network.
        detectors: method -> detector, of any needs.
    """
    kept, errors, names = 0, dict[str, Exception](), network.tap_names
    differentiated: dict[str, None] = {}
    for method, detector in detectors.items():
        try:
            chosen = replaced_taps(detector, network)
            differentiated |= dict.fromkeys(differentiated_taps(detector, network))
        except Exception as error:
            errors[method] = error
        else:
            kept = max([kept, *(names.index(tap) + 1 for tap in chosen)])
    return KeptTaps(names[:kept], tuple(differentiated), errors)


def passes_alone(detector: Detector, network: Network) -> bool:
    """Whether this detector needs passes of its own to score, beyond the shared forward pass."""
    own = differentiates(detector) or bool(detector.info.needs & {*NEEDS, "rotations"})
    return own or bool(replaced_taps(detector, network))


class OwnPasses:
    """The passes that detectors take for themselves over one batch.

    Args:
        runner: has just computed the outputs.
        images: shape [B, C, H, W], requiring a gradient if a detector takes one.
        outputs: outputs of `images`, with their graph in that case.

    Attributes:
        saved: seconds that the last `view` would have taken more, but for another method that had
            computed the same before.
    """

    def __init__(self, runner: NetworkRunner, images: Tensor, outputs: Outputs) -> None:
        self._runner, self._images, self._outputs = runner, images, outputs
        self._activations = runner.activations
        self._made: dict[Hashable, _Made] = {}
        self._method = ""
        self.saved = 0.0

    def view(
        self, method: str, detector: Detector, key: Hashable, *, fitting: bool = False
    ) -> Outputs:
        """What a detector sees of the batch.

        Args:
            method: its name.
            detector: any.
            key: equal for settings of one detector that differ in `epsilon` alone.
            fitting: give what is given while fitting.

        Raises:
            DetectorError: if what the detector's methods give is not as it must be.
        """
        self.saved, self._method = 0.0, method
        runner, images, outputs = self._runner, self._images, self._outputs
        needs, view, changes = detector.info.needs, outputs.detach(), dict[str, Any]()
        with runner.reading([method]):
            if not fitting:
                changes["input_gradients"] = self._once(
                    "shown", key, lambda: shown_gradients(detector, outputs, images)
                )
            if "tap_gradients" in needs:
                changes["tap_gradients"] = self._once(
                    "taps", key, lambda: self._tap_gradients(detector)
                )
            if isinstance(detector, PerturbingDetector) and step_size(detector) != 0:
                moved = self._moved(detector, key)
                if "perturbed" in needs:
                    changes["perturbed"] = moved
                else:
                    view = moved
            if not fitting:
                changes |= own_logits(runner, detector, images, outputs)
        return view.replaced(**changes)

    def _tap_gradients(self, detector: Detector) -> dict[str, Tensor]:
        chosen = differentiated_taps(detector, self._runner.classifier.network)
        return tap_gradients(detector, self._outputs, self._activations, chosen)

    def _moved(self, detector: PerturbingDetector, key: Hashable) -> Outputs:
        """Outputs after the step, kept only if it may be shared."""
        common = None if "layers" in detector.info.needs else detector.perturbation_key
        if common is not None:
            return self._once(("moved", common), None, lambda: self._perturbed(detector, common))
        return self._perturbed(detector, key)

    def _perturbed(self, detector: PerturbingDetector, key: Hashable) -> Outputs:
        gradients = self._once(
            "gradients", key, lambda: gradients_of(detector, self._outputs, self._images)
        )
        std = self._runner.classifier.std
        return perturbed_outputs(
            self._runner, detector, self._images, self._outputs, gradients, std
        )

    def _once(self, kind: Hashable, key: Hashable, make: Callable[[], T]) -> T:
        """The last value of a kind, if it was made for the same key; or another."""
        made = self._made.get(kind)
        if made is None or made.key != key:
            started = time.perf_counter()
            value = make()
            made = _Made(key, value, time.perf_counter() - started, {self._method})
            self._made[kind] = made
        elif self._method not in made.users:
            self.saved += made.seconds
            made.users.add(self._method)
        found: T = made.value
        return found


@dataclass(frozen=True, slots=True)
class _Made:
    """What was computed for some key, and the methods that have used it."""

    key: Hashable
    value: Any
    seconds: float
    users: set[str]
