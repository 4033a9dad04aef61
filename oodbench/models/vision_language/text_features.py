"""Text features of classes and words: prompts, their average, and the store on disk."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.errors import UserError, counted, shown
from oodbench.files import cache_folder, digest, write_atomic
from oodbench.models.adapted_network import described
from oodbench.models.published_weights.library_access import first_line
from oodbench.models.vision_language.image_encoders import pooled_features

DEFAULT_PROMPTS = ("a photo of a {c}",)
"""The prompt of MCM and GL-MCM."""

TEXT_VERSION = "1"
"""Version of the text features in the cache; another one makes them again."""

_LIBRARIES = ("torch", "open_clip", "transformers")

_PLACES = ("{c}", "{}")
_BATCH = 256


def checked_prompts(prompts: Any) -> tuple[str, ...]:
    """Prompts with a place for the class name.

    Raises:
        UserError: if they are not texts with one place, "{c}" or "{}".
    """
    given = (prompts,) if isinstance(prompts, str) else prompts
    if not isinstance(given, Sequence) or not given:
        raise UserError(
            f"prompts: expected texts such as {DEFAULT_PROMPTS[0]!r}, not {shown(prompts)}."
        )
    for prompt in given:
        if not isinstance(prompt, str) or sum(prompt.count(place) for place in _PLACES) != 1:
            raise UserError(
                f"prompts: {shown(prompt)} has no single place for the class name.",
                "Write {c} where the name belongs, as in 'a photo of a {c}'.",
            )
    return tuple(given)


def checked_names(class_names: Any) -> tuple[str, ...]:
    """Names of classes.

    Raises:
        UserError: if they are not texts, there are fewer than two, or one is empty.
    """
    if isinstance(class_names, str) or not isinstance(class_names, Sequence):
        raise UserError(
            f"class_names: expected a list of names, in the order of the labels, not "
            f"{shown(class_names)}."
        )
    for name in class_names:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"class_names: expected names, not {shown(name)}.")
    if len(class_names) < 2:
        raise UserError(
            f"class_names: expected a name for each class, not {counted(len(class_names), 'name')}."
        )
    return tuple(class_names)


def filled(prompt: str, name: str) -> str:
    """A prompt with a name in its place."""
    place = next(place for place in _PLACES if place in prompt)
    return prompt.replace(place, name)


class TextEncoding:
    """Texts to features of unit length; with `stored`, each list of texts is computed once.

    A stored file is addressed by the weights and settings of the encoder, the tokens of the texts,
    how many texts are averaged, the kind of device and `TEXT_VERSION`.

    Args:
        encoder: maps tokens to features [T, D].
        tokenizer: maps a list of texts to tokens: a tensor [T, L], or a mapping of tensors that the
            encoder takes by name.
        stored: whether features are kept in the cache folder; the encoder must be a module.
    """

    def __init__(
        self, encoder: Callable[..., Any], tokenizer: Callable[[list[str]], Any], *, stored: bool
    ) -> None:
        self._encoder, self._tokenizer, self._stored = encoder, tokenizer, stored
        self._weights = ""

    def features(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, shape [T, D], float32 or the encoder's wider type, unit length."""
        return self.averages([[text] for text in texts])

    def averages(self, groups: Sequence[Sequence[str]]) -> Tensor:
        """For each group of texts the mean of their directions, of unit length, shape [G, D].

        Args:
            groups: as many texts in each.
        """
        size = len(groups[0])
        texts = list(chain.from_iterable(groups))
        tokens = [
            self._tokens(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)
        ]
        file = self._file(tokens, size) if self._stored else None
        found = None if file is None else _read(file)
        if found is None:
            directions = torch.cat([self._encoded(each) for each in tokens])
            if len(directions) != len(texts):
                raise UserError(
                    f"text_encoder: it gives features of {counted(len(directions), 'text')} for "
                    f"{len(texts)}.",
                    "Give a tokenizer and an encoder that keep texts on the first axis.",
                )
            means = directions.unflatten(0, (len(groups), size)).mean(dim=1)
            found = F.normalize(means, dim=1)
            if file is not None:
                write_atomic(file, save({"features": found.cpu().contiguous()}))
        return found.to(self._device)

    def _tokens(self, texts: list[str]) -> Any:
        with _named("tokenizer"):
            tokens = self._tokenizer(texts)
        return dict(tokens) if isinstance(tokens, Mapping) else tokens

    @torch.no_grad()
    def _encoded(self, tokens: Any) -> Tensor:
        with _named("text_encoder"), _evaluating(self._encoder):
            if isinstance(tokens, dict):
                named = {
                    key: torch.as_tensor(each).to(self._device) for key, each in tokens.items()
                }
                given = self._encoder(**named)
            else:
                given = self._encoder(
                    tokens.to(self._device) if isinstance(tokens, Tensor) else tokens
                )
        features = pooled_features(given)
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = f" of shape {list(features.shape)}" if isinstance(features, Tensor) else ""
            raise UserError(
                f"text_encoder: expected features [texts, D], not {described(given)}{shape}."
            )
        if not bool(features.isfinite().all()):
            raise UserError("text_encoder: its features are not finite.")
        if not bool(features.any(dim=1).all()):
            raise UserError("text_encoder: the features of a text are all zero.")
        wide = torch.promote_types(features.dtype, torch.float32)
        return F.normalize(features.detach().to(wide), dim=1)

    @property
    def _device(self) -> torch.device:
        if isinstance(self._encoder, nn.Module):
            for parameter in self._encoder.parameters():
                return parameter.device
        return torch.device("cpu")

    def _file(self, tokens: Sequence[Any], size: int) -> Path:
        if not self._weights:
            self._weights = _digest_of(self._encoder)
        parts = [TEXT_VERSION, self._weights, str(size), self._device.type]
        parts += [_digest_of_tokens(each) for each in tokens]
        return cache_folder() / "text-features" / f"{digest(*parts)}.safetensors"


