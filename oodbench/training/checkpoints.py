"""Checkpoints: trained classifiers in a cache, and the address of each."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from oodbench.errors import UserError
from oodbench.files import (
    cache_folder,
    canonical_json,
    digest,
    parsed_json,
    remove_unfinished_of,
    write_atomic,
)
from oodbench.models import code_version
from oodbench.models.registry import source_file
from oodbench.specs import ModelSpec
from oodbench.storage.locks import FileLock
from oodbench.storage.run_description import TrainedOn
from oodbench.training import distributed
from oodbench.training.state import Epoch, is_unchanged, sealed, tensors_digest

if TYPE_CHECKING:
    from oodbench.models.classifier import Classifier

FORMAT = "oodbench-checkpoint-1"

TRAINING_VERSION = 1
"""Raise it when a change of the code gives other weights for the same spec, data and seed.

Checkpoints of other versions are then ignored, and networks are trained again. A test trains small
reference networks; it fails when their weights change and this number does not.
"""


@dataclass(frozen=True, slots=True)
class CheckpointKey:
    """Everything that decides the weights of a checkpoint: equal keys, equal weights.

    Attributes:
        model: network, head, recipe.
        data: fingerprint of the training images and labels.
        num_classes: C.
        seed: seeds initial weights, order of images and augmentation.
        validation: fingerprint of the images that the temperature is calibrated on; "" without a
            temperature.
        test: fingerprint of the test images, if the history has their accuracy; else "".
        auxiliary: fingerprint of the auxiliary images; "" without any.
    """

    model: ModelSpec
    data: str
    num_classes: int
    seed: int
    validation: str = ""
    test: str = ""
    auxiliary: str = ""

    @property
    def address(self) -> str:
        """64 hexadecimal digits over spec, data, seed, version and the network's own code."""
        return digest(
            FORMAT,
            canonical_json(self.model.model_dump(mode="json", exclude=_NOT_TRAINED)),
            self.data,
            str(self.num_classes),
            str(self.seed),
            self.validation,
            self.test,
            str(TRAINING_VERSION),
            code_version(self.model.network),
            *([self.auxiliary] if self.auxiliary else []),
        )

    @property
    def path(self) -> Path:
        """Where the checkpoint is, or will be."""
        file = source_file(self.model.network)
        network = (Path(file).stem if file else self.model.network).replace(":", "-")
        name = f"{network}-{self.model.head}-seed{self.seed}-{self.address[:16]}"
        return cache_folder() / "checkpoints" / f"{name}.safetensors"

    @property
    def state_path(self) -> Path:
        """Where the state is kept while the training is not done."""
        return self.path.with_suffix(".training")

    @property
    def lock_path(self) -> Path:
        """The lock of the process that trains it."""
        return self.path.with_suffix(".lock")


_NOT_TRAINED: Any = {"taps": True, "training": {"recipe": True}}
"""Keys of a model's spec that change neither its weights nor its history."""


class DamagedCheckpointError(Exception):
    """A checkpoint file that cannot be used; the message says why."""


def save(classifier: Classifier, history: list[Epoch], key: CheckpointKey) -> None:
    """Write a checkpoint. A write that is interrupted leaves no file."""
    from safetensors.torch import save as serialize

    # Copies: a module that is registered twice has its tensors twice.
    weights = {
        name: tensor.cpu().clone().contiguous() for name, tensor in classifier.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "weights": tensors_digest(weights),
        "address": key.address,
        "model": canonical_json(key.model.model_dump(mode="json")),
        "data": key.data,
        "seed": str(key.seed),
        "trained_on": _trained_on(classifier).model_dump_json(),
        "history": json.dumps([asdict(epoch) for epoch in history]),
    }
    write_atomic(key.path, serialize(weights, sealed(metadata)))


