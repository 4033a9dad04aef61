"""Training a classifier: explicit seeds, data resident on the device, last epoch kept."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from oodbench import models
from oodbench.data import ImageArray
from oodbench.errors import UserError
from oodbench.models.classifier import Classifier
from oodbench.specs import AugmentSpec, ModelSpec, TrainingSpec


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch ended with.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss, in nats (with DisMax's alpha where there is one).
        accuracy: training accuracy over the epoch, as a fraction, on augmented images.
    """

    epoch: int
    loss: float
    accuracy: float


def as_tensor(data: ImageArray, device: torch.device) -> Tensor:
    """Images in [0, 1] on a device, float32, shape [N, C, H, W]."""
    images = torch.from_numpy(data.images).to(device)
    return images.float() / 255 if images.dtype == torch.uint8 else images


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Ask torch for deterministic algorithms on CUDA, and restore its settings afterwards.

    On the CPU the operations used here are deterministic for a number of threads, and asking would
    cost two seconds: it imports torch's compiler.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for its matrix products
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark


def new_classifier(spec: ModelSpec, num_classes: int, data: ImageArray, seed: int) -> Classifier:
    """An untrained classifier, its normalisation taken from the training images.

    Args:
        spec: network and head.
        num_classes: C.
        data: the training images.
        seed: of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: it reseeds CUDA too
        network = models.create(spec.network, num_classes, spec.head, data.images.shape[1])
    images = as_tensor(data, torch.device("cpu")).double()
    std, mean = torch.std_mean(images, dim=(0, 2, 3), correction=0)
    classifier = Classifier(network, mean.tolist(), std.clamp_min(1e-3).tolist())
    return classifier.to(memory_format=torch.channels_last)  # faster sweeps, backward above all


def train(
    spec: ModelSpec,
    num_classes: int,
    data: ImageArray,
    *,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Classifier, list[Epoch]]:
    """Train a classifier from scratch.

    SoftMax and DisMax take the same road: same data order, same augmentation, same schedule for the
    same seed; only head and loss differ.

    Args:
        spec: network, head, recipe.
        num_classes: C.
        data: training images with labels.
        seed: of weights, order and augmentation.
        device: where to train.
        on_epoch: called after each epoch.

    Returns:
        The classifier after the last epoch, in evaluation mode, and its history.

    Raises:
        UserError: if the loss stops being finite; the message names the step.
    """
    if data.labels is None:
        raise UserError("Training data without labels.")
    recipe = spec.training
    classifier = new_classifier(spec, num_classes, data, seed).to(device)
    classifier.train()
    loss_function = models.create_loss(spec.head, **spec.loss_options).to(device)
    optimizer = torch.optim.SGD(
        classifier.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    images, labels = as_tensor(data, device), torch.from_numpy(data.labels).to(device)
    generator = torch.Generator().manual_seed(seed)
    # Batches of nearly equal size: a last batch of one image would ruin the batch statistics.
    steps = math.ceil(len(data) / recipe.batch_size)
    history = []
    with deterministic(device):
        for epoch in range(recipe.epochs):
            order = torch.randperm(len(data), generator=generator)
            total, correct = torch.zeros((), device=device), torch.zeros((), device=device)
            for step, rows in enumerate(order.to(device).tensor_split(steps)):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, epoch + step / steps)
                batch = augment(images[rows], recipe.augment, generator)
                logits = classifier(batch)
                loss = loss_function(logits, labels[rows])
                if not torch.isfinite(loss):
                    raise UserError(
                        f"The training loss is {loss.item()} at epoch {epoch + 1}, step {step + 1} "
                        f"(network {spec.network}, head {spec.head}, seed {seed}).",
                        "Lower training.learning_rate in the benchmark.",
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(rows)
                correct += (logits.detach().argmax(dim=1) == labels[rows]).sum()
            history.append(
                Epoch(epoch + 1, (total / len(data)).item(), (correct / len(data)).item())
            )
            on_epoch(history[-1])
    return classifier.eval(), history


def learning_rate(recipe: TrainingSpec, position: float) -> float:
    """Learning rate at a position in the training.

    Args:
        recipe: schedule and peak rate.
        position: epochs done, with the fraction of the present one.
    """
    done = position / recipe.epochs
    if recipe.schedule == "constant":
        factor = 1.0
    elif recipe.schedule == "step":
        factor = 0.1 ** sum(done >= milestone for milestone in recipe.milestones)
    elif recipe.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * done))
    else:  # one_cycle: a linear rise over the first 30 %, then half a cosine down to zero
        rise = 0.3
        if done < rise:
            factor = 0.04 + 0.96 * done / rise
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))
    return recipe.learning_rate * factor


def augment(images: Tensor, spec: AugmentSpec, generator: torch.Generator) -> Tensor:
    """Random crop after zero padding, and horizontal flip, of a whole batch at once.

    Args:
        images: shape [B, C, H, W].
        spec: what to do.
        generator: of the random choices, on the CPU.
    """
    count, _, height, width = images.shape
    if spec.crop_padding:
        pad = spec.crop_padding
        shifts = torch.randint(0, 2 * pad + 1, (2, count), generator=generator).to(images.device)
        padded = F.pad(images, (pad, pad, pad, pad))
        rows = shifts[0][:, None] + torch.arange(height, device=images.device)
        columns = shifts[1][:, None] + torch.arange(width, device=images.device)
        batch = torch.arange(count, device=images.device)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
        images = images.permute(0, 3, 1, 2)
    if spec.horizontal_flip:
        flipped = torch.rand(count, generator=generator).to(images.device) < 0.5
        images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
    return images