@contextmanager
def _named(argument: str) -> Iterator[None]:
    """Errors of a user's callable in one sentence, with its name."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{argument}: {type(error).__name__}: {first_line(error)}.") from error


@contextmanager
def _evaluating(encoder: Any) -> Iterator[None]:
    """An encoder in evaluation mode; its modules get their modes back."""
    parts = [*encoder.modules()] if isinstance(encoder, nn.Module) else []
    modes = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def _read(file: Path) -> Tensor | None:
    """Stored features; None if there are none, or the file is damaged."""
    try:
        return load_file(file)["features"]
    except (OSError, SafetensorError, KeyError):
        return None


def _digest_of(encoder: Any) -> str:
    """SHA-256 of a module: its tensors, and the classes and settings of its parts.

    The same weights give other features with QuickGELU in the place of GELU, or with other numbers
    of attention heads.
    """
    assert isinstance(encoder, nn.Module), "features of functions are not stored"
    hashed = hashlib.sha256()
    for name, part in encoder.named_modules():
        hashed.update(f"{name} {type(part).__qualname__} {_settings(part)}".encode())
    for name, tensor in chain(encoder.named_parameters(), encoder.named_buffers()):
        values = tensor.detach().cpu().contiguous()
        hashed.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        hashed.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def _settings(module: nn.Module) -> dict[str, Any]:
    """Attributes of a library's module that are numbers, texts or names of functions.

    Those of other modules are left out: they may be counters.
    """
    found: dict[str, Any] = {}
    if type(module).__module__.partition(".")[0] not in _LIBRARIES:
        return found
    for name, value in sorted(vars(module).items()):
        if isinstance(value, bool | int | float | str):
            found[name] = value
        elif inspect.isroutine(value):
            found[name] = value.__qualname__
    return found


def _digest_of_tokens(tokens: Any) -> str:
    named = tokens if isinstance(tokens, dict) else {"": tokens}
    parts: list[str | bytes] = []
    for name, values in sorted(named.items()):
        array = torch.as_tensor(values).cpu().numpy()
        parts += [name, str(array.dtype), str(array.shape), array.tobytes()]
    return digest(*parts)
