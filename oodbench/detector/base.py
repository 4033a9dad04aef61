"""The base classes of detectors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Hashable, Mapping, Sequence
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

    fitting_images: int | None = None
    """The largest number of images that `fit`, or `fit_validation`, is given; a uniform sample if
    there are more (the first ones where their number is not known). None: all. For fits that take
    gradients, or memory, for each image."""

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
        """The taps that `replace_tap`, or `reduce_gradient`, is called for.

        With the need "replaced_logits" each costs the part of a forward pass that comes after it.
        With the need "tap_gradients" all together cost the part of a backward pass from the logits
        to the first of them.

        Args:
            taps: names of the feature layers, in order; with the need "tap_gradients" followed by
                "features", the input of the last layer, if it is known. May be empty.

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

    def tap_loss(self, outputs: Outputs) -> Tensor:
        """The loss whose gradients with respect to feature layers `reduce_gradient` gets.

        Called with every batch before `score`, and before `fit`, `fit_validation` and `calibrate`
        read it, if the detector declares the need "tap_gradients".

        Args:
            outputs: outputs of the images, with their graph; `outputs.labels` is None. Use torch
                operations only, no `detach()`.

        Returns:
            Shape [B], one finite number for each image (reduction="none").
        """
        raise NotImplementedError

    def reduce_gradient(self, name: str, activation: Tensor, gradient: Tensor) -> Tensor:
        """Reduce a feature layer's gradient to what is read as `outputs.tap_gradients[name]`.

        Called for each of `choose_taps`, without gradients, if the detector declares the need
        "tap_gradients". The default is the sum of the gradient over places, shape [B, D]: the
        derivative with respect to a constant that is added to a channel.

        Args:
            name: name of the tap, or "features".
            activation: shape [B, D], [B, tokens, D] or [B, D, ...]; do not change it in place.
            gradient: the same shape; likewise.

        Returns:
            Shape [B, ...], much smaller than a map. An image's entry must not depend on others.
        """
        return sum_over_places(gradient)

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

    By default the engine moves each image x to x - epsilon sign(gradient of its loss), and `score`
    reads the outputs of the moved images (Liang et al., ICLR 2018). A class that moves images in
    another way overrides `step`. With the need "perturbed", `outputs` are those of the images
    before the step, and `outputs.perturbed` those after it, while fitting too. Declare the need
    "input_gradient".

    Attributes:
        epsilon: step size, in units of a [0, 1] pixel if `step` is not overridden. With 0 the
            images stay, and neither `perturbation_losses` nor `step` is called.
        sign_zero: sign of a zero gradient: "plus" (as the published code of ODIN) or "zero".
    """

    epsilon: float
    sign_zero: Literal["plus", "zero"] = "plus"

    @property
    def perturbation_key(self) -> Hashable:
        """What the losses and the step depend on, so that they are computed once.

        Detectors of one model with equal keys move an image to the same place: one gradient and one
        forward pass serve them all, and all values of a hyperparameter that is not in the key.
        None, the default, shares nothing but the gradient between values of `epsilon`.
        """
        return None

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

    def step(self, images: Tensor, gradient: Tensor, std: Tensor) -> Tensor:
        """The images after the step; called without gradients, with every batch and place.

        The images and the gradient are in units of [0, 1] pixels. Published code works on
        normalized images (x - mean) / std. To follow it, convert channel by channel: a step s there
        is s std here, and the gradient there is the gradient here times std. A step that the code
        divides by std, as ODIN's does, needs no factor. The network normalizes the result; it is
        not clamped to [0, 1].

        Args:
            images: shape [B, C, H, W].
            gradient: of a loss of `perturbation_losses` with respect to them, the same shape.
            std: standard deviation that the network divides each channel by, shape [1, C, 1, 1];
                1 if images come normalized.

        Returns:
            The same shape; finite. An image's entry must not depend on the other images.
        """
        return images - self.epsilon * step_sign(gradient, self.sign_zero)


def step_sign(gradient: Tensor, sign_zero: str) -> Tensor:
    """Sign of a gradient; a zero counts as +1 ("plus", the published code's way) or as 0."""
    return gradient.ge(0).to(gradient.dtype) * 2 - 1 if sign_zero == "plus" else gradient.sign()


def sum_over_places(activation: Tensor) -> Tensor:
    """The sum over places, float64, shape [B, D].

    Args:
        activation: shape [B, D], [B, tokens, D] or [B, D, ...].
    """
    values = activation.double()
    if values.ndim == 3:
        return values.sum(dim=1)
    return values.flatten(2).sum(dim=2) if values.ndim > 3 else values