def load_into(classifier: Classifier, key: CheckpointKey) -> None:
    """Load the weights of a checkpoint.

    Raises:
        DamagedCheckpointError: if the file is truncated, is no checkpoint, or has another key.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialize

    try:
        content = key.path.read_bytes()
        metadata = _metadata(content)
        if metadata.get("format") != FORMAT or metadata.get("address") != key.address:
            raise DamagedCheckpointError("it belongs to something else")
        if not is_unchanged(metadata):
            raise DamagedCheckpointError("its history is not the one that was written")
        weights = deserialize(content)
        if metadata.get("weights") != tensors_digest(weights):
            raise DamagedCheckpointError("its weights are not those that were written")
        classifier.load_state_dict(weights)
    except (SafetensorError, OSError, RuntimeError, ValueError, struct.error) as error:
        raise DamagedCheckpointError(
            f"it is truncated or not a checkpoint ({str(error).splitlines()[0]})"
        ) from error


def _trained_on(classifier: Classifier) -> TrainedOn:
    """The machine that a classifier has just been trained on."""
    device = next(classifier.parameters()).device
    return TrainedOn(
        device=distributed.device_name(device),
        threads=torch.get_num_threads(),
        processes=distributed.current().size,
    )


def read_trained_on(path: Path) -> TrainedOn | None:
    """The machine that a checkpoint was trained on; None if it is not recorded.

    Raises:
        UserError: if the file is not a checkpoint.
    """
    try:
        recorded = _metadata(path.read_bytes()).get("trained_on")
        return None if recorded is None else TrainedOn.model_validate_json(recorded)
    except (OSError, ValueError, struct.error) as error:
        raise UserError(f"{path} is not a checkpoint of oodbench.") from error


def read_history(path: Path) -> list[dict[str, Any]]:
    """Per-epoch history stored in a checkpoint file.

    Raises:
        UserError: if the file is not a checkpoint.
    """
    try:
        history = parsed_json(_metadata(path.read_bytes())["history"])
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise UserError(f"{path} is not a checkpoint of oodbench.") from error
    assert isinstance(history, list)
    return history


def _metadata(content: bytes) -> dict[str, str]:
    (length,) = struct.unpack("<Q", content[:8])
    header = parsed_json(content[8 : 8 + length])
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("it has no metadata")
    return metadata


def load_or_train(
    classifier: Classifier,
    key: CheckpointKey,
    train: Callable[[], tuple[Classifier, list[Epoch]]],
    warn: Callable[[str], None],
    detail: Callable[[str], None] = lambda text: None,
) -> Classifier:
    """The trained classifier of a key: from the cache, or trained now and stored there.

    If the file is damaged, it is moved aside with a warning, and the classifier is trained again.
    While another process trains it, this one waits, and then reads what the other has stored.

    Args:
        classifier: an untrained classifier with the same tensors; the weights are loaded into it.
        key: key of the checkpoint.
        train: trains the classifier.
        warn: called with a warning of one line.
        detail: called with the process that is waited for.
    """
    device = next(classifier.parameters()).device
    if not distributed.any_of(not _loaded(classifier, key), device):
        _tidy(key)
        return classifier.eval()
    with _locked(key, device, detail):
        if key.path.exists():  # another process may have trained it meanwhile
            try:
                load_into(classifier, key)
                return classifier.eval()
            except DamagedCheckpointError as error:
                aside = key.path.with_suffix(".damaged")
                distributed.wait()  # every process must see the damaged file first
                if distributed.current().leads:
                    key.path.replace(aside)
                warn(
                    f"The checkpoint {key.path.name} cannot be used: {error}. "
                    f"It is now {aside}; training again."
                )
        trained, history = train()
        if distributed.current().leads:
            save(trained, history, key)
            _remove_state(key)
        distributed.wait()  # no process reads the file before it is written
        return trained


def _remove_state(key: CheckpointKey) -> None:
    """Remove the state of a training that is done."""
    key.state_path.unlink(missing_ok=True)
    remove_unfinished_of(key.state_path)


def _tidy(key: CheckpointKey) -> None:
    """Remove what a process left that was killed right after it had stored a checkpoint."""
    if not distributed.current().leads or not (key.state_path.exists() or key.lock_path.exists()):
        return
    lock = FileLock(key.lock_path)
    with suppress(OSError, UserError):  # a cache that only others may write
        if lock.acquire():
            try:
                _remove_state(key)
            finally:
                lock.release()


def _loaded(classifier: Classifier, key: CheckpointKey) -> bool:
    """Load the weights of a checkpoint, if there is one that can be used."""
    if key.path.exists():
        with suppress(DamagedCheckpointError):
            load_into(classifier, key)
            return True
    return False


@contextmanager
def _locked(
    key: CheckpointKey, device: torch.device, detail: Callable[[str], None]
) -> Iterator[None]:
    """Lock a checkpoint for this process, or for its group; wait while others train it."""
    lock, leads = FileLock(key.lock_path), distributed.current().leads
    waits = 0
    try:
        while not distributed.any_of(leads and lock.acquire(), device):
            if leads:
                detail(f"waiting for {lock.holder}, which trains {key.path.name}")
            waits += 1
            time.sleep(min(1.0, 0.05 * waits))
        yield
    finally:
        lock.release()
