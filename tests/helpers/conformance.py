"""Conformance of any detector: one function for each requirement.

A check takes a detector's class, and raises an `AssertionError` that says what differed, by how
much, and what was expected. Detectors are checked with their default parameters, on planted outputs
of a network (`planted`), where in- and out-of-distribution images differ in everything that a
detector may read, and through the engine on a small network (`small_classifier`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench import Batches, Detector, Head, Outputs, PerturbingDetector
from oodbench.data import ImageArray
from oodbench.detector import NEEDS, parameters_problem, required_methods
from oodbench.engine.fitting import fit_together
from oodbench.engine.passes.capture import LOGITS, Capture
from oodbench.engine.passes.contract import checked_losses
from oodbench.engine.passes.input_gradients import differentiated, shown_gradients
from oodbench.engine.passes.layer_readers import layer_readers
from oodbench.engine.passes.modes import evaluating
from oodbench.engine.passes.replacement import kept_taps
from oodbench.engine.passes.runner import NetworkRunner
from oodbench.engine.scoring import pass_outputs, score_split
from oodbench.losses import DisMax2022Head, SoftMaxHead
from oodbench.metrics import auroc
from oodbench.models.classifier import Classifier, Network
from oodbench.models.feature_map import find_map

Detecting = type[Detector]
Check = Callable[[Detecting], None]
Kind = Literal["linear", "dismax"]

ORIENTATION = 0.9
"""The AUROC that a detector must reach on planted data, where the sides hardly overlap."""

ROUNDING = 1e-8
"""How far float64 scores may differ that should not, relative to their spread and their size."""

SINGLE_PRECISION = 1e-3
"""The same for float32 features."""


# --- planted outputs -----------------------------------------------------------------------------

CLASSES = 5
OWN = 8  # units that stand for a class
SILENT = 10  # units that in-distribution images hardly move
UNITS = CLASSES * OWN + SILENT
EARLY = 20
IMAGES = "(images)"
FITTING, TUNING, SCORING = 600, 60, 90  # images; the largest k of a search space is 500

_SEEDS = {"fit": 1, "validation": 2, "positives": 3, "negatives": 4, "id": 5, "ood": 6, "other": 7}
_COUNTS = {"fit": FITTING, "other": FITTING, "validation": 200}


@functools.cache
def planted(split: str, kind: Kind, dtype: torch.dtype = torch.float64) -> Outputs:
    """Outputs like those of a trained network with rectified features.

    In-distribution: the units of an image's class are strongly active, the others weakly; two
    groups of units are active in two halves of the map. Out-of-distribution ("negatives", "ood"):
    few units are active, and weakly, except for some that are silent otherwise; all in one place.
    The logits are float64 in any case. For detectors that look at gradients, the features are the
    images: they lie, as [B, 2, 5, 5], where the gradients come to be (see `with_gradients`). So do
    the taps where the logits of replaced ones come to be (see `with_replacements`).

    Args:
        split: "fit" or "validation" with labels, some of them wrong; "positives", "negatives",
        "id",
            "ood" without; "other" is "fit" with features of another scale, none of them silent.
        kind: of the last layer; "dismax" has distances between directions.
        dtype: of features, maps and weights.
    """
    generator = torch.Generator().manual_seed(_SEEDS[split])
    count = _COUNTS.get(split, TUNING if split in ("positives", "negatives") else SCORING)
    ood = split in ("negatives", "ood")
    labels = torch.arange(count) % CLASSES

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator, dtype=torch.float64)

    pattern = _pattern()
    if ood:
        features = torch.cat(
            [0.6 * (normal(CLASSES * OWN) - 1).relu(), 2 * (normal(SILENT) - 0.5).relu()], dim=1
        )
    else:
        features = (0.5 + pattern[labels] + 0.2 * normal(UNITS)).relu()
        features[:, -SILENT:] = 0.05 * normal(SILENT).abs()
        features *= 1 + 0.1 * normal(1).clamp(-2, 2)
    if split == "other":
        features = 3 * features
        features[:, -SILENT:] += 2
    left, right = torch.tensor([2.0, 0.0]).double(), torch.tensor([0.0, 2.0]).double()
    place = torch.where(torch.arange(UNITS)[:, None] % 2 == 0, left, left if ood else right)
    feature_map = (features[:, :, None] * place)[:, :, None, :].repeat(1, 1, 2, 1)
    mixing = _mixing()
    early = (features @ mixing / 10)[:, :, None, None] + 0.1 * normal(EARLY, 3, 3)
    weight, bias = _last_layer(pattern, kind)
    given = None
    if split in ("fit", "validation", "other"):
        given = labels.clone()
        given[::40] = (given[::40] + 1) % CLASSES  # or a calibrated temperature would be zero
    outputs = Outputs(
        logits=torch.empty(0),
        features=features,
        taps={"early": early.mean(dim=(2, 3)), "late": features},
        labels=given,
        head=Head(kind, weight.to(dtype), bias.to(dtype) if kind == "linear" else None),
        feature_map=feature_map,
        tap_maps={"early": early, "late": feature_map},
        input_gradients={IMAGES: features.reshape(count, 2, 5, 5)},
        replaced_logits={"early": early, "late": feature_map},
    ).map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return outputs.replaced(logits=_logits(outputs.features, outputs.head))


def _mixing() -> Tensor:
    """What the early tap sees of the units, shape [D, D_early]."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(UNITS, EARLY, generator=generator, dtype=torch.float64)


