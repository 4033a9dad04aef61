"""Compare exported graphs with their detectors: all detectors, five networks, three batch sizes.

    python scripts/parity/onnx_export.py [--networks cnn vit dismax ensemble vectors]
                                         [--detectors NAME ...] [--separately]

The networks are those of the tests of saved detectors: a CNN, a vision transformer, a CNN with a
DisMax head, an ensemble of two CNNs, and a network of linear layers in float64 (onnxruntime has no
convolutions in float64). On each, all detectors are fitted that can run on it, with their default
parameters, and four once more on several feature layers, whose scores Fisher's method combines. The
detectors of a network are written as one ONNX graph that shares the network; with `--separately`,
or where the one graph cannot be written, each has a graph of its own.

The table gives the largest difference of a score in onnxruntime from the detector's own, for
batches of 1, 2 and 7 images, relative to the detector's largest score; the same for the graph of
torch.export; and, in the column `own`, for the detector itself in batches of 1 and 2 instead of 7.
The exit code is 1 if a detector without a reason is not exported, or if a difference in onnxruntime
is above 1e-5 and above 4 times `own`.

`own` is rounding of the network in float32, in which batches of another size are summed in another
order. The CNN has logits near 40 that differ by 3 between classes: rounding of the logits, 4e-6
for each operation, is some 1e-5 of scores that are differences of logits, such as RotPred's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from oodbench.process import prepare_process

prepare_process()
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import numpy as np
import torch
from deploy.conftest import NETWORKS, data, fitted_on
from helpers.exported_graphs import (
    BATCH_SIZES,
    TOLERANCE,
    differences,
    fit_all,
    onnx_of,
    own_scores,
    program_of,
)
from tabulate import tabulate
from torch import Tensor, nn

from oodbench import load_detector
from oodbench.deploy.export import export_obstacle
from oodbench.detector import Detector
from oodbench.models.classifier import Classifier
from oodbench.testing.small_network import CLASSES, small_images

LAYERWISE = ("knn", "gmm", "ssd", "mahalanobis_plus")
HEADER = ("network", "detector", *(f"B={size}" for size in BATCH_SIZES), "torch.export", "own", "")
EMPTY = [None] * (len(BATCH_SIZES) + 2)


def vectors() -> nn.Module:
    """Linear layers in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Flatten(), nn.Linear(128, 24), nn.ReLU(), nn.Linear(24, CLASSES)
        return nn.Sequential(*layers).double()


def layerwise(classifier: Classifier, images: Tensor) -> dict[str, Detector]:
    """Detectors of several feature layers, fitted; none if the network has no feature layers."""
    if not classifier.network.tap_names:
        return {}
    chosen = {
        f"{name} (layers, fisher)": load_detector(name, layers="all", combine="fisher")
        for name in LAYERWISE
    }
    fit_all(classifier, chosen, small_images(200, 1), small_images(60, 2), CLASSES)
    return chosen


def rows_of(network: str, names: list[str], *, separately: bool) -> Iterator[list[object]]:
    """Rows of the table for one network."""
    fitted = fitted_on(network).detectors
    given = data(max(BATCH_SIZES), 4).tensors[0]
    model = next(iter(fitted.values())).model
    with model.ready() as classifier, tempfile.TemporaryDirectory() as folder:
        images = given.to(classifier.dtype)
        detectors = {name: each.detector for name, each in fitted.items()}
        detectors |= layerwise(classifier, images)
        to_export: dict[str, Detector] = {}
        for name, detector in detectors.items():
            if names and name.split()[0] not in names:
                continue
            reason = export_obstacle(detector)
            if reason is None:
                try:
                    own_scores(classifier, {name: detector}, images)
                except Exception as error:  # it cannot run on this network
                    reason = str(error).splitlines()[0]
            if reason is None:
                to_export[name] = detector
            else:
                yield [network, name, *EMPTY, reason]
        if not separately and to_export:
            try:
                yield from compared_rows(network, classifier, to_export, images, Path(folder))
                return
            except Exception as error:
                text = str(error.__cause__ or error).strip().splitlines()[0]
                print(f"{network}, all in one graph: {text}", file=sys.stderr)
        for name, detector in to_export.items():
            try:
                part = {name: detector}
                yield from compared_rows(network, classifier, part, images, Path(folder))
            except Exception as error:
                text = str(error.__cause__ or error).strip().splitlines()[0]
                failed = f"FAILED: {type(error).__name__}: {text}"
                yield [network, name, *EMPTY, failed]


def compared_rows(
    network: str,
    classifier: Classifier,
    detectors: Mapping[str, Detector],
    images: Tensor,
    folder: Path,
) -> list[list[object]]:
    """One row for each detector of a graph."""
    expected = own_scores(classifier, detectors, images)
    program = program_of(classifier, detectors, images[:3])
    in_torch = differences(program.module(), expected, images)
    in_onnx = differences(onnx_of(program, detectors, folder), expected, images)
    smaller = {size: own_scores(classifier, detectors, images[:size]) for size in BATCH_SIZES}
    rows: list[list[object]] = []
    for name, found in in_onnx.items():
        largest = np.abs(expected[name]).max() or 1.0
        own = max(
            np.abs(scores[name] - expected[name][:size]).max() / largest
            for size, scores in smaller.items()
        )
        remark = "" if max(found.values()) <= max(TOLERANCE, 4 * own) else "FAILED"
        shown = [*found.values(), max(in_torch[name].values()), own]
        rows.append([network, name, *(f"{each:.0e}" for each in shown), remark])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS, "vectors"])
    parser.add_argument("--detectors", nargs="+", default=[])
    parser.add_argument("--separately", action="store_true")
    arguments = parser.parse_args()
    NETWORKS["vectors"] = vectors
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for network in arguments.networks:
        found = [*rows_of(network, arguments.detectors, separately=arguments.separately)]
        print(tabulate(found, HEADER, tablefmt="github", disable_numparse=True), flush=True)
        rows += found
    failed = [f"{row[1]} on {row[0]}" for row in rows if str(row[-1]).startswith("FAILED")]
    exported = sum(row[2] is not None for row in rows)
    print(f"\n{exported} of {len(rows)} were exported; failed: {', '.join(failed) or 'none'}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
