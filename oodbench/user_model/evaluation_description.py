"""The description of an evaluation of user models: what `run.json` says of a saved one."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from oodbench.engine.passes.image_sources import ID
from oodbench.engine.recording.planned_work import detector_checksum
from oodbench.engine.recording.provenance import described_method, environment, plugins_of, versions
from oodbench.files import digest
from oodbench.models.registry import HEADS
from oodbench.models.structure.user_network import UserNetwork
from oodbench.planning.plan import Method
from oodbench.plugins.catalog import Catalog
from oodbench.specs import WORDS, EvaluationSpec
from oodbench.storage.run_description import Checksums, RunDescription
from oodbench.storage.same_work import IN_NO_FILE, run_id_of
from oodbench.training.state import tensors_digest
from oodbench.user_model.data_sets import OOD_DATA, DataSets

NAME, VERSION = "evaluate", 1
"""Name and version of the benchmark in the records of every evaluation."""


def description_of(
    *,
    networks: Mapping[str, UserNetwork | None],
    methods: Sequence[Method],
    skipped: Mapping[str, str],
    data: DataSets,
    labeled: bool,
    evaluation: EvaluationSpec,
    metrics: Sequence[str],
    seed: int,
    catalog: Catalog,
    device: torch.device,
) -> RunDescription:
    """The description without results.

    Args:
        networks: name of a model -> its network; None if it could not be evaluated.
        methods: all that were asked for.
        skipped: method -> why it cannot run.
        data: the images, read.
        labeled: whether the ID images have labels.
        evaluation: how scores were evaluated.
        metrics: metrics on request.
        seed: of the evaluation.
        catalog: gives the detectors.
        device: where it ran.
    """
    benchmark: dict[str, Any] = {
        "name": NAME,
        "version": VERSION,
        "title": "Evaluation of user models",
        "id": ID,
        "ood": {"": list(data.ood)},
        "counts": {each.name: each.size for each in data.all if each.size is not None},
        "models": {name: _model(network) for name, network in networks.items()},
        "evaluation": evaluation.model_dump(mode="json"),
        "metrics": list(metrics),
        "unlabeled": not labeled,
    }
    identity = {key: value for key, value in benchmark.items() if key not in WORDS}
    made_with, images = versions(), _digests(data)
    known = catalog.entries["detector"]
    detectors = sorted({method.detector.name for method in methods})
    return RunDescription(
        run_id=run_id_of(identity, images, made_with["oodbench"]),
        written=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command="oodbench.evaluate",
        benchmark=benchmark,
        seeds=[seed],
        methods=[described_method(method) for method in methods if method.name not in skipped],
        skipped=dict(skipped),
        plugins=plugins_of(catalog),
        versions=made_with,
        environment=environment(device),
        checksums=Checksums(
            data=images,
            checkpoints={
                f"{name}/seed{seed}": weights_digest(network.module)
                for name, network in networks.items()
                if network is not None and any(True for _ in network.module.parameters())
            },
            detectors={
                name: detector_checksum(catalog, name) if name in known else IN_NO_FILE
                for name in detectors
            },
        ),
    )


def weights_digest(module: nn.Module) -> str:
    """Digest of names, types, shapes and values of a module's parameters and buffers."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return tensors_digest({name: tensor.detach().cpu() for name, tensor in tensors.items()})


def _digests(data: DataSets) -> dict[str, dict[str, str]]:
    """Data set -> split -> digest of its images, of all that were read to their end."""
    splits = [
        *((name, "test", source) for name, source in data.test.items()),
        (ID, "train", data.fit),
        (ID, "validation", data.validation),
        (OOD_DATA, "validation", data.ood_validation),
    ]
    found: dict[str, dict[str, str]] = {}
    for name, split, source in splits:
        if source is not None and source.fingerprints is not None:
            found.setdefault(name, {})[split] = digest(source.fingerprints.tobytes())
    return found


def head_name(network: UserNetwork | None) -> str:
    """Name of a network's head in records."""
    layers = {info.layer: name for name, info in HEADS.items()}
    head = None if network is None else network.head
    return layers.get(type(head).__name__, "unknown")


def _model(network: UserNetwork | None) -> dict[str, Any]:
    """What is known of a model; the head alone if it could not be evaluated."""
    if network is None:
        return {"head": head_name(None)}
    kind = type(network.module)
    return {
        "network": f"{kind.__module__}.{kind.__qualname__}",
        "head": head_name(network),
        "num_classes": network.num_classes,
        "parameters": sum(each.numel() for each in network.module.parameters()),
        "last_layer": network.head_name or "",
        "taps": list(network.tap_names),
    }
