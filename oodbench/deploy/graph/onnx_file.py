"""An exported graph as an ONNX file, and its outputs in onnxruntime."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from oodbench.deploy.graph.onnx_arithmetic import OPERATIONS
from oodbench.deploy.graph.scored_network import silent
from oodbench.errors import UserError, listed

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Check that the packages of the extra `onnx` are installed.

    Raises:
        UserError: if one is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"An ONNX file needs {listed(missing)}.",
            "Install what is missing with: pip install 'oodbench[onnx]'",
        )


def write_onnx(
    program: ExportedProgram,
    path: Path,
    inputs: list[str],
    outputs: list[str],
    metadata: Mapping[str, str],
) -> None:
    """Write a graph as ONNX; what is above 2 GB is in a second file, `PATH.data`.

    Args:
        program: the graph.
        path: the file.
        inputs: names of the inputs.
        outputs: names of the outputs, in order.
        metadata: entries of the file's `metadata_props`.

    Raises:
        Exception: if ONNX has no operation for one of the graph.
    """
    with silent():
        made = torch.onnx.export(
            program.run_decompositions(dict(OPERATIONS)),
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    assert made is not None
    _tidy(made.model)
    made.model.metadata_props.update(metadata)
    made.model.producer_name = "oodbench"
    made.save(path)


def _tidy(model: Any) -> None:
    """Keep one copy of equal tensors, such as a bank, and no names of modules or lines of code."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    kept: dict[Any, Any] = {}
    for value in [*model.graph.initializers.values()]:
        array = value.const_value.numpy()
        key = array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest()
        first = kept.setdefault(key, value)
        if first is not value and not value.is_graph_output():
            value.replace_all_uses_with(first)
            del model.graph.initializers[value.name]
    model.metadata_props.clear()
    ClearMetadataAndDocStringPass()(model)


class OnnxGraph:
    """An ONNX file in onnxruntime, on the CPU.

    Args:
        path: the file.

    Raises:
        UserError: if onnxruntime cannot run it.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            line = str(error).strip().splitlines()[0]
            raise UserError(
                f"onnxruntime cannot run the exported graph: {line.rstrip('.')}.",
                "Its CPU kernels have no convolutions in float64 or half precision: convert the "
                "model with model.float(), or export to a .pt2 file.",
            ) from error

    def __call__(self, images: Tensor) -> list[NDArray[Any]]:
        """The outputs for images [B, channels, H, W], in order."""
        (given,) = self._session.get_inputs()
        found = self._session.run(None, {given.name: images.cpu().numpy()})
        return [np.asarray(each) for each in found]
