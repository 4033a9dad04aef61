"""Detectors that reshape activations, and Gram, against references written from the formulas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import oodbench
from oodbench import Detector, Head, Outputs
from oodbench.detector import Batches
from oodbench.numerics.statistics.gram import gram_row_sums

Array = NDArray[np.float64]
Stages = tuple[nn.Module, nn.Module, nn.Module]  # up to Block 3, Block 4, and what comes after

DIMENSION, CLASSES = 10, 4
NAMES = ("react", "ash", "scale", "vra", "rankfeat", "gram")
FITTED = ("react", "vra", "gram")


@cache
def detector_class(name: str) -> Any:
    return type(oodbench.load_detector(name))


def load(name: str, **parameters: Any) -> Any:
    return detector_class(name)(**parameters)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs_of(feature_map: Tensor, seed: int = 0, **taps: Tensor) -> Outputs:
    """Outputs of a network whose last layer is linear and whose features are a map's mean."""
    weight = torch.randn(CLASSES, DIMENSION, generator=generator(7), dtype=torch.float64)
    bias = torch.randn(CLASSES, generator=generator(8), dtype=torch.float64)
    head = Head("linear", weight.to(feature_map), bias.to(feature_map))
    features = feature_map.mean(dim=(2, 3))
    return reading(
        Outputs(head.logits(features), features, head=head, feature_map=feature_map), **taps
    )


def reading(outputs: Outputs, **taps: Tensor) -> Outputs:
    """The same with other maps, and with what Gram makes of them while a network runs."""
    layers = {name: gram_row_sums(tap, 10) for name, tap in taps.items()}
    return replace(outputs, tap_maps=taps, layers=layers)


def images(count: int, seed: int, spread: float = 1.0) -> Outputs:
    def normal(*shape: int, offset: int = 0) -> Tensor:
        seeded = generator(10 * seed + offset)
        return spread * torch.randn(count, *shape, generator=seeded, dtype=torch.float64)

    feature_map = normal(DIMENSION, 4, 3).add(0.3).relu()
    feature_map[:, 3] = 0  # a dead channel
    tokens, vector = normal(7, 6, offset=1), normal(8, offset=2).relu()
    stem = normal(5, 6, 6, offset=3).relu().to(memory_format=torch.channels_last)
    return outputs_of(feature_map, stem=stem, tokens=tokens, vector=vector, last=feature_map)


def single(outputs: Outputs) -> Outputs:
    """The same in float32, except for the logits, which always are float64."""
    narrow = outputs.map(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    assert outputs.head.weight is not None
    assert outputs.head.bias is not None
    head = Head("linear", outputs.head.weight.float(), outputs.head.bias.float())
    return replace(narrow, logits=outputs.logits, head=head)


class Pass(Batches):
    def __init__(self, outputs: Outputs, size: int = 17, classes: int = CLASSES) -> None:
        self.outputs, self.size, self.num_classes = outputs, size, classes

    def __iter__(self) -> Iterator[Outputs]:
        for start in range(0, len(self.outputs), self.size):
            yield self.outputs[start : start + self.size]


@pytest.fixture(scope="module")
def training() -> Outputs:
    return images(90, seed=1)


@pytest.fixture(scope="module")
def validation() -> Outputs:
    return images(40, seed=2)


@pytest.fixture(scope="module")
def test_images() -> Outputs:
    return images(23, seed=3, spread=1.2)


def fit(
    name: str, training: Outputs, validation: Outputs, size: int = 17, **parameters: Any
) -> Any:
    detector = load(name, **parameters)
    if "fit" in detector.info.needs:
        detector.fit(Pass(training, size))
    if "validation" in detector.info.needs:
        detector.fit_validation(Pass(validation, size))
    return detector


def energy(features: Array, head: Head) -> float:
    """log sum exp of W f + b."""
    assert head.weight is not None
    assert head.bias is not None
    logits = head.weight.double().numpy() @ features + head.bias.double().numpy()
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max())


