"""A small network, its images, and a detector that the engine fits and scores on it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from oodbench.data import ImageArray
from oodbench.detector import Detector, Language, Outputs
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.capture import Capture
from oodbench.engine.passes.fitting_pass import pass_outputs
from oodbench.engine.passes.input_gradients import differentiates
from oodbench.engine.passes.layer_readers import layer_readers
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.own_passes import OwnPasses, kept_taps
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.passes.sampled_logits import find_sampled
from oodbench.engine.scoring import score_split
from oodbench.losses import DisMax2022Head, RotPredHead
from oodbench.models.classifier import Classifier, Network
from oodbench.models.ensemble import Ensemble
from oodbench.models.feature_map import find_map
from oodbench.testing.planted import Kind, planted_language
from oodbench.testing.subject import Subject

CLASSES = 3
METHOD = "M"
FITTING = 600  # images; the largest k of a search space of a built-in detector is 500


class SmallNetwork(Network):
    """Two convolutions with a tap after each, mean over space, head; images of 2 channels.

    Args:
        kind: of the head.
    """

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.head: nn.Module
        self.has_local_features = True
        self.first = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 24, 3, padding=1, stride=2), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.tap_names = ("first", "second")
        self.head = {"linear": RotPredHead, "dismax": DisMax2022Head}[kind](24, CLASSES)

    @functools.cached_property
    def language(self) -> Language:  # type: ignore[override]
        """A planted text encoder, with the weights of the last layer as text features."""
        weight = getattr(self.head, "weight" if hasattr(self.head, "weight") else "prototypes")
        return planted_language(weight.detach())

    def watch_local_features(self, take: Callable[[Tensor], None]) -> list[RemovableHandle]:
        """The second map, place by place."""

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            take(output.flatten(2).transpose(1, 2))

        return [self.second.register_forward_hook(hook)]

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C]."""
        logits: Tensor = self.head(self.dropout(self.second(self.first(images)).mean(dim=(2, 3))))
        return logits


def small_images(count: int, seed: int) -> ImageArray:
    """Images [N, 2, 8, 8] of three classes; those of one class resemble each other."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).uniform(0.1, 0.9, (CLASSES, 2, 8, 8))
    labels = np.arange(count) % CLASSES
    images = centers[labels] + generator.normal(0, 0.1, (count, 2, 8, 8))
    return ImageArray(images.clip(0, 1).astype(np.float32), labels)


@functools.cache
def small_classifier(kind: Kind) -> Classifier:
    """A network of random convolutions whose last layer tells the classes of `small_images`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SmallNetwork(kind)
    classifier = Classifier(network, mean=(0.5, 0.5), std=(0.25, 0.25)).eval()
    data = small_images(300, seed=0)
    with torch.no_grad():
        images = classifier.normalized(torch.from_numpy(data.images))
        features = network.second(network.first(images)).mean(dim=(2, 3))
        labels = torch.from_numpy(data.labels)
        means = torch.stack([features[labels == c].mean(dim=0) for c in range(CLASSES)])
        if kind == "dismax":
            network.head.get_parameter("prototypes").copy_(means)
        else:  # the linear rule for classes with these means and one covariance
            centered = features - means[labels]
            covariance = centered.T @ centered / len(centered) + 1e-4 * torch.eye(24)
            weight = 0.2 * torch.linalg.solve(covariance, means.T).T
            network.head.get_parameter("weight").copy_(weight)
            network.head.get_parameter("bias").copy_(-0.5 * (weight * means).sum(dim=1))
    return classifier


