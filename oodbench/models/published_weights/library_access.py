"""Packages that extras install, and the Hugging Face Hub that they download from."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from oodbench.errors import UserError

EXTRAS = {"timm": "timm", "transformers": "transformers", "open_clip": "clip"}
"""Package -> extra of oodbench that installs it."""


def installed(package: str, network: str) -> ModuleType:
    """A package that an extra of oodbench installs.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"Network '{network}' needs the package {package}, which is not installed.",
            f"Install it with: pip install 'oodbench[{EXTRAS[package]}]'.",
        ) from error


@contextmanager
def hub_access(offline: bool) -> Iterator[None]:
    """Forbid downloads from the Hugging Face Hub inside, if asked to."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def unreachable(network: str, hub: str, offline: bool, error: Exception) -> UserError:
    """The error of weights that cannot be got from the Hugging Face Hub."""
    if Path(hub).is_dir():
        return UserError(
            f"Network '{network}' cannot be made of the folder: {first_line(error)}.",
            "It needs config.json, preprocessor_config.json and model.safetensors, as "
            "save_pretrained of transformers writes them.",
        )
    why = "downloads are forbidden (OODBENCH_OFFLINE)" if offline else first_line(error)
    other = (
        "name that folder: network: hf:FOLDER"
        if network.startswith("hf:")
        else "name the file: checkpoint: {path: FILE} in place of weights"
    )
    files = _listed_files(network)
    return UserError(
        f"Network '{network}': its weights are not on this machine and cannot be downloaded: "
        f"{why}.",
        f"Download {files} of https://huggingface.co/{hub}/tree/main into a folder, and {other}.",
    )


def _listed_files(network: str) -> str:
    if network.startswith("hf:"):
        return "config.json, preprocessor_config.json and model.safetensors"
    return "model.safetensors"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    lines = str(error).splitlines() or [""]
    return lines[0].rstrip(".") or type(error).__name__