def log_odds(features: Array, head: Head) -> float:
    """Of the largest probability."""
    assert head.weight is not None
    assert head.bias is not None
    logits = np.sort(head.weight.double().numpy() @ features + head.bias.double().numpy())
    return float(logits[-1] - np.log(np.exp(logits[:-1]).sum()))


def compare(detector: Detector, outputs: Outputs, expected: Any, tolerance: float = 2e-5) -> None:
    """In both precisions; the second is given as a tolerance relative to score and spread."""
    found = detector.score(outputs)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(
        detector.score(single(outputs)), expected, tolerance, tolerance * np.std(expected)
    )


# --- all of them -------------------------------------------------------------------------------


def test_declarations() -> None:
    grid = (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    expected: dict[str, tuple[set[str], dict[str, tuple[float, ...]], dict[str, Any]]] = {
        "react": (
            {"features", "feature_map", "head", "fit"},
            {"percentile": (0.85, 0.9, 0.95, 0.99)},
            {"percentile": 0.9, "on": "pooled", "base": "energy"},
        ),
        "ash": (
            {"features", "feature_map", "head"},
            {"percentile": grid},
            {"variant": "s", "percentile": 0.9, "on": "pooled", "base": "energy"},
        ),
        "scale": (
            {"features", "feature_map", "head"},
            {"percentile": (0.5, 0.55, 0.6, *grid, 0.97, 0.99)},
            {"percentile": 0.85, "on": "pooled", "base": "energy"},
        ),
        "vra": (
            {"features", "head", "fit"},
            {
                "lower_percentile": (0.5, 0.6, 0.65, 0.7),
                "upper_percentile": (0.8, 0.85, 0.9, 0.95, 0.99),
            },
            {"lower_percentile": 0.6, "upper_percentile": 0.9, "base": "energy"},
        ),
        "rankfeat": (
            {"feature_map", "head", "replaced_logits"},
            {},
            {"base": "energy", "fuse": False},
        ),
        "gram": (
            {"layers", "fit", "validation"},
            {},
            {"powers": 10, "layers": "auto", "divide_by_confidence": True},
        ),
    }
    for name, (needs, space, defaults) in expected.items():
        detector = load(name)
        assert detector.info.needs == needs
        assert dict(detector.info.search_space) == space
        assert detector.parameters == defaults
        for parameter, values in space.items():
            assert defaults[parameter] in values


@pytest.mark.parametrize("name", NAMES)
def test_declared_needs_are_all_that_is_used(
    name: str, training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    def given(outputs: Outputs) -> Outputs:
        return outputs.only(load(name).info.needs)

    detector = fit(name, given(training), given(validation))
    assert torch.isfinite(detector.score(given(test_images))).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["pooled", "map"])
def test_scores_do_not_depend_on_the_batch(
    name: str, place: str, training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    parameters = {"on": place} if "on" in load(name).parameters else {}
    detector = fit(name, training, validation, **parameters)
    whole = detector.score(test_images)
    assert whole.unique().numel() == len(whole)
    for size in (1, 5):
        starts = range(0, len(test_images), size)
        parts = [detector.score(test_images[start : start + size]) for start in starts]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    order = torch.randperm(len(whole), generator=generator(0))
    shuffled = detector.score(test_images.map(lambda tensor: tensor[order]))
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FITTED)
def test_fit_does_not_depend_on_the_batches(
    name: str, training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    expected = fit(name, training, validation, size=90).score(test_images)
    for size in (1, 16):
        detector = fit(name, training, validation, size=size)
        torch.testing.assert_close(detector.score(test_images), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FITTED)
def test_fitting_again_starts_anew(
    name: str, training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    expected = fit(name, training, validation).score(test_images)
    detector = fit(name, images(30, seed=4, spread=3), images(10, seed=5, spread=2))
    detector.fit(Pass(training))
    detector.fit_validation(Pass(validation))
    torch.testing.assert_close(detector.score(test_images), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["react", "ash", "scale", "vra"])
def test_other_parameters_after_the_fit(
    name: str, training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    detector = fit(name, training, validation)
    for parameter, values in detector.info.search_space.items():
        for value in values:
            changed = detector.with_parameters(**{parameter: value})
            fresh = fit(name, training, validation, **{parameter: value})
            assert torch.equal(changed.score(test_images), fresh.score(test_images))
    assert detector.parameters == load(name).parameters


@pytest.mark.parametrize("name", ["react", "ash", "scale", "vra", "rankfeat"])
def test_maximum_probability_as_the_base(
    name: str, training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    scores = fit(name, training, validation, base="max_probability").score(test_images)
    assert (scores > -np.log(CLASSES - 1)).all()  # the log-odds of 1 / C
    assert len(scores.unique()) == len(test_images), "probabilities of 1 tell images apart"
    with pytest.raises(ValueError, match="base must be one of energy, max_probability, not odin"):
        load(name, base="odin")


@pytest.mark.parametrize("name", ["react", "ash", "scale", "vra", "rankfeat"])
def test_no_linear_head(
    name: str, training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    detector = fit(name, training, validation)
    with pytest.raises(ValueError, match="a dismax head has no W and b"):
        detector.score(replace(test_images, head=Head("dismax")))


@pytest.mark.parametrize("name", NAMES)
def test_images_without_activation(name: str, training: Outputs, validation: Outputs) -> None:
    nothing = outputs_of(torch.zeros(3, DIMENSION, 4, 3, dtype=torch.float64))
    taps = {name: torch.zeros_like(tap[:3]) for name, tap in training.tap_maps.items()}
    nothing = reading(nothing, **taps)
    scores = fit(name, training, validation).score(nothing)
    assert torch.isfinite(scores).all()
    if name != "gram":  # nothing, whatever is made of it, leaves the bias
        np.testing.assert_allclose(scores, [energy(np.zeros(DIMENSION), nothing.head)] * 3)


@pytest.mark.parametrize("name", NAMES)
def test_scoring_changes_nothing(
    name: str, training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    copy = test_images.map(torch.clone)
    detector = fit(name, training, validation)
    first = detector.score(test_images)
    assert torch.equal(detector.score(test_images), first)
    assert test_images.feature_map is not None
    assert copy.feature_map is not None
    assert torch.equal(test_images.feature_map, copy.feature_map)
    assert torch.equal(test_images.features, copy.features)
    for tap, activation in test_images.tap_maps.items():
        assert torch.equal(activation, copy.tap_maps[tap])


@pytest.mark.parametrize("name", ["react", "ash", "scale"])
def test_where_there_is_no_map_both_places_are_one(
    name: str, training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    def flat(outputs: Outputs) -> Outputs:
        return replace(outputs, feature_map=outputs.features[:, :, None, None])

    scores = [
        fit(name, flat(training), flat(validation), on=place).score(flat(test_images))
        for place in ("pooled", "map")
    ]
    torch.testing.assert_close(*scores, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["react", "ash", "scale"])
def test_bad_parameters(name: str) -> None:
    for percentile in (-0.1, 1.0, 90):
        with pytest.raises(ValueError, match=r"percentile must be a fraction in \[0, 1\)"):
            load(name, percentile=percentile)
    with pytest.raises(ValueError, match="on must be one of pooled, map, not features"):
        load(name, on="features")


# --- ReAct and VRA -----------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [0.85, 0.9, 0.99])
@pytest.mark.parametrize("place", ["pooled", "map"])
def test_react_by_hand(
    training: Outputs, test_images: Outputs, percentile: float, place: str
) -> None:
    source, given = (
        (training.features, test_images.features)
        if place == "pooled"
        else (training.feature_map, test_images.feature_map)
    )
    assert source is not None
    assert given is not None
    threshold = np.percentile(source.numpy().ravel(), 100 * percentile)
    assert (given > threshold).any()
    expected = []
    for image in given.numpy():
        clipped = np.minimum(image, threshold).reshape(DIMENSION, -1).mean(axis=1)
        expected.append(energy(clipped, test_images.head))
    detector = fit("react", training, training, percentile=percentile, on=place)
    compare(detector, test_images, expected)


def test_react_max_probability_by_hand(training: Outputs, test_images: Outputs) -> None:
    threshold = np.quantile(training.features.numpy(), 0.9)
    clipped = np.minimum(test_images.features.numpy(), threshold)
    expected = [log_odds(image, test_images.head) for image in clipped]
    compare(fit("react", training, training, base="max_probability"), test_images, expected)


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.95), (0.5, 0.8), (0.0, 1.0)])
def test_vra_by_hand(training: Outputs, test_images: Outputs, low: float, high: float) -> None:
    """The paper's g, with a quantile of each feature."""
    expected = []
    for image in test_images.features.numpy():
        changed = np.zeros(DIMENSION)
        for feature in range(DIMENSION):
            values = training.features[:, feature].numpy()
            alpha, beta = np.quantile(values, [low, high])
            value = image[feature]
            changed[feature] = 0 if value < alpha else min(value, beta)
        expected.append(energy(changed, test_images.head))
    detector = fit("vra", training, training, lower_percentile=low, upper_percentile=high)
    compare(detector, test_images, expected)


def test_vra_needs_ordered_percentiles() -> None:
    for low, high in ((0.9, 0.5), (0.5, 0.5), (-0.1, 0.5), (0.5, 95)):
        with pytest.raises(ValueError, match="0 <= lower_percentile < upper_percentile <= 1, not"):
            load("vra", lower_percentile=low, upper_percentile=high)


# --- ASH and SCALE -----------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [0.0, 0.65, 0.9])
@pytest.mark.parametrize("place", ["pooled", "map"])
@pytest.mark.parametrize("method", ["s", "p", "b", "scale"])
def test_ash_and_scale_by_hand(
    test_images: Outputs, percentile: float, place: str, method: str
) -> None:
    given = test_images.features if place == "pooled" else test_images.feature_map
    assert given is not None
    if method == "b" and place == "map":
        given = given + 0.01  # without ties at zero
        test_images = replace(test_images, feature_map=given)
    expected = []
    for image in given.numpy():
        flat = image.ravel()
        k = flat.size - int(np.round(flat.size * percentile))
        places = np.argsort(flat)[::-1][:k]
        pruned = np.zeros(flat.size)
        pruned[places] = flat[places]
        s1, s2 = flat.sum(), pruned.sum()
        shaped = {
            "s": pruned * np.exp(s1 / s2),
            "p": pruned,
            "b": np.where(np.isin(np.arange(flat.size), places), s1 / k, 0),
            "scale": flat * np.exp(s1 / s2),
        }[method]
        expected.append(energy(shaped.reshape(DIMENSION, -1).mean(axis=1), test_images.head))
    name, variant = ("scale", {}) if method == "scale" else ("ash", {"variant": method})
    detector = load(name, percentile=percentile, on=place, **variant)
    compare(detector, test_images, expected, tolerance=1e-4)


def test_ash_keeps_at_least_one_value() -> None:
    feature_map = torch.zeros(1, DIMENSION, 1, 1)
    feature_map[0, 2] = 3
    outputs = outputs_of(feature_map)
    scores = {v: load("ash", variant=v, percentile=0.99).score(outputs) for v in "spb"}
    head, features = outputs.head, feature_map[0, :, 0, 0].double().numpy()
    assert scores["p"].item() == pytest.approx(energy(features, head), rel=1e-6)
    assert scores["b"].item() == pytest.approx(energy(features, head), rel=1e-6)
    assert scores["s"].item() == pytest.approx(energy(np.e * features, head), rel=1e-6)


def test_ash_takes_three_variants() -> None:
    with pytest.raises(ValueError, match="variant must be one of s, p, b, not ash-s"):
        load("ash", variant="ash-s")


# --- RankFeat ----------------------------------------------------------------------------------


def test_rankfeat_by_hand(test_images: Outputs) -> None:
    assert test_images.feature_map is not None
    expected = []
    for image in test_images.feature_map.numpy():
        u, s, vt = np.linalg.svd(image.reshape(DIMENSION, -1), full_matrices=False)
        rest = image.reshape(DIMENSION, -1) - s[0] * np.outer(u[:, 0], vt[0])
        expected.append(energy(rest.mean(axis=1), test_images.head))
    compare(load("rankfeat"), test_images, expected)


def test_rankfeat_needs_a_map(test_images: Outputs) -> None:
    features = test_images.features[:, :, None, None]
    with pytest.raises(ValueError, match="needs a map of more than one place"):
        load("rankfeat").score(replace(test_images, feature_map=features))


def without_first_component(maps: Tensor) -> Tensor:
    """By a whole decomposition, of maps [B, D, H, W]."""
    matrices = maps.flatten(2)
    u, s, vt = torch.linalg.svd(matrices, full_matrices=False)
    return (matrices - u[:, :, :1] * s[:, None, :1] @ vt[:, :1]).view(maps.shape)


def resnet18() -> tuple[nn.Module, Stages]:
    network = torchvision.models.resnet18(num_classes=CLASSES)
    first = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    first = nn.Sequential(first, network.layer1, network.layer2, network.layer3)
    last = nn.Sequential(network.avgpool, nn.Flatten(), network.fc)
    return network, (first, network.layer4, last)


def built_in(name: str) -> tuple[nn.Module, Stages]:
    network = oodbench.models.create(name, CLASSES)
    *first, last = [network.get_submodule(tap) for tap in network.tap_names]
    end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.head)
    return network, (nn.Sequential(*first), last, end)


@pytest.mark.parametrize(
    ("make", "size", "block3"),
    [
        pytest.param(resnet18, 64, "layer3", id="torchvision resnet18", marks=pytest.mark.full),
        pytest.param(lambda: built_in("resnet20"), 32, "stage2", id="resnet20"),
        pytest.param(
            lambda: built_in("resnet34"), 16, "stage3", id="resnet34", marks=pytest.mark.full
        ),
    ],
)
def test_rankfeat_fuses_the_last_two_stages(make: Any, size: int, block3: str) -> None:
    """Against the network run stage by stage, in double precision; alone, and beside others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, (first, stage, end) = make()
    network.double().eval()
    nn.init.normal_(list(network.parameters())[-2], std=1.0)
    pictures = {
        name: torch.rand(5, 3, size, size, generator=generator(seed), dtype=torch.float64) ** seed
        for seed, name in enumerate(("id", "other"), start=1)
    }
    fused: dict[str, Tensor] = {}
    usual: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, images in pictures.items():
            third = first(images)
            logits4 = end(without_first_component(stage(third)))
            logits3 = end(stage(without_first_component(third)))
            fused[name] = ((logits4 + logits3) / 2).logsumexp(dim=1)
            usual[name] = logits4.logsumexp(dim=1)
    assert (fused["id"] - usual["id"]).abs().min() > 1e-3

    def evaluated(detectors: dict[str, Any]) -> Any:
        batches = {key: DataLoader(TensorDataset(each), 3) for key, each in pictures.items()}
        ood = {"other": batches["other"]}
        return oodbench.evaluate(network, detectors, id_data=batches["id"], ood_data=ood)

    both = evaluated({"fused": load("rankfeat", fuse=True), "usual": load("rankfeat")})
    alone = evaluated({"fused": load("rankfeat", fuse=True)})
    assert both.failed == both.skipped == {}
    assert [note for note in both.notes if "replaces" in note] == [
        f"fused: replaces the output of {block3}."
    ]
    for name in pictures:
        np.testing.assert_allclose(both.scores["fused"][name], fused[name], rtol=1e-10)
        np.testing.assert_allclose(both.scores["usual"][name], usual[name], rtol=1e-10)
        np.testing.assert_array_equal(alone.scores["fused"][name], both.scores["fused"][name])


def test_rankfeat_fuses_tokens() -> None:
    tokens = torch.randn(5, 7, 6, generator=generator(0), dtype=torch.float64)
    found = load("rankfeat", fuse=True).replace_tap("block", tokens)
    torch.testing.assert_close(found, without_first_component(tokens[..., None])[..., 0])


@pytest.mark.parametrize("shape", [(4, 6), (4, 1, 6), (4, 6, 1, 1)])
def test_rankfeat_does_not_fuse_a_single_place(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="more than one place in the feature layer 'block'"):
        load("rankfeat", fuse=True).replace_tap("block", torch.ones(shape))


@pytest.mark.parametrize(("taps", "said"), [((), "there is none"), (("one",), "only 'one'")])
def test_rankfeat_needs_two_layers_to_fuse(taps: tuple[str, ...], said: str) -> None:
    assert tuple(load("rankfeat").choose_taps(taps)) == ()
    with pytest.raises(ValueError, match=f"needs two feature layers to fuse.*{said}"):
        load("rankfeat", fuse=True).choose_taps(taps)


def test_rankfeat_is_left_out_where_there_is_nothing_to_fuse() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    )
    result = oodbench.evaluate(
        model,
        {"fused": load("rankfeat", fuse=True), "usual": load("rankfeat")},
        id_data=TensorDataset(torch.rand(6, 3, 8, 8, generator=generator(0))),
        ood_data={"other": TensorDataset(torch.rand(6, 3, 8, 8, generator=generator(1)))},
        taps=["1"],
    )
    assert result.failed == {}
    assert result.skipped.keys() == {"fused"}
    assert "needs two feature layers to fuse" in result.skipped["fused"]
    assert "only '1' is there" in result.skipped["fused"]


# --- Gram --------------------------------------------------------------------------------------


def gram_values(outputs: Outputs, powers: int) -> dict[str, Array]:
    """Tap -> [images, powers, channels], from the matrices themselves."""
    found = {}
    for tap, activation in outputs.tap_maps.items():
        images = []
        for image in activation.double().numpy():
            if image.ndim == 2:
                image = image.T  # tokens come first
            places = image.reshape(len(image), -1)
            rows = []
            for power in range(1, powers + 1):
                sums = (places**power @ (places**power).T).sum(axis=1)
                rows.append(np.sign(sums) * np.abs(sums) ** (1 / power))
            images.append(rows)
        found[tap] = np.array(images)
    return found


def gram_deviations(
    training: Outputs, outputs: Outputs, powers: int, confidence: bool
) -> dict[str, Array]:
    """Tap -> [images]: deviations from the ranges of the training images of the same class."""
    train, given = gram_values(training, powers), gram_values(outputs, powers)
    predicted = training.logits.argmax(dim=1).numpy()
    found = {}
    for tap in train:
        totals = []
        for index, image in enumerate(given[tap]):
            logits = outputs.logits[index].numpy()
            members = train[tap][predicted == logits.argmax()]
            if not len(members):
                members = train[tap]
            total = 0.0
            for power in range(powers):
                for channel in range(image.shape[1]):
                    low, high = members[:, power, channel].min(), members[:, power, channel].max()
                    value = image[power, channel]
                    if value < low:
                        total += (low - value) / (abs(low) + 1e-6)
                    elif value > high:
                        total += (value - high) / (abs(high) + 1e-6)
            weights = np.exp(logits - logits.max())
            totals.append(total * weights.sum() if confidence else total)
        found[tap] = np.array(totals)
    return found


@pytest.mark.parametrize("powers", [1, 3, 10])
@pytest.mark.parametrize("confidence", [False, True])
def test_gram_by_hand(
    training: Outputs, validation: Outputs, test_images: Outputs, powers: int, confidence: bool
) -> None:
    assert training.logits.argmax(dim=1).unique().numel() > 1
    held = gram_deviations(training, validation, powers, confidence)
    given = gram_deviations(training, test_images, powers, confidence)
    expected = -sum(given[tap] / (held[tap].mean() + 1e-7) for tap in given)
    parameters = {"powers": powers, "divide_by_confidence": confidence}
    detector = fit("gram", training, validation, **parameters)
    np.testing.assert_allclose(detector.score(test_images), expected, rtol=1e-9)
    # Deviations from a bound that is near zero, where tokens' signs cancel, have no digits left.
    narrow = [
        reading(single(part), stem=part.tap_maps["stem"].float())
        for part in (training, validation, test_images)
    ]
    detector = fit("gram", narrow[0], narrow[1], **parameters)
    expected = -given["stem"] / (held["stem"].mean() + 1e-7)
    np.testing.assert_allclose(detector.score(narrow[2]), expected, rtol=1e-3, atol=1e-3)


def test_gram_training_images_do_not_deviate(training: Outputs, validation: Outputs) -> None:
    detector = fit("gram", training, validation)
    for deviations in detector.deviations(training).values():
        np.testing.assert_allclose(deviations, 0, atol=1e-9)


def test_gram_goes_by_the_predicted_class(
    training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    """Labels are not looked at, in the passes or when scoring."""
    expected = fit("gram", training, validation).score(test_images)
    wrong = torch.zeros(len(training), dtype=torch.int64)
    labeled = replace(training, labels=wrong), replace(validation, labels=wrong[: len(validation)])
    assert torch.equal(fit("gram", *labeled).score(test_images), expected)


def test_gram_class_that_was_never_predicted(
    training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    """Its images are held against the range over all training images."""
    never = training.logits.clone()
    never[:, 2] = -1e3
    fewer = replace(training, logits=never)
    logits = test_images.logits.clone()
    logits[:, 2] = 1e3
    unexpected = replace(test_images, logits=logits)
    held = gram_deviations(fewer, validation, 10, True)
    given = gram_deviations(fewer, unexpected, 10, True)
    expected = -sum(given[tap] / (held[tap].mean() + 1e-7) for tap in given)
    scores = fit("gram", fewer, validation).score(unexpected)
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def test_gram_of_large_activations(
    training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    """Tenth powers that float32 cannot hold; without signs, that sums do not cancel."""

    def large(outputs: Outputs) -> Outputs:
        taps = {tap: 1e6 * outputs.tap_maps[tap].abs().float() for tap in ("stem", "vector")}
        return reading(outputs, **taps)

    def plain(outputs: Outputs) -> Outputs:
        taps = {tap: 1e6 * outputs.tap_maps[tap].abs() for tap in ("stem", "vector")}
        return reading(outputs, **taps)

    scores = fit("gram", large(training), large(validation)).score(large(test_images))
    expected = fit("gram", plain(training), plain(validation)).score(plain(test_images))
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)


def test_gram_errors(training: Outputs) -> None:
    with pytest.raises(ValueError, match="powers must be at least 1, not 0"):
        load("gram", powers=0)
    for layers in (0, -3, True, "some", 2.5):
        with pytest.raises(ValueError, match=f"layers must be auto, all, .*{layers}"):
            load("gram", layers=layers)
    with pytest.raises(ValueError, match="no training images to fit on"):
        load("gram").fit(Pass(training[:0]))
    detector = load("gram")
    detector.fit(Pass(training))
    with pytest.raises(ValueError, match="no validation images"):
        detector.fit_validation(Pass(training[:0]))


def test_gram_chooses_layers() -> None:
    layers, taps = [f"layer{index}" for index in range(9)], ["stem", "stage"]

    def chosen(option: Any) -> list[str]:
        return list(load("gram", layers=option).choose_layers(layers, taps))

    assert chosen("all") == chosen("auto") == layers
    assert chosen("taps") == taps
    assert chosen(3) == ["layer2", "layer5", "layer8"]
    assert chosen(1) == ["layer8"]
    for count in range(1, 9):
        assert len(set(chosen(count))) == count
        assert chosen(count)[-1] == "layer8"
    assert chosen(9) == chosen(100) == layers
    with pytest.raises(ValueError, match="no convolution or activation function that is a module"):
        load("gram").choose_layers([], taps)
    with pytest.raises(ValueError, match="no feature layer"):
        load("gram", layers="taps").choose_layers(layers, [])


def test_gram_of_fewer_powers_after_the_fit(
    training: Outputs, validation: Outputs, test_images: Outputs
) -> None:
    detector = fit("gram", training, validation).with_parameters(powers=3)
    detector.fit_validation(Pass(validation))
    expected = fit("gram", training, validation, powers=3).score(test_images)
    torch.testing.assert_close(detector.score(test_images), expected, rtol=1e-12, atol=1e-12)


def wide(widths: Sequence[int], layers: Sequence[str] = ()) -> Outputs:
    """Outputs of many classes, with row sums of layers of these widths, or of some of them."""
    names = {f"layer{index}": width for index, width in enumerate(widths)}
    logits = torch.eye(50, dtype=torch.float64)[:9]
    sums = {name: torch.ones(9, 10, names[name]) for name in layers or names}
    return replace(outputs_of(torch.ones(9, DIMENSION, 2, 2)), logits=logits, layers=sums)


def gram_of(widths: Sequence[int], layers: Any) -> tuple[Any, Outputs]:
    detector = load("gram", layers=layers)
    chosen = detector.choose_layers([f"layer{index}" for index in range(len(widths))], ["layer0"])
    return detector, wide(widths, chosen)


WIDTHS = [[4] * 9, [2, 2, 2, 4, 4, 4, 30, 30, 30], [64, 1, 1, 1, 1, 1, 1, 3], [5, 80, 1, 1, 2]]


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_gram_takes_as_many_layers_as_fit_the_memory(
    widths: list[int], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = 2 * 50 * 10 * 4
    most = int(share * sum(widths) * unit)
    monkeypatch.setattr("oodbench.numerics.statistics.gram.MOST_BYTES", most)

    def size(detector: Any) -> int:
        return sum(widths[int(name.removeprefix("layer"))] * unit for name in detector.ranges)

    fitting = [
        count
        for count in range(1, len(widths) + 1)
        if sum(layer.shape[2] for layer in gram_of(widths, count)[1].layers.values()) * unit <= most
    ]
    detector, outputs = gram_of(widths, "auto")
    if not fitting:
        with pytest.raises(ValueError, match="take lower powers"):
            detector.fit(Pass(outputs, classes=50))
        return
    detector.fit(Pass(outputs, classes=50))
    assert 0 < size(detector) <= most
    assert [*detector.ranges] == [*gram_of(widths, max(fitting))[1].layers]
    assert {*detector.ranges} | {*detector.dropped_layers} == {*outputs.layers}
    assert not {*detector.ranges} & {*detector.dropped_layers}
    for layers in ("all", *range(1, len(widths) + 1)):
        asked, outputs = gram_of(widths, layers)
        if layers in fitting:
            asked.fit(Pass(outputs, classes=50))
            assert asked.dropped_layers == {}
            continue
        with pytest.raises(ValueError, match=r"layers and 50 classes would take .* GiB") as error:
            asked.fit(Pass(outputs, classes=50))
        for said in re.findall(r"layers = (\d+)", str(error.value)):
            again, outputs = gram_of(widths, int(said))
            again.fit(Pass(outputs, classes=50))
        if layers == "all":
            assert f"layers = auto, layers = {max(fitting)}, or lower" in str(error.value)


def test_gram_of_taps_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oodbench.numerics.statistics.gram.MOST_BYTES", 1000)
    detector, outputs = gram_of([5, 4], "taps")
    with pytest.raises(ValueError, match=r"take lower powers"):
        detector.fit(Pass(outputs, classes=50))


# --- what they are for -------------------------------------------------------------------------


def test_gram_finds_other_correlations(training: Outputs, validation: Outputs) -> None:
    """Channels that go together, with the same means and variances of each channel."""

    def correlated(outputs: Outputs) -> Outputs:
        return reading(outputs, stem=outputs.tap_maps["stem"])

    detector = fit("gram", correlated(training), correlated(validation))
    inside = correlated(images(50, seed=11))
    stem = inside.tap_maps["stem"]
    outside = reading(inside, stem=stem[:, :1].expand_as(stem))
    assert detector.score(outside).median() < detector.score(inside).median()