def with_graph(outputs: Outputs, images: Tensor, kind: Kind) -> Outputs:
    """Planted outputs with a graph that leads to the images; every value stays as it is.

    Args:
        outputs: as a detector may see them.
        images: shape [B, 2, 5, 5], requiring a gradient: the features.
        kind: of the last layer.
    """
    features = images.flatten(1)
    weight, bias = _last_layer(_pattern(), kind)
    head = Head(kind, weight.to(features), bias.to(features) if kind == "linear" else None)
    change = features - features.detach()
    logits = _logits(features, head)
    early = change.double() @ _mixing().to(features.device) / 10
    changes = {"early": early.to(features.dtype), "late": change}

    def moved(values: Tensor, by: Tensor) -> Tensor:
        return values + by.reshape(*by.shape, *(1,) * (values.ndim - 2))

    graph: dict[str, Any] = {"logits": outputs.logits + (logits - logits.detach())}
    if hasattr(outputs, "features"):
        graph["features"] = outputs.features + change
    if hasattr(outputs, "feature_map"):
        graph["feature_map"] = moved(outputs.feature_map, change)
    for attribute in ("taps", "tap_maps"):
        if hasattr(outputs, attribute):
            taps = getattr(outputs, attribute).items()
            graph[attribute] = {name: moved(tap, changes[name]) for name, tap in taps}
    if hasattr(outputs, "input_gradients"):
        graph["input_gradients"] = {}
    return outputs.replaced(**graph)


def with_gradients(detector: Detector, outputs: Outputs) -> Outputs:
    """Planted outputs with the gradients that a detector looks at, if it does."""
    if "input_gradients" not in detector.info.needs:
        return outputs
    images = outputs.input_gradients.get(IMAGES)
    if images is None:
        return outputs.replaced(input_gradients={})
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        graph = with_graph(outputs, images, kind_of(type(detector)))
        return outputs.replaced(input_gradients=shown_gradients(detector, graph, images))


def with_replacements(detector: Detector, outputs: Outputs) -> Outputs:
    """Planted outputs with the logits of the taps that a detector replaces, if it does.

    The units are found from the early tap by least squares.
    """
    if "replaced_logits" not in detector.info.needs:
        return outputs
    taps = outputs.replaced_logits
    weight, bias = _last_layer(_pattern(), kind_of(type(detector)))
    units = {"early": 10 * torch.linalg.pinv(_mixing()), "late": torch.eye(UNITS).double()}
    made = {}
    with torch.no_grad():
        for name in detector.choose_taps(list(taps)):
            tap = taps[name]
            features = detector.replace_tap(name, tap.clone()).mean(dim=(2, 3)) @ units[name].to(
                tap
            )
            head = Head(kind_of(type(detector)), weight.to(tap), bias.to(tap))
            made[name] = _logits(features, head)
    return outputs.replaced(replaced_logits=made)


