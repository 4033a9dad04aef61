"""Classifiers with published weights: of a checkpoint, or of the library of their network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from oodbench import models
from oodbench.data.store.checkpoint_files import checkpoint_file, torch_hub_file
from oodbench.data.store.disk import file_digest
from oodbench.data.store.download import offline
from oodbench.errors import UserError, counted
from oodbench.files import digest
from oodbench.models import callables
from oodbench.models.adapted_network import AdaptedNetwork
from oodbench.models.classifier import Classifier, Network
from oodbench.models.ensemble import Ensemble
from oodbench.models.published_weights import library_networks, timm_networks
from oodbench.models.published_weights.library_access import first_line
from oodbench.models.published_weights.preprocessing import Preprocessing
from oodbench.models.published_weights.weight_loading import load_weights
from oodbench.models.published_weights.weight_matching import match
from oodbench.models.published_weights.weights_file import FileWeights, read_weights
from oodbench.models.registry import NETWORKS, is_callable_name, library_of
from oodbench.models.structure.analysis import Analysis, analyze
from oodbench.models.structure.forward_pass import NotFiniteError
from oodbench.progress import Reporter
from oodbench.specs import OWN, ModelSpec
from oodbench.training.zero_shot_models import zero_shot_model

_FEW = 4
"""Images that a network is run on to find its last layer and its feature layers."""


@dataclass(frozen=True, slots=True)
class Publication:
    """Where the weights of a classifier come from, and what they expect of images.

    Attributes:
        source: name of the file, or of the library's weights.
        sha256: of the file; of an ensemble, of those of its files; "" if the library loaded it.
        taken: what was taken of the file, where it holds more than weights.
        preprocessing: of the images.
        warning: how the images of the benchmark differ; "" if they do not.
    """

    source: str
    sha256: str
    taken: tuple[str, ...]
    preprocessing: Preprocessing
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Images:
    """The ID images that a classifier is for.

    Attributes:
        dataset: name of the ID data set.
        shape: channels, height, width.
        num_classes: C.
        class_names: as the manifest names them; empty if it does not.
    """

    dataset: str
    shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...] = ()


def published_classifier(
    spec: ModelSpec,
    seed: int,
    images: Images,
    *,
    benchmark: Path | None,
    root: Path,
    device: torch.device | str = "cpu",
    say: Reporter,
) -> tuple[Classifier, Publication]:
    """A classifier with its published weights, on the CPU, in evaluation mode.

    Args:
        spec: with `checkpoint` or `weights`.
        seed: which of its checkpoints, from 0; an ensemble has all of them.
        images: that it is for.
        benchmark: file of the benchmark, which paths are relative to.
        root: the data root.
        device: where text features are computed.
        say: progress reporter.

    Raises:
        UserError: a file is missing or cannot be downloaded, read or trusted; its weights do not
            fit the network, the head or the number of classes; or their normalization is unknown.
    """
    network: nn.Module
    if spec.has_language:
        say.detail(f"weights and text features of {spec.network}")
        network, expected, notes = zero_shot_model(
            spec,
            images.class_names,
            images.dataset,
            images.num_classes,
            benchmark=benchmark,
            root=root,
            device=device,
        )
        if spec.normalization is not None:
            expected = _as_specified(spec, images, expected)
        publication = Publication(spec.network, "", (), expected, "; ".join(notes))
    elif spec.ensemble:
        network, publication = _with_members(spec, images, benchmark=benchmark, root=root, say=say)
        expected = publication.preprocessing
    elif spec.weights is None:
        file = checkpoint_file(spec.checkpoint[seed], benchmark, root, say)
        say.detail(f"reading {file.name}")
        found = read_weights(file, spec.checkpoint[seed].entry)
        network, taken, expected = _with_checkpoint(spec, found, images)
        publication = Publication(file.name, file_digest(file), taken, expected)
    else:
        network, publication = _with_weights(spec, spec.weights, images, root, say)
        expected = publication.preprocessing
    order = torch.channels_last
    if not isinstance(network, Network) or not network.names_taps:
        analysis = _analyzed(spec, network, expected, images)
        network = analysis.network
        order = torch.channels_last if analysis.channels_last else torch.contiguous_format
        _check_classes(spec, analysis.num_classes, publication.source, images)
    classifier = Classifier(network, expected.mean, expected.std).eval()
    warnings = [publication.warning, expected.other_size(images.shape) or ""]
    publication = replace(publication, warning="; ".join(filter(None, warnings)))
    return classifier.to(memory_format=order), publication


def _with_members(
    spec: ModelSpec, images: Images, *, benchmark: Path | None, root: Path, say: Reporter
) -> tuple[nn.Module, Publication]:
    """The ensemble of all checkpoints.

    Raises:
        UserError: as `published_classifier`, or the members were normalized in different ways.
    """
    single = spec.model_copy(update={"ensemble": False})
    networks, found = [], []
    for number in range(len(spec.checkpoint)):
        member, publication = published_classifier(
            single, number, images, benchmark=benchmark, root=root, say=say
        )
        networks.append(member.network)
        found.append(publication)
    first = found[0]
    for each in found[1:]:
        if each.preprocessing != first.preprocessing:
            raise UserError(
                f"ensemble: {first.source} and {each.source} expect images that are prepared in "
                "different ways.",
                "Give members that were trained on images of one normalization, or write the "
                "'normalization' of all.",
            )
    names = ", ".join(each.source for each in found)
    taken = tuple(dict.fromkeys(text for each in found for text in each.taken))
    checksum = digest(*(each.sha256 for each in found))
    return Ensemble(networks), replace(first, source=names, sha256=checksum, taken=taken)


def _unnamed(spec: ModelSpec) -> bool:
    """Whether a network of the user's names no taps: they are found then."""
    return spec.network not in NETWORKS and not spec.taps


