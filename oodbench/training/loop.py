"""Training a classifier: explicit seeds, data on the device, weights of the last epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from oodbench import models
from oodbench.data import ImageArray
from oodbench.errors import UserError
from oodbench.models.classifier import Classifier
from oodbench.numerics.likelihood.temperature import calibrate
from oodbench.specs import ModelSpec
from oodbench.training import distributed
from oodbench.training.augmentation import augment, draw
from oodbench.training.auxiliary_images import AuxiliaryImages, epoch_generator
from oodbench.training.determinism import deterministic, seeded
from oodbench.training.distributed import Group
from oodbench.training.initialization import new_classifier, new_loss
from oodbench.training.precision import with_precision
from oodbench.training.schedule import learning_rate
from oodbench.training.state import Epoch, TrainingState

_EVALUATION_BATCH = 500
_CHECK_EVERY = 50
"""Steps between two checks of the loss on a GPU; each check waits for the GPU."""


def resident(data: ImageArray, device: torch.device) -> Tensor:
    """All images on a device, in channels_last order and their own type, shape [N, C, H, W]."""
    images = torch.from_numpy(np.array(data.images))  # a copy: a memory map is read-only
    return images.to(device, memory_format=torch.channels_last)


def as_floats(images: Tensor) -> Tensor:
    """Images in [0, 1], float32, from bytes or from floats."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def train(
    spec: ModelSpec,
    num_classes: int,
    data: ImageArray,
    *,
    seed: int,
    device: torch.device,
    test: ImageArray | None = None,
    validation: ImageArray | None = None,
    auxiliary: ImageArray | None = None,
    state: TrainingState | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_images: Callable[[int], None] = lambda count: None,
) -> tuple[Classifier, list[Epoch]]:
    """Train a classifier from scratch, or continue a training that was stopped.

    For one seed, all heads see the same order of images, the same augmentation and the same
    schedule; only head and loss differ. Inside `distributed.group` the processes share the work.

    Args:
        spec: network, head, recipe.
        num_classes: C.
        data: training images with labels.
        seed: seeds initial weights, order of images and augmentation.
        device: where to train.
        test: test images; the history has their accuracy if the recipe asks for it. Nothing is
            chosen by it.
        validation: ID images to calibrate the temperature of a head on, if it has one.
        auxiliary: auxiliary images for a loss that needs them.
        state: stores the state after each epoch; a training that was stopped continues from it.
        on_epoch: called after each epoch.
        on_images: called after each step with the number of images in it.

    Returns:
        The classifier after the last epoch, in evaluation mode, and its history.

    Raises:
        UserError: if the loss stops being finite; the message names the step. Or if auxiliary
            images are missing or of another shape.
    """
    training = Training(spec, num_classes, data, seed, device, distributed.current(), auxiliary)
    training.on_images = on_images
    asked = spec.recipe.test_accuracy
    try:
        with deterministic(device), seeded(seed + 7919 * training.group.rank, device):
            history = [] if state is None else training.resume(state)
            for number in range(len(history) + 1, spec.recipe.epochs + 1):
                last = number == spec.recipe.epochs
                noted = asked == "each" or (asked == "last" and last)
                epoch = training.epoch(number, test if noted else None)
                history.append(epoch)
                if state is not None and training.group.leads:
                    training.keep(state, history)
                on_epoch(epoch)
    except BaseException:
        if state is not None and training.group.leads:
            state.flush()
        raise
    classifier = training.classifier.eval()
    if models.head_info(spec.head).calibrated:
        _calibrate(classifier, spec, validation)
    return classifier, history