def _pattern() -> Tensor:
    """How much more active a unit is for a class, shape [C, D]."""
    units = torch.arange(UNITS)
    strength = torch.where(units % 2 == 0, 3.0, 2.0).double()
    return strength * (units // OWN == torch.arange(CLASSES)[:, None])


def _last_layer(pattern: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    own = (pattern > 0).double()
    own[:, -SILENT:] = 0
    others = 1 - own
    others[:, -SILENT:] = 0
    bias = torch.linspace(-0.1, 0.1, CLASSES, dtype=torch.float64)
    weight = 3 * (own / OWN - others / OWN / (CLASSES - 1))
    return (weight, bias) if kind == "linear" else (pattern + 0.5 * (own + others), bias)


def _logits(features: Tensor, head: Head) -> Tensor:
    if head.kind == "linear":
        return head.logits(features)
    assert head.weight is not None
    directions = F.normalize(features.double(), dim=1)
    distances = torch.cdist(directions, F.normalize(head.weight.double(), dim=1)) / 2**0.5
    return -(distances + distances.mean(dim=1, keepdim=True)) / 0.1


class Pass(Batches):
    """Outputs in batches of one size."""

    num_classes = CLASSES

    def __init__(self, outputs: Outputs, size: int = 100) -> None:
        self.outputs = outputs
        self.size = size

    def __iter__(self) -> Iterator[Outputs]:
        for start in range(0, len(self.outputs), self.size):
            yield self.outputs[start : start + self.size]


def kind_of(cls: Detecting) -> Kind:
    """The last layer that a detector is for."""
    return "dismax" if "dismax_head" in cls.info.needs else "linear"


def reading(cls: Detecting, outputs: Outputs) -> Outputs:
    """With what a detector that reads layers makes of every tap's map."""
    if "layers" not in cls.info.needs:
        return outputs
    detector = cls()
    return outputs.replaced(
        layers={name: detector.reduce_layer(tap) for name, tap in outputs.tap_maps.items()}
    )


def seen_by(cls: Detecting, outputs: Outputs) -> Outputs:
    """What a detector may use: everything that it does not declare is withheld."""
    return reading(cls, outputs).only(cls.info.needs)


View = Callable[[str], Outputs]


def views(cls: Detecting, dtype: torch.dtype = torch.float64) -> View:
    """Split -> the planted outputs as a detector may see them; copies, as the engine gives."""
    return lambda split: seen_by(cls, planted(split, kind_of(cls), dtype)).map(torch.clone)


def fitted(
    cls: Detecting,
    view: View | None = None,
    *,
    size: int = 100,
    fit_on: str = "fit",
    **parameters: Any,
) -> Detector:
    """A new detector that has learnt all that it needs to score.

    Args:
        cls: its class.
        view: split -> outputs; default: the planted ones.
        size: images in a batch.
        fit_on: the split to fit on.
        parameters: of the constructor.
    """
    detector = cls(**parameters)
    learn(detector, view or views(cls), size=size, fit_on=fit_on)
    return detector


def learn(detector: Detector, view: View, *, size: int = 100, fit_on: str = "fit") -> None:
    """Fit and calibrate a detector, as the engine does."""
    needs = detector.info.needs
    with torch.no_grad():
        if "fit" in needs:
            detector.fit(Pass(view(fit_on), size))
        if "validation" in needs:
            detector.fit_validation(Pass(view("validation"), size))
        if "calibration" in needs:
            sides = (with_gradients(detector, view(split)) for split in ("positives", "negatives"))
            detector.calibrate(*sides)


@functools.cache
def _shared(cls: Detecting) -> Detector:
    """A fitted detector for checks that only score with it."""
    return fitted(cls)


def scores_of(detector: Detector, outputs: Outputs) -> Tensor:
    """Scores, without a graph: one finite number for each image.

    Raises:
        AssertionError: they are something else.
    """
    outputs = with_replacements(detector, with_gradients(detector, outputs))
    with torch.no_grad():
        scores: object = detector.score(outputs)
    name, expected = detector.info.name, [len(outputs)]
    wanted = f"expected a torch tensor of shape {expected}, one score for each image"
    if not isinstance(scores, Tensor):
        raise AssertionError(f"{name}: score returned a {type(scores).__name__}; {wanted}")
    _expect(
        list(scores.shape) == expected,
        f"{name}: score returned shape {list(scores.shape)}; {wanted}",
    )
    bad = (~scores.isfinite()).nonzero().flatten()
    _expect(
        len(bad) == 0,
        f"{name}: {len(bad)} of {len(scores)} scores are not finite, the first of them "
        f"{scores[bad[:1]].tolist()}; expected finite numbers",
    )
    return scores


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def expect_same(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Scores are the same up to rounding.

    Args:
        found: shape [B].
        expected: shape [B].
        tolerance: relative to the spread, and a hundredth of it to the size; 0: bit for bit.
        what: said when they are not.
    """
    found, expected = found.double().cpu(), expected.double().cpu()
    _expect(found.shape == expected.shape, f"{what}: {list(found.shape)} scores")
    spread = float(expected.std()) if len(expected) > 1 else 0.0
    allowed = tolerance * (spread + float(expected.abs().max()) / 100)
    difference = (found - expected).abs().nan_to_num(torch.inf)
    worst = int(difference.argmax())
    _expect(
        float(difference[worst]) <= allowed,
        f"{what}: image {worst} has {found[worst]:.9g}, expected {expected[worst]:.9g} "
        f"(they differ by {difference[worst]:.2g}, allowed is {allowed:.2g})",
    )


# --- declarations --------------------------------------------------------------------------------


def check_declaration(cls: Detecting) -> None:
    """Needs and search space are declared, and the defaults lie in the search space.

    A paper is declared whole, with venue, year and url, or not at all.
    """
    info = cls.info
    for field in ("label", "title"):
        _expect(bool(getattr(info, field)), f"{info.name}: {field} is empty")
    _expect(info.label.isidentifier(), f"{info.name}: the label {info.label!r} is not one word")
    if info.venue or info.year or info.url:  # what is not published has none of them
        year = info.year or 0
        _expect(bool(info.venue), f"{info.name}: venue is empty, and year or url is not")
        _expect(1990 <= year <= 2100, f"{info.name}: year is {info.year}")
        said = f"{info.name}: url is {info.url!r}, not https://..."
        _expect(info.url.startswith("https://"), said)
    _expect(info.needs <= set(NEEDS), f"{info.name}: unknown needs {info.needs - set(NEEDS)}")
    _expect(info.cost_class.startswith("forward"), f"{info.name}: cost class {info.cost_class!r}")
    for method, need in required_methods(NEEDS).items():
        base = PerturbingDetector if issubclass(cls, PerturbingDetector) else Detector
        has = getattr(cls, method, None) is not getattr(base, method, None)
        if not need:
            continue
        _expect(
            has == (need in info.needs),
            f"{info.name}: {'has' if has else 'lacks'} the method for the need '{need}', which it "
            f"{'does not declare' if has else 'declares'}",
        )
    detector = cls()
    problem = parameters_problem(detector)
    _expect(problem is None, f"{info.name}: {problem}")
    for parameter, values in info.search_space.items():
        _expect(len(set(values)) == len(values), f"{info.name}: {parameter} has a value twice")
    if "input_gradient" in info.needs:
        step = getattr(detector, "epsilon", None)
        _expect(
            isinstance(step, float),
            f"{info.name}: expected an attribute epsilon, a float in units of a [0, 1] pixel: "
            f"found {step!r}",
        )


def check_declares_what_it_uses(cls: Detecting) -> None:
    """What is not declared is not used: neither for fitting nor for scoring.

    Whether a detector can run on a network is decided from what it declares.
    """

    def everything(split: str) -> Outputs:
        return reading(cls, planted(split, kind_of(cls))).map(torch.clone)

    try:
        found = scores_of(_shared(cls), views(cls)("id"))
    except AttributeError as error:
        raise AssertionError(f"{cls.info.name}: {error}") from error
    expect_same(
        found,
        scores_of(fitted(cls, everything), everything("id")),
        0.0,
        f"{cls.info.name}, shown only what it declares that it needs",
    )


# --- scores --------------------------------------------------------------------------------------


def check_scores(cls: Detecting) -> None:
    """One finite float64 number for each image, on either side."""
    for split in ("id", "ood"):
        outputs = views(cls)(split)
        scores = scores_of(_shared(cls), outputs)
        name = f"{cls.info.name} on '{split}'"
        # Narrower ones, of double-precision outputs, run into ties.
        _expect(scores.dtype == torch.float64, f"{name}: {scores.dtype}, not float64")
        _expect(not scores.requires_grad, f"{name}: scores have a graph")


def check_orientation(cls: Detecting) -> None:
    """Planted in-distribution images score higher than out-of-distribution ones."""
    inside, outside = (
        scores_of(_shared(cls), views(cls)(split)).double().numpy() for split in ("id", "ood")
    )
    found = auroc(inside, outside)
    _expect(
        found > ORIENTATION,
        f"{cls.info.name}: AUROC {found:.3f} on planted data, expected above {ORIENTATION}: median "
        f"score {np.median(inside):.4g} in-distribution, {np.median(outside):.4g} out of it",
    )


def check_batch_size(cls: Detecting) -> None:
    """A score does not depend on how many images are scored at a time."""
    outputs = views(cls)("id")
    whole = scores_of(_shared(cls), outputs)
    for size in (1, 3, 7):
        parts = [scores_of(_shared(cls), batch) for batch in Pass(outputs, size)]
        expect_same(torch.cat(parts), whole, ROUNDING, f"{cls.info.name}, in batches of {size}")


def check_neighbors(cls: Detecting) -> None:
    """A score does not depend on which other images are in the batch."""
    inside, outside = views(cls)("id"), views(cls)("ood")
    alone = scores_of(_shared(cls), inside)[:10]
    mixed = _joined(inside[:10], outside)
    expect_same(
        scores_of(_shared(cls), mixed)[:10], alone, ROUNDING, f"{cls.info.name}, among OOD images"
    )


def _joined(first: Outputs, second: Outputs) -> Outputs:
    """Two batches as one, maps included."""
    both = (first, second)
    maps: dict[str, Any] = {}
    if hasattr(first, "feature_map"):
        maps["feature_map"] = torch.cat([first.feature_map, second.feature_map])
    for name in ("tap_maps", "layers", "replaced_logits"):
        if hasattr(first, name):
            parts = [getattr(batch, name) for batch in both]
            maps[name] = {each: torch.cat([part[each] for part in parts]) for each in parts[0]}
    return Outputs.concatenate(both).replaced(**maps)


def check_order(cls: Detecting) -> None:
    """Permuted images give permuted scores."""
    outputs = views(cls)("id")
    order = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(0))
    permuted = scores_of(_shared(cls), outputs.map(lambda tensor: tensor[order]))
    expected = scores_of(_shared(cls), outputs)[order]
    expect_same(permuted, expected, ROUNDING, f"{cls.info.name}, of permuted images")


def check_one_image(cls: Detecting) -> None:
    """A batch of one image has one score, that of the image among others."""
    outputs = views(cls)("ood")
    alone = scores_of(_shared(cls), outputs[5:6])
    _expect(list(alone.shape) == [1], f"{cls.info.name}: {list(alone.shape)} for one image")
    expected = scores_of(_shared(cls), outputs)
    found = torch.cat([expected[:5], alone, expected[6:]])
    expect_same(found, expected, ROUNDING, f"{cls.info.name}, of an image alone")


def check_scoring_leaves_no_trace(cls: Detecting) -> None:
    """Scoring other images in between changes nothing."""
    first = scores_of(_shared(cls), views(cls)("id"))
    scores_of(_shared(cls), views(cls)("ood"))
    again = scores_of(_shared(cls), views(cls)("id"))
    expect_same(again, first, 0.0, f"{cls.info.name}, scored once more")


def check_single_precision(cls: Detecting) -> None:
    """Features in float32 give the scores that float64 gives, up to rounding."""
    view = views(cls, torch.float32)
    detector = fitted(cls, view)
    for split in ("id", "ood"):
        expect_same(
            scores_of(detector, view(split)),
            scores_of(_shared(cls), views(cls)(split)),
            SINGLE_PRECISION,
            f"{cls.info.name} on '{split}' in float32",
        )


def check_cuda(cls: Detecting) -> None:
    """A GPU gives the scores of the CPU, on the GPU. Only where there is one."""

    def view(split: str) -> Outputs:
        outputs = views(cls)(split).map(lambda tensor: tensor.cuda())
        if not hasattr(outputs, "head"):
            return outputs
        head = outputs.head
        weight = None if head.weight is None else head.weight.cuda()
        bias = None if head.bias is None else head.bias.cuda()
        return outputs.replaced(head=replace(head, weight=weight, bias=bias))

    detector = fitted(cls, view)
    for split in ("id", "ood"):
        scores = scores_of(detector, view(split))
        _expect(scores.is_cuda, f"{cls.info.name}: scores of CUDA tensors are on {scores.device}")
        expected = scores_of(_shared(cls), views(cls)(split))
        expect_same(scores, expected, 1e-6, f"{cls.info.name} on '{split}' on CUDA")


# --- fitting -------------------------------------------------------------------------------------


def check_repeatable(cls: Detecting) -> None:
    """Two detectors that are fitted on the same images give the same scores, bit for bit."""
    first, second = (scores_of(fitted(cls), views(cls)("id")) for _ in range(2))
    expect_same(second, first, 0.0, f"{cls.info.name}, fitted and scored twice")


def check_fit_batch_size(cls: Detecting) -> None:
    """What is learnt does not depend on how the images are cut into batches."""
    found = scores_of(fitted(cls, size=37), views(cls)("id"))
    expected = scores_of(_shared(cls), views(cls)("id"))
    expect_same(found, expected, ROUNDING, f"{cls.info.name}, fitted in batches of 37")


def check_refit(cls: Detecting) -> None:
    """Fitting again forgets what was learnt before."""
    detector = fitted(cls, fit_on="other")
    scores_of(detector, views(cls)("id"))  # what is derived while scoring is to be forgotten too
    learn(detector, views(cls))
    expected = scores_of(_shared(cls), views(cls)("id"))
    found = scores_of(detector, views(cls)("id"))
    expect_same(found, expected, 0.0, f"{cls.info.name}, fitted on other images before")


def check_class_without_images(cls: Detecting) -> None:
    """Fitted without an image of one class, scores are finite, or a ValueError says why not."""
    if not {"fit", "labels"} <= cls.info.needs:
        return

    def view(split: str) -> Outputs:
        outputs = views(cls)(split)
        if split != "fit":
            return outputs
        assert outputs.labels is not None
        kept = outputs.labels != CLASSES // 2
        return outputs.map(lambda tensor: tensor[kept])

    name = f"{cls.info.name}, fitted without an image of class {CLASSES // 2}"
    wanted = "expected finite scores, or a ValueError that says what is missing"
    try:
        detector = fitted(cls, view)
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}; {wanted}") from error
    try:
        scores_of(detector, views(cls)("id"))
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}. Here: {wanted}") from error


def check_parameters_after_fit(cls: Detecting) -> None:
    """Every value of the search space can be set after one fit, and the original stays as it was.

    The copy scores as a detector does that was made with that value and fitted.
    """
    original, outputs = fitted(cls), views(cls)("id")
    before = scores_of(original, outputs)
    for parameter, values in cls.info.search_space.items():
        for value in values:
            changed = {parameter: value}
            found = scores_of(original.with_parameters(**changed), outputs)
            expected = scores_of(fitted(cls, **changed), outputs)
            name = f"{cls.info.name} with {parameter} = {value} after the fit"
            expect_same(found, expected, ROUNDING, name)
    name = f"{cls.info.name}, after copies of it had other parameters"
    expect_same(scores_of(original, outputs), before, 0.0, name)


def check_unfitted(cls: Detecting) -> None:
    """Scoring before fitting says what to do: a ValueError that names the fit."""
    needs = cls.info.needs
    if not needs & {"fit", "validation"}:
        return
    try:
        scores_of(cls(), views(cls)("id"))
    except ValueError as error:
        _expect("fit" in str(error), f"{cls.info.name}: '{error}' does not say to fit first")
    except Exception as error:
        raise AssertionError(
            f"{cls.info.name}: scoring before fitting raised {type(error).__name__}: {error}; "
            "expected a ValueError that says to fit first"
        ) from error
    else:
        raise AssertionError(f"{cls.info.name}: declares a fit and scores without one")


def check_inputs_unchanged(cls: Detecting) -> None:
    """Neither fitting nor scoring writes into what it is given."""
    own = {
        split: planted(split, kind_of(cls)).map(torch.clone)
        for split in ("fit", "validation", "positives", "negatives", "id")
    }
    detector = fitted(cls, lambda split: seen_by(cls, own[split]))
    scores_of(detector, seen_by(cls, own["id"]))
    for split, outputs in own.items():
        before, after = _tensors(planted(split, kind_of(cls))), _tensors(outputs)
        for place, tensor in after.items():
            _expect(
                torch.equal(tensor, before[place]),
                f"{cls.info.name}: writes into {place} of the images it is given ('{split}')",
            )


def _tensors(outputs: Outputs) -> dict[str, Tensor]:
    tensors = {
        "logits": outputs.logits,
        "features": outputs.features,
        "feature_map": outputs.feature_map,
        "labels": outputs.labels,
        "the head's weight": outputs.head.weight,
        **{f"tap '{name}'": tap for name, tap in outputs.taps.items()},
        **{f"the map of tap '{name}'": tap for name, tap in outputs.tap_maps.items()},
        **{f"layer '{name}'": layer for name, layer in outputs.layers.items()},
    }
    return {place: tensor for place, tensor in tensors.items() if tensor is not None}


# --- through the engine --------------------------------------------------------------------------


class SmallNetwork(Network):
    """Two convolutions with a tap after each, mean over space, head; images of 2 channels."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 24, 3, padding=1, stride=2), nn.ReLU())
        self.tap_names = ("first", "second")
        self.head = {"linear": SoftMaxHead, "dismax": DisMax2022Head}[kind](24, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape [B, C]."""
        logits: Tensor = self.head(self.second(self.first(images)).mean(dim=(2, 3)))
        return logits


def small_images(count: int, seed: int) -> ImageArray:
    """Images [N, 2, 8, 8] of three classes; those of one class resemble each other."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).uniform(0.1, 0.9, (3, 2, 8, 8))
    labels = np.arange(count) % 3
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
        means = torch.stack([features[labels == c].mean(dim=0) for c in range(3)])
        if kind == "dismax":
            network.head.prototypes.copy_(means)
        else:  # the linear rule for classes with these means and one covariance
            centered = features - means[labels]
            covariance = centered.T @ centered / len(centered) + 1e-4 * torch.eye(24)
            weight = 0.2 * torch.linalg.solve(covariance, means.T).T
            network.head.weight.copy_(weight)
            network.head.bias.copy_(-0.5 * (weight * means).sum(dim=1))
    return classifier


def check_losses(cls: Detecting) -> None:
    """Losses that gradients are taken of: one number for each image, whichever are beside it."""
    needs, detector = cls.info.needs, _shared(cls)
    for need, method in (
        ("input_gradient", "perturbation_losses"),
        ("input_gradients", "gradient_losses"),
    ):
        if need not in needs:
            continue
        outputs = views(cls)("id")
        places = {LOGITS, *getattr(outputs, "taps", ())} if need == "input_gradient" else None

        def losses(batch: Outputs) -> dict[str, Tensor]:
            images = planted("id", kind_of(cls)).input_gradients[IMAGES][: len(batch)].clone()
            graph = with_graph(batch, images.requires_grad_(), kind_of(cls))
            given = getattr(detector, method)(graph)  # noqa: B023
            return checked_losses(detector, method, given, len(batch), places)  # noqa: B023

        with torch.enable_grad():
            whole, part = losses(outputs), losses(outputs[:7])
        _expect(list(whole) == list(part), f"{cls.info.name}: {method} names {[*whole]}, {[*part]}")
        for name, loss in whole.items():
            what = f"{cls.info.name}, the loss '{name}' of {method} in a smaller batch"
            expect_same(part[name].detach(), loss[:7].detach(), ROUNDING, what)


def check_engine(cls: Detecting) -> None:
    """Fitted and scored by the engine, on a network that is the same afterwards.

    Weights, buffers and their addresses, modes, frozen parameters, gradients and hooks are looked
    at.
    """
    classifier = copy.deepcopy(small_classifier(kind_of(cls)))
    network = classifier.network
    network.first[1].train()  # an odd state, to be given back
    network.second[0].weight.requires_grad_(False)
    before = _state(classifier)
    scores = engine_scores(classifier, cls)
    _expect(np.isfinite(scores).all(), f"{cls.info.name}: scores of the engine are not finite")
    after = _state(classifier)
    for place, value in before.items():
        same = (
            torch.equal(after[place], value) if isinstance(value, Tensor) else after[place] == value
        )
        _expect(same, f"{cls.info.name}: {place} of the network is not as it was")


def engine_scores(classifier: Classifier, cls: Detecting) -> NDArray[np.float64]:
    """A detector's scores of test images, after all that it learns from."""
    needs, detector = cls.info.needs, cls()
    if "input_gradient" in needs:
        detector = detector.with_parameters(epsilon=0.01)
    with evaluating(classifier):
        few = torch.from_numpy(small_images(4, seed=0).images)
        name = find_map(classifier, few)
    readers, errors = layer_readers(classifier, {"M": detector}, few)
    kept, refusals = kept_taps(classifier.network, {"M": detector})
    errors |= refusals
    _expect(not errors, f"{cls.info.name}: {errors.get('M')!r}")
    capture = Capture.of(needs, name, readers, kept)
    runner = NetworkRunner(classifier, batch_size=64, capture=capture)
    scorers = {"M": detector}
    with runner.attached():
        for need in ("fit", "validation"):
            if need in needs:
                images = small_images(FITTING, seed=1 if need == "fit" else 2)
                fits = fit_together(
                    {"M": detector},
                    functools.partial(pass_outputs, runner, images),
                    3,
                    validation=need == "validation",
                )
                _expect(fits["M"].error is None, f"{cls.info.name}: {fits['M'].error!r}")
        if "calibration" in needs:
            data = small_images(50, seed=3)
            inverted = ImageArray(1 - data.images, data.labels)
            sides = [_seen(runner, detector, images).copied(needs) for images in (data, inverted)]
            with torch.no_grad():
                detector.calibrate(*sides)
        test = small_images(100, seed=4)
        outcome = score_split(runner, test, scorers, dataset="test", check_batches=True)
    _expect(not outcome.errors, f"{cls.info.name}: {outcome.errors.get('M')!r}")
    return outcome.scores["M"]


def _seen(runner: NetworkRunner, detector: Detector, data: ImageArray) -> Outputs:
    """Outputs of a split, with the gradients that a detector looks at."""
    if "input_gradients" not in detector.info.needs:
        return Outputs.concatenate(list(pass_outputs(runner, data)))
    parts = []
    for images, _ in runner.batches(data):
        with torch.enable_grad():
            images = images.requires_grad_()
            still = detector.with_parameters(epsilon=0.0)
            parts.append(differentiated(runner, still, images, runner.outputs(images)))
    return Outputs.concatenate(parts)


def _state(module: nn.Module) -> dict[str, Any]:
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


CHECKS: tuple[Check, ...] = (
    check_declaration,
    check_declares_what_it_uses,
    check_scores,
    check_orientation,
    check_batch_size,
    check_neighbors,
    check_order,
    check_one_image,
    check_scoring_leaves_no_trace,
    check_single_precision,
    check_cuda,
    check_repeatable,
    check_fit_batch_size,
    check_refit,
    check_class_without_images,
    check_parameters_after_fit,
    check_unfitted,
    check_inputs_unchanged,
    check_losses,
    check_engine,
)
"""All checks, in the order in which a detector's author would want to see them fail."""
