"""Reads a fitted detector from a folder, and refuses what it was not fitted on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from oodbench.deploy.artifact.artifact_description import (
    DETECTOR,
    MODEL,
    NAME,
    SCHEMA_VERSION,
    STATE_VERSION,
    ArtifactDescription,
    ModelPart,
    NormalizationPart,
)
from oodbench.deploy.artifact.artifact_writing import SEEN, STATE
from oodbench.deploy.artifact.described_model import described_classifier
from oodbench.deploy.artifact.detector_source import detector_source
from oodbench.deploy.artifact.network_structure import network_with
from oodbench.deploy.deployed_model import DeployedModel, Description, Preparation
from oodbench.deploy.fitted_detector import FittedDetector
from oodbench.deploy.model_arguments import device_for, module_of, normalization_of
from oodbench.deploy.model_identity import InputKind, ModelIdentity
from oodbench.detector import Detector
from oodbench.engine.device import find_device
from oodbench.errors import UserError, sentence
from oodbench.files import expanded, parsed_json
from oodbench.metrics.thresholds import Threshold
from oodbench.models.classifier import Classifier
from oodbench.models.user_classifier import UserClassifier, type_of
from oodbench.plugins.catalog import Catalog
from oodbench.plugins.content_folders import Plugin, checked_plugins
from oodbench.plugins.declarations import BrokenDetectorError
from oodbench.process import prepare_process
from oodbench.storage.description import is_sealed
from oodbench.storage.fitted_state.state_reading import detector_of

_LARGEST = 1 << 28
"""Bytes of the largest `artifact.json` that is read."""

_ANOTHER = "Fit the detector again on this model, or give the model that it was fitted on."
_DAMAGED = "Copy the whole folder again from where it was saved, or fit the detector again."


def load_fitted(
    folder: str | Path,
    model: Any = None,
    plugins: Plugin | Sequence[Plugin] = (),
    *,
    normalization: Any = None,
    output: Callable[[Any], Any] | None = None,
    inputs: Callable[[Tensor], Any] | None = None,
    features: Callable[[Tensor], Any] | None = None,
    device: str | torch.device = "auto",
    network: str | None = None,
) -> FittedDetector:
    """A fitted detector that `FittedDetector.save` wrote; its scores are the same, bit for bit.

    The folder is not trusted: no code is in it, and only classes of oodbench and of the detector's
    own file are made. The detector and the model are those that it was fitted with, or the call is
    refused with what differs. On another kind of device, scores differ by rounding.

    Args:
        folder: of the artifact.
        model: that the detector was fitted on, as it was given then: the same modules with the same
            weights. None if the artifact has a model of a benchmark.
        plugins: folders of detectors besides the built-in ones, and classes.
        normalization: compared with that of the artifact, if it is given.
        output: the function that was given as `output`, if one was.
        inputs: the function that was given as `inputs`, if one was.
        features: the function that was given as `features`, if one was.
        device: as of `oodbench.fit`.
        network: for a model of a benchmark whose network is your own ("module:callable" or
            "FILE.py:callable"): its name, which allows that its code runs.

    Raises:
        UserError: there is no artifact; a file is damaged, missing, or of another artifact; a newer
            oodbench wrote it; the detector is unknown or its file has another text; or the model
            differs in modules, weights, logits, normalization or number of classes.
    """
    prepare_process()
    place = expanded(folder)
    description = _description(place)
    contents = _checked_files(place, description)
    cls = _detector_class(place, description, tuple(checked_plugins("plugins", plugins)))
    part = description.model
    functions = {"output": output, "inputs": inputs, "features": features}
    _check_normalization(part, normalization)
    if model is None:
        deployed = _described(place, part, contents, device, network)
    else:
        deployed = _given(part, model, functions, device)
    try:
        tensors = _tensors(place / DETECTOR, contents[DETECTOR])
        state = json.loads(_metadata(place / DETECTOR)[STATE])
        seen = tensors.pop(SEEN, None)
        detector = detector_of(cls, state, tensors, deployed.device)
    except UserError as error:
        error.say_first(str(place))
        raise
    except Exception as error:  # whatever a state that was not written by oodbench leads to
        raise UserError(
            f"{place / DETECTOR} holds no state of detector '{cls.info.name}': "
            f"{type(error).__name__}: {_line(error)}.",
            _DAMAGED,
        ) from error
    fitted = FittedDetector(
        description.method,
        detector,
        deployed,
        fitted_on=None if seen is None else seen.numpy().view(np.uint64),
        uses_validation=description.detector.uses_validation,
    )
    if description.threshold is not None:
        found = description.threshold
        value = -np.inf if found.value is None else found.value
        fitted.threshold = Threshold(value, found.accept, found.images, found.guaranteed)
        fitted.threshold_set_on = found.set_on
    return fitted


# --- files ---------------------------------------------------------------------------------------


def _description(folder: Path) -> ArtifactDescription:
    path = folder / NAME
    if not path.is_file():
        what = "is not a folder" if not folder.is_dir() else f"has no file {NAME}"
        raise UserError(
            f"{folder} is no saved detector: it {what}.",
            "Give the folder that FittedDetector.save or `oodbench fit` wrote.",
        )
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{path} is too large for the description of a detector.", _DAMAGED)
    try:
        content = parsed_json(path.read_bytes())
        version = content["schema_version"]
        newer = isinstance(version, int) and version > SCHEMA_VERSION
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {_line(error)}.", _DAMAGED) from error
    if newer:
        by = content.get("oodbench")
        raise UserError(
            f"{path} was written by a newer oodbench{f' ({by})' if isinstance(by, str) else ''}.",
            "Install that version, or fit the detector again.",
        )
    try:
        description = ArtifactDescription.read(path)
    except UserError as error:
        raise UserError(error.message, _DAMAGED) from error
    if not is_sealed(path):
        raise UserError(
            f"{path} is not what this version writes: its values have no digest, or another one.",
            _DAMAGED,
        )
    return description


def _checked_files(folder: Path, description: ArtifactDescription) -> dict[str, bytes]:
    """Name -> content of the files that the description has checksums of."""
    expected = {DETECTOR} | ({MODEL} if description.model.described else set())
    if description.files.keys() != expected:
        raise UserError(f"{folder / NAME} names other files than an artifact has.", _DAMAGED)
    contents = {}
    for name, checksum in description.files.items():
        path = folder / name
        try:
            contents[name] = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path} cannot be read: {error.strerror or error}.", _DAMAGED
            ) from error
        if hashlib.sha256(contents[name]).hexdigest() != checksum:
            raise UserError(
                f"{path} is not the file that {NAME} was written with: its checksum differs.",
                _DAMAGED,
            )
    return contents


def _tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        return load(content)
    except Exception as error:  # safetensors has errors of its own
        raise UserError(f"{path} is no file of tensors: {_line(error)}.", _DAMAGED) from error


def _metadata(path: Path) -> Mapping[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")


# --- the detector --------------------------------------------------------------------------------


def _detector_class(
    folder: Path, description: ArtifactDescription, plugins: tuple[Plugin, ...]
) -> type[Detector]:
    part = description.detector
    catalog = Catalog(plugins)
    if part.name not in catalog.entries["detector"]:
        raise UserError(
            f"{folder} holds detector '{part.name}', which is not among the detectors here.",
            "Give the folder of its file, or its class, as plugins=...",
        )
    try:
        cls = catalog.entry("detector", part.name).load()
    except BrokenDetectorError as error:
        raise UserError(sentence(f"Detector '{part.name}' is broken: {error}")) from error
    if part.state_version != STATE_VERSION:
        raise UserError(
            f"{folder} was written by oodbench {description.oodbench}, which kept fitted values in "
            "another form.",
            "Fit the detector again, or install that version.",
        )
    if part.source != detector_source(cls):
        raise UserError(
            f"The file of detector '{part.name}' has another text than when it was fitted with "
            f"oodbench {description.oodbench}.",
            "Fit the detector again, or use the file that it was fitted with.",
        )
    return cls


# --- the model -----------------------------------------------------------------------------------


def _check_normalization(part: ModelPart, given: Any) -> None:
    scaling = normalization_of(given)
    if scaling is None:
        return
    kept = part.normalization
    if kept is None or [list(values) for values in scaling] != [kept.mean, kept.std]:
        raise UserError(
            f"normalization is {_shown(scaling)}, and the detector was fitted with {_said(kept)}.",
            "Leave it out: the artifact holds it.",
        )


def _said(kept: NormalizationPart | None) -> str:
    return "none: images came normalized" if kept is None else _shown((kept.mean, kept.std))


def _shown(scaling: Any) -> str:
    mean, std = ([round(value, 6) for value in values] for values in scaling)
    return f"mean {mean}, std {std}"


def _identity(part: ModelPart) -> ModelIdentity:
    probe = None if part.probe is None else tuple(map(tuple, part.probe))
    return ModelIdentity(part.name, part.modules, part.weights, probe, part.tolerance)


def _given(
    part: ModelPart, model: Any, functions: Mapping[str, Any], device: str | torch.device
) -> DeployedModel:
    """A user's model, which must be the one that the detector was fitted on."""
    module = model if isinstance(model, Classifier) else module_of(model)
    place = device_for(device, module)
    scaling = part.normalization
    classifier: Classifier
    if isinstance(module, Classifier):
        classifier = module
    else:
        structure = part.structure
        assert structure is not None
        classifier = UserClassifier(
            network_with(module, structure, part.num_classes, functions),
            None if scaling is None else (scaling.mean, scaling.std),
            dtype=type_of(module),
            device=place,
            channels_last=part.channels_last,
        )
    deployed = _deployed(part, module, classifier, place, shared=True)
    _check_identity(deployed)
    return deployed


