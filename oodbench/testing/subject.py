"""The detector that is checked: made, fitted and scored on planted outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from oodbench.detector import Detector, Outputs, PerturbingDetector
from oodbench.engine.passes.capture import Activation
from oodbench.engine.passes.dropout_passes import samples_of
from oodbench.engine.passes.input_gradients import (
    gradients_of,
    perturbed_outputs,
    shown_gradients,
    step_size,
    tap_gradients,
)
from oodbench.engine.passes.sampled_logits import NEEDS as SAMPLED
from oodbench.errors import UserError, shown
from oodbench.plugins.content_folders import Plugin
from oodbench.plugins.declarations import BrokenDetectorError
from oodbench.plugins.importing import load_class
from oodbench.testing.assertions import CheckFailed, expect
from oodbench.testing.planted import IMAGES, PLANTED, PlantedBatches, PlantedNetwork, Split, copied
from oodbench.testing.targets import broken, detector_file

View = Callable[[Split], Outputs]
"""Split -> outputs as a detector may see them."""


class Subject:
    """A detector's class with the arguments of its constructor.

    Args:
        cls: a registered class.
        parameters: arguments of the constructor; the others have their defaults.
    """

    def __init__(self, cls: type[Detector], parameters: Mapping[str, Any] | None = None) -> None:
        self.cls, self.parameters = cls, dict(parameters or {})
        self.name, self.needs = cls.info.name, cls.info.given(self.parameters).needs
        self.search_space = cls.info.search_space
        self.network = PlantedNetwork("dismax") if "dismax_head" in self.needs else PLANTED

    def __repr__(self) -> str:
        return self.name

    def new(self, **changed: Any) -> Detector:
        """A new detector, not fitted.

        Raises:
            CheckFailed: if the constructor needs other arguments.
        """
        try:
            return self.cls(**{**self.parameters, **changed})
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # the constructor's own
            raise CheckFailed(
                f"it cannot be made: {error}", "Give each argument of the constructor a default."
            ) from error

    @functools.cached_property
    def fitted(self) -> Detector:
        """A fitted detector for checks that only score with it."""
        return self.learned()

    # --- planted outputs ------------------------------------------------------------------------

    def outputs(
        self,
        split: Split,
        dtype: torch.dtype = torch.float64,
        network: PlantedNetwork | None = None,
    ) -> Outputs:
        """What the detector may see of planted outputs; a copy, as the engine gives.

        Everything that it does not declare is withheld.
        """
        return copied(self.seen((network or self.network).outputs(split, dtype)))

    def seen(self, outputs: Outputs) -> Outputs:
        """The part of outputs that the detector declares."""
        return self.reduced(outputs).only(self.needs)

    def reduced(self, outputs: Outputs) -> Outputs:
        """Outputs with what a detector that reads layers makes of every tap's map."""
        if "layers" not in self.needs:
            return outputs
        detector = self.new()
        return outputs.replaced(
            layers={name: detector.reduce_layer(tap) for name, tap in outputs.tap_maps.items()}
        )

    # --- fitting and scoring --------------------------------------------------------------------

    def learned(
        self,
        view: View | None = None,
        *,
        size: int = 100,
        fit_on: Split = "fit",
        network: PlantedNetwork | None = None,
        **changed: Any,
    ) -> Detector:
        """A new detector that has learned all that it needs to score.

        Args:
            view: split -> outputs; default: the planted ones.
            size: images in a batch.
            fit_on: the split to fit on.
            network: gives the outputs.
            changed: arguments of the constructor.
        """
        detector = self.new(**changed)
        self.learn(detector, view, size=size, fit_on=fit_on, network=network)
        return detector

    def learn(
        self,
        detector: Detector,
        view: View | None = None,
        *,
        size: int = 100,
        fit_on: Split = "fit",
        network: PlantedNetwork | None = None,
    ) -> None:
        """Fit and calibrate a detector, as the engine does."""
        network = network or self.network
        look = view or functools.partial(self.outputs, network=network)

        def batches(split: Split) -> PlantedBatches:
            outputs = self.complete(detector, look(split), network, fitting=True)
            return PlantedBatches(outputs, network.classes, size)

        with torch.no_grad():
            if "fit" in self.needs:
                detector.fit(batches(fit_on))
            if "validation" in self.needs:
                detector.fit_validation(batches("validation"))
        self.calibrate(detector, look("positives"), look("negatives"), network)

    def calibrate(
        self,
        detector: Detector,
        positives: Outputs,
        negatives: Outputs,
        network: PlantedNetwork | None = None,
    ) -> None:
        """Calibrate a detector that declares it, as tuning does."""
        if "calibration" in self.needs:
            sides = [self.complete(detector, side, network) for side in (positives, negatives)]
            with torch.no_grad():
                detector.calibrate(*sides)

    def scores(
        self, detector: Detector, outputs: Outputs, network: PlantedNetwork | None = None
    ) -> Tensor:
        """Scores, without a graph: one finite number for each image.

        Raises:
            CheckFailed: they are something else.
        """
        outputs = self.complete(detector, outputs, network)
        with torch.no_grad():
            scores: object = detector.score(outputs)
        expected = [len(outputs)]
        wanted = f"expected a torch tensor of shape {expected}, one score for each image"
        remedy = "Return one number for each image, such as values.amax(dim=1)."
        if not isinstance(scores, Tensor):
            found = type(scores).__name__
            expect(False, f"score returned a value of type {found}; {wanted}", remedy)
        assert isinstance(scores, Tensor)
        shape = list(scores.shape)
        expect(shape == expected, f"score returned shape {shape}; {wanted}", remedy)
        bad = (~scores.isfinite()).nonzero().flatten()
        expect(
            len(bad) == 0,
            f"{len(bad)} of {len(scores)} scores are not finite, the first of them "
            f"{scores[bad[:1]].tolist()}; expected finite numbers",
            "Compute with log_softmax and logsumexp, and keep divisors and the arguments of log "
            "and sqrt away from 0.",
        )
        return scores

    def complete(
        self,
        detector: Detector,
        outputs: Outputs,
        network: PlantedNetwork | None = None,
        *,
        fitting: bool = False,
    ) -> Outputs:
        """Planted outputs with the gradients and the logits that the detector asks for.

        Args:
            detector: asks for them.
            outputs: as the detector may see them.
            network: gives them; default: the detector's.
            fitting: leave out what is not given while fitting.
        """
        network = network or self.network
        made: dict[str, Any] = {}
        if "input_gradients" in self.needs:
            made["input_gradients"] = {} if fitting else _shown(network, detector, outputs)
        if "tap_gradients" in self.needs:
            made["tap_gradients"] = _of_taps(network, detector, outputs)
        if "perturbed" in self.needs:
            made["perturbed"] = _perturbed(network, detector, outputs)
        if "replaced_logits" in self.needs:
            made["replaced_logits"] = {} if fitting else _replaced(network, detector, outputs)
        if SAMPLED & self.needs:
            made["sampled_logits"] = None if fitting else _sampled(detector, outputs.logits)
        return outputs.replaced(**made)