# --- weights of a checkpoint ----------------------------------------------------------------------


def _with_checkpoint(
    spec: ModelSpec, found: FileWeights, images: Images
) -> tuple[nn.Module, tuple[str, ...], Preprocessing]:
    """The network with the weights of a file, what was taken, and what it expects of images."""
    network = _as_it_is(spec, found) or models.create(
        spec.network,
        images.num_classes,
        spec.head,
        images.shape[0],
        taps=spec.taps,
        options=spec.network_options,
        loss_options=spec.loss_options,
    )
    taken = load_weights(network, found, spec.network, head=spec.head)
    expected = _preprocessing(spec, network, found.tensors, images)
    if isinstance(network, AdaptedNetwork) and (
        library_of(spec.network) or _unnamed(spec) or network.head_name is None
    ):
        return network.module, taken, expected
    return network, taken, expected


def _as_it_is(spec: ModelSpec, found: FileWeights) -> AdaptedNetwork | None:
    """A network of the user's that the weights of a file fit without a new last layer, or None."""
    if not is_callable_name(spec.network) or library_of(spec.network) or spec.head != "softmax":
        return None
    module = callables.built(spec.network, spec.network_options)
    own, tensors = module.state_dict(), match(found.tensors, module.state_dict()).tensors
    fits = own.keys() == tensors.keys() and all(
        each.shape == own[name].shape for name, each in tensors.items()
    )
    return AdaptedNetwork(module, spec.taps, None) if fits else None


def _preprocessing(
    spec: ModelSpec, network: Network, tensors: Mapping[str, Tensor], images: Images
) -> Preprocessing:
    """The normalization of a checkpoint: the spec's, the file's, or that of the network."""
    if spec.normalization is not None:
        return _as_specified(spec, images)
    mean, std = tensors.get("mean"), tensors.get("std")  # of a checkpoint of oodbench
    if mean is not None and std is not None and mean.numel() == std.numel() == images.shape[0]:
        return Preprocessing(tuple(mean.flatten().tolist()), tuple(std.flatten().tolist()))
    info = NETWORKS.get(spec.network)
    if info is not None and info.normalization is not None:
        return Preprocessing(*info.normalization)
    if library_of(spec.network) == "timm":
        assert isinstance(network, AdaptedNetwork)
        return timm_networks.timm_preprocessing(network.module)
    return _given(spec, images)


