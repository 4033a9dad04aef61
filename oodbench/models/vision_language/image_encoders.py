"""Image encoders of CLIP models with their local features: those of patches.

GL-MCM (Miyai et al., IJCV 2025) projects the value of each patch in the last attention, which is
what the patch alone would contribute, into the space of the text features. Its authors' code is
followed (github.com/AtsuMiyai/GL-MCM, `clip/model.py`): in a vision transformer the last block
runs with the values v in the place of the attention's output, with its residual connections and its
MLP, u = x + W_o v, w = u + MLP(LN_2(u)), then the final normalization and the projection. The
paper's equation has the projection of the value only. In a residual network, the attention pool's
value and output projections are applied to each place of the last map, without position embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.models.classifier import first_tensor

LocalFeatures = Callable[[Tensor], Tensor]


class ImageEncoder(nn.Module):
    """An image encoder and, where its structure is known, its local features.

    Args:
        encoder: maps images to features [B, D], or to something that has them as `pooler_output`.
        source: the module inside whose input the local features are computed from; None if the
            structure is not known.
        local: maps that input to features of patches [B, P, D].
    """

    def __init__(
        self, encoder: nn.Module, source: nn.Module | None, local: LocalFeatures | None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self._watched = {"source": source}  # not registered twice
        self._local = local

    @property
    def has_local_features(self) -> bool:
        """Whether `with_local_features` can be called."""
        return self._local is not None

    def forward(self, images: Tensor) -> Tensor:
        """Features, shape [B, D]."""
        features: Tensor = pooled_features(self.encoder(images))
        return features

    def with_local_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, D] and features of patches [B, P, D]."""
        source = self._watched["source"]
        assert source is not None
        assert self._local is not None
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, named: Any) -> None:
            seen.append(first_tensor((*inputs, *named.values())))

        handle = source.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            features = self(images)
        finally:
            handle.remove()
        return features, self._local(seen[-1])


def pooled_features(given: Any) -> Any:
    """The features in what an encoder gives: its `pooler_output`, or the first tensor, or None."""
    pooled = getattr(given, "pooler_output", None)
    return first_tensor(given) if pooled is None else pooled


# --- open_clip ------------------------------------------------------------------------------------


def of_open_clip(visual: Any) -> ImageEncoder:
    """The image tower of a model of open_clip."""
    kind = type(visual).__name__
    if kind == "VisionTransformer" and _is_plain(visual):
        block = visual.transformer.resblocks[-1]

        def patches(tokens: Tensor) -> Tensor:
            x = tokens if visual.transformer.batch_first else tokens.transpose(0, 1)
            return _block_on_values(block, x, visual)

        return ImageEncoder(visual, block, patches)
    if kind == "ModifiedResNet":
        pool = visual.attnpool

        def places(feature_map: Tensor) -> Tensor:
            values: Tensor = pool.c_proj(pool.v_proj(feature_map.flatten(2).transpose(1, 2)))
            return values

        return ImageEncoder(visual, pool, places)
    return ImageEncoder(visual, None, None)


def _is_plain(visual: Any) -> bool:
    """Whether a vision transformer ends as CLIP's: blocks, normalization, first token or mean."""
    return (
        visual.attn_pool is None
        and visual.pool_type in ("tok", "avg")
        and not visual.final_ln_after_pool
        and type(visual.transformer.resblocks[-1]).__name__ == "ResidualAttentionBlock"
        and visual.proj is not None
    )


def _block_on_values(block: Any, x: Tensor, visual: Any) -> Tensor:
    """The last block with the values in the place of the attention, and what comes after it.

    Args:
        block: the last block.
        x: its input, shape [B, 1 + P, W].
        visual: the tower.
    """
    attention, width = block.attn, x.shape[2]
    bias = attention.in_proj_bias
    values = F.linear(
        block.ln_1(x),
        attention.in_proj_weight[2 * width :],
        None if bias is None else bias[2 * width :],
    )
    u = x + block.ls_1(F.linear(values, attention.out_proj.weight, attention.out_proj.bias))
    w = u + block.ls_2(block.mlp(block.ln_2(u)))
    local: Tensor = visual.ln_post(w)[:, 1:] @ visual.proj
    return local


# --- transformers ---------------------------------------------------------------------------------


class _HubImages(nn.Module):
    """`get_image_features` of a model of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """What the model gives for images."""
        return self.model.get_image_features(pixel_values=images)


def of_transformers(model: Any) -> ImageEncoder:
    """The image side of a model of transformers with `get_image_features`."""
    images = _HubImages(model)
    if type(model).__name__ != "CLIPModel":
        return ImageEncoder(images, None, None)
    vision = model.vision_model
    layer = vision.encoder.layers[-1]

    def patches(x: Tensor) -> Tensor:
        attention = layer.self_attn
        u = x + attention.out_proj(attention.v_proj(layer.layer_norm1(x)))
        w = u + layer.mlp(layer.layer_norm2(u))
        local: Tensor = model.visual_projection(vision.post_layernorm(w)[:, 1:])
        return local

    return ImageEncoder(images, layer, patches)
