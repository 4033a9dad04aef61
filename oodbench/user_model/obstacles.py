"""Why a detector cannot run on a user's model and data."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from oodbench.detector import Detector, head_obstacle
from oodbench.engine.passes.contract import NO_LOCAL_FEATURES
from oodbench.engine.passes.image_sources import ID
from oodbench.engine.passes.input_gradients import takes_gradients
from oodbench.engine.passes.memory import arranged, is_out_of_memory
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.replacement import replaced_taps
from oodbench.engine.passes.sampled_logits import NEEDS as SAMPLED
from oodbench.engine.passes.sampled_logits import find_sampled
from oodbench.models.classifier import Classifier
from oodbench.models.structure.head import UNREGISTERED, UNWATCHED
from oodbench.planning.plan import Method
from oodbench.user_model.data_sets import FEW, OOD_DATA, DataSets


class Obstacles:
    """Finds why detectors cannot run.

    Args:
        classifier: in evaluation mode.
        data: images to fit on and to score.
        attackable: whether images are in [0, 1], so that they can be attacked.
    """

    def __init__(self, classifier: Classifier, data: DataSets, *, attackable: bool) -> None:
        self._classifier, self._data, self._attackable = classifier, data, attackable

    def of(self, method: Method, detector: Detector) -> str | None:
        """Why a detector cannot run, or None."""
        return (
            self._of_model(method, detector)
            or self._of_fitting(method)
            or self._of_tuning(method)
            or self._of_passes(method)
        )

    def _of_model(self, method: Method, detector: Detector) -> str | None:
        """What the model does not have."""
        needs, network = method.detector.needs, self._classifier.network
        if needs & {"features", "feature_map"} and not network.has_features:
            return _without_features(getattr(network, "head_note", ""))
        head, language = self._classifier.describe_head(), network.language is not None
        obstacle = head_obstacle(
            needs, head.kind, "the model", language=language, rotations=head.rotations
        )
        if obstacle is not None:
            return obstacle
        if "local_features" in needs and not network.has_local_features:
            return NO_LOCAL_FEATURES
        if needs & {"taps", "tap_maps"} and not network.tap_names:
            return "needs feature layers, and no stages were found: name modules with taps=[...]"
        layers = {"layers": getattr(detector, "layers", None)}
        obstacle = method.detector.layers_obstacle(layers, network.tap_names)
        if obstacle is not None:
            return obstacle
        try:
            replaced_taps(detector, network)
        except ValueError as error:
            return str(error)
        except Exception:  # an error of the detector: it fails when it runs
            pass
        return None

    def _of_fitting(self, method: Method) -> str | None:
        """Images or labels that it would be fitted on, and that are not given."""
        for need in method.fitted_on():
            wanted, source = self._data.for_need("fit" if method.keeps_out else need)
            if source is None:
                return f"needs {wanted}"
            if "labels" in method.detector.needs and not source.has_labels:
                return f"needs labels; {source.name} has none"
        return None

    def _of_tuning(self, method: Method) -> str | None:
        """What its tuning lacks."""
        wanted, validation = self._data.for_need("validation")
        if method.tuned_on == "ood_validation" and validation is None:
            return f"is tuned on {OOD_DATA}: also needs {wanted}"
        if method.tuned_on == "fgsm":
            if validation is None:
                return f"is tuned on attacked images: needs {wanted}"
            if not validation.has_labels:
                return "is tuned on attacked images: needs labels; validation_data has none"
            if not self._attackable:
                return "is tuned on attacked images: needs images in [0, 1], and normalization"
            if validation.first()[0].ndim != 4:
                return "is tuned on attacked images: needs images [channels, height, width]"
        return None

    def _of_passes(self, method: Method) -> str | None:
        """Passes of its own that the model cannot make."""
        needs = method.detector.needs
        for need in SAMPLED & needs:
            if need in self._unsuitable:
                return self._unsuitable[need]
        if method.tuned_on == "fgsm" or takes_gradients(needs):
            images, _ = self._data.test[ID].first()
            steps = "input_gradient" in needs and images.is_floating_point()
            if steps and images.ndim != 4 and not self._attackable:
                return "perturbs images; the data are not images"
            return self._gradient[0]
        return None

    @cached_property
    def _unsuitable(self) -> dict[str, str]:
        """Need of several logits for each image -> why the model does not give them."""
        try:
            with evaluating(self._classifier):
                _, errors = find_sampled(self._classifier, self._few, SAMPLED)
        except Exception:  # an error of the model: it is raised with the first images
            return {}
        return {need: str(error) for need, error in errors.items()}

    @property
    def gradient_is_zero(self) -> bool:
        """Whether the gradient of the logits is zero for the first images and for noise."""
        return self._gradient[1]

    @cached_property
    def _gradient(self) -> tuple[str | None, bool]:
        with evaluating(self._classifier):
            return find_gradient(self._classifier, self._few)

    @property
    def _few(self) -> Tensor:
        """The first ID images, as the classifier takes them."""
        images = self._data.test[ID].first()[0][:FEW]
        return arranged(images.to(self._classifier.mean.device), self._classifier.dtype)


def _without_features(why: str) -> str:
    """Why a detector that needs features cannot run on a model without known features."""
    if why == UNWATCHED:
        return (
            f"needs the features, the input of the model's last layer; {why}: pass the original "
            "torch.nn.Module, or give a function that computes them, features="
        )
    if why == UNREGISTERED:
        return (
            f"needs the features, the input of the model's last layer; {why}: keep them in "
            "torch.nn.ModuleList or ModuleDict"
        )
    return (
        f"needs the features, the input of the model's last layer ({why}): name the layer with "
        "head=, or the module that gives the features with features="
    )


def find_gradient(classifier: Classifier, images: Tensor) -> tuple[str | None, bool]:
    """Whether the logits of a classifier have a gradient with respect to its images.

    In any network the gradient may be zero for some images, such as black images, for which all
    rectifiers give zero. In a model that rounds its images, it is zero for noisy images too.

    Args:
        classifier: in evaluation mode, its parameters frozen.
        images: a few, on the device.

    Returns:
        Why there is no gradient, or None; and whether the gradient is zero for images and noise.
    """
    if not images.is_floating_point():
        return "needs the gradient with respect to its input, which is whole numbers", False
    try:
        gradient = _gradient(classifier, images)
        if gradient is not None:
            return None, not gradient.any() and _is_zero_for_noise(classifier, images)
    except Exception as error:  # a model under inference mode, in int8, or frozen, may raise
        if is_out_of_memory(error):
            return None, False
    return (
        "needs the gradient of the logits with respect to the images, and the model has none: a "
        "part of it computes without gradients (torch.no_grad, inference mode, detach, int8, a "
        "frozen export). Compute with gradients; freeze weights with requires_grad_(False)"
    ), False


def _is_zero_for_noise(classifier: Classifier, images: Tensor) -> bool:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator).to(images)
    try:
        gradient = _gradient(classifier, images + noise)
    except Exception:  # nothing is known
        return False
    return gradient is not None and not gradient.any()


def _gradient(classifier: Classifier, images: Tensor) -> Tensor | None:
    """Gradient of a random combination of the logits; None if no graph leads to the images.

    The gradient of their sum may be zero: the sum of centered logits is the same for every image.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits: Tensor = classifier(images)
        if not logits.requires_grad:
            return None
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(logits.shape, generator=generator).to(logits)
        (logits * weights).sum().backward(inputs=[images])
    return images.grad