class SmallEnsemble(Network):
    """Small networks as one; it has the modules of the first under their own names.

    Args:
        networks: of the same classes.
    """

    tap_names = ()

    def __init__(self, *networks: SmallNetwork) -> None:
        super().__init__()
        self.head = None
        self.ensemble = Ensemble(networks)
        self.first, self.second = networks[0].first, networks[0].second

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the mean probabilities, shape [B, C]."""
        logits: Tensor = self.ensemble(images)
        return logits


def classifier_for(subject: Subject) -> Classifier:
    """A small classifier that has what a detector needs; a copy if it is an ensemble."""
    classifier = small_classifier(subject.network.kind)
    if "member_logits" not in subject.needs:
        return classifier
    first, second = copy.deepcopy(classifier.network), copy.deepcopy(classifier.network)
    assert isinstance(first, SmallNetwork)
    assert isinstance(second, SmallNetwork)
    for parameter in second.parameters():
        parameter.data.mul_(1.1)
    return Classifier(SmallEnsemble(first, second), (0.5, 0.5), (0.25, 0.25))


def state_of(module: nn.Module) -> dict[str, Any]:
    """Weights, buffers and their addresses, modes, frozen parameters, gradients and hooks."""
    state: dict[str, Any] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        state[name] = tensor.detach().clone()
        state[f"the address of {name}"] = tensor.data_ptr()
        state[f"requires_grad of {name}"] = tensor.requires_grad
        state[f"whether there is a gradient of {name}"] = tensor.grad is not None
    for name, part in module.named_modules():
        state[f"the mode of {name}"] = part.training
        state[f"the class of {name}"] = type(part)
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            state[f"{hooks} of {name}"] = len(getattr(part, hooks))
    return state


# --- the engine ----------------------------------------------------------------------------------


def engine_scores(
    subject: Subject,
    settings: Mapping[int, Mapping[str, Any]],
    classifier: Classifier | None = None,
) -> dict[int, Tensor]:
    """Scores of 100 test images with several settings, after all that the detector learns from.

    Args:
        subject: the detector.
        settings: key -> attributes that are set after the fit, as tuning does.
        classifier: default: the small one for the detector.

    Returns:
        key -> scores, shape [100], float64; without settings for which the detector raises a
        `ValueError`, as tuning does without them.

    Raises:
        Exception: whatever the detector or the engine raises.
    """
    needs, detector = subject.needs, subject.new()
    classifier = classifier or classifier_for(subject)
    runner = _runner(classifier, detector)
    with runner.attached():
        for need in ("fit", "validation"):
            if need in needs:
                images = small_images(FITTING, seed=1 if need == "fit" else 2)
                outcome = fit_together(
                    {METHOD: detector},
                    functools.partial(pass_outputs, runner, images, {METHOD: detector}),
                    CLASSES,
                    needs=need,
                )[METHOD]
                if outcome.error is not None:
                    raise outcome.error
        candidates = {}
        for key, changed in settings.items():
            candidate = candidates[METHOD, str(key)] = detector.with_parameters(**changed)
            if "calibration" in needs:
                data = small_images(50, seed=3)
                inverted = ImageArray(1 - data.images, data.labels)
                sides = [_seen(runner, candidate, side) for side in (data, inverted)]
                with torch.no_grad():
                    candidate.calibrate(*(side.copied(needs) for side in sides))
        test = small_images(100, seed=4)
        result = score_split(runner, test, candidates, dataset="test", check_batches=True)
    for error in result.errors.values():
        if not isinstance(error, ValueError) or not result.scores:
            raise error
    scored = {key: result.scores.get((METHOD, str(key))) for key in settings}
    return {key: torch.from_numpy(each) for key, each in scored.items() if each is not None}


def _runner(classifier: Classifier, detector: Detector) -> NetworkRunner:
    """Runs the network and captures what the detector declares."""
    few = torch.from_numpy(small_images(4, seed=0).images)
    with evaluating(classifier):
        name = find_map(classifier, few)
        sampled, _ = find_sampled(classifier, few, detector.info.needs)
    readers, errors = layer_readers(classifier, {METHOD: detector}, few)
    kept = kept_taps(classifier.network, {METHOD: detector})
    for error in (*errors.values(), *kept.errors.values()):
        raise error
    capture = Capture.of(detector.info.needs, name, readers, kept, sampled.items())
    return NetworkRunner(classifier, batch_size=64, capture=capture)


def _seen(runner: NetworkRunner, detector: Detector, data: ImageArray) -> Outputs:
    """Outputs of a split as the detector sees them while it is tuned."""
    if not differentiates(detector):
        return Outputs.concatenate(list(pass_outputs(runner, data)))
    parts = []
    for images, _ in runner.batches(data):
        with torch.enable_grad():
            images = images.requires_grad_()
            passes = OwnPasses(runner, images, runner.outputs(images))
            parts.append(passes.view(METHOD, detector, METHOD))
    return Outputs.concatenate(parts)
