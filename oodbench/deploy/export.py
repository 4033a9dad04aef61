"""A fitted detector and its model as one graph: image in; logits, score and decision out."""

from __future__ import annotations

import json
import linecache
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from oodbench.deploy.deployed_model import DeployedModel
from oodbench.deploy.graph.onnx_file import OnnxGraph, require_onnx, write_onnx
from oodbench.deploy.graph.scored_network import (
    ACCEPTED,
    INPUT,
    LOGITS,
    SCORE,
    ScoredNetwork,
    scoring_runner,
    silent,
    traced,
)
from oodbench.deploy.model_identity import digest_of
from oodbench.detector import Detector
from oodbench.engine.passes.input_gradients import differentiates
from oodbench.engine.scoring import score_batch
from oodbench.errors import UserError
from oodbench.files import check_writable, explained, make_folder, unfinished_folder
from oodbench.metrics.thresholds import Threshold
from oodbench.models.classifier import Classifier
from oodbench.version import __version__

ONNX, TORCH = ".onnx", ".pt2"

LARGEST_DIFFERENCE = 1e-3
"""Of an exported score from the detector's own, relative to the largest score. It is rounding, some
1e-6; where a score counts values in bins, rounding moves a value to the next bin now and then."""

_METHOD = "the detector"


@dataclass(frozen=True, slots=True)
class Export:
    """What was written.

    Attributes:
        path: the file.
        outputs: names of the outputs, in order.
        difference: largest difference of an exported score from the detector's own on the images
            that the export was tried on, relative to the largest score.
    """

    path: Path
    outputs: tuple[str, ...]
    difference: float


def export_obstacle(detector: Detector) -> str | None:
    """Why a detector, with its present parameters, has no graph; None if nothing speaks against it.

    Args:
        detector: any.
    """
    if "input_gradient" in detector.info.needs and not differentiates(detector):
        return None  # epsilon = 0: nothing is moved
    return detector.info.export_obstacle


def export_fitted(
    model: DeployedModel,
    detector: Detector,
    path: Path,
    threshold: Threshold | None,
    artifact: str = "",
) -> Export:
    """Write the model of a fitted detector and the detector as one graph (`write_export`).

    Args:
        model: that the detector was fitted on; it is as it was afterwards.
        detector: fitted.
        path: a file that ends in .onnx or .pt2.
        threshold: of the decision, or None.
        artifact: digest of the saved detector, for the metadata; "" if it is not saved.

    Raises:
        UserError: as `write_export`.
    """
    check_format(path)
    metadata = {
        "artifact": artifact,
        "model": digest_of(model.identity),
        "classes": json.dumps(model.classes),
        "preparation": "",
    }
    if model.preparation is not None:
        resize = model.preparation.resize
        shown = {
            "shape": model.preparation.shape,
            "resize": None if resize is None else resize.model_dump(mode="json"),
        }
        metadata["preparation"] = json.dumps(shown)
    with model.ready() as classifier:
        images = model.inputs.probes().to(model.device)
        value = None if threshold is None else threshold.value
        return write_export(classifier, detector, path, images, threshold=value, metadata=metadata)


def write_export(
    classifier: Classifier,
    detector: Detector,
    path: Path,
    images: Tensor,
    *,
    threshold: float | None = None,
    metadata: Mapping[str, str],
) -> Export:
    """Write a classifier and a fitted detector as one graph, and compare its scores.

    The graph takes images [B, channels, H, W] of the classifier's type, for any B, scaled as the
    detector was fitted on them; normalization is in the graph. It gives the logits [B, C], the
    score [B] in float64, and with a threshold whether score >= threshold, [B]. Nothing is written
    if its scores differ from the detector's.

    Args:
        classifier: that the detector was fitted on.
        detector: fitted.
        path: file with the suffix .onnx (ONNX) or .pt2 (torch.export).
        images: a few to trace and to compare with, as the classifier takes them.
        threshold: of the decision; None: the graph has no output for it.
        metadata: kept in the file, with the detector's name, the threshold and versions.

    Raises:
        UserError: if the suffix is unknown, the place cannot be written, a package is missing, or
            the model or the detector cannot be exported.
    """
    check_format(path)
    obstacle = export_obstacle(detector)
    if obstacle is not None:
        raise UserError(
            f"Detector '{detector.info.name}' cannot be exported: it {obstacle}.",
            "`oodbench list detectors` says which detectors can be exported; the saved detector "
            "itself scores images with `oodbench score`.",
        )
    images = torch.cat([images, images])[: max(2, len(images))]
    runner = scoring_runner(classifier, {_METHOD: detector}, images)
    with runner.attached():
        with torch.no_grad():
            expected = score_batch(runner, _METHOD, detector, images).double().cpu().numpy()
        network = ScoredNetwork(runner, {_METHOD: detector}, threshold)
        program = _graph(network, classifier, detector, images)
        outputs = (LOGITS, SCORE) if threshold is None else (LOGITS, SCORE, ACCEPTED)
        described = {
            "oodbench.detector": detector.info.name,
            "oodbench.parameters": json.dumps(detector.parameters, default=str),
            "oodbench.threshold": "" if threshold is None else repr(threshold),
            "oodbench.version": __version__,
            "torch.version": str(torch.__version__),
            **{f"oodbench.{name}": text for name, text in metadata.items()},
        }
        make_folder(path.parent)
        with explained(path), unfinished_folder(path) as folder:
            made = folder / path.name
            graph = _written(program, made, outputs, described)
            found = [graph(part)[1] for part in (images[:1], images)]
            difference = _checked_difference(found, expected)
            files = sorted(folder.iterdir(), reverse=True)  # weights before the graph
            if len(files) > 1:  # no older graph may read these weights
                path.unlink(missing_ok=True)
            for file in files:
                file.replace(path.parent / file.name)
    return Export(path, outputs, difference)


