"""Networks given as a callable: of torchvision, timm, or a module or a file of the user's."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from oodbench.errors import UserError, did_you_mean, kind_of
from oodbench.files import digest, expanded
from oodbench.models.adapted_network import AdaptedNetwork, check_taps, last_layer
from oodbench.models.classifier import Network
from oodbench.models.published_weights.timm_networks import timm_network
from oodbench.models.registry import library_of, source_file
from oodbench.specs.model_spec import LIBRARIES


def create(
    name: str,
    make_head: Callable[[int], nn.Module],
    taps: Sequence[str],
    options: Mapping[str, Any],
) -> Network:
    """A network from "module:callable", its last linear layer replaced by a head.

    Args:
        name: "module:callable"; "FILE.py:callable"; "torchvision:NAME" for one of
            torchvision.models; or "timm:NAME".
        make_head: makes the last layer for a number of features.
        taps: as in `oodbench.models.adapt`.
        options: keyword arguments of the callable.

    Raises:
        UserError: if the module or the callable is missing or fails, the callable returns no module
            or one without a linear layer, or a tap is unknown.
    """
    module = built(name, options)
    path = last_layer(module)
    old = module.get_submodule(path)
    if not isinstance(old, nn.Linear):
        raise UserError(
            f"Network '{name}': its last layer '{path}' is {kind_of(old)}.",
            "The head takes the place of a torch.nn.Linear.",
        )
    head = make_head(old.in_features)
    if path:
        parent, _, leaf = path.rpartition(".")
        setattr(module.get_submodule(parent), leaf, head)
    else:
        module = head
    check_taps(module, taps)
    return AdaptedNetwork(module, taps, path)


def built(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The network that a callable returns, as it is.

    Args:
        name: as in `create`.
        options: keyword arguments of the callable.

    Raises:
        UserError: if the module or the callable is missing or fails, or it returns no module.
    """
    with _importable(Path.cwd()):
        factory = _find_callable(name)
        if name.startswith("torchvision:"):
            options = {"weights": None, **options}
        try:
            module = factory(**options)
        except UserError:
            raise
        except Exception as error:  # a user's code may raise anything
            given = ", ".join(f"{key}={value!r}" for key, value in options.items())
            raise UserError(
                f"Network '{name}' cannot be made with {given or 'no options'}: "
                f"{_described(error)}."
            ) from error
    if not isinstance(module, nn.Module):
        raise UserError(
            f"Network '{name}': the callable made {kind_of(module)}, which is no torch.nn.Module."
        )
    return module


def code_version(name: str) -> str:
    """The version of the code behind "module:callable": with it, networks may change.

    Returns:
        For torchvision and timm their version; else the SHA-256 of the module's file, in
        hexadecimal digits. Files that the module imports do not count.

    Raises:
        UserError: if there is no such module.
    """
    library = library_of(name)
    if library in ("torchvision", "timm"):
        return f"{library} {version(library)}"
    with _importable(Path.cwd()):
        file: str | None = getattr(_import(name), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()


def _find_callable(name: str) -> Callable[..., Any]:
    library, _, network = name.partition(":")
    if library == "timm":
        return partial(timm_network, network)
    if library == "hf":
        raise UserError(
            f"Network '{name}': a network of transformers comes with its own weights.",
            "Write weights: pretrained; for weights of yours, name the folder that save_pretrained "
            "wrote: network: hf:FOLDER.",
        )
    module = _import(name)
    callable_name = name.rpartition(":")[2]
    factory = getattr(module, callable_name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value)]
        if name.startswith("torchvision:"):
            known = module.list_models(module=module)
        raise UserError(
            f"Network '{name}': {source_file(name) or module.__name__} has no callable "
            f"'{callable_name}'.",
            did_you_mean(callable_name, [key for key in known if not key.startswith("_")]),
        )
    return factory  # type: ignore[no-any-return]


def _import(name: str) -> Any:
    file = source_file(name)
    if file is not None:
        return _import_file(name, expanded(file).resolve())
    module_name = name.partition(":")[0]
    if module_name == "torchvision":
        module_name = "torchvision.models"
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # importing runs a user's code, too
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is not None and f"{module_name}.".startswith(f"{absent}."):
            near = difflib.get_close_matches(module_name, LIBRARIES, n=1, cutoff=0.7)
            raise UserError(
                f"Network '{name}': there is no module '{absent}'.",
                f"Did you mean '{near[0]}:{name.partition(':')[2]}'?"
                if near
                else "It is looked for among installed packages and in the working directory.",
            ) from error
        raise UserError(
            f"Network '{name}': {module_name} cannot be imported: {_described(error)}."
        ) from error


def _import_file(name: str, file: Path) -> Any:
    """The module of a file, run once in a process; it may import files beside it."""
    module_name = f"oodbench_network_{digest(str(file), _file_content(name, file))[:16]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None  # its suffix is .py
    assert spec.loader is not None
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        with _importable(file.parent):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if not isinstance(error, Exception):
            raise
        raise UserError(
            f"Network '{name}': {file.name} cannot be imported: {_described(error)}."
        ) from error
    return module


def _file_content(name: str, file: Path) -> bytes:
    """The content of the file of a network.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(
            f"Network '{name}': cannot read {file}: {error.strerror}.",
            "A network of a file is named FILE.py:callable; the path is relative to the working "
            "directory.",
        ) from error


def _described(error: Exception) -> str:
    message = (str(error).splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


@contextmanager
def _importable(place: Path) -> Iterator[None]:
    """A folder as the last place that modules are imported from."""
    folder = str(place)
    if folder in sys.path or ("" in sys.path and place == Path.cwd()):
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
