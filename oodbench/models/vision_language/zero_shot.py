"""A vision-language model as a classifier: cosines of image features and text features."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from oodbench.detector import Language
from oodbench.errors import UserError, kind_of
from oodbench.models.adapted_network import described
from oodbench.models.classifier import Network
from oodbench.models.vision_language.image_encoders import pooled_features
from oodbench.models.vision_language.text_features import (
    DEFAULT_PROMPTS,
    TextEncoding,
    checked_names,
    checked_prompts,
    filled,
)


class VisionLanguageClassifier(Network):
    """A zero-shot classifier of an image encoder and a text encoder, such as CLIP.

    The penultimate features are image features f of unit length. The last layer is linear, without
    a bias: row c of its weights is t_c, the mean of the directions of the text features of all
    prompts with the name of class c, scaled to unit length (Radford et al., ICML 2021; with one
    prompt, their direction). The logits are the cosines f . t_c, so that every detector for
    classifiers with a linear last layer runs on it. Text features are computed once, when it is
    made.

    Args:
        image_encoder: maps normalized images [B, channels, H, W] to features [B, D], or to
            something that has them as `pooler_output`, as models of transformers do.
        text_encoder: maps tokens to features [T, D], likewise; in evaluation mode meanwhile.
        tokenizer: maps a list of T texts to tokens: a tensor [T, L], or a mapping of tensors that
            the text encoder takes by name.
        class_names: names of the classes, in the order of the labels.
        prompts: a text, or several, with "{c}" or "{}" in the place of the class name.
        logit_scale: the factor of the cosines that the model was trained with (100 for OpenAI's
            CLIP). Detectors read it as `outputs.language.logit_scale`.
        scaled_logits: whether logits are `logit_scale` times the cosines.
        local_encoder: maps images to image features [B, D] and features of patches [B, P, D], both
            in the space of the text features. It takes the place of the image encoder if a
            detector reads local features. None: such detectors are skipped.
        store: whether text features are kept in the cache folder, by the weights of the text
            encoder, which must be a module, and by tokens.

    Attributes:
        class_names, prompts, logit_scale: as given.

    Raises:
        UserError: an argument is not valid, or the encoders do not give features.
    """

    names_taps = False
    tap_names = ()

    def __init__(
        self,
        image_encoder: Callable[[Tensor], Any],
        text_encoder: Callable[..., Any],
        tokenizer: Callable[[list[str]], Any],
        class_names: Sequence[str],
        prompts: str | Sequence[str] = DEFAULT_PROMPTS,
        *,
        logit_scale: float | None = None,
        scaled_logits: bool = False,
        local_encoder: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
        store: bool = False,
    ) -> None:
        super().__init__()
        for name, given in (
            ("image_encoder", image_encoder),
            ("text_encoder", text_encoder),
            ("tokenizer", tokenizer),
        ):
            if not callable(given):
                raise UserError(f"{name}: expected a callable, not {kind_of(given)}.")
        if scaled_logits and logit_scale is None:
            raise UserError("scaled_logits: give logit_scale, the factor of the cosines.")
        if logit_scale is not None:
            logit_scale = float(torch.as_tensor(logit_scale).detach())
            if not 0 < logit_scale < math.inf:
                raise UserError(f"logit_scale: expected a positive number, not {logit_scale}.")
        if store and not isinstance(text_encoder, nn.Module):
            raise UserError(
                "store: the text encoder is no torch.nn.Module, and its weights are not known.",
                "Leave out store.",
            )
        self.class_names, self.prompts = checked_names(class_names), checked_prompts(prompts)
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.logit_scale, self.local_encoder = logit_scale, local_encoder
        self._texts = TextEncoding(text_encoder, tokenizer, stored=store)
        self._takers: OrderedDict[int, Callable[[Tensor], None]] = OrderedDict()
        self._kept: dict[Hashable, Any] = {}
        groups = [[filled(prompt, name) for prompt in self.prompts] for name in self.class_names]
        text_features = self._texts.averages(groups)
        self.register_buffer("text_features", text_features, persistent=False)
        classes, dimension = text_features.shape
        scale = logit_scale if scaled_logits and logit_scale is not None else 1.0
        self.head = nn.utils.skip_init(nn.Linear, dimension, classes, bias=False)
        self.head.weight = nn.Parameter(scale * text_features.clone(), requires_grad=False)

    text_features: Tensor
    head: nn.Linear

    @property
    def language(self) -> Language:  # type: ignore[override]
        """The text side, as detectors read it."""
        return Language(
            self.class_names,
            self.text_features,
            self._texts.features,
            self.logit_scale,
            self._kept,
        )

    @property
    def has_local_features(self) -> bool:  # type: ignore[override]
        """Whether there is an encoder that gives features of patches."""
        return self.local_encoder is not None

    def watch_local_features(self, take: Callable[[Tensor], None]) -> list[RemovableHandle]:
        """Call `take` with features of patches [B, P, D] in each forward pass.

        Returns:
            Handles, to be removed; empty without a local encoder.
        """
        if self.local_encoder is None:
            return []
        handle = RemovableHandle(self._takers)
        self._takers[handle.id] = take
        return [handle]

    def forward(self, images: Tensor) -> Tensor:
        """Cosines, shape [B, C], for normalized images; with `scaled_logits` times that scale."""
        if self._takers and self.local_encoder is not None:
            features, local = self._with_local(self.local_encoder(images), len(images))
            for take in [*self._takers.values()]:
                take(local)
        else:
            features = pooled_features(given := self.image_encoder(images))
            if features is None:
                raise UserError(f"image_encoder: it gives {described(given)}, not features.")
        expected = len(images), self.head.in_features
        if features.shape != expected:
            raise UserError(
                f"image_encoder: expected features {list(expected)}, as the text encoder gives, "
                f"not {list(features.shape)}."
            )
        wide = torch.promote_types(features.dtype, torch.float32)
        logits: Tensor = self.head(F.normalize(features.to(wide), dim=1).to(self.head.weight.dtype))
        return logits

    def _with_local(self, given: Any, count: int) -> tuple[Tensor, Tensor]:
        """Features and features of patches [B, P, D] in what the local encoder gave."""
        match given:
            case Tensor() as features, Tensor(ndim=3) as local if (
                len(local) == count and local.shape[2] == self.head.in_features
            ):
                return features, local
        shapes = [
            f"{list(each.shape)}" if isinstance(each, Tensor) else described(each)
            for each in (given if isinstance(given, tuple | list) else (given,))
        ]
        raise UserError(
            f"local_encoder: expected features [{count}, {self.head.in_features}] and features of "
            f"patches [{count}, P, {self.head.in_features}], not {', '.join(shapes)}."
        )
