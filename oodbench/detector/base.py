"""The base classes of detectors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from oodbench.detector.batches import Batches
from oodbench.detector.info import DetectorInfo
from oodbench.detector.outputs import Outputs
from oodbench.errors import NotFittedError

if TYPE_CHECKING:
    from torch import Tensor

_FITTING: Mapping[str, str] = MappingProxyType(
    {"fit": "fit", "validation": "fit_validation", "calibration": "calibrate"}
)
"""Need -> the method that fits the detector."""


class Detector:
    """Maps a classifier's outputs to one score per image; higher means more in-distribution.

    A subclass defines `score`, and where its method has them `fit`, `fit_validation`,
    `gradient_losses`, `replace_tap` and `calibrate`. The constructor keeps its arguments in
    attributes of the same name. Attributes that `fit` sets need no value before: reading one in an
    unfitted detector raises an error that says so.
    """

    info: DetectorInfo
    """The declaration, an attribute of the class; of an instance where its needs depend on
    parameters (`LayerwiseDetector`)."""

    layerwise: ClassVar[bool] = False

    dropped_layers: Mapping[str, str] = MappingProxyType({})
    """Layers that `choose_layers` named and the detector does without: layer -> reason. `fit` may
    set it once it has seen the size of `outputs.layers`; `reduce_layer` is then no longer called
    for these layers."""

    if not TYPE_CHECKING:  # or mypy would accept every attribute

        def __getattr__(self, name: str) -> Any:
            """Called for an attribute that is not there: say that the detector is not fitted.

            Raises:
                NotFittedError: an AttributeError and a ValueError.
            """
            try:
                return object.__getattribute__(self, name)
            except AttributeError as error:
                info = getattr(type(self), "info", None)
                fitting = [m for need, m in _FITTING.items() if info and need in info.needs]
                if not fitting or name.startswith("__"):
                    raise
                raise NotFittedError(
                    f"{error}. Call {' and '.join(fitting)} first, if it is not fitted yet"
                ) from error

    def score(self, outputs: Outputs) -> Tensor:
        """One score per image, shape [B]; higher is more in-distribution.

        An image's score must not depend on the other images of its batch.
        """
        raise NotImplementedError

    def fit(self, batches: Batches) -> None:
        """Fit on one pass (or more) over the in-distribution training images.

        Called if the detector declares the need "fit". Statistics should stream: keep sums, not
        batches.
        """

    def fit_validation(self, batches: Batches) -> None:
        """Fit on one pass (or more) over the labeled validation images.

        Called after `fit` if the detector declares the need "validation".
        """

    def gradient_losses(self, outputs: Outputs) -> Mapping[str, Tensor] | Tensor:
        """Losses whose gradients with respect to the images `score` uses.

        Called before `score`, and before `calibrate`, if the detector declares the need
        "input_gradients". `outputs.input_gradients` then holds a gradient of shape [B, C, H, W]
        for each loss, under the same name.

        Args:
            outputs: outputs of the images, with their graph; `outputs.labels` is None. Use torch
                operations only, no `detach()`.

        Returns:
            name -> loss, shape [B], one finite number for each image (reduction="none"). Each loss
            costs a backward pass. A tensor alone has the name "logits".
        """
        raise NotImplementedError

    def choose_layers(self, layers: Sequence[str], taps: Sequence[str]) -> Sequence[str]:
        """The layers that `reduce_layer` is called for, if the detector declares the need "layers".

        Args:
            layers: names of the convolutions and activation functions, in the order in which they
                run; a layer that runs several times has a name for each. May be empty.
            taps: names of the feature layers, in order.

        Returns:
            Some of these names; the default is all of `layers`.
        """
        return layers

    def reduce_layer(self, activation: Tensor) -> Tensor:
        """Reduce a layer's activation to what `fit` and `score` read as `outputs.layers[name]`.

        Called in each forward pass, as soon as the layer has run, if the detector declares the need
        "layers": the activations of all layers are never in memory together.

        Args:
            activation: shape [B, D], [B, tokens, D] or [B, D, ...]. Do not change it in place.

        Returns:
            Shape [B, ...], much smaller. An image's entry must not depend on other images.
        """
        raise NotImplementedError

    def choose_taps(self, taps: Sequence[str]) -> Sequence[str]:
        """The taps that `replace_tap` is called for, if the detector needs "replaced_logits".

        Each costs the part of a forward pass that comes after it.

        Args:
            taps: names of the feature layers, in order. May be empty.

        Returns:
            Some of these names; the default is all of them. An empty list costs nothing.

        Raises:
            ValueError: if the detector cannot use these taps; the message is the reason for which
                the detector is skipped.
        """
        return taps

    def replace_tap(self, name: str, activation: Tensor) -> Tensor:
        """Replace the output of a feature layer.

        Called with every batch before `score`, for each tap that `choose_taps` names, without
        gradients, if the detector declares the need "replaced_logits". The rest of the network
        then computes `outputs.replaced_logits[name]` from the result. Each tap is replaced alone,
        in a forward pass of its own.

        Args:
            name: name of the tap.
            activation: shape [B, D], [B, tokens, D] or [B, D, ...]; a copy, in the network's type.

        Returns:
            The same shape; finite. An image's entry must not depend on other images.
        """
        raise NotImplementedError

    def calibrate(self, positives: Outputs, negatives: Outputs) -> None:
        """Train the detector's own model on tuning data.

        Called if the detector declares the need "calibration".

        Args:
            positives: outputs for in-distribution images.
            negatives: outputs for adversarial or out-of-distribution images.
        """
        raise NotImplementedError

    @property
    def works_on_map(self) -> bool:
        """Whether the detector reads `outputs.feature_map`, with its present parameters.

        If no module of the network gives that map, the result then has a note. A detector that
        needs the map for some of its parameters only overrides this property.
        """
        return "feature_map" in self.info.needs

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        """Names of the constructor's arguments."""
        if cls.__init__ is object.__init__:
            return ()
        return tuple(inspect.signature(cls).parameters)

    @property
    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments and their present values."""
        return {name: getattr(self, name) for name in self.parameter_names()}

    def with_parameters(self, **parameters: Any) -> Self:
        """A copy with other hyperparameters that shares the fitted attributes."""
        clone = copy.copy(self)
        for name, value in parameters.items():
            setattr(clone, name, value)
        return clone


class PerturbingDetector(Detector):
    """A detector that moves each image a step before it is scored: input preprocessing.

    The engine moves each image x to x - epsilon sign(gradient of its loss), and `score` reads the
    outputs of the moved images (Liang et al., ICLR 2018). Declare the need "input_gradient".

    Attributes:
        epsilon: step size in units of a [0, 1] pixel. With 0 the images stay, and
            `perturbation_losses` is not called.
        sign_zero: sign of a zero gradient: "plus" (as the published code of ODIN) or "zero".
    """

    epsilon: float
    sign_zero: Literal["plus", "zero"] = "plus"

    def perturbation_losses(self, outputs: Outputs) -> Mapping[str, Tensor] | Tensor:
        """Losses that the step decreases.

        Args:
            outputs: outputs of the images before the step, with their graph; `outputs.labels` is
                None. Use torch operations only, no `detach()`.

        Returns:
            place -> loss, shape [B], one finite number for each image (reduction="none"). A place
            is "logits", or with the need "taps" the name of a tap. For "logits" the moved images
            pass the whole network, and all of `outputs` but the taps is theirs; for a tap they pass
            the network up to the tap, and `outputs.taps[name]` is theirs. Each place has its own
            moved images. A tensor alone is the loss of "logits".
        """
        raise NotImplementedError