class Training:
    """One training, by epochs and steps."""

    def __init__(
        self,
        spec: ModelSpec,
        num_classes: int,
        data: ImageArray,
        seed: int,
        device: torch.device,
        group: Group,
        auxiliary: ImageArray | None = None,
    ) -> None:
        if data.labels is None:
            raise UserError("Training data without labels.")
        recipe = with_precision(spec.recipe, device)
        if group.size > 1 and min(recipe.batch_size, len(data)) < 2 * group.size:
            raise UserError(
                f"A batch of {recipe.batch_size} of {len(data)} images is too small to share among "
                f"{group.size} processes.",
                "Start fewer processes, or raise training.batch_size.",
            )
        self.spec, self.recipe, self.seed = spec, recipe, seed
        self.num_classes = num_classes
        self.group, self.device = group, device
        self.classifier = new_classifier(spec, num_classes, data, seed).to(device)
        if group.size > 1:
            distributed.share_statistics(self.classifier)
        self.loss = new_loss(spec, self.classifier, seed).to(device)
        if group.size > 1 and not self.loss.divisible:
            raise UserError(
                f"The loss of head '{spec.head}' needs the images of a batch together, and several "
                "processes do not see them as one.",
                "Train with one process.",
            )
        self.auxiliary = self._auxiliary(data, auxiliary)
        self.optimizer = torch.optim.SGD(
            [*self.classifier.parameters(), *self.loss.parameters()],
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        self.images, self.labels = resident(data, device), torch.from_numpy(data.labels).to(device)
        self.generator = torch.Generator().manual_seed(seed)
        self.on_images: Callable[[int], None] = lambda count: None
        self._state: TrainingState | None = None
        self._network: nn.Module | None = None

    def _auxiliary(self, data: ImageArray, images: ImageArray | None) -> AuxiliaryImages | None:
        """The auxiliary images, if the loss needs them."""
        if not self.loss.auxiliary:
            return None
        declared = self.spec.auxiliary
        if images is None or declared is None:
            raise UserError(
                f"The loss of head '{self.spec.head}' needs auxiliary images.",
                "Write auxiliary: {dataset: NAME} in the model of the benchmark.",
            )
        if images.images.shape[1:] != data.images.shape[1:]:
            sides = ["x".join(map(str, each.images.shape[1:])) for each in (images, data)]
            raise UserError(
                f"The auxiliary images ('{declared.dataset}') have shape {sides[0]}, the training "
                f"images {sides[1]}.",
                "One network takes both: choose data sets of one shape.",
            )
        return AuxiliaryImages(resident(images, self.device), declared.per_image, self.seed)

    def resume(self, state: TrainingState) -> list[Epoch]:
        """Continue from a stored state; returns the history so far."""
        self._state = state
        return state.take_up(self.classifier, self.loss, self.optimizer, self.generator)

    def keep(self, state: TrainingState, history: list[Epoch]) -> None:
        """Record the state after an epoch."""
        state.keep(self.classifier, self.loss, self.optimizer, self.generator, history)

    @property
    def network(self) -> nn.Module:
        """The classifier to call: compiled if the recipe says so, and averaging gradients."""
        if self._network is None:
            network: nn.Module = self.classifier
            if self.group.size > 1:
                network = nn.parallel.DistributedDataParallel(
                    network,
                    device_ids=[self.device] if self.device.type == "cuda" else None,
                    broadcast_buffers=False,  # statistics are shared, so they are equal
                )
            if self.recipe.compile:
                network = cast("nn.Module", torch.compile(network))
            self._network = network
        return self._network

    def autocast(self) -> torch.autocast:
        """bfloat16 where the recipe says so."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"
        )

    def epoch(self, number: int, test: ImageArray | None) -> Epoch:
        """Train for one epoch.

        Args:
            number: number of the epoch, from 1.
            test: images to evaluate on after the epoch, or None.
        """
        started = time.perf_counter()
        self.network.train()
        done = (number - 1) / self.recipe.epochs
        self.loss.begin_epoch(done, epoch_generator("loss", self.seed, number))
        if self.auxiliary is not None:
            self.auxiliary.begin_epoch(number)
        count = len(self.images)
        order = torch.randperm(count, generator=self.generator)
        # Batches of nearly equal size: statistics of a last batch of one image would be useless.
        steps = math.ceil(count / self.recipe.batch_size)
        losses = torch.zeros(steps, dtype=torch.float64, device=self.device)
        right = torch.zeros(2, dtype=torch.float64, device=self.device)
        rate = 0.0
        for step, rows in enumerate(order.to(self.device).tensor_split(steps)):
            rate = learning_rate(self.recipe, number - 1 + step / steps)
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = rate
            losses[step] = self.step(rows, right)
            if self.device.type == "cpu" or step % _CHECK_EVERY == 0 or step == steps - 1:
                self._check(losses[: step + 1], number)
            self.on_images(len(rows))
        distributed.summed(right)
        weights = torch.tensor([len(rows) for rows in order.tensor_split(steps)])
        mean_loss = float((losses.cpu() * weights).sum() / count)
        test_loss, test_accuracy = (None, None) if test is None else self.evaluate(test)
        return Epoch(
            number,
            mean_loss,
            float(right[0] / right[1]),
            rate,
            time.perf_counter() - started,
            test_loss,
            test_accuracy,
        )

    def step(self, rows: Tensor, right: Tensor) -> Tensor:
        """One step on this process's share of a batch; returns the mean loss of the whole batch.

        Adds the number of correct predictions, and of images that are not mixed, to `right`.
        """
        mine = self.group.share(len(rows))
        draws = draw(self.recipe.augment, len(rows), self.generator)[mine]
        images = augment(self.images[rows[mine]], self.recipe.augment, draws)
        labels = self.labels[rows[mine]]
        others = None
        if self.auxiliary is not None:
            others = as_floats(self.auxiliary.batch(len(rows), mine, self.recipe.augment))
        batch, targets = self.loss.mix(as_floats(images), labels, self.generator, others)
        with self.autocast():
            outputs = self.network(batch)
        loss = self.loss(outputs.float(), targets)
        self.optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over processes, whose shares differ by an image at most.
        share = len(labels) / len(rows)
        (loss * (share * self.group.size)).backward()
        self.optimizer.step()
        pure = self.loss.labeled(len(labels))
        logits = outputs.detach()[:pure, : self.num_classes]
        right[0] += (logits.argmax(dim=1) == labels[:pure]).sum()
        right[1] += pure
        return distributed.summed(loss.detach().double() * share)

    def _check(self, losses: Tensor, number: int) -> None:
        """Raise UserError for the first step with a loss that is not finite."""
        finite = torch.isfinite(losses)
        if finite.all():
            return
        step = int((~finite).nonzero()[0])
        kept = ""
        if self._state is not None and number > 1:
            kept = f" The state after epoch {number - 1} is kept in {self._state.path}."
        raise UserError(
            f"The training loss is {losses[step].item()} at epoch {number}, step {step + 1} "
            f"(network {self.spec.network}, head {self.spec.head}, seed {self.seed}).{kept}",
            "Lower training.learning_rate in the benchmark.",
        )

    @torch.no_grad()
    def evaluate(self, data: ImageArray) -> tuple[float, float]:
        """Mean training loss and accuracy on a split, in evaluation mode."""
        assert data.labels is not None
        self.classifier.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for start in range(0, len(data), _EVALUATION_BATCH):
            rows = slice(start, start + _EVALUATION_BATCH)
            logits = _logits(self.classifier, data, rows, self.autocast())
            labels = torch.from_numpy(data.labels[rows].copy()).to(self.device)
            total[0] += self.loss(logits, labels) * len(labels)
            total[1] += (logits.argmax(dim=1) == labels).sum()
        loss, accuracy = (total / len(data)).tolist()
        return loss, accuracy


def _logits(
    classifier: Classifier, data: ImageArray, rows: slice, autocast: torch.autocast
) -> Tensor:
    images = torch.from_numpy(np.array(data.images[rows])).to(
        classifier.mean.device, memory_format=torch.channels_last
    )
    with autocast:
        logits: Tensor = classifier(as_floats(images))
    return logits.float()


@torch.no_grad()
def _calibrate(classifier: Classifier, spec: ModelSpec, validation: ImageArray | None) -> None:
    """Calibrate the head's temperature on validation images (the paper: on test images)."""
    if validation is None or validation.labels is None:
        raise UserError(
            f"The head '{spec.head}' needs validation images to calibrate its temperature on.",
            "Give the in-distribution data set a validation split (split_from in its manifest).",
        )
    off = torch.autocast(classifier.mean.device.type, enabled=False)
    logits = [
        _logits(classifier, validation, slice(start, start + _EVALUATION_BATCH), off)
        for start in range(0, len(validation), _EVALUATION_BATCH)
    ]
    labels = torch.from_numpy(validation.labels.copy())
    temperature = calibrate(torch.cat(logits).cpu(), labels)
    classifier.network.get_buffer("head.temperature").fill_(temperature)
