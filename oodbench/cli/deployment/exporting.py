"""The command `oodbench export`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from oodbench.cli.parameters import Plugins, given_path


def export(
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="ARTIFACT", parser=given_path, help="The folder of a saved detector."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE",
            parser=given_path,
            help="The file: .onnx (ONNX) or .pt2 (torch.export).",
        ),
    ],
    plugins: Plugins = None,
) -> None:
    """Write a saved detector and its model as one graph.

    The graph takes images and gives logits, score and decision, in batches of any size. It is run
    once, and its scores are compared with the detector's. ONNX needs pip install 'oodbench[onnx]'.
    Detectors that take gradients cannot be exported.
    """
    from oodbench import load_fitted
    from oodbench.deploy.export import check_format, export_fitted

    check_format(out)
    fitted = load_fitted(artifact, plugins=plugins or ())
    description = (artifact / "artifact.json").read_bytes()  # it has the digests of the others
    written = export_fitted(
        fitted.model,
        fitted.detector,
        out,
        fitted.threshold,
        hashlib.sha256(description).hexdigest(),
    )
    print(f"Wrote {written.path}: {', '.join(written.outputs)} of images.")
    print(f"Its scores differ from the detector's by {written.difference:.1g} of the largest.")
    if fitted.threshold is None:
        print("It has no decision: the saved detector has no threshold.")
