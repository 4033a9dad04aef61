"""Vision-language models of open_clip and transformers, with their weights and preprocessing."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.errors import UserError, did_you_mean, kind_of
from oodbench.models.published_weights.library_access import first_line, hub_access, installed
from oodbench.models.published_weights.preprocessing import Preprocessing
from oodbench.models.published_weights.transformers_networks import image_processing
from oodbench.models.vision_language.image_encoders import (
    ImageEncoder,
    of_open_clip,
    of_transformers,
    pooled_features,
)
from oodbench.models.vision_language.text_features import DEFAULT_PROMPTS
from oodbench.models.vision_language.zero_shot import VisionLanguageClassifier
from oodbench.specs import ResizeSpec

_FOLDERS = ("local-dir:", "hf-hub:")
"""What names of open_clip begin with that are places of weights with their configuration."""


@dataclass(frozen=True, slots=True)
class Encoders:
    """A vision-language model of a library, before it has classes.

    Attributes:
        images: image encoder.
        texts: maps tokens to features [T, D].
        tokenizer: maps texts to tokens.
        logit_scale: the factor of the cosines that it was trained with.
        preprocessing: what its weights expect of images.
        notes: differences to the weights' own training that the library noticed.
    """

    images: ImageEncoder
    texts: nn.Module
    tokenizer: Any
    logit_scale: float
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()

    def classifier(
        self,
        class_names: Sequence[str],
        prompts: Sequence[str] = DEFAULT_PROMPTS,
        *,
        scaled_logits: bool = False,
    ) -> VisionLanguageClassifier:
        """The classifier of some classes; its text features are kept in the cache folder."""
        local = self.images.with_local_features if self.images.has_local_features else None
        return VisionLanguageClassifier(
            self.images,
            self.texts,
            self.tokenizer,
            class_names,
            prompts,
            logit_scale=self.logit_scale,
            scaled_logits=scaled_logits,
            local_encoder=local,
            store=True,
        )


def load_encoders(network: str, *, offline: bool) -> Encoders:
    """A vision-language model with its weights, on the CPU, in evaluation mode.

    Args:
        network: "open_clip:NAME/TAG" with a tag of `open_clip.list_pretrained()` or a file of
            weights, "open_clip:local-dir:FOLDER", "open_clip:hf-hub:PATH", or "hf_clip:PATH".
        offline: whether downloads are forbidden.

    Raises:
        UserError: the library is not installed, has no such model or weights, they cannot be
            downloaded, or the model has no image and text encoder.
    """
    library, _, name = network.partition(":")
    package, load = _LOADERS[library]
    module = installed(package, network)
    with hub_access(offline):
        return load(module, name, network, offline)


# --- open_clip ------------------------------------------------------------------------------------


class _Texts(nn.Module):
    """`encode_text` of a model of open_clip without its image tower."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Features, shape [T, D]."""
        features: Tensor = self.model.encode_text(tokens)
        return features


def _of_open_clip(library: Any, name: str, network: str, offline: bool) -> Encoders:
    model_name, tag = (name, None) if name.startswith(_FOLDERS) else _name_and_tag(library, name)
    try:
        with _quiet() as said:
            model = library.create_model(model_name, pretrained=tag).eval()
            tokenizer = library.get_tokenizer(model_name)
    except Exception as error:  # open_clip, the Hub and its transport have errors of many types
        raise _unavailable(network, offline, error) from error
    if not hasattr(model, "encode_text") or type(model).__name__ == "CoCa":
        raise UserError(
            f"Network '{network}' is {kind_of(model)} of open_clip, which has no image and "
            "text encoder with one space of features.",
            "Choose a CLIP model: open_clip.list_pretrained() names them.",
        )
    visual, scale = model.visual, float(model.logit_scale.detach().exp())
    expected = _preprocessing(library.get_model_preprocess_cfg(model))
    del model.visual
    return Encoders(of_open_clip(visual), _Texts(model), tokenizer, scale, expected, said())


def _name_and_tag(library: Any, name: str) -> tuple[str, str]:
    """The model's name and the tag or file of its weights.

    Raises:
        UserError: open_clip has no such model, or no such weights of it.
    """
    known = library.list_models()
    model, _, tag = name.partition("/")
    if model not in known:
        raise UserError(
            f"Network 'open_clip:{name}': open_clip has no model '{model}'.",
            did_you_mean(model, known, "open_clip.list_models() lists all."),
        )
    tags = library.list_pretrained_tags_by_model(model)
    if tag not in tags and not Path(tag).is_file():
        raise UserError(
            f"Network 'open_clip:{name}': open_clip has no weights '{tag}' of '{model}', and "
            "there is no such file."
            if tag
            else f"Network 'open_clip:{name}' names no weights.",
            f"{did_you_mean(tag, tags)} Write open_clip:{model}/TAG, or a file in its place."
            if tags
            else f"Write open_clip:{model}/FILE.",
        )
    return model, tag


