"""Writes a fitted detector to a folder: JSON and safetensors, no pickle and no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from oodbench.deploy.artifact.artifact_description import (
    DETECTOR,
    MODEL,
    NAME,
    SCHEMA_VERSION,
    STATE_VERSION,
    ArtifactDescription,
    DescribedPart,
    DetectorPart,
    InputPart,
    ModelPart,
    NormalizationPart,
    PreparationPart,
    ThresholdPart,
)
from oodbench.deploy.artifact.described_model import description_part
from oodbench.deploy.artifact.detector_source import detector_source
from oodbench.deploy.artifact.network_structure import structure_part
from oodbench.deploy.deployed_model import DeployedModel, check_same
from oodbench.detector import Detector
from oodbench.engine.method_results import chosen_parameters
from oodbench.errors import UserError, listed
from oodbench.files import TEMPORARY_PREFIX, explained, make_folder, unfinished_folder, write_atomic
from oodbench.metrics.thresholds import Threshold
from oodbench.models.user_classifier import UserClassifier
from oodbench.storage.fitted_state.detector_state import stored_state
from oodbench.version import __version__

STATE = "state"
"""Entry of the metadata of `detector.safetensors`: the state as JSON."""

SEEN = "validation images"
"""Name of the fingerprints of the validation images in `detector.safetensors`."""


def write_artifact(
    folder: Path,
    method: str,
    detector: Detector,
    model: DeployedModel,
    *,
    threshold: Threshold | None,
    set_on: str,
    fitted_on: NDArray[np.uint64] | None,
    uses_validation: bool,
) -> Path:
    """Write a fitted detector to a folder.

    An artifact that the folder has stays until the new files are on the disk. `artifact.json` comes
    last: until then, the folder is no artifact.

    Args:
        folder: a new or an empty one, or one with an artifact.
        method: name of the method.
        detector: fitted.
        model: that it was fitted on.
        threshold: None if none is set.
        set_on: what it was set on, in words.
        fitted_on: as of `FittedDetector`.
        uses_validation: as of `FittedDetector`.

    Raises:
        UserError: as of `FittedDetector.save`.
    """
    check_folder(folder)
    state, tensors = stored_state(detector)
    if fitted_on is not None:
        tensors[SEEN] = torch.from_numpy(fitted_on.view(np.int64).copy())
    with model.ready() as classifier:
        now = type(model.identity).of(model.module, classifier, model.inputs)
        check_same(model.identity, now, method)
        contents = {DETECTOR: save(tensors, {STATE: json.dumps(state)})}
        if model.description is not None:
            weights = {n: t.detach().cpu().contiguous().clone() for n, t in _weights(model).items()}
            contents[MODEL] = save(weights)
        part = _model_part(model)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    description = ArtifactDescription(
        schema_version=SCHEMA_VERSION,
        oodbench=__version__,
        torch=torch.__version__,
        method=method,
        detector=DetectorPart(
            name=detector.info.name,
            parameters=chosen_parameters(detector),
            source=detector_source(type(detector)),
            state_version=STATE_VERSION,
            uses_validation=uses_validation,
        ),
        threshold=None
        if threshold is None
        else ThresholdPart(
            value=None if np.isneginf(threshold.value) else threshold.value,
            accept=threshold.accept,
            images=threshold.images,
            guaranteed=threshold.guaranteed,
            set_on=set_on,
        ),
        files=digests,
        model=part,
    )
    make_folder(folder)
    with explained(folder), unfinished_folder(folder / NAME) as new:
        for name, content in contents.items():
            write_atomic(new / name, content)
        description.write(new / NAME)
        (folder / NAME).unlink(missing_ok=True)
        (folder / MODEL).unlink(missing_ok=True)
        for name in (*contents, NAME):
            (new / name).replace(folder / name)
    return folder


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds other files than an artifact.

    Raises:
        UserError: it does.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file.", "Name a new folder.")
    found = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
    # Unfinished files of a killed process do not count.
    known = (NAME, DETECTOR, MODEL)
    others = [each for each in found if each not in known and not each.startswith(TEMPORARY_PREFIX)]
    if others:
        raise UserError(
            f"The folder {folder} holds other files: {listed(others)}.", "Name a new folder."
        )


def _weights(model: DeployedModel) -> Mapping[str, Tensor]:
    weights: Mapping[str, Tensor] = model.module.state_dict()
    return weights


def _model_part(model: DeployedModel) -> ModelPart:
    classifier, identity = model.classifier, model.identity
    scaling: Any = None
    if not isinstance(classifier, UserClassifier):
        scaling = classifier.mean.flatten().tolist(), classifier.std.flatten().tolist()
    elif classifier.normalization is not None:
        scaling = tuple(map(list, classifier.normalization))
    prepared, described = model.preparation, model.description
    return ModelPart(
        name=identity.name,
        num_classes=model.num_classes,
        classes=list(model.classes),
        normalization=None
        if scaling is None
        else NormalizationPart(mean=scaling[0], std=scaling[1]),
        channels_last=isinstance(classifier, UserClassifier) and classifier.channels_last,
        device="cuda" if model.device.type == "cuda" else "cpu",
        inputs=InputPart(**{**asdict(model.inputs), "shape": list(model.inputs.shape)}),
        preparation=None
        if prepared is None
        else PreparationPart(
            shape=list(prepared.shape),
            resize=None if prepared.resize is None else prepared.resize.model_dump(),
        ),
        structure=structure_part(classifier.network),
        described=None if described is None else _described(model),
        probe=None if identity.probe is None else [list(row) for row in identity.probe],
        tolerance=identity.tolerance,
        modules=dict(identity.modules),
        weights=dict(identity.weights),
    )


def _described(model: DeployedModel) -> DescribedPart:
    assert model.description is not None
    return description_part(model.description, model.classifier, _weights(model))