def subject_of(given: Any, plugins: Plugin | Iterable[Plugin] = ()) -> Subject:
    """The detector that is meant.

    Args:
        given: a registered class, a detector (new ones with its parameters are checked), a name, or
            a file.
        plugins: folders of content that a name may be in.

    Raises:
        UserError: if it is none of these, or its file does not import.
    """
    if isinstance(given, Subject):
        return given
    if isinstance(given, Detector) and hasattr(type(given), "info"):
        kept = [name for name in given.parameter_names() if hasattr(given, name)]
        return Subject(type(given), {name: getattr(given, name) for name in kept})
    if isinstance(given, type) and issubclass(given, Detector) and hasattr(given, "info"):
        return Subject(given)
    if isinstance(given, str | Path) and str(given).strip():
        path = detector_file(given, plugins)
        try:
            return Subject(load_class(path))
        except BrokenDetectorError as error:
            raise broken(path, error) from error
    unregistered = isinstance(given, Detector) or (
        isinstance(given, type) and issubclass(given, Detector)
    )
    raise UserError(
        f"detector: {shown(given)} is not registered."
        if unregistered
        else f"detector: expected a detector, its class, its name or its file, not {shown(given)}.",
        'Decorate the class with @oodbench.register("name", needs=...).' if unregistered else "",
    )


def _shown(network: PlantedNetwork, detector: Detector, outputs: Outputs) -> dict[str, Tensor]:
    """Gradients with respect to the images."""
    images = outputs.input_gradients.get(IMAGES)
    if images is None:
        return {}
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        return shown_gradients(detector, network.with_graph(outputs, images), images)


def _of_taps(network: PlantedNetwork, detector: Detector, outputs: Outputs) -> dict[str, Tensor]:
    """What the detector makes of gradients with respect to the taps that it chooses."""
    found: dict[str, Tensor] = {}
    for name in detector.choose_taps(list(outputs.tap_gradients)):
        with torch.enable_grad():
            tap = outputs.tap_gradients[name].detach().clone().requires_grad_()
            features = network.features_of_tap(name, tap)
            images = features.reshape(len(outputs), 2, -1, 5)
            graph = network.with_graph(outputs, images, images.detach())
            activations = {name: Activation(tap.detach(), get_gradient_edge(tap))}
            found |= tap_gradients(detector, graph, activations, (name,))
    return found


class _Moving:
    """Gives the outputs of moved images."""

    def __init__(self, network: PlantedNetwork, outputs: Outputs, images: Tensor) -> None:
        self._network, self._outputs, self._images = network, outputs, images

    def outputs(self, images: Tensor) -> Outputs:
        return self._network.with_graph(self._outputs, images, self._images)

    def activation(self, images: Tensor, tap: str) -> Tensor:
        return self.outputs(images).taps[tap]


def _perturbed(network: PlantedNetwork, detector: Detector, outputs: Outputs) -> Outputs:
    """Outputs after the detector's step."""
    assert isinstance(detector, PerturbingDetector)
    assert outputs.perturbed is not None
    still = outputs.perturbed.logits.reshape(len(outputs), 2, -1, 5)
    with torch.enable_grad():
        images = still.detach().clone().requires_grad_()
        graph = network.with_graph(outputs, images)
        if step_size(detector) == 0:
            return graph.detach()
        gradients = gradients_of(detector, graph, images)
        runner = _Moving(network, outputs, still)
        return perturbed_outputs(runner, detector, images, graph, gradients, still.new_ones(1))


def _sampled(detector: Detector, logits: Tensor) -> Tensor:
    """Planted logits of passes with dropout, or of the members of an ensemble."""
    samples, seed = samples_of(detector)
    generator, shape = torch.Generator().manual_seed(seed), (samples, logits.shape[1])
    noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(logits)
    return logits[:, None] * (1 + 0.2 * noise)


def _replaced(network: PlantedNetwork, detector: Detector, outputs: Outputs) -> dict[str, Tensor]:
    """Logits with each of the taps that the detector chooses replaced."""
    taps, made = outputs.replaced_logits, {}
    with torch.no_grad():
        for name in detector.choose_taps(list(taps)):
            changed = detector.replace_tap(name, taps[name].clone())
            made[name] = network.logits(network.features_of_tap(name, changed))
    return made
