"""Files with the weights of a network, as they are published: read, unwrapped, never run.

`.safetensors` files are read by safetensors, all others by `torch.load(weights_only=True)`, which
makes tensors and plain containers only.
"""

from __future__ import annotations

import mmap
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodbench.errors import UserError, did_you_mean, kind_of, listed

ENTRIES = ("state_dict_ema", "model_ema", "ema", "state_dict", "model", "net", "module")
"""Keys that weights are found under, the preferred ones first. Averaged weights (EMA) are the ones
that a training publishes; timm prefers them, too."""

_DEPTH = 4
_MOST_REPEATED = 1024
"""How often a tensor may repeat the values that are stored for it."""
_GLOBAL = re.compile(r"GLOBAL (?:was not an allowed global by default: )?([\w.]+)")


@dataclass(frozen=True, slots=True)
class FileWeights:
    """The weights in a file.

    Attributes:
        path: the file.
        tensors: name -> tensor on the CPU.
        entry: keys that they were found under, with "/" between; "" if they are the whole file.
        others: keys beside `entry` that hold weights, too.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    entry: str = ""
    others: tuple[str, ...] = ()


def read_weights(path: Path, entry: str | None = None) -> FileWeights:
    """The weights in a checkpoint file.

    Args:
        path: the file.
        entry: key that they are under; None: the first of `ENTRIES` that the file has.

    Raises:
        UserError: the file cannot be read, is truncated, is a web page, holds objects other than
            tensors and containers, holds no weights, weights that are larger than the file, or that
            are not finite.
    """
    found = _unwrapped(path, _content(path), entry)
    for name, tensor in found.tensors.items():
        if not _is_held(tensor, path.stat().st_size):
            raise UserError(
                f"Checkpoint {path}: '{name}' is not a tensor with all its values in the file.",
                "The file is damaged, or was made to fill the memory.",
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"Checkpoint {path}: '{name}' has values that are not finite.",
                "The training that made it diverged, or the file is damaged.",
            )
    return found


def _is_held(tensor: Tensor, size: int) -> bool:
    """Whether the values of a tensor can be in a file of `size` bytes.

    A sparse tensor, and one that repeats its values (stride 0), may have any size.
    """
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    held = tensor.untyped_storage().nbytes()
    return held <= size and tensor.numel() * tensor.element_size() <= _MOST_REPEATED * held


def _content(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"Checkpoint {path} cannot be read: {error.strerror or error}.") from error
    if start.lstrip()[:1] == b"<":
        raise UserError(
            f"Checkpoint {path} is a web page, not a checkpoint.",
            "Its address leads to a page with a download button or a message: open it in a "
            "browser, download the file itself and put it in this place.",
        )
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"Checkpoint {path} is a Git LFS pointer, not a checkpoint.",
            "Get the file that it points to, with `git lfs pull`.",
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        _check_memory(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except Exception as error:  # safetensors, zip and pickle have errors of many types
        raise _damaged(path, error) from error


def _check_memory(path: Path) -> None:
    """Refuse files that can make torch take much more memory than they have bytes.

    Raises:
        UserError: it holds compressed data, which torch does not write, or a `bytearray`, which
            torch makes of any size.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(map(_is_compressed_data, archive.infolist())):
                raise UserError(
                    f"Checkpoint {path} is refused: it is compressed, which torch.save never does.",
                    "Unpack it if it is an archive with a checkpoint in it.",
                )
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"bytearray\n") >= 0:
            raise _forbidden(path, "builtins.bytearray", "it may have any size")


def _is_compressed_data(member: zipfile.ZipInfo) -> bool:
    """Whether a member is what torch.load reads, compressed; TorchScript has compressed code."""
    read = "/data/" in member.filename or member.filename.endswith(".pkl")
    return read and member.compress_type != zipfile.ZIP_STORED


def _refused(path: Path, error: pickle.UnpicklingError) -> UserError:
    """The error of a pickle that torch does not read: for what it holds, or for damage."""
    named = _GLOBAL.search(str(error))
    if named is None:
        return _damaged(path, error)
    return _forbidden(path, named[1], "reading it could run code")


def _forbidden(path: Path, name: str, why: str) -> UserError:
    return UserError(
        f"Checkpoint {path} is refused: beside tensors it holds a Python object ({name}), and "
        f"{why}.",
        "If you trust the file, load it in the code that wrote it, save the weights alone with "
        "torch.save(model.state_dict(), NEW_FILE), and use that file.",
    )


def _damaged(path: Path, error: Exception) -> UserError:
    reason = "" if isinstance(error, OSError) else str(error).partition("\n")[0]
    reason = reason.partition(". ")[0].rstrip(".")  # torch adds guesses to its first sentence
    return UserError(
        f"Checkpoint {path} is truncated, damaged or no checkpoint"
        f"{f' ({reason})' if reason else ''}.",
        "Download it again, and give its sha256, which finds incomplete downloads.",
    )


def _unwrapped(path: Path, content: Any, entry: str | None) -> FileWeights:
    """The weights in the content of a file."""
    keys: list[str] = []
    others: tuple[str, ...] = ()
    for _ in range(_DEPTH):
        if not isinstance(content, Mapping):
            break
        inside = [key for key, value in content.items() if _has_tensors(value)]
        if entry is not None and not keys:
            if entry not in content:
                raise UserError(
                    f"Checkpoint {path} has no entry '{entry}'.",
                    did_you_mean(entry, map(str, inside)),
                )
            chosen: Any = entry
        else:
            chosen = next((key for key in ENTRIES if key in inside), None)
        if chosen is None:
            break
        others = others or tuple(str(key) for key in inside if key in ENTRIES and key != chosen)
        keys.append(chosen)
        content = content[chosen]
    tensors = _tensors(content)
    if not tensors:
        held = (
            f"the keys {listed(map(repr, content))}"
            if isinstance(content, Mapping) and content
            else kind_of(content)
        )
        where = f"'{'/'.join(keys)}' in it" if keys else "it"
        raise UserError(
            f"Checkpoint {path} has no weights: {where} holds {held}.",
            "A checkpoint holds a state dict: names of parameters and their tensors. If the file "
            "has one under a key of its own, name the key: checkpoint: {..., entry: KEY}.",
        )
    return FileWeights(path, tensors, "/".join(keys), others)


def _has_tensors(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a value is a mapping with tensors in it, or with such a mapping."""
    if not isinstance(value, Mapping) or not depth:
        return False
    return any(isinstance(each, Tensor) or _has_tensors(each, depth - 1) for each in value.values())


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {
        key: value.detach()
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