def check_format(path: Path) -> None:
    """Check, before any work, that a graph can be written to a file.

    Raises:
        UserError: if its suffix is unknown, the place cannot be written, or a package is missing.
    """
    if path.suffix not in (ONNX, TORCH):
        raise UserError(
            f"Cannot export to {path}: its suffix says no format.",
            f"Name a file that ends in {ONNX} (ONNX) or {TORCH} (torch.export).",
        )
    check_writable(path)
    if path.suffix == ONNX:
        require_onnx()


def _written(
    program: ExportedProgram, path: Path, outputs: tuple[str, ...], metadata: Mapping[str, str]
) -> Callable[[Tensor], Sequence[NDArray[Any]]]:
    """Write a graph; gives the one in the file, which maps images to outputs."""
    if path.suffix == TORCH:
        with silent():
            torch.export.save(program, path, extra_files=dict(metadata))
            graph = torch.export.load(path).module()
        return lambda images: [each.cpu().numpy() for each in graph(images)]
    try:
        write_onnx(program, path, [INPUT], [*outputs], metadata)
        return OnnxGraph(path)
    except (UserError, OSError):
        raise
    except Exception as error:
        text = str(error.__cause__ or error).strip()
        operation = re.search(r"target=torch\.ops\.([\w.]+)", text)
        why = f"{type(error).__name__}: {(text.splitlines() or [''])[0].rstrip('.')}"
        if operation is not None:
            why = f"ONNX has no operation for torch's {operation[1]}"
        raise UserError(
            f"The graph cannot be written as ONNX: {why}.",
            f"Export to a {TORCH} file, which has all operations of torch.",
        ) from error


def _checked_difference(found: list[NDArray[np.float64]], expected: NDArray[np.float64]) -> float:
    size = float(np.abs(expected).max()) or 1.0
    difference = max(float(np.abs(f - expected[: len(f)]).max()) for f in found) / size
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"The exported graph gives other scores: they differ by {difference:.1g} of the "
            "largest score. Nothing was written.",
            "The model or the detector depends on something that is not in a graph, such as "
            "random numbers or the values of its first images.",
        )
    return difference


# --- what cannot be traced -----------------------------------------------------------------------


def _graph(
    network: ScoredNetwork, classifier: Classifier, detector: Detector, images: Tensor
) -> ExportedProgram:
    """The graph, or an error that says what cannot be traced, and why.

    Raises:
        UserError: about the model, or about the detector.
    """
    try:
        return traced(network, images)
    except Exception as error:
        failure = error
    try:
        traced(classifier, images)
    except Exception as error:
        name = type(getattr(classifier.network, "module", classifier.network)).__name__
        raise UserError(
            f"The model {name} cannot be exported: {_cause(error)}.",
            "torch.export records the operations of one forward pass, for all images and any batch "
            "size: write the model with tensor operations alone, such as torch.where.",
        ) from error
    raise UserError(
        f"Detector '{detector.info.name}' cannot be exported: {_cause(failure)}.",
        "Its `score` must work on tensors alone; values that were fitted may be looked at.",
    ) from failure


def _cause(error: Exception) -> str:
    """Why torch.export stopped, and at which line of the user's."""
    text = str(error)
    if "data-dependent" in text or "data dependent" in text:
        why = "it looks at the values of a tensor"
    elif "specialized it to be a constant" in text or "Constraints violated" in text:
        why = "it is written for one batch size"
    else:
        why = f"{type(error).__name__}: {(text.strip().splitlines() or [''])[0].rstrip('.')}"
    where = _place(error.__traceback__)
    return f"{why}, {where}" if where else why


def _place(traceback: TracebackType | None) -> str:
    """The last line of the traceback that is neither torch's nor this package's own."""
    apart = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    found = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not file.startswith((*apart, "<")):
            line = linecache.getline(file, traceback.tb_lineno).strip()
            found = f"in {Path(file).name}, line {traceback.tb_lineno}: {line}".rstrip(": ")
        traceback = traceback.tb_next
    return found