def _given(spec: ModelSpec, images: Images) -> Preprocessing:
    """The normalization that the spec gives, for weights that do not say it."""
    if spec.normalization is None:
        raise UserError(
            f"Network '{spec.network}': a checkpoint does not say how its images were normalized.",
            "Give the values of its training, per channel for pixels in [0, 1]: "
            "normalization: {mean: [...], std: [...]}.",
        )
    return _as_specified(spec, images)


def _as_specified(
    spec: ModelSpec, images: Images, of: Preprocessing | None = None
) -> Preprocessing:
    assert spec.normalization is not None
    mean, std = spec.normalization.mean, spec.normalization.std
    if len(mean) != images.shape[0]:
        raise UserError(
            f"The normalization has {counted(len(mean), 'channel')}, the images of "
            f"'{images.dataset}' have {images.shape[0]}.",
            "Correct 'normalization' of the model in the benchmark.",
        )
    return Preprocessing(mean, std) if of is None else replace(of, mean=mean, std=std)


# --- weights of a library -------------------------------------------------------------------------


def _with_weights(
    spec: ModelSpec, weights: str, images: Images, root: Path, say: Reporter
) -> tuple[nn.Module, Publication]:
    _check_softmax(spec)
    say.detail(f"weights {weights} of {spec.network}")
    if weights == OWN:
        module = callables.built(spec.network, spec.network_options)
        return module, Publication(spec.network, "", (), _given(spec, images))
    made = library_networks.published(spec.network, weights, offline=offline())
    expected = made.preprocessing
    if spec.normalization is not None:
        expected = _as_specified(spec, images, expected)
    source, sha256 = f"{spec.network} {weights}", ""
    if made.url:
        file = torch_hub_file(made.url, spec.network, root, say)
        network = AdaptedNetwork(made.module, (), None)
        load_weights(network, read_weights(file), spec.network)
        source, sha256 = f"{source} ({file.name})", file_digest(file)
    return made.module, Publication(source, sha256, (), expected)


def _check_softmax(spec: ModelSpec) -> None:
    if spec.head != "softmax":
        raise UserError(
            f"Network '{spec.network}': its published weights have a linear last layer, not head "
            f"'{spec.head}'.",
            "Write head: softmax, or train the network with this head.",
        )


def _check_classes(spec: ModelSpec, classes: int, source: str, images: Images) -> None:
    if classes != images.num_classes:
        raise UserError(
            f"Network '{spec.network}': {source} has {counted(classes, 'class')}, the ID data set "
            f"'{images.dataset}' has {images.num_classes:,}.",
            "Choose weights that were trained on the benchmark's ID data set. If its classes are "
            "some of the model's, give the names of all in the model's order (--classes FILE).",
        )


# --- structure ------------------------------------------------------------------------------------


def _analyzed(
    spec: ModelSpec, module: nn.Module, expected: Preprocessing, images: Images
) -> Analysis:
    """Last layer and feature layers of a network, found by running it on random images."""
    generator = torch.Generator().manual_seed(0)
    few = torch.rand(_FEW, *images.shape, generator=generator)
    try:
        mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (expected.mean, expected.std))
        return analyze(module.eval(), (few - mean) / std, spec.taps or "auto")
    except UserError:
        raise
    except NotFiniteError as error:
        raise UserError(
            f"Network '{spec.network}': its logits are not finite for random images.",
            "Its weights are damaged, or are those of another network.",
        ) from error
    except Exception as error:  # of the network's own code
        size = "x".join(map(str, images.shape))
        made = f"{expected.size[0]}x{expected.size[1]}" if expected.size else "other sizes"
        raise UserError(
            f"Network '{spec.network}' cannot take the images of '{images.dataset}' ({size}): "
            f"{first_line(error)}.",
            f"Its weights were made for {made}: give the data sets that shape, with resize.",
        ) from error
