"""The model of a fitted detector: ready to run for the time of a call, and then as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from oodbench.deploy.checked_runner import user_errors
from oodbench.deploy.model_identity import InputKind, ModelIdentity
from oodbench.deploy.restoration import given_back, reproducible
from oodbench.engine.passes.modes import evaluating
from oodbench.errors import UserError
from oodbench.models.classifier import Classifier
from oodbench.models.user_classifier import UserClassifier, reorder
from oodbench.specs import ModelSpec, ResizeSpec


@dataclass(frozen=True, slots=True)
class Description:
    """How a classifier of a benchmark is made again, so that an artifact needs no model.

    Attributes:
        spec: network and head.
        num_classes: C.
        in_channels: channels of the images.
    """

    spec: ModelSpec
    num_classes: int
    in_channels: int


@dataclass(frozen=True, slots=True)
class Preparation:
    """How image files are decoded, as `user_data.image_files.ImageStream` takes it.

    Attributes:
        shape: channels, height, width.
        resize: how images of other sizes are resized; None: they are refused.
    """

    shape: tuple[int, int, int]
    resize: ResizeSpec | None


@dataclass(frozen=True, slots=True, eq=False)
class DeployedModel:
    """A trained classifier that detectors were fitted on.

    Attributes:
        module: the user's model, which comes back as it was after each call; or a classifier that
            nobody else uses.
        classifier: runs the module for the engine.
        device: where it runs.
        identity: when detectors were fitted on it.
        inputs: what it takes.
        classes: names of the classes, in the order of the logits; empty if they are not known.
        description: how it is made again; None for a user's model.
        preparation: of image files; None if it is not known.
        shared: whether others use the module, too.
        seen: the state of its tensors when they were last compared (`check_unchanged`); empty
            before.
    """

    module: nn.Module
    classifier: Classifier
    device: torch.device
    identity: ModelIdentity
    inputs: InputKind
    classes: tuple[str, ...] = ()
    description: Description | None = None
    preparation: Preparation | None = None
    shared: bool = True
    seen: list[tuple[int, int, int]] = field(default_factory=list)

    @contextmanager
    def ready(self) -> Iterator[Classifier]:
        """The classifier in evaluation mode on its device, with reproducible settings.

        Raises:
            UserError: in place of an unexpected error of the module.
        """
        with ExitStack() as stack:
            stack.enter_context(reproducible(0, self.device))
            stack.enter_context(user_errors(self.module))
            if self.shared:
                stack.enter_context(given_back(self.module, self.device))
            stack.enter_context(evaluating(self.module))
            if isinstance(self.classifier, UserClassifier) and self.classifier.channels_last:
                reorder(self.module)
            yield self.classifier

    def check_unchanged(self, method: str) -> None:
        """Check that a model that others use is the one that a detector was fitted on.

        Weights are compared the first time, and when a tensor was written to or exchanged since;
        writing through `.data` is not noticed.

        Args:
            method: name of the method, for messages.

        Raises:
            UserError: it is another one now.
        """
        if not self.shared or (self.seen and self.seen == _states(self.module)):
            return
        check_same(self.identity, self.identified(), method)
        self.seen[:] = _states(self.module)

    def identified(self) -> ModelIdentity:
        """The identity that the model has now."""
        with self.ready() as classifier:
            return ModelIdentity.of(self.module, classifier, self.inputs)

    @property
    def num_classes(self) -> int:
        """C, as its network names it, or of its last layer."""
        if self.description is not None:
            return self.description.num_classes
        return int(getattr(self.classifier.network, "num_classes"))  # noqa: B009


def check_same(fitted: ModelIdentity, now: ModelIdentity, method: str) -> None:
    """Check that a model has not changed.

    Args:
        fitted: its identity when a detector was fitted on it.
        now: its identity.
        method: name of the method, for messages.

    Raises:
        UserError: the identities differ.
    """
    changes = fitted.differences(now)
    if changes:
        raise UserError(
            f"The model has changed since '{method}' was fitted on it: it {changes[0]}.",
            "Fit the detector again.",
        )


def _states(module: nn.Module) -> list[tuple[int, int, int]]:
    """Identity, number of changes in place, and address of each tensor."""
    return [
        (id(each), -1 if each.is_inference() else each._version, each.data_ptr())
        for each in (*module.parameters(), *module.buffers())
    ]


def found_identity(
    module: nn.Module, classifier: Classifier, images: Tensor, *, in_unit_range: bool
) -> tuple[ModelIdentity, InputKind]:
    """Identity and inputs of a model that is ready to run.

    Args:
        module: the model.
        classifier: runs it.
        images: some of its inputs, shape [B, ...].
        in_unit_range: whether images are in [0, 1] and the classifier normalizes them.
    """
    inputs = InputKind.of(images, in_unit_range=in_unit_range)
    return ModelIdentity.of(module, classifier, inputs), inputs
