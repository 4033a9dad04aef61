"""Checks of scores: finite, the right way round, of each image alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from oodbench.detector import Outputs
from oodbench.metrics import auroc
from oodbench.testing.assertions import (
    ROUNDING,
    SINGLE_PRECISION,
    CheckFailed,
    NotRun,
    expect,
    expect_same,
)
from oodbench.testing.check import check
from oodbench.testing.planted import (
    MANY_CLASSES,
    TWO_CLASSES,
    PlantedBatches,
    PlantedNetwork,
    Split,
    copied,
    joined,
)
from oodbench.testing.subject import Subject

ORIENTATION = 0.9
"""The AUROC that a detector must reach on planted data, where the sides hardly overlap."""

_OF_ALL = (
    "Compute an image's score from its own row: no mean, maximum or sort over the batch (dim=0), "
    "no squeeze(), no batch statistics."
)
SIDES: tuple[Split, Split] = ("id", "ood")


@check("Return a float64 tensor: compute in .double(), as narrower types run into ties.")
def scores(subject: Subject) -> None:
    """Scores are finite floating-point numbers of shape [B], in float64 for float64 outputs."""
    for split in SIDES:
        found = subject.scores(subject.fitted, subject.outputs(split))
        dtype = str(found.dtype).removeprefix("torch.")
        expect(found.dtype == torch.float64, f"scores of '{split}' images are {dtype}, not float64")
        expect(
            not found.requires_grad,
            f"scores of '{split}' images have a graph",
            "Return scores.detach().",
        )


@check("Return the negated score if it is larger for unusual images: higher means ID.")
def orientation(subject: Subject) -> None:
    """In-distribution images score higher than out-of-distribution ones, on planted data."""
    inside, outside = (
        subject.scores(subject.fitted, subject.outputs(split)).double().cpu().numpy()
        for split in SIDES
    )
    found = auroc(inside, outside)
    same = float(np.ptp(np.concatenate([inside, outside]))) == 0.0
    expect(
        found > ORIENTATION,
        f"AUROC {found:.3f} on planted data, expected above {ORIENTATION}: median score "
        f"{np.median(inside):.4g} in-distribution, {np.median(outside):.4g} out-of-distribution",
        "Every image has the same score: use what tells images apart."
        if same
        else ""
        if found < 0.5
        else "The sign is right, but the score hardly separates images that differ in logits, "
        "features and maps: compare the formula with its source.",
    )


@check(_OF_ALL)
def batch_size(subject: Subject) -> None:
    """An image's score does not depend on how many images are scored at a time."""
    outputs = subject.outputs("id")
    whole = subject.scores(subject.fitted, outputs)
    for size in (1, 3, 7):
        parts = [
            subject.scores(subject.fitted, batch)
            for batch in PlantedBatches(outputs, subject.network.classes, size)
        ]
        expect_same(torch.cat(parts), whole, ROUNDING, f"in batches of {size}")


@check(_OF_ALL)
def neighbors(subject: Subject) -> None:
    """An image's score does not depend on which other images are in the batch."""
    inside, outside = subject.outputs("id"), subject.outputs("ood")
    alone = subject.scores(subject.fitted, inside)[:10]
    mixed = subject.scores(subject.fitted, joined(inside[:10], outside))[:10]
    expect_same(mixed, alone, ROUNDING, "among OOD images")


@check(_OF_ALL)
def order(subject: Subject) -> None:
    """Permuted images give permuted scores."""
    outputs = subject.outputs("id")
    places = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(0))
    permuted = subject.scores(subject.fitted, outputs.map(lambda tensor: tensor[places]))
    expected = subject.scores(subject.fitted, outputs)[places]
    expect_same(permuted, expected, ROUNDING, "of permuted images")


@check("Keep the dimension of the batch: use squeeze(1) or flatten(1), not squeeze().")
def one_image(subject: Subject) -> None:
    """A batch of one image has one score, that of the image among others."""
    outputs = subject.outputs("ood")
    alone = subject.scores(subject.fitted, outputs[5:6])
    expected = subject.scores(subject.fitted, outputs)
    found = torch.cat([expected[:5], alone, expected[6:]])
    expect_same(found, expected, ROUNDING, "of an image alone", _OF_ALL)


@check("Set attributes in fit only; draw random numbers from a generator made in score.")
def scored_again(subject: Subject) -> None:
    """Scoring the same images again gives the same scores, whatever was scored in between."""
    detector = subject.learned()
    first = subject.scores(detector, subject.outputs("id"))
    subject.scores(detector, subject.outputs("ood"))
    again = subject.scores(detector, subject.outputs("id"))
    expect_same(again, first, 0.0, "scored once more")


@check(
    "Call .double() on features and maps before differences, products and norms are taken, and "
    "keep constants independent of the type."
)
def single_precision(subject: Subject) -> None:
    """Features in float32 give the scores that float64 gives, up to rounding."""

    def view(split: Split) -> Outputs:
        return subject.outputs(split, torch.float32)

    detector = subject.learned(view)
    for split in SIDES:
        expect_same(
            subject.scores(detector, view(split)),
            subject.scores(subject.fitted, subject.outputs(split)),
            SINGLE_PRECISION,
            f"of '{split}' images in float32",
        )


@check("Create tensors on the device of the outputs, as outputs.logits.new_zeros(...) does.")
def cuda(subject: Subject) -> None:
    """A GPU gives the scores of the CPU, on the GPU."""
    if not torch.cuda.is_available():
        raise NotRun("no CUDA")

    def view(split: Split) -> Outputs:
        return copied(subject.outputs(split), on="cuda")

    detector = subject.learned(view)
    for split in SIDES:
        found = subject.scores(detector, view(split))
        expect(found.is_cuda, f"scores of CUDA tensors are on {found.device}")
        expected = subject.scores(subject.fitted, subject.outputs(split))
        expect_same(found, expected, 1e-6, f"of '{split}' images on CUDA")


@check(
    "Support the model, or raise a ValueError in fit that says what the detector needs: it is then "
    "skipped with that reason."
)
def other_models(subject: Subject) -> None:
    """Models of other shapes work: two classes, many classes, no map, another head.

    Or a `ValueError` says why not.
    """
    subject.new()  # what this raises is not about models
    for network in _others(subject):
        outputs = subject.outputs("id", network=network)
        on = f"on a model with {network.described}"
        try:
            detector = subject.learned(network=network)
            found = subject.scores(detector, outputs, network)
            parts = [
                subject.scores(detector, batch, network)
                for batch in PlantedBatches(outputs, network.classes, 7)
            ]
        except ValueError as error:
            expect(bool(str(error)), f"{on}: a ValueError without a message")
            continue
        except CheckFailed as failure:
            raise CheckFailed(f"{on}: {failure.seen}", failure.remedy) from failure
        expect_same(torch.cat(parts), found, ROUNDING, f"{on}, in batches of 7", _OF_ALL)


def _others(subject: Subject) -> list[PlantedNetwork]:
    own = subject.network
    networks = [TWO_CLASSES, MANY_CLASSES, PlantedNetwork(spatial=False)]
    if own.kind == "dismax":
        return [replace(network, kind="dismax") for network in networks]
    return networks if "head" in subject.needs else [*networks, PlantedNetwork(kind="dismax")]
