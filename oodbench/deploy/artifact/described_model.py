"""A classifier of a benchmark, made again from its description and stored weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from oodbench import models
from oodbench.deploy.artifact.artifact_description import DescribedPart, ModelPart
from oodbench.deploy.artifact.network_structure import network_with
from oodbench.deploy.deployed_model import Description
from oodbench.errors import UserError
from oodbench.models import callables
from oodbench.models.adapted_network import AdaptedNetwork
from oodbench.models.classifier import Classifier, Network
from oodbench.models.published_weights import library_networks, timm_networks
from oodbench.models.published_weights.library_access import installed
from oodbench.models.registry import is_callable_name, library_of
from oodbench.specs import ModelSpec

_INSIDE = "network.module."
"""What the names of weights begin with in a classifier of a network that was adapted."""


def check_storable(spec: ModelSpec) -> None:
    """Check that an artifact can hold a model of a benchmark.

    Raises:
        UserError: it is an ensemble or a vision-language model.
    """
    if spec.ensemble:
        raise UserError(
            "A detector on an ensemble of a benchmark cannot be saved: an artifact holds a single "
            "network.",
            "Fit it with oodbench.fit on your own oodbench.models.Ensemble, and give that model to "
            "load_fitted.",
        )
    if spec.has_language:
        raise UserError(
            f"A detector on the vision-language model '{spec.network}' cannot be saved: its text "
            "encoder is not part of an artifact.",
            "Fit it with oodbench.fit on your own oodbench.models.VisionLanguageClassifier, and "
            "give that model to load_fitted.",
        )


def description_part(
    description: Description, classifier: Classifier, weights: Mapping[str, Tensor]
) -> DescribedPart:
    """What an artifact keeps of a description.

    Args:
        description: of the classifier.
        classifier: made from it.
        weights: its parameters and buffers, which are stored.

    Raises:
        UserError: the model cannot be made from it without the library's own files.
    """
    spec = description.spec
    check_storable(spec)
    return DescribedPart(
        spec=spec.model_dump(mode="json"),
        in_channels=description.in_channels,
        strides={
            name: list(tensor.stride())
            for name, tensor in weights.items()
            if tensor.stride() != torch.empty(tensor.shape, device="meta").stride()
            and _is_dense(tensor.shape, tensor.stride())
        },
        config=_config(classifier) if library_of(spec.network) == "hf" else None,
    )


def _ordered(tensor: Tensor, strides: Sequence[int] | None) -> Tensor:
    """A copy with these strides, or in the order of its axes.

    A kernel of one channel, or of one pixel, has several strides for one order in memory; torch
    looks at them to choose how it computes gradients.
    """
    if strides is None or not _is_dense(tensor.shape, strides):
        return tensor.clone()
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether each element of such a tensor has a place of its own, with no gaps."""
    if len(shape) != len(strides) or 0 in shape:
        return False
    inner = 1
    for step, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and step != inner:
            return False
        inner *= size
    return True


def _config(classifier: Classifier) -> dict[str, Any]:
    """The configuration of a network of transformers."""
    network = classifier.network
    assert isinstance(network, AdaptedNetwork)
    config: Any = network.module.config
    found: dict[str, Any] = config.to_dict()
    return found


def described_classifier(
    part: ModelPart, weights: Mapping[str, Tensor], network: str | None
) -> Classifier:
    """A classifier with stored weights, in evaluation mode, on the CPU.

    Args:
        part: of an artifact, with `described`.
        weights: of `model.safetensors`.
        network: name of the user's own network, repeated to allow that its code runs.

    Raises:
        UserError: the network is the user's own and was not named, cannot be made, or does not fit
            the weights.
    """
    described, scaling = part.described, part.normalization
    assert described is not None
    spec = described.model_spec
    made = _network(spec, part, described, weights, _allowed(spec, network))
    own = made.module if isinstance(made, AdaptedNetwork) else None
    if isinstance(own, Network) and not any(name.startswith("network.module.") for name in weights):
        made = own  # a checkpoint's network that names its feature layers is not adapted
    if part.structure is not None:
        module = made.module if isinstance(made, AdaptedNetwork) else made
        made = network_with(module, part.structure, part.num_classes, {})
    assert isinstance(made, Network)
    assert scaling is not None
    classifier = Classifier(made, scaling.mean, scaling.std).eval()
    ordered = {name: _ordered(each, described.strides.get(name)) for name, each in weights.items()}
    try:
        classifier.load_state_dict(ordered, assign=True)
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise UserError(
            f"The weights of the artifact do not fit its network '{spec.network}': {line[:200]}.",
            "The network's code, or the library that it is from, is another version.",
        ) from error
    for parameter in classifier.parameters():
        parameter.requires_grad_(False)
    return classifier


def _allowed(spec: ModelSpec, network: str | None) -> str:
    """The name of the network; a user's own runs code, which the user has to allow."""
    if not _is_own(spec.network):
        return spec.network
    if network is None:
        raise UserError(
            f"The artifact's model is made by code of your own, '{spec.network}', which is not in "
            "the artifact.",
            f"Name it to allow that it runs: network='{spec.network}', on the command line "
            f"--model {spec.network}; or give the model.",
        )
    return network


def _is_own(network: str) -> bool:
    return is_callable_name(network) and library_of(network) is None


def _as_it_is(name: str, spec: ModelSpec, weights: Mapping[str, Tensor]) -> nn.Module | None:
    """The network that the user's callable returns if the weights are of it, not of a new head."""
    module = callables.built(name, spec.network_options)
    inside = {key.removeprefix(_INSIDE): value.shape for key, value in weights.items()}
    own = {key: value.shape for key, value in module.state_dict().items()}
    return module if own.items() <= inside.items() else None


def _network(
    spec: ModelSpec,
    part: ModelPart,
    described: DescribedPart,
    weights: Mapping[str, Tensor],
    name: str,
) -> nn.Module:
    if _is_own(name) and spec.training is None and spec.head == "softmax":
        module = _as_it_is(name, spec, weights)
        if module is not None:
            return module
    if spec.weights is None or library_of(name) is None:
        return models.create(
            name,
            part.num_classes,
            spec.head,
            described.in_channels,
            taps=spec.taps,
            options=spec.network_options,
            loss_options=spec.loss_options,
        )
    library, _, inner = name.partition(":")
    if library == "torchvision":
        return library_networks.published(name, spec.weights, offline=True).module
    if library == "timm":
        return timm_networks.timm_network(inner, num_classes=part.num_classes)
    transformers = installed("transformers", name)
    config = transformers.AutoConfig.for_model(**(described.config or {}))
    found: nn.Module = transformers.AutoModelForImageClassification.from_config(config)
    return found
