"""The state of a training after an epoch, on disk: a training that is stopped can continue.

No pickle: weights, momentum and the states of the generators are tensors in a safetensors file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.files import canonical_json, digest, parsed_json, write_atomic

FORMAT = "oodbench-training-1"
_MOMENTUM = "momentum_buffer"
_SEAL = "seal"


@dataclass(frozen=True, slots=True)
class Epoch:
    """Results of one epoch.

    Attributes:
        epoch: number of the epoch, from 1.
        loss: mean training loss, in nats (with DisMax's alpha where there is one).
        accuracy: training accuracy over the epoch, as a fraction, on augmented images.
        learning_rate: learning rate of the last step.
        seconds: duration.
        test_loss, test_accuracy: on the test split, if the recipe asks for them; else None.
    """

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float = field(compare=False)
    test_loss: float | None = None
    test_accuracy: float | None = None


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """64 hexadecimal digits over names, types, shapes and bytes of tensors on the CPU."""
    parts: list[bytes | str] = []
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        stored = tensor.reshape(-1).view(torch.uint8)  # NumPy has no bfloat16
        parts += [name, f"{tensor.dtype} {list(tensor.shape)}", stored.numpy().tobytes()]
    return digest(*parts)


def sealed(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata of a file of tensors with a digest of themselves."""
    return {**metadata, _SEAL: digest(canonical_json(dict(metadata)))}


def is_unchanged(metadata: Mapping[str, str]) -> bool:
    """Whether metadata are those that were written; files of older versions have no digest."""
    others = {key: value for key, value in metadata.items() if key != _SEAL}
    return metadata.get(_SEAL) in (None, digest(canonical_json(others)))


class TrainingState:
    """A file that holds the state after the last whole epoch.

    Args:
        path: the file.
        address: address of the checkpoint; a state with another address is ignored.
        interval: fewest seconds between two writes. When an error or an interruption ends the
            training, the latest state is written whatever the interval.
    """

    def __init__(self, path: Path, address: str, interval: float = 1.0) -> None:
        self.path = path
        self._address, self._interval = address, interval
        self._written = time.monotonic()
        self._pending: bytes | None = None

    def keep(
        self,
        module: nn.Module,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        history: Sequence[Epoch],
    ) -> None:
        """Record the state after an epoch; write it at most once per `interval` seconds."""
        from safetensors.torch import save

        tensors = {}
        for part, of in _parts(module, loss):
            # Copies: a module that is registered twice has its tensors twice.
            for name, value in of.state_dict().items():
                tensors[f"{part}weights.{name}"] = value.detach().cpu().clone().contiguous()
            for name, parameter in of.named_parameters():
                momentum = optimizer.state[parameter].get(_MOMENTUM)
                if momentum is not None:
                    tensors[f"{part}momentum.{name}"] = momentum.detach().cpu().contiguous()
        tensors["generator"] = generator.get_state()
        # Random layers, such as dropout, draw from torch's own generators.
        tensors["torch"] = torch.get_rng_state()
        device = next(module.parameters()).device
        if device.type == "cuda":
            tensors["cuda"] = torch.cuda.get_rng_state(device)
        metadata = {
            "format": FORMAT,
            "address": self._address,
            "content": tensors_digest(tensors),
            "history": json.dumps([asdict(epoch) for epoch in history]),
        }
        self._pending = save(tensors, sealed(metadata))
        if time.monotonic() - self._written >= self._interval:
            self.flush()

    def flush(self) -> None:
        """Write the latest state, if it is not on disk yet."""
        if self._pending is not None:
            write_atomic(self.path, self._pending)
            self._pending, self._written = None, time.monotonic()

    def take_up(
        self,
        module: nn.Module,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> list[Epoch]:
        """Load the state from disk.

        Returns:
            The history so far. Empty if there is no state of this training or the file is damaged;
            then nothing is changed.
        """
        read = self._read()
        if read is None:
            return []
        tensors, history = read
        for part, of in _parts(module, loss):
            of.load_state_dict(_below(tensors, f"{part}weights."))
            momenta = _below(tensors, f"{part}momentum.")
            for name, parameter in of.named_parameters():
                if name in momenta:
                    buffer = torch.empty_like(parameter)  # the parameter's device and memory format
                    optimizer.state[parameter][_MOMENTUM] = buffer.copy_(momenta[name])
        generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["torch"])
        if "cuda" in tensors:
            torch.cuda.set_rng_state(tensors["cuda"], next(module.parameters()).device)
        return [Epoch(**values) for values in history]

    def _read(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]] | None:
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT or metadata.get("address") != self._address:
                    return None
                names = list(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
                if metadata.get("content") != tensors_digest(tensors) or not is_unchanged(metadata):
                    return None
                return tensors, parsed_json(metadata["history"])
        except (SafetensorError, OSError, ValueError, KeyError):
            return None


def _parts(module: nn.Module, loss: nn.Module) -> tuple[tuple[str, nn.Module], ...]:
    """Modules with the beginning of their tensors' names in the file."""
    return ("", module), ("loss_", loss)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