def _described(
    folder: Path,
    part: ModelPart,
    contents: Mapping[str, bytes],
    device: str | torch.device,
    network: str | None,
) -> DeployedModel:
    """The model of a benchmark that is in the artifact."""
    if part.described is None:
        raise UserError(
            f"{folder} holds a detector without its model, {part.name}.",
            "Give the model that it was fitted on: load_fitted(folder, model).",
        )
    weights = _tensors(folder / MODEL, contents[MODEL])
    with torch.random.fork_rng(devices=[]):
        classifier = described_classifier(part, weights, network)
    place = find_device(str(device))
    classifier = classifier.to(place)
    deployed = _deployed(part, classifier, classifier, place, shared=False)
    _check_identity(deployed)
    return deployed


def _deployed(
    part: ModelPart, module: nn.Module, classifier: Classifier, place: torch.device, *, shared: bool
) -> DeployedModel:
    inputs, prepared, described = part.inputs, part.preparation, part.described
    return DeployedModel(
        module,
        classifier,
        place,
        _identity(part),
        InputKind(tuple(inputs.shape), inputs.dtype, inputs.largest, inputs.in_unit_range),
        tuple(part.classes),
        None
        if described is None
        else Description(described.model_spec, part.num_classes, described.in_channels),
        None
        if prepared is None
        else Preparation((prepared.shape[0], prepared.shape[1], prepared.shape[2]), prepared.spec),
        shared=shared,
    )


def _check_identity(deployed: DeployedModel) -> None:
    try:
        now = deployed.identified()
    except UserError as error:
        error.say_first("The model is not the one that the detector was fitted on")
        raise
    differences = deployed.identity.differences(now)
    if differences:
        raise UserError(
            f"The model is not the one that the detector was fitted on: it {differences[0]}.",
            _ANOTHER,
        )
