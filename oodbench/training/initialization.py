"""Untrained classifiers and their losses: initial weights, normalization of images."""

from __future__ import annotations

import numpy as np
import torch

from oodbench import models
from oodbench.data import ImageArray
from oodbench.errors import UserError
from oodbench.losses import Loss
from oodbench.models.classifier import Classifier
from oodbench.specs import ModelSpec
from oodbench.training.determinism import seeded


def new_classifier(spec: ModelSpec, num_classes: int, data: ImageArray, seed: int) -> Classifier:
    """An untrained classifier, normalized as its spec says or by the training images.

    Args:
        spec: network, head, normalization.
        num_classes: C.
        data: the training images.
        seed: seeds the initial weights.

    Raises:
        UserError: if the normalization is for another number of channels.
    """
    with seeded(seed, torch.device("cpu")):
        network = models.create(
            spec.network,
            num_classes,
            spec.head,
            data.images.shape[1],
            taps=spec.taps,
            options=spec.network_options,
            loss_options=spec.loss_options,
        )
    if spec.normalization is None:
        mean, std = channel_statistics(data)
    else:
        mean, std = list(spec.normalization.mean), list(spec.normalization.std)
        if len(mean) != data.images.shape[1]:
            raise UserError(
                f"The normalization has {len(mean)} channels, the images have "
                f"{data.images.shape[1]}.",
                "Correct 'normalization' of the model in the benchmark.",
            )
    classifier = Classifier(network, mean, std)
    return classifier.to(memory_format=torch.channels_last)  # faster passes, backward above all


def new_loss(spec: ModelSpec, classifier: Classifier, seed: int) -> Loss:
    """The loss of a model, with its initial state.

    Args:
        spec: head and options of the loss.
        classifier: the classifier that it trains.
        seed: seeds the initial state, if there is any.

    Raises:
        UserError: if an option is not valid.
    """
    with seeded(seed, torch.device("cpu")):
        return models.create_loss(spec.head, classifier.network.head, **spec.loss_options)


def channel_statistics(data: ImageArray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all images, in [0, 1] units, float64."""
    channels = data.images.shape[1]
    count, first, second = 0, np.zeros(channels), np.zeros(channels)
    for start in range(0, len(data), 1000):  # in blocks: all images may not fit in memory
        block = data.images[start : start + 1000].astype(np.float64)
        count += block[:, 0].size
        first += block.sum(axis=(0, 2, 3))
        second += np.square(block).sum(axis=(0, 2, 3))
    scale = 255.0 if data.images.dtype == np.uint8 else 1.0
    mean = first / count
    std = np.sqrt(np.maximum(second / count - np.square(mean), 0.0)) / scale
    return (mean / scale).tolist(), np.maximum(std, 1e-3).tolist()