def _preprocessing(about: Any) -> Preprocessing:
    size = about["size"]
    height, width = (size, size) if isinstance(size, int) else size
    how = about.get("interpolation", "bicubic")
    resize = f"resize {min(height, width)} {how}, center crop {height}x{width}"
    known: ResizeSpec | None = None
    if about.get("resize_mode", "shortest") != "shortest":
        resize = f"resize {height}x{width} {how} ({about['resize_mode']})"
        if about["resize_mode"] == "squash":
            known = ResizeSpec(filter=how, crop="none")
    elif height == width:
        known = ResizeSpec(filter=how, short_side=height)
    return Preprocessing(tuple(about["mean"]), tuple(about["std"]), (height, width), resize, known)


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Catch what open_clip logs, prints and warns of; gives its warnings on QuickGELU."""
    root = logging.getLogger()
    level, found = root.level, list[warnings.WarningMessage]()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        root.setLevel(logging.CRITICAL)
        try:
            yield lambda: tuple(
                str(each.message).rstrip(".") for each in found if "QuickGELU" in str(each.message)
            )
        finally:
            root.setLevel(level)
            found.extend(caught)


# --- transformers ---------------------------------------------------------------------------------


class _HubTexts(nn.Module):
    """`get_text_features` of a model of transformers without its image side."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **tokens: Tensor) -> Tensor:
        """Features, shape [T, D]."""
        features: Tensor = pooled_features(self.model.get_text_features(**tokens))
        return features


@contextlib.contextmanager
def _without_bars(settings: Any) -> Iterator[None]:
    """No progress bar of transformers, which the reporter of oodbench does not know of."""
    shown = settings.is_progress_bar_enabled()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            settings.enable_progress_bar()


class _Tokenizer:
    """A tokenizer of transformers: texts of the model's full length, in tensors."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        made = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        return {
            name: made[name]
            for name in ("input_ids", "attention_mask")
            if made.get(name) is not None
        }


def _of_transformers(library: Any, path: str, network: str, offline: bool) -> Encoders:
    try:
        # No code of the repository is run, and torch reads tensors only (`weights_only`).
        options = {"local_files_only": offline, "trust_remote_code": False}
        with _without_bars(library.utils.logging):
            model: Any = library.AutoModel.from_pretrained(path, **options).eval()
        tokenizer = library.AutoTokenizer.from_pretrained(path, **options)
        processor = library.AutoImageProcessor.from_pretrained(path, local_files_only=offline)
    except Exception as error:
        raise _unavailable(network, offline, error) from error
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise UserError(
            f"Network '{network}' is {kind_of(model)}, which has no image and text encoder "
            "with one space of features.",
            "Choose a model such as CLIPModel or SiglipModel; classifiers are named hf:PATH.",
        )
    scale = getattr(model, "logit_scale", None)
    length = getattr(model.config.text_config, "max_position_embeddings", 77)
    return Encoders(
        of_transformers(_half(model, "vis")),
        _HubTexts(_half(model, "text")),
        _Tokenizer(tokenizer, length),
        1.0 if scale is None else float(torch.as_tensor(scale).detach().exp()),
        image_processing(processor.to_dict()),
    )


_LOADERS = {
    "open_clip": ("open_clip", _of_open_clip),
    "hf_clip": ("transformers", _of_transformers),
}
"""Library of a network's name -> package that it needs, and what loads it."""


def _half(model: Any, side: str) -> Any:
    """A model with the modules of one side only, which it shares: no layer is stored twice."""
    half = copy.copy(model)
    half._modules = {name: part for name, part in model._modules.items() if name.startswith(side)}
    half._parameters = {}
    return half


def _unavailable(network: str, offline: bool, error: Exception) -> UserError:
    """The error of weights that cannot be got."""
    why = "downloads are forbidden (OODBENCH_OFFLINE)" if offline else first_line(error)
    library, _, name = network.partition(":")
    if library == "hf_clip":
        hint = (
            "Save model, tokenizer and image processor with save_pretrained into a folder, and "
            "name it: network: hf_clip:FOLDER."
        )
    else:
        model = name.partition("/")[0]
        hint = f"Download the file of its weights, and name it: network: open_clip:{model}/FILE."
        if name.startswith(_FOLDERS):
            hint = "The folder needs open_clip_config.json and a file of weights."
    if Path(name.removeprefix(_FOLDERS[0])).is_dir():
        why = first_line(error)
    return UserError(
        f"Network '{network}': its weights cannot be loaded: {why}.",
        hint,
    )
