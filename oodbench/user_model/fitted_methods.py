"""Fitted detectors of a session, with the user's model."""

from __future__ import annotations

import torch
from torch import nn

from oodbench.deploy.deployed_model import DeployedModel, found_identity
from oodbench.deploy.fitted_detector import FittedDetector
from oodbench.engine.passes.image_sources import ID
from oodbench.models.user_classifier import UserClassifier
from oodbench.user_model.data_sets import DataSets
from oodbench.user_model.session import Session


def deployed_model(
    module: nn.Module, classifier: UserClassifier, device: torch.device, data: DataSets
) -> DeployedModel:
    """A user's model as fitted detectors keep it; the model is ready to run.

    Args:
        module: as it was given.
        classifier: runs it.
        device: where it runs.
        data: that detectors are fitted on.
    """
    images, _ = data.test[ID].first()
    unit = classifier.normalization is not None
    identity, inputs = found_identity(module, classifier, images, in_unit_range=unit)
    declared = next((s.declared for s in data.all if s.declared is not None), None)
    names = () if declared is None or declared.wrapper else declared.names
    count = getattr(classifier.network, "num_classes", None)
    return DeployedModel(
        module,
        classifier,
        device,
        identity,
        inputs,
        classes=names if len(names) == count else (),
    )


def fitted_method(
    label: str, session: Session, model: DeployedModel, data: DataSets
) -> FittedDetector:
    """The fitted detector of a method that did not fail.

    Args:
        label: name of the method.
        session: has fitted it.
        model: that it was fitted on.
        data: that it was fitted on.
    """
    method, result = session.methods[label], session.results[label]
    validated = method.tuned_on != "none" or "validation" in method.fitted_on().values()
    seen = None if data.validation is None else data.validation.fingerprints
    return FittedDetector(
        label,
        next(iter(result.detectors.values())),
        model,
        fitted_on=seen if validated else None,
        uses_validation=validated,
        notes=result.notes,
    )
