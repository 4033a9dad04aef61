"""The number format that a network is trained in."""

from __future__ import annotations

import torch

from oodbench.specs import TrainingSpec


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch has no public ones
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def with_precision(recipe: TrainingSpec, device: torch.device) -> TrainingSpec:
    """A recipe with the precision that `auto` means on a device."""
    if recipe.precision != "auto":
        return recipe
    precision = "bfloat16" if has_bfloat16(device) else "float32"
    return recipe.model_copy(update={"precision": precision})
