"""A user's model adapted for the engine, and tried on a few images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.deploy.checked_runner import CheckedRunner, cannot_take, not_finite, user_errors
from oodbench.deploy.restoration import given_back
from oodbench.engine.passes.image_sources import ID
from oodbench.engine.passes.memory import arranged
from oodbench.engine.passes.modes import evaluating
from oodbench.errors import UserError
from oodbench.models.rounding_tolerance import agree
from oodbench.models.structure.analysis import Analysis, analyze
from oodbench.models.structure.forward_pass import NotFiniteError
from oodbench.models.structure.head import NOT_FOUND
from oodbench.models.structure.model_call import checked_inputs, inputs_beside_images
from oodbench.models.user_classifier import Scaling, UserClassifier, reorder, type_of
from oodbench.user_data.declared_classes import matching_labels
from oodbench.user_model.data_sets import FEW, DataSets


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """A user's model as the engine takes it.

    Attributes:
        classifier: runs the model.
        num_classes: C.
        notes: remarks on the model, and on labels whose meaning was changed.
    """

    classifier: UserClassifier
    num_classes: int
    notes: list[str]


@contextmanager
def taken_over(
    module: nn.Module,
    data: DataSets,
    options: Mapping[str, Any],
    num_classes: int | None,
    scaling: Scaling | None,
    device: torch.device,
    *,
    reads_layers: bool,
) -> Iterator[AdaptedModel]:
    """A user's model in evaluation mode, adapted; it is given back as it was at the end.

    Meanwhile the data are read as this model takes them.

    Args:
        module: the model.
        data: all data sets.
        options: "taps", "head", "features", "output" and "inputs", as of `oodbench.evaluate`.
        num_classes: C, if the user gave it.
        scaling: mean and standard deviation of images in [0, 1]; None: images are as they come.
        device: where the model runs.
        reads_layers: whether the model is also tried on a whole batch, to see which layers run.

    Raises:
        UserError: the model does not take the images, or an option is not valid for it.
    """
    inputs = checked_inputs(module, options["inputs"], data.test[ID].image_key)
    beside = inputs_beside_images(module, inputs)
    for source in data.all:
        source.in_unit_range, source.model_inputs = scaling is not None, beside
    with user_errors(module), given_back(module, device), evaluating(module):
        classifier, classes, notes = _adapted(
            module,
            data,
            {**options, "inputs": inputs},
            num_classes,
            scaling,
            device,
            reads_layers=reads_layers,
        )
        notes += _same_classes(data, classes)
        for source in data.all:
            source.num_classes = classes
        yield AdaptedModel(classifier, classes, notes)


def _adapted(
    module: nn.Module,
    data: DataSets,
    options: Mapping[str, Any],
    num_classes: int | None,
    scaling: Scaling | None,
    device: torch.device,
    *,
    reads_layers: bool,
) -> tuple[UserClassifier, int, list[str]]:
    """The model as a classifier of the engine, tried on a few images of each data set.

    With `reads_layers` it is also tried on a whole batch, to see which layers run for it.

    Returns:
        The classifier, C, and notes on the model.
    """
    name = data.test[ID].name
    images, _ = data.test[ID].first()
    dtype = type_of(module)
    if scaling is not None:
        for source in data.all:
            channels = source.first()[0].shape[1]
            if len(scaling[0]) not in (1, channels):
                raise UserError(
                    f"normalization is for {len(scaling[0])} channels, the images of "
                    f"{source.name} have {channels}."
                )

    def wrapped(network: Any, channels_last: bool) -> UserClassifier:
        return UserClassifier(
            network, scaling, dtype=dtype, device=device, channels_last=channels_last
        )

    alone = wrapped(module, channels_last=True)
    whole = arranged(images.to(device), alone.dtype)
    few = whole[:FEW]
    try:
        analysis = analyze(
            module,
            alone.normalized(few),
            num_classes=num_classes,
            batch=alone.normalized(whole) if reads_layers else None,
            **options,
        )
    except UserError:
        raise
    except NotFiniteError as error:
        raise not_finite(f"image {error.index} of {name}", error.logits) from None
    except Exception as error:
        raise cannot_take(alone, few, name, error) from error
    if analysis.channels_last:
        reorder(module)
    classifier = wrapped(analysis.network, analysis.channels_last)
    runner = CheckedRunner(classifier, batch_size=FEW)
    seen = {few.shape[1:]}
    with runner.attached(), torch.no_grad():
        notes = [note for note in (analysis.note, _without_head(analysis)) if note]
        notes += _unsteadiness(runner, few, analysis.logits)
        for source in data.all:
            few, _ = runner.placed(source.first()[0][:FEW])
            if few.shape[1:] not in seen:
                seen.add(few.shape[1:])
                runner.look_at(few, source.name)
    _check_classes(analysis.num_classes, num_classes)
    return classifier, analysis.num_classes, notes


def _without_head(analysis: Analysis) -> str:
    """A note on a model that may have lost its last layer; "" if there is nothing to say."""
    network = analysis.network
    if network.has_features or network.head_note != NOT_FOUND:
        return ""
    return (
        f"No layer was found that gives the {analysis.num_classes} outputs of {network.name}: if "
        "they are features and not logits, give the whole classifier."
    )


def _unsteadiness(runner: CheckedRunner, images: Tensor, logits: Tensor) -> Iterator[str]:
    """Notes on a model with logits that depend on more than the image.

    Args:
        runner: attached.
        images: a few.
        logits: what the model gave for them together.
    """

    def alone() -> Tensor:
        logits: Tensor = runner.classifier(images[:1])
        return logits

    if len(images) == 1:
        return
    try:
        first = alone()
        if agree(first, logits[:1]):
            return
        again = alone()
    except Exception:  # it accepts no single image: reported if a batch has only one
        return
    if agree(again, first):
        yield (
            "The logits of an image depend on the other images of its batch, as with BatchNorm "
            "without running statistics: every score depends on the composition of the batches."
        )
    else:
        yield (
            "The logits of an image differ from call to call, as with a module in training mode or "
            "dropout that is always on: every score is one random sample. Call .eval() on the "
            "modules that a function calls."
        )


def _check_classes(found: int, expected: int | None) -> None:
    if expected not in (None, found):
        raise UserError(
            f"num_classes is {expected}, but the model returns {found} logits for an image.",
            "Leave num_classes out, or give a model with this number of classes.",
        )


def _same_classes(data: DataSets, num_classes: int) -> list[str]:
    """Give labels the same meaning in all data sets; returns notes about changes."""
    labeled = {source.name: source for source in data.all if source.declared is not None}
    for source in labeled.values():
        source.relabel = ()  # of a model before this one
    declared = {
        name: source.declared
        for name, source in labeled.items()
        if source.declared is not None and source.has_labels
    }
    notes = []
    for name, labels, note in matching_labels(declared, num_classes):
        labeled[name].relabel = labels
        notes.append(note)
    return notes
