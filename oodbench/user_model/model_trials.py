"""Models of a call of `oodbench.evaluate`, each tried with all its detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from oodbench.deploy.deployed_model import DeployedModel
from oodbench.engine.method_results import MethodResult
from oodbench.errors import UserError
from oodbench.models.structure.user_network import UserNetwork, model_name
from oodbench.models.user_classifier import Scaling, UserClassifier
from oodbench.planning.plan import Method
from oodbench.plugins.catalog import Catalog
from oodbench.progress import Reporter
from oodbench.user_benchmark.defaults import reference_detector
from oodbench.user_model.data_sets import DataSets
from oodbench.user_model.fitted_methods import deployed_model
from oodbench.user_model.model_adaptation import taken_over
from oodbench.user_model.requested_detectors import Requested, detectors_of, methods_of
from oodbench.user_model.session import NoDetectorError, Session

_READS_LAYERS = frozenset({"taps", "tap_maps", "layers"})
"""Needs of detectors for which a model is also tried on a whole batch."""


@dataclass(frozen=True, slots=True)
class GivenModel:
    """A model as it was given.

    Attributes:
        name: its name, if several are given.
        module: the model.
        device: where it runs.
        scaling: mean and standard deviation of its input; None if images come as it takes them.
        options: its other arguments, such as "taps", by name.
    """

    name: str
    module: nn.Module
    device: torch.device
    scaling: Scaling | None
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tried:
    """A model that was evaluated.

    Attributes:
        name: name of the model in records.
        session: evaluated its detectors.
        classifier: the adapted model.
        notes: remarks on the model.
        model: as fitted detectors keep it.
    """

    name: str
    session: Session
    classifier: UserClassifier
    notes: Sequence[str]
    model: DeployedModel

    @property
    def network(self) -> UserNetwork:
        """The adapted network."""
        assert isinstance(self.classifier.network, UserNetwork)
        return self.classifier.network

    @property
    def errors(self) -> dict[str, Exception]:
        """Label -> error of a method that failed."""
        results = self.session.results
        return {label: each.error for label, each in results.items() if each.error is not None}

    @property
    def good(self) -> dict[str, MethodResult]:
        """Label -> result of a method that did not fail."""
        results = self.session.results
        return {label: each for label, each in results.items() if each.error is None}


@dataclass(frozen=True, slots=True)
class Lost:
    """One of several models that could not be evaluated.

    Attributes:
        name: name of the model.
        methods: those that did not run.
        error: why.
    """

    name: str
    methods: Sequence[Method]
    error: UserError

    @property
    def skipped(self) -> Mapping[str, str]:
        """Method -> why it cannot run, if that is why the model was not evaluated."""
        return self.error.skipped if isinstance(self.error, NoDetectorError) else {}


@dataclass(frozen=True, slots=True)
class Trials:
    """What the trials of all models of a call have in common.

    Attributes:
        asked: the detectors.
        catalog: gives them.
        data: all data sets, opened.
        num_classes: C, if the user gave it.
        several: whether models were given by name, which then begins the names of methods.
        seed: of the call.
        costs: measure the costs of each detector.
        stop_early: stop after the first step in which a detector failed.
        say: takes the progress.
    """

    asked: Sequence[Requested]
    catalog: Catalog
    data: DataSets
    num_classes: int | None
    several: bool
    seed: int
    costs: bool
    stop_early: bool
    say: Reporter

    def shown_name(self, model: GivenModel) -> str:
        """Name of a model in records and messages."""
        return model.name if self.several else model_name(model.module)

    def methods(self, model: GivenModel) -> list[Method]:
        """The methods of a model."""
        return methods_of(self.asked, self.shown_name(model), prefix=self.prefix(model.name))

    def prefix(self, name: str) -> str:
        """What the names of the methods of a model begin with."""
        return f"{name}+" if self.several else ""

    def heading(self, name: str) -> str:
        """What notes on a model begin with."""
        return f"{name}: " if self.several else ""

    def tried(self, model: GivenModel) -> Tried:
        """Evaluate the detectors on a model, which is as it was afterwards.

        Raises:
            UserError: the model cannot be evaluated, or no detector can run on it.
        """
        with taken_over(
            model.module,
            self.data,
            model.options,
            self.num_classes,
            model.scaling,
            model.device,
            reads_layers=any(each.info.needs & _READS_LAYERS for each in self.asked),
        ) as own:
            session = Session(
                own.classifier,
                self.methods(model),
                detectors_of(self.asked, self.catalog, prefix=self.prefix(model.name)),
                self.data,
                own.num_classes,
                attackable=model.scaling is not None,
                seed=self.seed,
                report=self.say.detail,
            )
            session.run(stop_early=self.stop_early)
            if self.costs:
                session.measure(self.catalog.load_detector(reference_detector()))
            deployed = deployed_model(model.module, own.classifier, model.device, self.data)
            return Tried(self.shown_name(model), session, own.classifier, own.notes, deployed)
